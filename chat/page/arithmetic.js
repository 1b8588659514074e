"use strict";
/* arithmetic.js: numbers that know what they were made of.

   A Grid is an array of the model with the rule that makes each of its numbers from numbers of
   other grids. The rule is written once and read in two ways. With `numbers` it computes. With
   `trees` it keeps the expression: which numbers, joined how. The walk shows that expression.
   All arithmetic is in float64, as a Grid's values are a Float64Array.

   Kinds of rules:
     Given       no rule: the text's ids, a parameter, a table
     Cellwise    a number from one number of each input
     Copied      a number of an input, at another place
     Summed      a sum over numbers of each input, and what becomes of the sum
     Largest     the largest of some numbers
     Product     sums of products: a linear layer, the scores of attention, most derivatives */

/* ---- expressions */

// The operations, on numbers.
const numbers = {
  plus: (a, b) => a + b,
  minus: (a, b) => a - b,
  times: (a, b) => a * b,
  over: (a, b) => a / b,
  where: (condition, a, b) => condition ? a : b,
  exp: Math.exp, log: Math.log, sqrt: Math.sqrt, tanh: Math.tanh, cos: Math.cos, sin: Math.sin,
};

// The operations, on expressions. An expression is a number, a number of a grid
// { grid, index }, or { sign, parts } or { name, parts } of other expressions.
const trees = {
  plus: (a, b) => ({ sign: "+", parts: [...partsOf(a, "+"), ...partsOf(b, "+")] }),
  minus: (a, b) => ({ sign: "-", parts: [a, b] }),
  times: (a, b) => ({ sign: "*", parts: [...partsOf(a, "*"), ...partsOf(b, "*")] }),
  over: (a, b) => ({ sign: "/", parts: [a, b] }),
  where: (condition, a, b) => valueOf(condition) ? a : b,
};
for (const name of ["exp", "log", "sqrt", "tanh", "cos", "sin"])
  trees[name] = a => ({ name, parts: [a] });

// The parts of a sum or a product, which need no brackets inside another.
function partsOf(expression, sign) {
  return expression.sign === sign ? expression.parts : [expression];
}

// The value of an expression.
function valueOf(expression) {
  if (typeof expression === "number") return expression;
  if (expression.grid) return expression.grid.values[expression.index];
  const values = expression.parts.map(valueOf);
  if (expression.name === "max") return Math.max(...values);
  if (expression.name) return numbers[expression.name](values[0]);
  if (expression.sign === "+") return values.reduce((a, b) => a + b);
  if (expression.sign === "*") return values.reduce((a, b) => a * b);
  return expression.sign === "-" ? values[0] - values[1] : values[0] / values[1];
}

// A number with nine digits, as JavaScript and Python read it; inf for infinity.
function nineDigits(x) {
  if (!Number.isFinite(x)) return String(x).replace("Infinity", "inf").replace("NaN", "nan");
  return String(Number(x.toPrecision(9)));
}

// An expression as text, with the numbers put in: plain arithmetic that a computer can evaluate.
// Of a sum of more than `most` parts only the largest are written, and the sum of the others.
function spelledOut(expression, most = Infinity) {
  if (typeof expression === "number") return nineDigits(expression);
  if (expression.grid) return nineDigits(valueOf(expression));
  const texts = shortened(expression, most).map(part => spelledOut(part, most));
  if (expression.name) return `${expression.name}(${texts.join(", ")})`;
  if (expression.sign === "+") return texts.reduce(added);
  const factors = expression.parts.map((part, i) => bracketed(part, expression.sign, i, most));
  return factors.join(` ${expression.sign} `);
}

// A text added to a sum: "a" and "-b" are "a - b".
function added(sum, text) {
  return text.startsWith("-") ? `${sum} - ${text.slice(1)}` : `${sum} + ${text}`;
}

// A part of a difference, a product or a quotient, in brackets where it needs them.
function bracketed(part, sign, i, most) {
  const text = spelledOut(part, most);
  const isSum = part.sign === "+" || part.sign === "-";
  const needs = sign === "-" ? i > 0 && isSum : isSum || sign === "/" && i > 0 && part.sign;
  return needs ? `(${text})` : text;
}

// The parts of a sum or a maximum that are written: all, or the largest and one for the rest.
function shortened(expression, most) {
  const { sign, parts } = expression;
  if (parts.length <= most || sign && sign !== "+") return parts;
  const largest = bySize(expression).slice(0, most - 1);
  if (sign !== "+") return largest;
  const chosen = new Set(largest);
  const rest = parts.reduce((sum, part) => chosen.has(part) ? sum : sum + valueOf(part), 0);
  return [...parts.filter(part => chosen.has(part)), rest];
}

// The parts of a sum by absolute value, or of a maximum by value, the largest first.
function bySize(expression) {
  const size = part => expression.sign ? Math.abs(valueOf(part)) : valueOf(part);
  expression.ranked ??= expression.parts.map(part => [size(part), part])
    .sort(([a], [b]) => b - a).map(([, part]) => part);
  return expression.ranked;
}

