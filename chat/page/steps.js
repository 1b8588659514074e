"use strict";
/* steps.js: the steps of both families of models, forward and back, as one list of grids.

   Each function here is one of gpt.py or model/llama.py and makes the grids that its lines make.
   A grid says which line: { name: the function, call: the how-manieth call of it, key }. The key is
   what the line assigns ("n", "x#2" the second time), or "return". The lines themselves are read
   from the Python files (chat/walk.py). Shapes are those of gpt.py without B, as there is one text.

   Letters in formulas: t position, s position that is looked at, c channel, h head, i channel of a
   head, f unit of the MLP, v token of the vocabulary. */

const sameCell = i => i;
const rowOf = width => i => Math.floor(i / width);
const columnOf = width => i => i % width;

// The grids of one pass, in the order in which they are made, in sections.
class Pass {
  constructor(model, before = null) {
    this.model = model;
    this.before = before;                   // the forward pass, for a backward one
    this.grids = new Map(before?.grids);    // {id: grid}
    this.calls = { ...before?.calls };      // {function: how many calls of it so far}
    this.sections = [];                     // [{ title, short, about, layer, grids }]
    this.stack = [];                        // the functions that are running
  }

  // From here on grids belong to a part of the model. layer: the block, if it is in one.
  section(title, short, about, layer = null) {
    this.sections.push({ title, short, about, layer, grids: [] });
  }

  add(grid) {
    this.grids.set(grid.id, grid);
    this.sections.at(-1).grids.push(grid);
    return grid;
  }

  get(id) { return this.grids.get(id); }

  get isLlama() { return this.model.family === "llama"; }

  // The model's own function of a name: gpt.block_forward or llama.block_forward.
  own(name) { return `${this.model.family}.${name}`; }

  // Go into a function, called in the line `key` of the one that is running.
  within(name, key, body) {
    const call = this.calls[name] ?? 0;
    this.calls[name] = call + 1;
    return this.inCall(name, call, key, body);
  }

  // Go into a call of a function that is counted elsewhere.
  inCall(name, call, key, body) {
    const outer = this.stack;
    this.stack = [...this.linesTo(key), { name, call }];
    const result = body();
    this.stack = outer;
    return result;
  }

  // A function that is called without anything to show.
  passBy(name) { this.within(name, null, () => {}); }

  // The lines that lead to a line of the running function.
  linesTo(key) {
    return this.stack.map((line, n) => n === this.stack.length - 1 ? { ...line, key } : line);
  }

  // What a grid says about itself. Its name is the end of its id.
  about(id, axes, key, formula, more = {}) {
    const name = id.slice(id.lastIndexOf(".") + 1);
    return { id, name, axes, formula, lines: this.linesTo(key), kind: "array", ...more };
  }

  // A parameter, which stands in the section where it is used first.
  parameter(name, axes) {
    const there = this.get(name);
    if (there) return there;
    const formula = "one of the numbers that training changes";
    const about = { id: name, name, axes, formula, lines: [], kind: "parameter" };
    return this.add(new Given(about, this.model.parameters[name].values));
  }

  // A grid that is there already is the gradient of another.
  link(of, grid) {
    of.gradient = grid;
    grid.of ??= of;
    return grid;
  }

  // Add the gradient of a grid.
  gradient(of, grid) { return this.link(of, this.add(grid)); }
}

// The axes of a model and a text: { T, S, C, NH, NKV, HS, F, V, ... }.
function axesOf({ family, config, ids }) {
  const C = config.n_embd, NH = config.n_head;
  const isLlama = family === "llama", HS = isLlama ? config.head_size : C / NH;
  const NKV = isLlama ? config.n_kv_head : NH;
  const sizes = {
    T: ["position", ids.length], S: ["position looked at", ids.length], C: ["channel", C],
    NH: ["head", NH], NKV: ["head of keys", NKV], HS: ["channel of the head", HS],
    F: ["unit", isLlama ? config.n_hidden : 4 * C], V: ["token", config.vocab_size],
    "3C": ["channel of q, k, v", 3 * C], "HS/2": ["pair of channels", HS / 2],
    "NH HS": ["channel of all heads", NH * HS], "NKV HS": ["channel of all heads", NKV * HS],
  };
  const axes = {};
  for (const [letter, [name, size]] of Object.entries(sizes)) axes[letter] = { letter, name, size };
  return axes;
}

/* ---- operations: a forward, and its backward below it */

