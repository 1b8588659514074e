"use strict";
/* attention.js: where each head looks, and which heads look for what came next last time.

   A row of the picture is a token that looks, a column one that is looked at. Above the diagonal a
   token would see what comes later, which the mask forbids. */
const LABELS = 32;                      // the most that stand along a side
const heads = {
  shares: null,         // bytes (T*T) of the head that is shown: 255 is all of its attention
  turn: 0,
  row: 0,               // the cell that is pointed at
  column: 0,
  copying: null         // what /api/induction says of a model
};

/* ---- one head */

// Offer the layers and heads of the model that has read the text.
function fillHeads() {
  for (const [id, n] of [["layer", inside.seen.layers], ["head", inside.seen.heads]])
    if ($(id).length !== n)
      $(id).replaceChildren(
        ...Array.from({ length: n }, (_, i) => make("option", { value: i }, i + 1))
      );
  if (heads.copying?.model !== inside.seen.model) showCopying(null);
}

// Ask where a head looks, and draw it. The cell that was pointed at is forgotten.
const showAttention = insideTold(async () => {
  if (!inside.seen) return;
  const turn = ++heads.turn;
  heads.shares = null;
  $("where").textContent = "";
  $("cross").hidden = true;
  const { ids } = inside.seen;
  const where = { tokens: ids, layer: +$("layer").value, head: +$("head").value };
  const found = await ask("/api/look", { model: $("inside_model").value, ...where });
  if (turn !== heads.turn || ids !== inside.seen.ids) return;
  heads.shares = Uint8Array.from(atob(found.attention), c => c.charCodeAt(0));
  heads.row = heads.column = -1;
  drawAttention();
  labelSides();
  $("where").textContent = "Point at the picture, tap it, or move in it by arrows.";
});

// Each share is a pixel. Small ones are raised by a root, to be seen.
function drawAttention() {
  const n = inside.seen.ids.length;
  const canvas = $("grid");
  canvas.width = canvas.height = n;
  canvas.parentElement.style.setProperty("--side", Math.min(34, 2.2 * n) + "rem");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const [none, all, masked] = dark
    ? [[30, 32, 36], [138, 180, 232], [52, 49, 46]]
    : [[255, 255, 255], [47, 93, 140], [226, 222, 213]];
  const image = new ImageData(n, n);
  heads.shares.forEach((byte, i) => {
    const later = i % n > Math.floor(i / n);
    const share = Math.sqrt(byte / 255);
    const colour = none.map((from, c) => later ? masked[c] : from + (all[c] - from) * share);
    image.data.set([...colour, 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Names along both sides: of a long text some, and always those of the cell that is pointed at.
function labelSides() {
  const { pieces } = inside.seen;
  const every = Math.ceil(pieces.length / LABELS);
  for (const [id, chosen, side] of [["keys", heads.column, "left"], ["queries", heads.row, "top"]])
    $(id).replaceChildren(...pieces.flatMap((piece, i) => {
      const near = chosen >= 0 && i !== chosen && Math.abs(i - chosen) < every;
      if (i !== chosen && (i % every || near)) return [];
      const label = make("span", { className: i === chosen ? "on" : "" }, visible(piece));
      label.style[side] = `${100 * (i + .5) / pieces.length}%`;
      return [label];
    }));
}

// Say what a cell means.
function pointAt(row, column) {
  const { pieces } = inside.seen;
  const n = pieces.length;
  if (!heads.shares || row < 0 || column < 0 || row >= n || column >= n) return;
  Object.assign(heads, { row, column });
  const [from, to] = [row, column].map(t => `${visible(pieces[t])} (${t + 1})`);
  const share = percent(heads.shares[row * n + column] / 255);
  $("where").textContent = column > row
    ? `${from} does not see ${to}. Masked: later tokens are not seen.`
    : `${from} looks at ${to}: ${share}`;
  labelSides();
  const cross = $("cross");
  cross.style.left = `${100 * column / n}%`;
  cross.style.top = `${100 * row / n}%`;
  cross.style.width = cross.style.height = `${100 / n}%`;
  cross.hidden = false;
}

// The cell below a pointer.
function pointTo(event) {
  const box = $("grid").getBoundingClientRect();
  const n = inside.seen.ids.length;
  pointAt(
    Math.floor((event.clientY - box.top) / box.height * n),
    Math.floor((event.clientX - box.left) / box.width * n)
  );
}

$("grid").onpointermove = pointTo;
$("grid").onpointerdown = pointTo;
$("grid").onkeydown = event => {
  const step = STEPS[event.key];
  if (!step || !inside.seen) return;
  event.preventDefault();
  const [down, right] = heads.row < 0 ? [0, 0] : step;
  const most = inside.seen.ids.length - 1;
  const within = t => Math.max(0, Math.min(most, t));
  const [row, column] = heads.row < 0 ? [inside.at, inside.at] : [heads.row, heads.column];
  pointAt(within(row + down), within(column + right));
};
for (const id of ["layer", "head"]) $(id).onchange = showAttention;
matchMedia("(prefers-color-scheme: dark)").onchange = () => { if (heads.shares) drawAttention(); };

/* ---- heads that copy */

// Ask which heads look for what came next last time.
const findCopying = insideTold(async () => {
  $("copying_said").textContent = "The model reads random tokens, twice each ...";
  try {
    showCopying(await ask("/api/induction", { model: inside.seen.model }));
  } catch (e) {
    showCopying(null);
    throw e;
  }
});

// A table of layers and heads. Choosing one shows where it looks in the text.
function showCopying(found) {
  heads.copying = found;
  $("copying").hidden = $("copying_read").hidden = !found;
  $("copying_said").textContent = found ? inWords(found) : "";
  if (!found) return;
  const names = found.scores[0].map((_, h) => make("th", { scope: "col" }, `head ${h + 1}`));
  const rows = found.scores.map((row, l) => make("tr", {},
    make("th", { scope: "row" }, `layer ${l + 1}`),
    ...row.map((score, h) => make("td", {}, copyingHead(score, l, h)))
  ));
  $("copying").replaceChildren(make("tr", {}, make("th", {}, ""), ...names), ...rows);
  stopAt([...$("copying").querySelectorAll("button")], 0);
}

function inWords({ rows, length, first, second, chance }) {
  return `${rows} texts of ${length} random tokens, said twice. They cost ${first.toFixed(2)} ` +
    `nats a token, and ${second.toFixed(2)} the second time. A head that looks everywhere alike ` +
    `scores ${percent(chance)}.`;
}

function copyingHead(score, layer, head) {
  const button = make("button", {
    title: `show where head ${head + 1} of layer ${layer + 1} looks`,
    onclick() {
      $("layer").value = layer;
      $("head").value = head;
      showAttention();
      $("attention").scrollIntoView({ block: "start" });
    }
  }, percent(score));
  button.style.background = tint("--accent", 60 * score);
  return button;
}

$("find_copying").onclick = findCopying;
$("copying_read").onclick = insideTold(() => look({ tokens: heads.copying.ids }));
moveByArrows($("copying"), "button", () => inside.seen.heads);