// The numbers of grids in an expression, in order: [{ grid, index }].
function numbersIn(expression) {
  if (typeof expression === "number") return [];
  return expression.grid ? [expression] : expression.parts.flatMap(numbersIn);
}

// The numbers in an expression by their grids: a Map of grids to lists of indices.
function indicesByGrid(expression) {
  const found = new Map();
  for (const { grid, index } of numbersIn(expression)) {
    if (!found.has(grid)) found.set(grid, []);
    found.get(grid).push(index);
  }
  return found;
}

// The longest sum or maximum in an expression; null if none has more than two parts.
function longestSum(expression) {
  let longest = null;
  const look = e => {
    if (!e.parts) return;
    const isLonger = e.parts.length > (longest ? longest.parts.length : 2);
    if ((e.sign === "+" || e.name === "max") && isLonger) longest = e;
    e.parts.forEach(look);
  };
  look(expression);
  return longest;
}

/* ---- grids */

// A grid. about: { id, name, axes, formula, note, lines }; an axis is { letter, name, size }.
class Grid {
  constructor(about, inputs) {
    Object.assign(this, about);
    this.shape = this.axes.map(axis => axis.size);
    this.size = this.shape.reduce((a, b) => a * b, 1);
    this.inputs = inputs;           // the grids that it is made of
  }

  // Computed when asked for the first time.
  get values() {
    return this.computed ??= this.compute();
  }

  // The expression of a number; null where nothing made it.
  explain() { return null; }

  // The coordinates of a number, one for each axis.
  coordinates(index) {
    const found = [];
    for (const size of [...this.shape].reverse()) {
      found.unshift(index % size);
      index = Math.floor(index / size);
    }
    return found;
  }

  // The index of the number at some coordinates.
  indexOf(coordinates) {
    return coordinates.reduce((index, at, axis) => index * this.shape[axis] + at, 0);
  }
}

class Given extends Grid {
  constructor(about, values) {
    super(about, []);
    this.computed = values;
  }
}

// inputs: [[grid, place]], at most five. place(i) is the index of what number i is made of.
// rule(o, a, b, c, d, e, i): number i from these, with the operations o.
class Cellwise extends Grid {
  constructor(about, inputs, rule) {
    super(about, inputs.map(([grid]) => grid));
    this.places = inputs.map(([, place]) => place);
    this.rule = rule;
  }

  compute() {
    const made = new Float64Array(this.size), { rule, places } = this;
    const of = this.inputs.map(grid => grid.values);
    const get = places.map((place, n) => i => of[n][place(i)]);
    const [a, b, c, d, e] = [0, 1, 2, 3, 4].map(n => get[n] ?? (() => 0));
    for (let i = 0; i < made.length; i++) made[i] = rule(numbers, a(i), b(i), c(i), d(i), e(i), i);
    return made;
  }

  explain(i) {
    const used = this.inputs.map((grid, n) => ({ grid, index: this.places[n](i) }));
    const [a, b, c, d, e] = used;
    return this.rule(trees, a, b, c, d, e, i);
  }
}

// Numbers of other grids in another order. choose(i): [which of the inputs, the index there].
class Copied extends Grid {
  constructor(about, inputs, choose) {
    super(about, inputs);
    this.choose = choose;
  }

  compute() {
    const made = new Float64Array(this.size), of = this.inputs.map(grid => grid.values);
    for (let i = 0; i < made.length; i++) {
      const [n, index] = this.choose(i);
      made[i] = of[n][index];
    }
    return made;
  }

  explain(i) {
    const [n, index] = this.choose(i);
    return { grid: this.inputs[n], index };
  }
}

// inputs: [[grid, place]], where place(i, k) is the index of what part k of sum i is made of.
// count(i): how many parts. part(o, ...): one of them. finish(o, sum): what becomes of the sum.
class Summed extends Grid {
  constructor(about, count, inputs, part = (o, a) => a, finish = (o, sum) => sum) {
    super(about, inputs.map(([grid]) => grid));
    this.places = inputs.map(([, place]) => place);
    Object.assign(this, { count, part, finish });
  }

  compute() {
    const made = new Float64Array(this.size), { part, finish, count, places } = this;
    const of = this.inputs.map(grid => grid.values);
    const get = places.map((place, n) => (i, k) => of[n][place(i, k)]);
    const [a, b] = [0, 1].map(n => get[n] ?? (() => 0));
    for (let i = 0; i < made.length; i++) {
      let sum = 0;
      for (let k = 0, n = count(i); k < n; k++) sum += part(numbers, a(i, k), b(i, k));
      made[i] = finish(numbers, sum);
    }
    return made;
  }