// The mean over the last axis of a grid, or of the products of two grids.
function rowMean(about, x, y = null) {
  const width = x.shape.at(-1), place = (i, k) => i * width + k;
  const inputs = y ? [[x, place], [y, place]] : [[x, place]];
  const part = y ? (o, a, b) => o.times(a, b) : (o, a) => a;
  return new Summed(about, () => width, inputs, part, (o, sum) => o.over(sum, width));
}

// The sum over all rows of a grid, or of the products of two grids: one number a column.
function sumOfRows(about, x, y = null) {
  const width = x.shape.at(-1), rows = x.size / width, place = (i, k) => k * width + i;
  const inputs = y ? [[x, place], [y, place]] : [[x, place]];
  const part = y ? (o, a, b) => o.times(a, b) : (o, a) => a;
  return new Summed(about, () => rows, inputs, part);
}

// The sum of two grids of one shape.
function sumOf(about, x, y) {
  return new Cellwise(about, [[x, sameCell], [y, sameCell]], (o, x, y) => o.plus(x, y));
}

// The function that makes what a grid says about itself.
function abouts(pass, prefix) {
  return (name, axes, formula, key = name) =>
    pass.about(`${prefix}.${name}`, axes, key, formula);
}

function layernormForward(pass, prefix, key, x) {
  const w = pass.parameter(`${prefix}.weight`, x.axes.slice(-1));
  const b = pass.parameter(`${prefix}.bias`, x.axes.slice(-1));
  const rows = x.axes.slice(0, -1), row = rowOf(x.shape.at(-1)), column = columnOf(x.shape.at(-1));
  return pass.within("gpt.layernorm_forward", key, () => {
    const about = abouts(pass, prefix);
    const mean = pass.add(rowMean(about("mean", rows, "mean[t] = (Σ_c x[t,c]) / C", "d"), x));
    const d = pass.add(new Cellwise(
      about("d", x.axes, "d[t,c] = x[t,c] - mean[t]"),
      [[x, sameCell], [mean, row]], (o, x, mean) => o.minus(x, mean)));
    const variance = pass.add(rowMean(
      about("variance", rows, "variance[t] = (Σ_c d[t,c] · d[t,c]) / C"), d, d));
    const rstd = pass.add(new Cellwise(
      about("rstd", rows, "rstd[t] = 1 / sqrt(variance[t] + eps)"),
      [[variance, sameCell]], (o, variance) => o.over(1, o.sqrt(o.plus(variance, 1e-5)))));
    const n = pass.add(new Cellwise(
      about("n", x.axes, "n[t,c] = d[t,c] · rstd[t]"),
      [[d, sameCell], [rstd, row]], (o, d, rstd) => o.times(d, rstd)));
    return pass.add(new Cellwise(
      about("y", x.axes, "y[t,c] = n[t,c] · w[c] + b[c]", "return"),
      [[n, sameCell], [w, column], [b, column]], (o, n, w, b) => o.plus(o.times(n, w), b)));
  });
}

function rmsnormForward(pass, prefix, key, x) {
  const w = pass.parameter(`${prefix}.weight`, x.axes.slice(-1)), eps = pass.model.config.norm_eps;
  const rows = x.axes.slice(0, -1), row = rowOf(x.shape.at(-1)), column = columnOf(x.shape.at(-1));
  return pass.within("llama.rmsnorm_forward", key, () => {
    const about = abouts(pass, prefix);
    const meanSquare = pass.add(rowMean(
      about("mean_square", rows, "mean_square[t] = (Σ_c x[t,c] · x[t,c]) / C"), x, x));
    const rrms = pass.add(new Cellwise(
      about("rrms", rows, "rrms[t] = 1 / sqrt(mean_square[t] + eps)"),
      [[meanSquare, sameCell]], (o, square) => o.over(1, o.sqrt(o.plus(square, eps)))));
    const n = pass.add(new Cellwise(
      about("n", x.axes, "n[t,c] = x[t,c] · rrms[t]"),
      [[x, sameCell], [rrms, row]], (o, x, rrms) => o.times(x, rrms)));
    return pass.add(new Cellwise(
      about("y", x.axes, "y[t,c] = n[t,c] · w[c]", "return"),
      [[n, sameCell], [w, column]], (o, n, w) => o.times(n, w)));
  });
}

function normForward(pass, ...given) {
  return pass.isLlama ? rmsnormForward(pass, ...given) : layernormForward(pass, ...given);
}

