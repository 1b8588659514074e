"use strict";
/* blocks.js: the blocks of both families of models, forward and back, made of steps.js's steps.

   The functions have the names and the order of gpt.py's and model/llama.py's. prefix is "h.0" for
   the first block. */

const gridsOf = (pass, prefix, names) => names.map(name => pass.get(`${prefix}.${name}`));

/* ---- gpt.py */

function selfAttentionForward(pass, prefix, n) {
  const { T, NH, HS, C, "3C": wide } = pass.axes, at = `${prefix}.attn`;
  return pass.within("gpt.self_attention_forward", "a", () => {
    const qkv = linearForward(pass, `${at}.c_attn`, "qkv", n, wide, `${at}.qkv`);
    pass.passBy("gpt.split_heads");
    const [q, k, v] = ["q", "k", "v"].map((name, part) => {
      const formula = `${name}[h,t,i] = qkv[t, ${part}·C + h·HS + i]`;
      const about = pass.about(`${at}.${name}`, [NH, T, HS], name, formula);
      return pass.add(intoHeads(about, qkv, part * C.size));
    });
    const o = attentionForward(pass, at, "o", q, k, v);
    const joined = joinHeads(pass, `${at}.joined`, "y", [o], C);
    return linearForward(pass, `${at}.c_proj`, "y", joined, C, `${at}.y`);
  });
}

function selfAttentionBackward(pass, prefix, n, dy) {
  const { T, NH, HS, "3C": wide } = pass.axes, at = `${prefix}.attn`, d = `d.${at}`;
  const [qkv, joined, o, ...qkvs] = gridsOf(pass, at, ["qkv", "joined", "o", "q", "k", "v"]);
  return pass.within("gpt.self_attention_backward", "dn#2", () => {
    const dJoined = linearBackward(pass, `${at}.c_proj`, "do", joined, dy, `${d}.djoined`);
    const formula = "do[h,t,i] = djoined[t, h·HS + i]";
    const dO = pass.within("gpt.split_heads", "dq", () => pass.gradient(o, intoHeads(
      pass.about(`${d}.do`, [NH, T, HS], "return", formula), pass.link(joined, dJoined))));
    const parts = attentionBackward(pass, at, "dq", qkvs, dO);
    const dqkv = pass.link(qkv, joinHeads(pass, `${d}.dqkv`, "dqkv", parts, wide));
    return pass.link(n, linearBackward(pass, `${at}.c_attn`, "dx", n, dqkv, `${d}.dn`));
  });
}

function mlpForward(pass, prefix, n) {
  const { C, F } = pass.axes, at = `${prefix}.mlp`;
  return pass.within("gpt.mlp_forward", "m", () => {
    const h = linearForward(pass, `${at}.c_fc`, "h", n, F, `${at}.h`);
    const u = geluForward(pass, at, "u", h);
    return linearForward(pass, `${at}.c_proj`, "y", u, C, `${at}.y`);
  });
}

function mlpBackward(pass, prefix, n, dy) {
  const at = `${prefix}.mlp`, [h, u] = gridsOf(pass, at, ["h", "u"]);
  return pass.within("gpt.mlp_backward", "dn", () => {
    const du = pass.link(u, linearBackward(pass, `${at}.c_proj`, "du", u, dy, `d.${at}.du`));
    const dh = geluBackward(pass, at, "dh", h, du);
    return pass.link(n, linearBackward(pass, `${at}.c_fc`, "dx", n, dh, `d.${at}.dn`));
  });
}

/* ---- model/llama.py */

// Queries or keys: projected, normed where the model does, and turned.
function headsForward(pass, prefix, name, n, NH, width) {
  const { T, HS } = pass.axes, at = `${prefix}.attn`, wide = `${at}.${name}_wide`;
  return pass.within("llama.heads_forward", name, () => {
    const y = linearOfLlama(pass, `${at}.${name}`, "q", n, width, wide);
    const formula = `${name}[h,t,i] = ${name}_wide[t, h·HS + i]`;
    let q = pass.within("gpt.split_heads", "q", () => pass.add(intoHeads(
      pass.about(`${at}.${name}_unturned`, [NH, T, HS], "return", formula), y)));
    if (pass.model.config.qk_norm) q = rmsnormForward(pass, `${at}.${name}_norm`, "q#2", q);
    return rotaryForward(pass, `${at}.${name}`, "return", q);
  });
}

