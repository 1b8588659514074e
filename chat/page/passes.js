"use strict";
/* passes.js: one pass through a whole model, forward and back.

   forwardPass(model) goes from ids to probabilities. backwardPass(forward, targets, weights) goes
   from the loss to the gradient of every parameter: that of gpt.loss_and_grads with these targets
   and weights. model is
   { family, config, ids, frequencies (a Llama's), parameters: {name: { shape, values }} }. */

function forwardPass(model) {
  const pass = new Pass(model);
  pass.axes = axesOf(model);
  pass.within(pass.own("loss_and_grads"), null, () => {
    const y = pass.within(pass.own("trunk_forward"), "y", () => trunkForward(pass));
    headForward(pass, y);
  });
  return pass;
}

function trunkForward(pass) {
  const { model, isLlama } = pass, { T, S, V, C } = pass.axes;
  pass.section("Text and embedding", "embedding", ABOUT.embedding);
  const text = { letter: "T", name: "position", size: T.size };
  pass.add(new Given({
    id: "ids", name: "tokens", axes: [text], formula: "tokens[t]: the text, cut by the tokenizer",
    lines: [], kind: "given",
  }, Float64Array.from(model.ids)));
  const x = isLlama ? embedOfLlama(pass, V) : embed(pass, V);
  const see = (_, i) => i % T.size <= Math.floor(i / T.size) ? 1 : 0;
  pass.add(new Given({
    ...pass.about("visible", [T, S], "visible", "1 where s ≤ t: no position sees a later one"),
    kind: "given",
  }, Float64Array.from({ length: T.size ** 2 }, see)));
  let stream = x;
  for (let i = 0; i < model.config.n_layer; i++) stream = blockForward(pass, i, stream);
  pass.section(`Last ${NORM[model.family]}`, "norm", ABOUT.lastNorm);
  return normForward(pass, "ln_f", "y", stream);
}

// Each token's row of wte plus its position's row of wpe.
function embed(pass, V) {
  const { T, C } = pass.axes, { ids } = pass.model, width = C.size;
  const wte = pass.parameter("wte.weight", [V, C]);
  const wpe = pass.parameter("wpe.weight", [T, C]);     // the rows that the text uses
  const token = i => ids[Math.floor(i / width)] * width + i % width;
  return pass.within("gpt.embedding_forward", "x", () => pass.add(new Cellwise(
    pass.about("x", [T, C], "return", "x[t,c] = wte[tokens[t],c] + wpe[t,c]"),
    [[wte, token], [wpe, sameCell]], (o, wte, wpe) => o.plus(wte, wpe))));
}

// Each token's row of wte, and the turns of the positions.
function embedOfLlama(pass, V) {
  const { T, C, "HS/2": half } = pass.axes, width = C.size;
  const { ids, frequencies } = pass.model;
  const wte = pass.parameter("wte.weight", [V, C]);
  const token = i => [0, ids[Math.floor(i / width)] * width + i % width];
  const x = pass.add(new Copied(
    pass.about("x", [T, C], "x", "x[t,c] = wte[tokens[t],c]"), [wte], token));
  const tables = () => {
    const about = (name, key, formula) => pass.about(name, [T, half], key, formula);
    const given = about("angles", "angles#2", "angles[t,i] = t · frequency[i], in radians");
    const angles = ids.flatMap((_, t) => frequencies.map(f => Math.fround(t * f)));  // float32
    const turns = pass.add(new Given({ ...given, kind: "given" }, Float64Array.from(angles)));
    pass.add(new Cellwise(about("cos", "return", "cos[t,i] = cos(angles[t,i])"),
                          [[turns, sameCell]], (o, angle) => o.cos(angle)));
    pass.add(new Cellwise(about("sin", "return", "sin[t,i] = sin(angles[t,i])"),
                          [[turns, sameCell]], (o, angle) => o.sin(angle)));
  };
  pass.within("llama.turns_of", "turn", () => pass.within("llama.rotary_tables", "cos", tables));
  return x;
}

// The name of the matrix that makes logits.
const headName = ({ parameters }) =>
  "lm_head.weight" in parameters ? "lm_head.weight" : "wte.weight";

