"use strict";
/* heads.js: the steps of attention, forward and back, for both families of models.

   As in steps.js, each function is one of gpt.py or model/llama.py. */

/* ---- channels and heads */

// Cut channels into heads: (T, width) -> (NH,T,HS), from channel `first` on.
function intoHeads(about, x, first = 0) {
  const [, T, HS] = about.axes.map(axis => axis.size), width = x.shape[1];
  const choose = i => {
    const h = Math.floor(i / (T * HS)), t = Math.floor(i / HS) % T;
    return [0, t * width + first + h * HS + i % HS];
  };
  return new Copied(about, [x], choose);
}

// Lay heads side by side: several (NH,T,HS) -> (T, all their channels).
function sideBySide(about, grids) {
  const [, T, HS] = grids[0].shape, width = about.axes[1].size;
  const each = grids[0].shape[0] * HS;
  const choose = i => {
    const t = Math.floor(i / width), channel = i % width, n = Math.floor(channel / each);
    const within = channel - n * each, h = Math.floor(within / HS);
    return [n, (h * T + t) * HS + within % HS];
  };
  return new Copied(about, grids, choose);
}

function joinHeads(pass, id, key, grids, axis) {
  const formula = "channel h·HS + i of position t = [h,t,i]";
  return pass.within("gpt.join_heads", key, () =>
    pass.add(sideBySide(pass.about(id, [grids[0].axes[1], axis], "return", formula), grids)));
}

/* ---- attention itself */

// A matrix for each head, as an argument of Product: rows and columns, or the transpose.
const matrixOf = grid => [grid, grid.shape[1] * grid.shape[2], grid.shape[2], 1];
const transposeOf = grid => [grid, grid.shape[1] * grid.shape[2], 1, grid.shape[2]];

function attentionForward(pass, prefix, key, q, k, v) {
  const visible = pass.get("visible"), [NH, T, HS] = q.shape;
  const axes = [q.axes[0], q.axes[1], { ...q.axes[1], letter: "S", name: "position looked at" }];
  const row = rowOf(T), seen = i => i % T + 1, place = (i, k) => i * T + k;
  return pass.within("gpt.attention_forward", key, () => {
    const about = abouts(pass, prefix);
    const masked = pass.within("gpt.attention_scores", "s", () => {
      const s = pass.add(new Product(
        about("scores", axes, "s[h,t,s] = (Σ_i q[h,t,i] · k[h,s,i]) / √HS", "s"),
        [NH, T, T, HS], matrixOf(q), transposeOf(k), { scale: HS ** -0.5 }));
      return pass.add(new Cellwise(
        about("s", axes, "s[h,t,s] where s ≤ t, else -inf", "return"),
        [[visible, i => i % (T * T)], [s, sameCell]],
        (o, visible, s) => o.where(visible, s, -Infinity)));
    });
    const rows = axes.slice(0, 2);
    const largest = pass.add(new Largest(
      about("largest", rows, "largest[h,t] = max_s s[h,t,s]"), seen, masked, place));
    const total = pass.add(new Summed(
      about("total", rows, "total[h,t] = Σ_s exp(s[h,t,s] - largest[h,t])"), seen,
      [[masked, place], [largest, sameCell]], (o, s, largest) => o.exp(o.minus(s, largest))));
    const lse = pass.add(new Cellwise(
      about("lse", rows, "lse[h,t] = largest[h,t] + log(total[h,t])"),
      [[largest, sameCell], [total, sameCell]],
      (o, largest, total) => o.plus(largest, o.log(total))));
    const p = pass.add(new Cellwise(
      about("p", axes, "p[h,t,s] = exp(s[h,t,s] - lse[h,t])"),
      [[masked, sameCell], [lse, row]], (o, s, lse) => o.exp(o.minus(s, lse))));
    return pass.add(new Product(
      about("o", q.axes, "o[h,t,i] = Σ_s p[h,t,s] · v[h,s,i]"),
      [NH, T, HS, T], matrixOf(p), matrixOf(v)));
  });
}