function headsBackward(pass, prefix, name, n, width, dq) {
  const at = `${prefix}.attn`, d = `d.${at}.d${name}`, hasNorm = pass.model.config.qk_norm;
  const [plain, normed, wide] = gridsOf(pass, at, [
    `${name}_unturned`, `${name}_norm.y`, `${name}_wide`]);
  return pass.within("llama.heads_backward", "return", () => {
    dq = rotaryBackward(pass, `${d}_unturned`, normed ?? plain, dq);
    if (hasNorm) dq = pass.link(plain, normBackward(pass, `${at}.${name}_norm`, "dq#2", dq));
    const joined = joinHeads(pass, `${d}_wide`, "return", [dq], width);
    pass.link(wide, joined);
    return linearBackward(pass, `${at}.${name}`, "return", n, joined, `d.${at}.dn_${name}`);
  });
}

function llamaAttentionForward(pass, prefix, n) {
  const { T, NH, NKV, HS, C, "NH HS": wide, "NKV HS": narrow } = pass.axes, at = `${prefix}.attn`;
  return pass.within("llama.self_attention_forward", "a", () => {
    const q = headsForward(pass, prefix, "q", n, NH, wide);
    const k = headsForward(pass, prefix, "k", n, NKV, narrow);
    const y = linearOfLlama(pass, `${at}.v`, "v", n, narrow, `${at}.v_wide`);
    const v = pass.within("gpt.split_heads", "v", () => pass.add(intoHeads(pass.about(
      `${at}.v`, [NKV, T, HS], "return", "v[h,t,i] = v_wide[t, h·HS + i]"), y)));
    const keys = groupedForward(pass, `${at}.keys`, "o", k, NH);
    const values = groupedForward(pass, `${at}.values`, "o", v, NH);
    const o = attentionForward(pass, at, "o", q, keys, values);
    const joined = joinHeads(pass, `${at}.joined`, "o#2", [o], wide);
    return linearOfLlama(pass, `${at}.o`, "y", joined, C, `${at}.y`);
  });
}

function llamaAttentionBackward(pass, prefix, n, dy) {
  const { T, NH, HS, "NH HS": wide, "NKV HS": narrow } = pass.axes;
  const at = `${prefix}.attn`, d = `d.${at}`;
  const [o, joined, vWide] = gridsOf(pass, at, ["o", "joined", "v_wide"]);
  const [q, k, v, keys, values] = gridsOf(pass, at, ["q", "k", "v", "keys", "values"]);
  return pass.within("llama.self_attention_backward", "dn#2", () => {
    const dJoined = linearBackward(pass, `${at}.o`, "do", joined, dy, `${d}.djoined`);
    const formula = "do[h,t,i] = djoined[t, h·HS + i]";
    const dO = pass.within("gpt.split_heads", "dq", () => pass.gradient(o, intoHeads(
      pass.about(`${d}.do`, [NH, T, HS], "return", formula), pass.link(joined, dJoined))));
    const [dq, dKeys, dValues] = attentionBackward(pass, at, "dq", [q, keys, values], dO);
    const dk = groupedBackward(pass, `${d}.dk_sum`, "dk#2", k, dKeys);
    const dv = groupedBackward(pass, `${d}.dv_sum`, "dv#2", v, dValues);
    const ofQ = headsBackward(pass, prefix, "q", n, wide, dq);
    const ofK = headsBackward(pass, prefix, "k", n, narrow, dk);
    const dWide = joinHeads(pass, `${d}.dv_wide`, "return", [dv], narrow);
    pass.link(vWide, dWide);
    const ofV = linearBackward(pass, `${at}.v`, "return", n, dWide, `${d}.dn_v`);
    return pass.gradient(n, new Cellwise(
      pass.about(`${d}.dn`, n.axes, "return", "dn = dn_q + dn_k + dn_v"),
      [[ofQ, sameCell], [ofK, sameCell], [ofV, sameCell]],
      (o, q, k, v) => o.plus(o.plus(q, k), v)));
  });
}

function llamaMlpForward(pass, prefix, n) {
  const { C, F } = pass.axes, at = `${prefix}.mlp`;
  return pass.within("llama.mlp_forward", "m", () => {
    const gate = linearOfLlama(pass, `${at}.gate`, "gate", n, F, `${at}.gate`);
    const up = linearOfLlama(pass, `${at}.up`, "up", n, F, `${at}.up`);
    const h = swigluForward(pass, at, "h", gate, up);
    return linearOfLlama(pass, `${at}.down`, "y", h, C, `${at}.y`);
  });
}

