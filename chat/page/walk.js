"use strict";
/* walk.js: a pass through the model, laid out from ids to probabilities and back to the gradients.

   Every array is a picture (sheet.js). Choosing a number shows in the panel (walk_panel.js) which
   line made it of which numbers, and marks these in their pictures. The numbers are made here, in
   the browser (passes.js). The static file that chat/walk.py writes holds this view alone. */

view("walk", "Walk", beginWalk);

const walk = {
  forward: null, backward: null,        // passes
  figures: new Map(),                   // {id of a grid: { grid, sheet, figure, frame, canvas }}
  at: null,                             // the number that is chosen: { grid, index }
  past: [],                             // those before it
  boxes: [], lit: [],                   // what marks these: elements in frames, and figures
  asked: 0,                             // how many texts were asked for: the last one counts
  playing: null,                        // the timer that goes from array to array
  turn: 0,                              // of what is drawn in the background: the last one counts
};
const SLICE_MS = 24;                    // of drawing, between two chances for the browser
const PLAY_MS = 1500;                   // at each array
const LIKELIEST = 200;                  // targets that are offered
const WIDEST = 660;                     // CSS pixels: a column of another array fits beside it

/* ---- from the server, or from the file itself */

async function walkText() {
  const asked = ++walk.asked;
  $("walk_error").textContent = "";
  try {
    const what = { text: $("walk_text").value, model: $("walk_model").value };
    const found = await ask("/api/walk", what);
    if (asked !== walk.asked) return;           // another text was asked for meanwhile
    const bytes = Uint8Array.from(atob(found.weights), letter => letter.charCodeAt(0));
    startWalk(modelOf(found, new Float32Array(bytes.buffer)));
  } catch (e) { $("walk_error").textContent = e.message; }
}

function beginWalk() {
  $("walk_form").onsubmit = event => { event.preventDefault(); walkText(); };
  walkText();
}

// The file that chat/walk.py writes has all in it.
async function walkOfFile() {
  document.title = "Longhand: Walk";
  try {
    const found = JSON.parse(new TextDecoder().decode(await unpacked($("walk_about"))));
    startWalk(modelOf(found, joinPlanes(await unpacked($("walk_weights")))));
  } catch (e) { $("walk_error").textContent = `This browser cannot show the file: ${e.message}`; }
}

// Lay out the passes of a model and its text, and choose the first number.
function startWalk(model) {
  performance.mark("walk: begun");
  delete $("walk").dataset.drawn;
  walk.forward = forwardPass(model);
  walk.figures.clear();
  walk.past = [];
  $("walk_forward").replaceChildren(...walk.forward.sections.map(sectionOf));
  fillTokens(model);
  $("walk_sizes").textContent = sizesOf(model);
  const T = model.ids.length;
  $("walk_position").replaceChildren(...[...Array(T).keys(), -1].map(positionOption));
  $("walk_position").value = Math.max(0, T - 2);
  chooseTargets();
  walk.at = null;
  const x = walk.forward.get("x");
  select(x, Math.max(0, T - 2) * x.shape[1], { scroll: false, focus: false });
  drawAll();
}

const pieceOf = id => visible(walk.forward.model.pieces[id] || `#${id}`);

// The sizes of the model in words.
function sizesOf({ family, config }) {
  const sizes = `${config.n_layer} blocks, ${config.n_head} heads, ${config.n_embd} channels, `
    + `${count(config.vocab_size)} tokens in the vocabulary: ${count(config.n_params)} parameters`;
  return (family === "llama" ? "A Llama with " : "A GPT-2 with ") + sizes + ".";
}

// The text in tokens, and what the model expects after it.
function fillTokens({ ids, config }) {
  const buttons = ids.map((id, t) => make("button", {
    className: "tok", title: `position ${t}, token ${id}`,
    onclick: () => select(walk.forward.get("ids"), t),
  }, pieceOf(id)));
  const p = walk.forward.get("loss.p"), from = (ids.length - 1) * config.vocab_size;
  const last = p.values.subarray(from, from + config.vocab_size);
  const best = [...last.keys()].sort((a, b) => last[b] - last[a]).slice(0, 4);
  const guesses = best.map(id => make("button", {
    className: "tok guess", title: "go to this probability", onclick: () => select(p, from + id),
  }, `${pieceOf(id)} ${percent(last[id])}`));
  $("walk_tokens").replaceChildren(...buttons, make("span", {}, "and next?"), ...guesses);
}