function headForward(pass, y) {
  const { T, V, C } = pass.axes, row = rowOf(V.size), place = (i, k) => i * V.size + k;
  pass.section("Logits and probabilities", "logits", ABOUT.logits);
  const head = pass.parameter(headName(pass.model), [V, C]);
  const logits = pass.add(new Product(
    pass.about("logits", [T, V], "logits", "logits[t,v] = Σ_c y[t,c] · head[v,c]"),
    [1, T.size, V.size, C.size], [y, 0, C.size, 1], [head, 0, 1, C.size]));
  const logP = pass.within("gpt.cross_entropy_forward", "nll", () => {
    const about = (name, axes, key, formula) => pass.about(`loss.${name}`, axes, key, formula);
    const largest = pass.add(new Largest(
      about("largest", [T], "z", "largest[t] = max_v logits[t,v]"), () => V.size, logits, place));
    const z = pass.add(new Cellwise(
      about("z", [T, V], "z", "z[t,v] = logits[t,v] - largest[t]"),
      [[logits, sameCell], [largest, row]], (o, logit, largest) => o.minus(logit, largest)));
    const total = pass.add(new Summed(
      about("total", [T], "total", "total[t] = Σ_v exp(z[t,v])"), () => V.size,
      [[z, place]], (o, z) => o.exp(z)));
    return pass.add(new Cellwise(
      about("log_p", [T, V], "log_p", "log_p[t,v] = z[t,v] - log(total[t])"),
      [[z, sameCell], [total, row]], (o, z, total) => o.minus(z, o.log(total))));
  });
  pass.inCall("gpt.cross_entropy_backward", 0, "dlogits", () => pass.add(new Cellwise({
    ...pass.about("loss.p", [T, V], "dz", "p[t,v] = exp(log_p[t,v])"), name: "probabilities",
  }, [[logP, sameCell]], (o, logP) => o.exp(logP))));
}

/* ---- backward */

function backwardPass(before, targets, weights) {
  const pass = new Pass(before.model, before);
  pass.axes = before.axes;
  pass.inCall(pass.own("loss_and_grads"), 0, null, () => {
    lossForward(pass, targets, weights);
    const dy = headBackward(pass);
    const trunk = () => trunkBackward(pass, dy);
    pass.within(pass.own("trunk_backward"), "grads", trunk);
    sumOfHeads(pass);
  });
  return pass;
}

function lossForward(pass, targets, weights) {
  const { T, V } = pass.axes, given = { kind: "given" };
  pass.section("The loss", "loss", ABOUT.loss);
  const chosen = pass.add(new Given({
    ...pass.about("targets", [T], "targets", "the target of each position"), ...given,
  }, Float64Array.from(targets)));
  const counted = pass.add(new Given({
    ...pass.about("weights", [T], "weights#2", "how much each position counts"), ...given,
  }, Float64Array.from(weights)));
  const nll = pass.inCall("gpt.cross_entropy_forward", 0, "nll", () => pass.add(new Cellwise(
    pass.about("loss.nll", [T], "nll", "nll[t] = -log_p[t,targets[t]]"),
    [[pass.get("loss.log_p"), t => t * V.size + targets[t]]], (o, logP) => o.times(-1, logP))));
  const only = { letter: "1", name: "loss", size: 1 };
  pass.add(new Summed(
    pass.about("loss.loss", [only], "loss", "loss = Σ_t weights[t] · nll[t]"), () => T.size,
    [[counted, (i, k) => k], [nll, (i, k) => k]], (o, weight, nll) => o.times(weight, nll)));
  return chosen;
}