// The gradient by what a norm read, from dy by what it gave. Both families: a layer norm also
// takes away the component along the vector of ones.
function normBackward(pass, prefix, key, dy) {
  const [w, b, n] = ["weight", "bias", "n"].map(name => pass.get(`${prefix}.${name}`));
  const rstd = pass.get(`${prefix}.${pass.isLlama ? "rrms" : "rstd"}`);
  const row = rowOf(n.shape.at(-1)), column = columnOf(n.shape.at(-1));
  const name = pass.isLlama ? "llama.rmsnorm_backward" : "gpt.layernorm_backward";
  return pass.within(name, key, () => {
    const about = abouts(pass, `d.${prefix}`);
    pass.gradient(w, sumOfRows(about("dw", w.axes, "dw[c] = Σ_t dy[t,c] · n[t,c]"), dy, n));
    if (b) pass.gradient(b, sumOfRows(about("db", b.axes, "db[c] = Σ_t dy[t,c]"), dy));
    const dn = pass.gradient(n, new Cellwise(
      about("dn", n.axes, "dn[t,c] = dy[t,c] · w[c]"),
      [[dy, sameCell], [w, column]], (o, dy, w) => o.times(dy, w)));
    const ones = b && pass.add(rowMean(
      about("along_ones", rstd.axes, "along_ones[t] = (Σ_c dn[t,c]) / C"), dn));
    const alongN = pass.add(rowMean(
      about("along_n", rstd.axes, "along_n[t] = (Σ_c dn[t,c] · n[t,c]) / C"), dn, n));
    const inputs = [[rstd, row], [dn, sameCell], [n, sameCell], [alongN, row]];
    if (!b) return pass.add(new Cellwise(
      about("dx", n.axes, "dx[t,c] = rrms[t] · (dn[t,c] - n[t,c] · along_n[t])"), inputs,
      (o, rrms, dn, n, along) => o.times(rrms, o.minus(dn, o.times(n, along)))));
    return pass.add(new Cellwise(
      about("dx", n.axes, "dx[t,c] = rstd[t] · (dn[t,c] - along_ones[t] - n[t,c] · along_n[t])"),
      [...inputs, [ones, row]], (o, rstd, dn, n, along, ones) =>
        o.times(rstd, o.minus(o.minus(dn, ones), o.times(n, along)))));
  });
}

// x w + b, or x w: the grid of the result.
function linear(about, x, w, bias = null) {
  const [T, C] = x.shape, F = w.shape[1];
  return new Product(about, [1, T, F, C], [x, 0, C, 1], [w, 0, F, 1], { bias });
}

// The axes of a linear layer's weight: in, out.
const weightOf = (pass, name, x, out) => pass.parameter(`${name}.weight`, [x.axes[1], out]);

function linearForward(pass, name, key, x, out, result) {
  const w = weightOf(pass, name, x, out), b = pass.parameter(`${name}.bias`, [out]);
  return pass.within("gpt.linear_forward", key, () => pass.add(linear(
    pass.about(result, [x.axes[0], out], "return", "y[t,f] = (Σ_c x[t,c] · w[c,f]) + b[f]"),
    x, w, b)));
}

// model/llama.py's: two lines, if there is a bias.
function linearOfLlama(pass, name, key, x, out, result) {
  const w = weightOf(pass, name, x, out), axes = [x.axes[0], out];
  const hasBias = `${name}.bias` in pass.model.parameters;
  const b = hasBias && pass.parameter(`${name}.bias`, [out]);
  return pass.within("llama.linear_forward", key, () => {
    const id = b ? `${result}_without_bias` : result;
    const y = pass.add(linear(pass.about(id, axes, "y", "y[t,f] = Σ_c x[t,c] · w[c,f]"), x, w));
    if (!b) return y;
    return pass.add(new Cellwise(
      pass.about(result, axes, "y#2", "y[t,f] = y[t,f] + b[f]"),
      [[y, sameCell], [b, columnOf(out.size)]], (o, y, b) => o.plus(y, b)));
  });
}

// The gradients of a linear layer: of its parameters, and the one by x, which is returned.
function linearBackward(pass, name, key, x, dy, result) {
  const w = pass.get(`${name}.weight`), b = pass.get(`${name}.bias`);
  const T = x.shape[0], [C, F] = w.shape;
  const inner = () => pass.within("gpt.linear_backward", pass.isLlama ? "dx" : key, () => {
    const dx = pass.add(new Product(
      pass.about(result, x.axes, "dx", "dx[t,c] = Σ_f dy[t,f] · w[c,f]"),
      [1, T, C, F], [dy, 0, F, 1], [w, 0, 1, F]));
    pass.gradient(w, new Product(
      pass.about(`d.${name}.dw`, w.axes, "dw", "dw[c,f] = Σ_t x[t,c] · dy[t,f]"),
      [1, C, F, T], [x, 0, 1, C], [dy, 0, F, 1]));
    if (b) pass.gradient(b, sumOfRows(
      pass.about(`d.${name}.db`, b.axes, "db", "db[f] = Σ_t dy[t,f]"), dy));
    return dx;
  });
  return pass.isLlama ? pass.within("llama.linear_backward", key, inner) : inner();
}

