"use strict";
/* walk_panel.js: what the walk says of the chosen number: the line that made it, the formula, the
   formula with the numbers put in, and the numbers that it is made of. */

const ROWS = 8;                         // of a long sum that are shown at first
const LENS = { rows: 5, columns: 19 };  // numbers that the lens shows

// A number with four digits, or so many.
function shortly(x, most = 4) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : x < 0 ? "-inf" : "inf";
  const size = Math.abs(x);
  if (Number.isInteger(x) && size < 1e6) return String(x);
  return size < 1e-3 || size >= 1e5 ? x.toExponential(2) : String(Number(x.toPrecision(most)));
}

// qkv[5,17]; of a parameter c_attn.w[3,17], without its block
function nameOf(grid, index) {
  const short = grid.name.replace(/^h\.\d+\.(attn\.|mlp\.)?/, "");
  const name = short.replace(/\.weight$/, ".w").replace(/\.bias$/, ".b").replace(/^(w.e)\.w/, "$1");
  return `${name}[${grid.coordinates(index).join(",")}]`;
}

// The coordinates in words: position 5 "eats", channel 17.
function placeInWords(grid, index) {
  const { ids } = walk.forward.model;
  const words = grid.coordinates(index).map((at, axis) => {
    const { letter, name } = grid.axes[axis];
    if (letter === "1") return "";
    if (letter === "T" || letter === "S") return `${name} ${at} “${pieceOf(ids[at])}”`;
    return letter === "V" ? `${name} ${at} “${pieceOf(at)}”` : `${name} ${at}`;
  });
  return words.filter(Boolean).join(", ");
}

// A button that goes to a number.
function goTo(grid, index, text = nameOf(grid, index)) {
  const title = `${grid.id}: ${placeInWords(grid, index)}`;
  return make("button", { className: "number", title, onclick: () => select(grid, index) }, text);
}

function showPanel(grid, index, tree) {
  const value = grid.values[index], place = placeInWords(grid, index);
  const head = make("div", { className: "head" },
    make("h3", {}, grid.name), make("span", { className: "id" }, grid.id),
    make("p", { className: "soft" }, wordsOf(grid)), make("p", {}, place),
    make("p", { className: "value" }, nineDigits(value)));
  const parts = [head, lensOf(grid, index), ...linesPart(grid), ...formulaPart(grid, value, tree)];
  if (tree !== null) parts.push(...madeOf(tree));
  parts.push(...gradientPart(grid, index), ...usesPart(grid));
  // A new box begins at its top. To scroll the old one up, the browser had to lay it out first.
  $("walk_panel").replaceChildren(make("div", {}, ...parts));
  const count = tree === null ? 0 : numbersIn(tree).length;
  $("walk_said").textContent = `${grid.id}, ${place || "one number"}: ${shortly(value)}. `
    + `${wordsOf(grid)}. ${grid.formula}. ` + (count ? `Made of ${count} numbers.` : "");
}

// The numbers around the chosen one, enlarged; one can be chosen there too. There is one lens, as a
// new canvas for each number would cost more than all else in the panel.
const lens = {
  grid: null, sheet: null, top: 0, left: 0,
  canvas: make("canvas", { className: "lens_of_walk", ariaHidden: "true" }),
};
lens.element = make("div", { className: "lens_frame" },
  lens.canvas, make("i", { className: "box here" }));

function lensOf(grid, index) {
  const { sheet } = walk.figures.get(grid.id), [row, column] = sheet.pixelOf(index);
  const [top, left] = [row - (LENS.rows - 1) / 2, column - (LENS.columns - 1) / 2];
  Object.assign(lens, { grid, sheet, top, left });
  sheet.paintPart(lens.canvas, top, left, LENS.rows, LENS.columns);
  return lens.element;
}

// The index of the number in the lens that is under the pointer.
function indexInLens(event) {
  const { width, height } = lens.canvas.getBoundingClientRect();
  const down = Math.floor(event.offsetY / height * LENS.rows);
  const right = Math.floor(event.offsetX / width * LENS.columns);
  return lens.sheet.indexAt(lens.top + down, lens.left + right);
}

lens.canvas.onclick = event => {
  const near = indexInLens(event);
  if (near !== null) select(lens.grid, near);
};
lens.canvas.onpointermove = event => hover(lens.grid, indexInLens(event), event);
lens.canvas.onpointerleave = () => { $("walk_hover").hidden = true; };

/* ---- the line of gpt.py */