/* ---- the target of the backward pass */

function positionOption(t) {
  const { ids } = walk.forward.model;
  if (t < 0) return make("option", { value: -1, disabled: ids.length < 2 }, "all, as in training");
  return make("option", { value: t }, `${t}: after ${pieceOf(ids[t])}`);
}

// Offer the likeliest tokens behind the chosen position, and choose the one that the text has.
function chooseTargets() {
  const { ids, config } = walk.forward.model, V = config.vocab_size, t = +$("walk_position").value;
  $("walk_target").disabled = t < 0;
  if (t >= 0) {
    const p = walk.forward.get("loss.p").values.subarray(t * V, (t + 1) * V);
    const likeliest = [...p.keys()].sort((a, b) => p[b] - p[a]);
    const chosen = ids[t + 1] ?? likeliest[0];
    const offered = new Set([...likeliest.slice(0, LIKELIEST), chosen]);
    $("walk_target").replaceChildren(...[...offered].map(id => make("option", {
      value: id, selected: id === chosen,
    }, `${pieceOf(id)}  ${percent(p[id])}`)));
  }
  layBackward();
}

// The backward pass for the chosen target.
function layBackward() {
  const { ids } = walk.forward.model, T = ids.length, t = +$("walk_position").value;
  const targets = Array(T).fill(0), weights = Array(T).fill(0);       // nothing counts yet
  if (t >= 0) [targets[t], weights[t]] = [+$("walk_target").value, 1];
  else for (let i = 0; i + 1 < T; i++) [targets[i], weights[i]] = [ids[i + 1], 1 / (T - 1)];
  walk.backward = backwardPass(walk.forward, targets, weights);
  $("walk_backward").replaceChildren(...walk.backward.sections.map(sectionOf));
  $("walk_most").replaceChildren();
  noteUses();
  fillSections();
}

function changeTarget(change) {
  const { grid, index } = walk.at;
  change();
  const there = walk.backward.get(grid.id);
  if (there) select(there, index, { scroll: false, focus: false });
  drawAll();
}

// The parameters with the largest gradients: what a step of training would change most.
function showMost() {
  const found = [];
  for (const grid of walk.backward.grids.values()) {
    if (grid.kind !== "parameter") continue;
    const { values } = grid.gradient;
    let index = 0;
    for (let i = 1; i < values.length; i++)
      if (Math.abs(values[i]) > Math.abs(values[index])) index = i;
    found.push({ grid, index, gradient: values[index] });
  }
  found.sort((a, b) => Math.abs(b.gradient) - Math.abs(a.gradient));
  const rows = found.slice(0, 5).map(({ grid, index, gradient }) => make("li", {},
    goTo(grid, index, `${grid.id}[${grid.coordinates(index).join(",")}]`),
    ` is ${shortly(grid.values[index])}, its gradient ${shortly(gradient)}`));
  $("walk_most").replaceChildren(
    note("A small step down the gradient would change these parameters most, the first above all:"),
    make("ol", {}, ...rows));
}

/* ---- sections and figures */

function sectionOf(section) {
  const heading = make("h3", {}, section.title), flow = make("div", { className: "flow" });
  flow.append(...section.grids.map(figureOf));
  section.element = make("div", { className: "part" }, heading, note(section.about), flow);
  return section.element;
}

// The CSS pixels of a number: how wide and how high. A row of the text is as high in all arrays.
function cellSize({ grid, rows, columns }) {
  const T = walk.forward.model.ids.length;
  if (!grid.axes.some(axis => axis.letter === "T")) {
    const side = Math.min(3, WIDEST / columns, 192 / rows);
    return [side, rows === 1 ? 10 : side];
  }
  const high = Math.max(5, Math.min(14, 112 / T));
  return [Math.min(high, Math.max(2.9, 350 / columns), WIDEST / columns), high];
}