function headBackward(pass) {
  const { T, V, C } = pass.axes, logits = pass.get("logits"), y = pass.get("ln_f.y");
  const targets = pass.get("targets").values, head = pass.get(headName(pass.model));
  pass.section("Back through the logits", "logits", ABOUT.logitsBack);
  const isTarget = (_, i) => targets[Math.floor(i / V.size)] === i % V.size ? 1 : 0;
  const oneHot = pass.add(new Given({
    ...pass.about("onehot", [T, V], "nll", "1 at the target of each position, else 0"),
    kind: "given",
  }, Float64Array.from({ length: T.size * V.size }, isTarget)));
  const dLogits = pass.within("gpt.cross_entropy_backward", "dlogits", () => {
    const formula = "dlogits[t,v] = weights[t] · (p[t,v] - onehot[t,v])";
    return pass.gradient(logits, new Cellwise(
      pass.about("d.dlogits", [T, V], "return", formula),
      [[pass.get("weights"), rowOf(V.size)], [pass.get("loss.p"), sameCell], [oneHot, sameCell]],
      (o, weight, p, oneHot) => o.times(weight, o.minus(p, oneHot))));
  });
  const dy = pass.gradient(y, new Product(
    pass.about("d.dy", [T, C], "dy", "dy[t,c] = Σ_v dlogits[t,v] · head[v,c]"),
    [1, T.size, C.size, V.size], [dLogits, 0, V.size, 1], [head, 0, C.size, 1]));
  const key = pass.isLlama ? "dhead" : "dwte";
  pass.gradient(head, new Product(
    pass.about(`d.${key}`, [V, C], key, `${key}[v,c] = Σ_t dlogits[t,v] · y[t,c]`),
    [1, V.size, C.size, T.size], [dLogits, 0, 1, V.size], [y, 0, C.size, 1]));
  return dy;
}

function trunkBackward(pass, dy) {
  const { n_layer } = pass.model.config;
  pass.section(`Back through the last ${NORM[pass.model.family]}`, "norm", ABOUT.lastNormBack);
  const read = i => pass.get(i ? `h.${i - 1}.mlp.x` : "x");         // what block i read
  let dx = pass.link(read(n_layer), normBackward(pass, "ln_f", "dx", dy));
  for (let i = n_layer - 1; i >= 0; i--) dx = blockBackward(pass, i, read(i), dx);
  pass.section("Back to the embedding", "embedding", ABOUT.embeddingBack);
  const of = abouts(pass, "d.embedding");
  if (pass.isLlama) {
    tableBackward(pass, of("dwte", [pass.axes.V, pass.axes.C], LOOKED_UP, "grads['wte.weight']#2"),
                  dx);
    return;
  }
  pass.within("gpt.embedding_backward", "grads['wte.weight']", () => {
    tableBackward(pass, of("dwte", [pass.axes.V, pass.axes.C], LOOKED_UP, "dwte#2"), dx);
    const wpe = pass.get("wpe.weight"), formula = "dwpe[t,c] = dx[t,c]";
    pass.gradient(wpe, new Copied(of("dwpe", wpe.axes, formula, "dwpe#2"), [dx], i => [0, i]));
  });
}

const LOOKED_UP = "dwte[v,c] = Σ dx[t,c] over the positions t of token v";

// The gradient of wte as a table that is looked up.
function tableBackward(pass, about, dx) {
  const width = dx.shape[1], at = new Map();            // {token: its positions}
  pass.model.ids.forEach((id, t) => at.set(id, [...at.get(id) ?? [], t]));
  const positions = i => at.get(Math.floor(i / width)) ?? [];
  const grid = new Summed(about, i => positions(i).length,
    [[dx, (i, k) => positions(i)[k] * width + i % width]]);
  const wte = pass.get("wte.weight");
  return headName(pass.model) === "wte.weight" ? pass.add(grid) : pass.gradient(wte, grid);
}

// Where the table is also the head, its two gradients meet.
function sumOfHeads(pass) {
  if (headName(pass.model) !== "wte.weight") return;
  const wte = pass.get("wte.weight"), ofHead = pass.get(pass.isLlama ? "d.dhead" : "d.dwte");
  const formula = "dwte = as a table + as the head", key = "grads['wte.weight']";
  pass.gradient(wte, sumOf(pass.about("d.wte.dw", wte.axes, key, formula),
                           pass.get("d.embedding.dwte"), ofHead));
}

// The model of what the server says of it, and of its weights, one parameter behind the other.
function modelOf(about, weights) {
  const parameters = {};
  let offset = 0;
  for (const { name, shape } of about.parameters) {
    const size = shape.reduce((a, b) => a * b, 1);
    const values = Float64Array.from(weights.subarray(offset, offset + size));
    parameters[name] = { shape, values };
    offset += size;
  }
  return { ...about, parameters };
}