  explain(i) {
    const parts = [];
    for (let k = 0; k < this.count(i); k++) {
      const used = this.inputs.map((grid, n) => ({ grid, index: this.places[n](i, k) }));
      parts.push(this.part(trees, ...used));
    }
    if (parts.length < 2) return this.finish(trees, parts[0] ?? 0);
    return this.finish(trees, { sign: "+", parts });
  }
}

// place(i, k): the index of number k among those of which number i is the largest.
class Largest extends Grid {
  constructor(about, count, grid, place) {
    super(about, [grid]);
    Object.assign(this, { count, place });
  }

  compute() {
    const made = new Float64Array(this.size).fill(-Infinity), of = this.inputs[0].values;
    for (let i = 0; i < made.length; i++)
      for (let k = 0; k < this.count(i); k++)
        made[i] = Math.max(made[i], of[this.place(i, k)]);
    return made;
  }

  explain(i) {
    const [grid] = this.inputs;
    const one = (_, k) => ({ grid, index: this.place(i, k) });
    const parts = Array.from({ length: this.count(i) }, one);
    return parts.length === 1 ? parts[0] : { name: "max", parts };
  }
}

// y[h,r,c] = scale * sum over k of a[h,r,k] * b[h,k,c], plus bias[c] if there is one.
// a, b: [grid, stride of h, stride of the first index, stride of the second]. size: how far h, r,
// c and k go. So a transpose is a change of strides, and nothing is copied.
class Product extends Grid {
  constructor(about, size, a, b, { scale = 1, bias = null } = {}) {
    super(about, [a[0], b[0], ...(bias ? [bias] : [])]);
    Object.assign(this, { far: size, a, b, scale, bias });
  }

  compute() {
    const [heads, rows, columns] = this.far, made = new Float64Array(this.size);
    const [a, aHead, aRow] = this.a, [b, bHead, bInner, bColumn] = this.b;
    // The innermost loop goes along the numbers of b that lie side by side.
    const fill = bInner < bColumn ? this.rowOfSums : this.sumOfRows;
    for (let h = 0; h < heads; h++)
      for (let r = 0; r < rows; r++) {
        const row = made.subarray((h * rows + r) * columns, (h * rows + r + 1) * columns);
        fill.call(this, row, a.values, h * aHead + r * aRow, b.values, h * bHead);
        this.finishRow(row);
      }
    return made;
  }

  // A row of the result, one sum after another.
  rowOfSums(row, left, leftAt, right, rightAt) {
    const inner = this.far[3], aInner = this.a[3], [, , bInner, bColumn] = this.b;
    for (let c = 0; c < row.length; c++) {
      let even = 0, odd = 0, i = leftAt, j = rightAt + c * bColumn, k = 0;
      for (; k + 1 < inner; k += 2, i += 2 * aInner, j += 2 * bInner) {
        even += left[i] * right[j];             // two sums: neither waits for the other
        odd += left[i + aInner] * right[j + bInner];
      }
      row[c] = even + odd + (k < inner ? left[i] * right[j] : 0);
    }
  }

  // A row of the result as a sum of rows of b, four at a time, so that it is read less often.
  sumOfRows(row, left, leftAt, right, rightAt) {
    const inner = this.far[3], aInner = this.a[3], [, , bInner, bColumn] = this.b;
    const factor = k => k < inner ? left[leftAt + k * aInner] : 0;
    const start = k => rightAt + Math.min(k, inner - 1) * bInner;
    for (let k = 0; k < inner; k += 4) {
      const [f, g, h, i] = [factor(k), factor(k + 1), factor(k + 2), factor(k + 3)];
      let [m, n, o, p] = [start(k), start(k + 1), start(k + 2), start(k + 3)];
      for (let c = 0; c < row.length; c++, m += bColumn, n += bColumn, o += bColumn, p += bColumn)
        row[c] += f * right[m] + g * right[n] + h * right[o] + i * right[p];
    }
  }

  // Scale a row of sums, and add the bias.
  finishRow(row) {
    if (this.scale !== 1) for (let c = 0; c < row.length; c++) row[c] *= this.scale;
    if (this.bias) for (let c = 0; c < row.length; c++) row[c] += this.bias.values[c];
  }

  explain(i) {
    const [, rows, columns, inner] = this.far;
    const [a, aHead, aRow, aInner] = this.a, [b, bHead, bInner, bColumn] = this.b;
    const c = i % columns, r = Math.floor(i / columns) % rows, h = Math.floor(i / columns / rows);
    const parts = [];
    for (let k = 0; k < inner; k++) {
      const first = { grid: a, index: h * aHead + r * aRow + k * aInner };
      const second = { grid: b, index: h * bHead + k * bInner + c * bColumn };
      parts.push(trees.times(first, second));
    }
    const sum = parts.length > 1 ? { sign: "+", parts } : parts[0];
    const scaled = this.scale === 1 ? sum : trees.times(this.scale, sum);
    return this.bias ? { sign: "+", parts: [scaled, { grid: this.bias, index: c }] } : scaled;
  }
}