function figureOf(grid) {
  const sheet = new Sheet(grid), [wide, high] = cellSize(sheet);
  const canvas = make("canvas", { tabIndex: -1, role: "img" });
  const frame = make("div", { className: "frame" }, canvas);
  frame.style.width = `${Math.max(8, sheet.columns * wide)}px`;
  frame.style.height = `${Math.max(6, sheet.rows * high)}px`;
  const letters = grid.axes.map(axis => axis.letter).join(", ");
  const shape = grid.shape.join(" × "), side = sheet.isOnItsSide ? ", on its side" : "";
  const caption = make("figcaption", {}, make("b", {}, grid.name),
    make("span", {}, `(${letters}) ${shape}${side}`));
  if (grid.of) caption.append(make("span", {}, `by ${grid.of.id}`));
  const isStream = /(^|\.)x$/.test(grid.id) || grid.id.endsWith(".dx") && !/ln_/.test(grid.id);
  const className = `sheet ${grid.kind}${isStream ? " stream" : ""}`;
  const figure = make("figure", { className }, caption, frame);
  canvas.ariaLabel = `${grid.id}, ${letters}, ${shape}`;
  canvas.onclick = event => {
    const index = indexUnder(sheet, canvas, event);
    if (index !== null) select(grid, index, { scroll: false });
  };
  canvas.onpointermove = event => hover(grid, indexUnder(sheet, canvas, event), event);
  canvas.onpointerleave = () => { $("walk_hover").hidden = true; };
  walk.figures.set(grid.id, { grid, sheet, figure, frame, canvas, isDrawn: false });
  return figure;
}

// The index of the number under the pointer.
function indexUnder(sheet, canvas, event) {
  const { width, height } = canvas.getBoundingClientRect();
  const row = Math.floor(event.offsetY / height * sheet.rows);
  return sheet.indexAt(row, Math.floor(event.offsetX / width * sheet.columns));
}

// What the pointer is over, beside it.
function hover(grid, index, event) {
  const tip = $("walk_hover");
  tip.hidden = index === null || event.pointerType !== "mouse";
  if (tip.hidden) return;
  const place = placeInWords(grid, index);
  tip.textContent = `${nameOf(grid, index)} = ${shortly(grid.values[index])}\n${place}`;
  const left = `min(${event.clientX + 14}px, 100vw - 100% - 8px)`;      // 100 %: of its own width
  tip.style.transform = `translate(${left}, ${event.clientY + 16}px)`;
}

function paint(entry) {
  entry.isDrawn = true;
  entry.sheet.paint(entry.canvas);
  const title = `${wordsOf(entry.grid)}; full colour: ±${shortly(entry.sheet.full)}`;
  Object.assign(entry.figure.querySelector("figcaption"), { title });
}

// Make and draw all grids, in slices between which the browser can do other things.
function drawAll() {
  const turn = ++walk.turn, entries = [...walk.figures.values()].filter(entry => !entry.isDrawn);
  const slice = () => {
    if (turn !== walk.turn) return;
    const until = performance.now() + SLICE_MS;
    while (entries.length && performance.now() < until) paint(entries.shift());
    if (!entries.some(({ grid }) => walk.forward.get(grid.id))) performance.mark("walk: forward");
    if (entries.length) return setTimeout(slice);
    showMost();
    performance.mark("walk: all");
    $("walk").dataset.drawn = "all";
  };
  slice();
}

/* ---- choosing a number */

// Which grids are made of a grid: grid.uses.
function noteUses() {
  for (const grid of walk.backward.grids.values()) grid.uses = [];
  for (const grid of walk.backward.grids.values())
    for (const input of new Set(grid.inputs)) input.uses.push(grid);
}