function linesPart(grid) {
  if (!grid.lines.length) return [];
  const { lines } = walk.forward.model, [line, ...callers] = [...grid.lines].reverse();
  const parts = [codeOf(lines, line), wholeFunction(lines, line)];
  if (callers.length) {
    const details = make("details", {}, make("summary", {}, "called in"));
    details.append(...callers.filter(({ key }) => key).map(caller => codeOf(lines, caller)));
    parts.push(details);
  }
  return parts;
}

// The lines of a key, numbered as in their file.
function codeOf(lines, { name, key }) {
  const { file, first, text, keys } = lines[name], [from, to] = keys[key];
  const shown = text.split("\n").slice(from - 1, to);
  const indent = Math.min(...shown.map(line => line.search(/\S/)));
  const where = `${file}, line ${first + from - 1}, in ${name.split(".")[1]}`;
  return make("div", { className: "code" }, make("span", {}, where),
    make("pre", {}, shown.map(line => line.slice(indent).replace(/ {3,}#/, "  #")).join("\n")));
}

function wholeFunction(lines, line) {
  return unfolding("the whole function", () => functionOf(lines, line));
}

function functionOf(lines, { name, key }) {
  const { text, keys } = lines[name], [from, to] = keys[key];
  const rows = text.trimEnd().split("\n").map((line, i) => {
    const isHere = i + 1 >= from && i + 1 <= to;
    return make("span", { className: isHere ? "row here" : "row" }, line + "\n");
  });
  return make("pre", { className: "function" }, ...rows);
}

// What is made when it is unfolded for the first time.
function unfolding(title, content) {
  const details = make("details", {}, make("summary", {}, title));
  details.ontoggle = () => { if (details.children.length < 2) details.append(content()); };
  return details;
}

/* ---- the formula, and with the numbers put in */

function formulaPart(grid, value, tree) {
  const formula = make("p", { className: "formula" }, grid.formula);
  if (tree === null) return [formula];
  if (tree.grid) return [formula];
  const short = spelledOut(tree, ROWS), sum = longestSum(tree);
  const shown = make("p", { className: "formula numbers" }, `${short} = ${nineDigits(value)}`);
  if (!sum || sum.parts.length <= ROWS) return [formula, shown];
  const all = () => make("p", { className: "formula numbers" }, spelledOut(tree));
  return [formula, shown, unfolding(`all ${sum.parts.length} terms`, all)];
}

/* ---- the numbers that it is made of */

// What the table shows of an expression: the terms of its long sum by size, then all else in it.
function rowsOf(tree) {
  const sum = longestSum(tree);
  if (!sum) return numbersIn(tree);
  const inSum = new Set(numbersIn(sum));
  return [...bySize(sum), ...numbersIn(tree).filter(e => !inSum.has(e))];
}

function madeOf(tree) {
  if (tree.grid) return [make("p", {}, "the same number as ", goTo(tree.grid, tree.index))];
  const from = make("p", { className: "from" }, "made of ");
  for (const [grid, indices] of indicesByGrid(tree)) {
    const amount = new Set(indices).size, name = nameOf(grid, indices[0]).replace(/\[.*/, "");
    from.append(goTo(grid, indices[0], amount > 1 ? `${amount} of ${name}` : name), " ");
  }
  const rows = rowsOf(tree), table = make("table", {});
  const more = make("button", {}, `all ${rows.length}`);
  table.append(...rows.slice(0, ROWS).map(termRow));
  more.onclick = () => { more.remove(); table.append(...rows.slice(ROWS).map(termRow)); };
  return [from, table, ...rows.length > ROWS ? [more] : []];
}

// A row of the table: the numbers of a term, and what they come to.
function termRow(term) {
  const names = make("td", {}), used = numbersIn(term);
  for (const { grid, index } of used) {
    if (names.childNodes.length) names.append(term.sign === "*" ? " × " : ", ");
    names.append(goTo(grid, index), term.grid ? "" : ` ${shortly(grid.values[index], 3)}`);
  }
  return make("tr", {}, names, make("td", {}, shortly(valueOf(term))));
}

/* ---- where one can go from here */

function gradientPart(grid, index) {
  if (grid.of) return [make("p", {}, "This is the gradient of ", goTo(grid.of, index), ".")];
  if (!grid.gradient) return [];
  const value = grid.gradient.values[index];
  return [make("p", {}, "How fast the loss grows with it: ",
    goTo(grid.gradient, index), ` = ${shortly(value)}`)];
}

function usesPart({ uses }) {
  if (!uses.length) return [];
  const buttons = uses.map(grid => make("button", {
    className: "number", title: grid.id, onclick: () => select(grid, sameIn(grid)),
  }, grid.name));
  return [make("p", { className: "from" }, "goes into ", ...buttons.flatMap(b => [b, " "]))];
}