// The gradients of queries, keys and values. Scores and p are made again, and are as they were.
function attentionBackward(pass, prefix, key, [q, k, v], dO) {
  const [s, p, o] = ["s", "p", "o"].map(name => pass.get(`${prefix}.${name}`));
  const [NH, T, HS] = q.shape, place = (i, k) => i * HS + k, scale = HS ** -0.5;
  return pass.within("gpt.attention_backward", key, () => {
    pass.passBy("gpt.attention_scores");
    const about = abouts(pass, `d.${prefix}`);
    const dv = pass.gradient(v, new Product(
      about("dv", v.axes, "dv[h,s,i] = Σ_t p[h,t,s] · do[h,t,i]"),
      [NH, T, HS, T], transposeOf(p), matrixOf(dO)));
    const dp = pass.gradient(p, new Product(
      about("dp", p.axes, "dp[h,t,s] = Σ_i do[h,t,i] · v[h,s,i]"),
      [NH, T, T, HS], matrixOf(dO), transposeOf(v)));
    const along = pass.add(new Summed(
      about("do_o", p.axes.slice(0, 2), "do_o[h,t] = Σ_i do[h,t,i] · o[h,t,i]", "ds"), () => HS,
      [[dO, place], [o, place]], (o, a, b) => o.times(a, b)));
    const ds = pass.gradient(s, new Cellwise(
      about("ds", p.axes, "ds[h,t,s] = p[h,t,s] · (dp[h,t,s] - do_o[h,t])"),
      [[p, sameCell], [dp, sameCell], [along, rowOf(T)]],
      (o, p, dp, along) => o.times(p, o.minus(dp, along))));
    const dq = pass.gradient(q, new Product(
      about("dq", q.axes, "dq[h,t,i] = (Σ_s ds[h,t,s] · k[h,s,i]) / √HS"),
      [NH, T, HS, T], matrixOf(ds), matrixOf(k), { scale }));
    const dk = pass.gradient(k, new Product(
      about("dk", k.axes, "dk[h,s,i] = (Σ_t ds[h,t,s] · q[h,t,i]) / √HS"),
      [NH, T, HS, T], transposeOf(ds), matrixOf(q), { scale }));
    return [dq, dk, dv];
  });
}

/* ---- what model/llama.py adds */

// Each pair of channels (i, i + HS/2) turned by the angle of its position. turn: 1, or -1 for back.
function rotated(about, x, cos, sin, turn) {
  const [, T, HS] = x.shape, half = HS / 2, isFirst = i => i % HS < half;
  const partner = i => isFirst(i) ? i + half : i - half;
  const angle = i => Math.floor(i / HS) % T * half + i % half;
  return new Cellwise(about, [[x, sameCell], [x, partner], [cos, angle], [sin, angle]],
    (o, x, partner, cos, sin, _, i) => {
      const join = isFirst(i) === (turn === 1) ? o.minus : o.plus;
      return join(o.times(x, cos), o.times(partner, sin));
    });
}

function rotaryForward(pass, id, key, x) {
  const formula = "(a, b) = channels (i, i + HS/2): (a · cos - b · sin, b · cos + a · sin)";
  return pass.within("llama.rotary_forward", key, () => pass.add(rotated(
    pass.about(id, x.axes, "return", formula), x, pass.get("cos"), pass.get("sin"), 1)));
}

function rotaryBackward(pass, id, x, dy) {
  const formula = "(a, b) = channels (i, i + HS/2): (a · cos + b · sin, b · cos - a · sin)";
  const inner = () => pass.within("llama.rotary_forward", "return", () => pass.gradient(x, rotated(
    pass.about(id, x.axes, "return", formula), dy, pass.get("cos"), pass.get("sin"), -1)));
  return pass.within("llama.rotary_backward", "dq", inner);
}

// The keys or values of a head, for each of the query heads of its group.
function groupedForward(pass, id, key, k, NH) {
  const each = k.shape[1] * k.shape[2], group = NH.size / k.shape[0];
  const choose = i => [0, Math.floor(i / each / group) * each + i % each];
  const formula = `[h,s,i] = [floor(h / ${group}),s,i]`;
  return pass.within("llama.grouped_forward", key, () => pass.add(new Copied(
    pass.about(id, [NH, ...k.axes.slice(1)], "return", formula), [k], choose)));
}

function groupedBackward(pass, id, key, k, dk) {
  const each = k.shape[1] * k.shape[2], group = dk.shape[0] / k.shape[0];
  const place = (i, n) => (Math.floor(i / each) * group + n) * each + i % each;
  return pass.within("llama.grouped_backward", key, () => pass.gradient(k, new Summed(
    pass.about(id, k.axes, "return", `the sum over the ${group} heads of a group`),
    () => group, [[dk, place]])));
}