function select(grid, index, { scroll = true, focus = true, isBack = false } = {}) {
  if (walk.at && !isBack) walk.past.push(walk.at);
  if (walk.at) walk.figures.get(walk.at.grid.id).canvas.tabIndex = -1;
  walk.at = { grid, index };
  const entry = walk.figures.get(grid.id), tree = grid.explain(index);
  if (!entry.isDrawn) paint(entry);
  entry.canvas.tabIndex = 0;
  if (focus) entry.canvas.focus({ preventScroll: true });
  mark(entry, index, tree);
  if (scroll) entry.frame.scrollIntoView({ block: "nearest", inline: "nearest" });
  showSection(entry.section);
  showPanel(grid, index, tree);
}

// Mark the number, and the numbers that it is made of.
function mark(entry, index, tree) {
  for (const box of walk.boxes.splice(0)) box.remove();
  for (const figure of walk.lit.splice(0)) figure.classList.remove("lit");
  for (const [grid, indices] of tree === null ? [] : indicesByGrid(tree)) {
    const from = walk.figures.get(grid.id);
    from.figure.classList.add("lit");
    walk.lit.push(from.figure);
    for (const box of from.sheet.boxesOf(indices)) addBox(from, box, "from");
  }
  addBox(entry, [...entry.sheet.pixelOf(index), 1, 1], "here");
}

function addBox({ frame, sheet }, [row, column, rows, columns], kind) {
  const share = (part, of) => `${part / of * 100}%`;
  const box = make("i", { className: `box ${kind}` });
  Object.assign(box.style, {
    left: share(column, sheet.columns), top: share(row, sheet.rows),
    width: share(columns, sheet.columns), height: share(rows, sheet.rows),
  });
  frame.append(box);
  walk.boxes.push(box);
}

function goBack() {
  const before = walk.past.pop();
  if (!before) return;
  const grid = walk.backward.get(before.grid.id);
  select(grid, before.index, { isBack: true });
}

/* ---- steps with the keyboard and the buttons */

const gridsInOrder = () => [...walk.figures.values()].map(entry => entry.grid);

// The array before or after the chosen one, at the same position, or the nearest to it.
function stepArray(by) {
  const all = gridsInOrder(), next = all[all.indexOf(walk.at.grid) + by];
  if (next) select(next, sameIn(next));
}

// The number of another grid with the same coordinates, as far as the axes agree.
function sameIn(grid) {
  const at = walk.at.grid.coordinates(walk.at.index);
  const letters = walk.at.grid.axes.map(axis => axis.letter);
  return grid.indexOf(grid.axes.map(axis => {
    const found = letters.indexOf(axis.letter);
    return found < 0 ? 0 : Math.min(at[found], axis.size - 1);
  }));
}

// The same array in another block.
function stepLayer(by) {
  const { id } = walk.at.grid, found = id.match(/\bh\.(\d+)\./);
  const next = found && walk.backward.get(id.replace(found[0], `h.${+found[1] + by}.`));
  if (next) select(next, walk.at.index);
}

// The same number of another head.
function stepHead(by) {
  const { grid, index } = walk.at, at = grid.coordinates(index);
  const axis = grid.axes.findIndex(({ letter }) => letter === "NH" || letter === "NKV");
  if (axis < 0 || !(at[axis] + by in [...Array(grid.shape[axis])])) return;
  at[axis] += by;
  select(grid, grid.indexOf(at));
}

function stepCell(down, right) {
  const { grid, index } = walk.at, { sheet } = walk.figures.get(grid.id);
  const [row, column] = sheet.pixelOf(index);
  const next = sheet.indexAt(row + down, column + right)
    ?? sheet.indexAt(row + down, column + 2 * right);           // past the gap between two heads
  if (next !== null) select(grid, next);
}

// From an array to its gradient, or back.
function stepGradient() {
  const { grid, index } = walk.at, other = grid.of ?? grid.gradient;
  if (other) select(other, index);
}

// The number that counts most among those that the chosen one is made of.
function stepInto() {
  const tree = walk.at.grid.explain(walk.at.index);
  const found = tree === null ? [] : rowsOf(tree).flatMap(numbersIn);
  if (found.length) select(found[0].grid, found[0].index);
}