function llamaMlpBackward(pass, prefix, n, dy) {
  const at = `${prefix}.mlp`, d = `d.${at}`, h = pass.get(`${at}.h`);
  return pass.within("llama.mlp_backward", "dn", () => {
    const dh = pass.link(h, linearBackward(pass, `${at}.down`, "dh", h, dy, `${d}.dh`));
    const [dGate, dUp] = swigluBackward(pass, at, "dgate", dh);
    const ofGate = linearBackward(pass, `${at}.gate`, "return", n, dGate, `${d}.dn_gate`);
    const ofUp = linearBackward(pass, `${at}.up`, "return", n, dUp, `${d}.dn_up`);
    const about = pass.about(`${d}.dn`, n.axes, "return", "dn[t,c] = dn_gate[t,c] + dn_up[t,c]");
    return pass.gradient(n, sumOf(about, ofGate, ofUp));
  });
}

/* ---- the block itself, which is the same in both */

const NORM = { gpt: "layer norm", llama: "RMS norm" };

function blockForward(pass, i, x) {
  const prefix = `h.${i}`, { isLlama } = pass, norm = NORM[pass.model.family];
  const attend = isLlama ? llamaAttentionForward : selfAttentionForward;
  const think = isLlama ? llamaMlpForward : mlpForward;
  return pass.within(pass.own("block_forward"), "x#2", () => {
    pass.section(`Block ${i}: ${norm} before attention`, "norm", ABOUT.norm, i);
    let n = normForward(pass, `${prefix}.ln_1`, "n", x);
    pass.section(`Block ${i}: attention`, "attn", ABOUT.attention, i);
    const a = attend(pass, prefix, n);
    const formula = "x[t,c] = x[t,c] + y[t,c]: attention's result is added to the stream";
    x = pass.add(sumOf(pass.about(`${prefix}.attn.x`, x.axes, "x", formula), x, a));
    pass.section(`Block ${i}: ${norm} before the MLP`, "norm", ABOUT.norm, i);
    n = normForward(pass, `${prefix}.ln_2`, "n#2", x);
    pass.section(`Block ${i}: MLP`, "MLP", ABOUT.mlp, i);
    const m = think(pass, prefix, n), added = "x[t,c] = x[t,c] + y[t,c]: so is the MLP's";
    return pass.add(sumOf(pass.about(`${prefix}.mlp.x`, x.axes, "x#2", added), x, m));
  });
}

// before: the grid that the block read. dx: the gradient of what it gave.
function blockBackward(pass, i, before, dx) {
  const prefix = `h.${i}`, d = `d.${prefix}`, { isLlama } = pass, norm = NORM[pass.model.family];
  const [n1, n2, a, m, middle] = gridsOf(pass, prefix, [
    "ln_1.y", "ln_2.y", "attn.y", "mlp.y", "attn.x"]);
  const attend = isLlama ? llamaAttentionBackward : selfAttentionBackward;
  const think = isLlama ? llamaMlpBackward : mlpBackward;
  const twice = "dx[t,c] = dx[t,c] + dnorm[t,c], as x went into the sum and into the norm";
  return pass.within(pass.own("block_backward"), "dx", () => {
    pass.section(`Back through block ${i}: MLP`, "MLP", ABOUT.partBack, i);
    let dn = think(pass, prefix, n2, pass.link(m, dx));
    pass.section(`Back through block ${i}: ${norm} before the MLP`, "norm", ABOUT.normBack, i);
    let dNorm = normBackward(pass, `${prefix}.ln_2`, "dnorm", dn);
    const after = pass.about(`${d}.attn.dx`, middle.axes, "dx", twice);
    dx = pass.gradient(middle, sumOf(after, dx, dNorm));
    pass.section(`Back through block ${i}: attention`, "attn", ABOUT.partBack, i);
    dn = attend(pass, prefix, n1, pass.link(a, dx));
    pass.section(`Back through block ${i}: ${norm} before attention`, "norm", ABOUT.normBack, i);
    dNorm = normBackward(pass, `${prefix}.ln_1`, "dnorm#2", dn);
    return pass.gradient(before, sumOf(pass.about(`${d}.dx`, middle.axes, "dx#2", twice),
                                       dx, dNorm));
  });
}