const GELU_K = Math.sqrt(2 / Math.PI), GELU_C = 0.044715;

function geluForward(pass, prefix, key, x) {
  return pass.within("gpt.gelu_forward", key, () => {
    const about = abouts(pass, prefix);
    const t = pass.add(new Cellwise(
      about("t", x.axes, "t[t,f] = tanh(k · (h[t,f] + c · h[t,f]³))"), [[x, sameCell]],
      (o, x) => o.tanh(o.times(GELU_K, o.plus(x, o.times(o.times(o.times(GELU_C, x), x), x))))));
    return pass.add(new Cellwise(
      about("u", x.axes, "u[t,f] = 0.5 · h[t,f] · (1 + t[t,f])", "y"),
      [[x, sameCell], [t, sameCell]],
      (o, x, t) => o.times(o.times(0.5, x), o.plus(1, t))));
  });
}

function geluBackward(pass, prefix, key, x, dy) {
  const t = pass.get(`${prefix}.t`);
  return pass.within("gpt.gelu_backward", key, () => {
    const about = abouts(pass, `d.${prefix}`);
    const slope = "dt_dx = (1 - t²) · k · (1 + 3 · c · h²)";
    const dtDx = pass.add(new Cellwise(
      about("dt_dx", x.axes, slope), [[x, sameCell], [t, sameCell]], (o, x, t) => o.times(
        o.times(o.minus(1, o.times(t, t)), GELU_K),
        o.plus(1, o.times(o.times(3 * GELU_C, x), x)))));
    const dyDx = pass.add(new Cellwise(
      about("dy_dx", x.axes, "dy_dx = 0.5 · (1 + t) + 0.5 · h · dt_dx"),
      [[x, sameCell], [t, sameCell], [dtDx, sameCell]], (o, x, t, slope) => o.plus(
        o.times(0.5, o.plus(1, t)), o.times(o.times(0.5, x), slope))));
    return pass.gradient(x, new Cellwise(
      about("dh", x.axes, "dh[t,f] = du[t,f] · dy_dx[t,f]", "return"),
      [[dy, sameCell], [dyDx, sameCell]], (o, dy, slope) => o.times(dy, slope)));
  });
}

function swigluForward(pass, prefix, key, gate, up) {
  return pass.within("llama.swiglu_forward", key, () => {
    const about = abouts(pass, prefix);
    const sigmoid = pass.add(new Cellwise(
      about("sigmoid", gate.axes, "sigmoid[t,f] = 1 / (1 + exp(-gate[t,f]))"),
      [[gate, sameCell]], (o, gate) => o.over(1, o.plus(1, o.exp(o.times(-1, gate))))));
    return pass.add(new Cellwise(
      about("h", gate.axes, "h[t,f] = gate[t,f] · sigmoid[t,f] · up[t,f]", "return"),
      [[gate, sameCell], [sigmoid, sameCell], [up, sameCell]],
      (o, gate, sigmoid, up) => o.times(o.times(gate, sigmoid), up)));
  });
}

function swigluBackward(pass, prefix, key, dh) {
  const [gate, up, sigmoid] = ["gate", "up", "sigmoid"].map(name => pass.get(`${prefix}.${name}`));
  return pass.within("llama.swiglu_backward", key, () => {
    const about = abouts(pass, `d.${prefix}`);
    const dup = pass.gradient(up, new Cellwise(
      about("dup", up.axes, "dup[t,f] = dh[t,f] · gate[t,f] · sigmoid[t,f]"),
      [[dh, sameCell], [gate, sameCell], [sigmoid, sameCell]],
      (o, dh, gate, sigmoid) => o.times(o.times(dh, gate), sigmoid)));
    const dsilu = pass.add(new Cellwise(
      about("dsilu", up.axes, "dsilu[t,f] = dh[t,f] · up[t,f]"),
      [[dh, sameCell], [up, sameCell]], (o, dh, up) => o.times(dh, up)));
    const dgate = pass.gradient(gate, new Cellwise(
      about("dgate", up.axes, "dgate = dsilu · sigmoid · (1 + gate · (1 - sigmoid))"),
      [[dsilu, sameCell], [sigmoid, sameCell], [gate, sameCell]],
      (o, dsilu, sigmoid, gate) => o.times(
        o.times(dsilu, sigmoid), o.plus(1, o.times(gate, o.minus(1, sigmoid))))));
    return [dgate, dup];
  });
}