// Go on from array to array by itself, or stop.
function playWalk() {
  const isLast = () => gridsInOrder().at(-1) === walk.at.grid;
  const next = () => isLast() ? playWalk() : stepArray(1);
  clearInterval(walk.playing);
  walk.playing = walk.playing ? null : setInterval(next, PLAY_MS);
  $("walk_play").textContent = walk.playing ? "❚❚ stop" : "▶ play";
}

// Who chooses something else has seen enough.
function stopPlaying(event) {
  if (walk.playing && event.target !== $("walk_play") && event.key !== "p") playWalk();
}

const WALK_KEYS = {
  ArrowUp: () => stepCell(-1, 0), ArrowDown: () => stepCell(1, 0),
  ArrowLeft: () => stepCell(0, -1), ArrowRight: () => stepCell(0, 1),
  j: () => stepArray(1), k: () => stepArray(-1),
  "]": () => stepLayer(1), "[": () => stepLayer(-1),
  ".": () => stepHead(1), ",": () => stepHead(-1),
  g: stepGradient, Enter: stepInto, Backspace: goBack, p: playWalk,
};

function onWalkKey(event) {
  const isForm = event.target.closest("select, input, textarea, button, summary");
  const step = WALK_KEYS[event.key];
  if (!step || isForm || !walk.at || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  step();
}

/* ---- the map of the model */

const allSections = () => [...walk.forward.sections, ...walk.backward.sections];

function fillSections() {
  allSections().forEach((section, n) => section.grids.forEach(({ id }) => {
    walk.figures.get(id).section = n;
  }));
  $("walk_section").replaceChildren(...allSections().map((section, n) =>
    make("option", { value: n }, section.title)));
  $("walk_map").replaceChildren(...rowsOfMap());
}

// A row a block: forward on the left, and on the right the way back, which goes up.
function rowsOfMap() {
  const forward = walk.forward.sections, backward = [...walk.backward.sections].reverse();
  const { n_layer } = walk.forward.model.config;
  const outside = [forward, backward].map(sections => sections.filter(s => s.layer === null));
  const [[embed, ...last], [embedBack, ...lastBack]] = outside;
  const rows = [["↓  ↑", [embed], [embedBack]]];
  for (let i = 0; i < n_layer; i++) {
    const [there, back] = [forward, backward].map(sections => sections.filter(s => s.layer === i));
    rows.push([`block ${i}`, there, back]);
  }
  rows.push(["", last, lastBack]);
  return rows.flatMap(([name, there, back]) => [
    make("span", {}, name), make("div", {}, ...there.map(partOfMap)),
    make("div", { className: "back" }, ...back.map(partOfMap)),
  ]);
}

function partOfMap(section) {
  const n = allSections().indexOf(section);
  const press = () => goToSection(n);
  return make("button", { tabIndex: -1, title: section.title, value: n, onclick: press },
    section.short);
}

// Show a part of the model, and choose a number in it that is like the one chosen before.
function goToSection(n) {
  const { grids, element } = allSections()[n];
  const first = grids.find(({ kind }) => kind === "array") ?? grids[0];
  select(first, sameIn(first), { scroll: false, focus: false });
  element.scrollIntoView({ block: "start" });
}

function showSection(n) {
  $("walk_section").value = n;
  $("walk_map").querySelector(".on")?.classList.remove("on");
  $("walk_map").querySelector(`[value="${n}"]`).classList.add("on");
}

$("walk_section").onchange = () => goToSection(+$("walk_section").value);
$("walk").addEventListener("keydown", onWalkKey);
$("walk_position").onchange = () => changeTarget(chooseTargets);
$("walk_target").onchange = () => changeTarget(layBackward);
$("walk_play").onclick = playWalk;
for (const kind of ["pointerdown", "keydown"])
  $("view_walk").addEventListener(kind, stopPlaying, { capture: true });
for (const button of document.querySelectorAll("#walk_steps button[data-key]"))
  button.onclick = () => {
    if (walk.at) WALK_KEYS[button.dataset.key]();
    button.focus({ preventScroll: true });      // to be pressed again
  };
if ($("walk_about")) walkOfFile();
