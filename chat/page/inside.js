"use strict";
/* inside.js: what the model expects after each token of a text, layer by layer.

   The box holds a text. What was read of it stands below: pieces, bars, layers, attention. Whatever
   needs the text, such as Draw, first reads what was typed. whatif.js changes the model, and
   attention.js shows where heads look. */
view("inside", "Inside", beginInside);

const inside = {
  seen: null,           // what /api/look says of the text that was read last
  at: 0,                // the place of the chosen token
  box: null,            // what the box and its tick said when that was read
  turn: 0,              // counts questions, so that an answer that comes late is not shown
  past: new Past(),     // {text, ids or null, at}
  typing: 0
};

function beginInside() {
  if (!inside.turn) readBox();
}

// The settings that all questions about the text have. Error if one is empty or wrong.
function insideSettings() {
  return {
    model: $("inside_model").value,
    temperature: settingIn("in_temperature"),
    top_p: settingIn("in_top_p"),
    special: $("in_special").checked
  };
}

const insideTold = tellingErrors("inside_error");

/* ---- reading */

const boxNow = () => JSON.stringify([$("text").value, $("in_special").checked]);
const isUnread = () => inside.box !== boxNow();

// Read a text, or tokens, whose text is put into the box. Returns whether it is shown now:
// something else may have been asked since.
async function look(what, at, text) {
  const turn = ++inside.turn;
  const asked = boxNow();
  const found = await ask("/api/look", { ...insideSettings(), ...what, n: 14 });
  if (turn !== inside.turn) return false;
  inside.seen = found;
  inside.at = at ?? found.ids.length - 1;
  if (what.tokens) $("text").value = text ?? found.text;
  inside.box = what.tokens ? boxNow() : asked;
  whatIf.found = null;
  noteInside();
  showInside();
  return true;
}

const readBox = insideTold(async () => {
  $("inside_said").textContent = "";
  await look({ text: $("text").value });
});

// Read what was typed, if it has not been read. Returns whether what is shown is the box's text.
async function upToDate() {
  return !isUnread() || await look({ text: $("text").value });
}

// Read the same tokens again, with other settings or by another model. One that cuts text otherwise
// reads the text.
const readAgain = insideTold(async () => {
  const { seen, at } = inside;
  if (!seen || isUnread()) return look({ text: $("text").value });
  const text = seen.text;
  const shown = await look({ tokens: seen.ids }, at).catch(() => look({ text }));
  if (shown && inside.seen.text !== text) {
    $("text").value = text;
    await look({ text });
  }
});

// Show tokens of elsewhere, such as a chat's, and choose the one in a place, or the last.
function inspectIds(ids, model, place) {
  inside.turn++;                        // so that the view does not begin with its own text
  noteInside();
  if (model) $("inside_model").value = model;
  $("in_special").checked = true;
  location.hash = "inside";
  return insideTold(() => look({ tokens: ids }, place))();
}

// Draw a token behind the chosen one. What stood behind that one is dropped, and Undo brings it
// back.
const drawToken = insideTold(async () => {
  if (!await upToDate()) return;
  const prompt = inside.seen.ids.slice(0, inside.at + 1);
  const settings = { ...insideSettings(), prompt, max_tokens: 1, return_token_ids: true };
  const turn = inside.turn;
  const answer = await ask("/v1/completions", settings);
  if (turn === inside.turn) await goOn(answer.choices[0].token_ids);
});

// Write tokens behind the chosen one.
async function goOn(ids) {
  const { seen, at } = inside;
  const dropped = seen.ids.length - at - 1;
  if (!await look({ tokens: [...seen.ids.slice(0, at + 1), ...ids] })) return;
  $("inside_said").textContent = dropped ? `${inTokens(dropped)} behind the chosen one ` +
    `${dropped === 1 ? "was" : "were"} dropped: Undo brings ${dropped === 1 ? "it" : "them"} back.`
    : "";
}

// Write a token that the bars show. They are those of the text that was read.
const writeToken = insideTold(async id => {
  if (!isUnread()) return goOn([id]);
  await readBox();
  $("inside_said").textContent = "What you had typed was read first: choose again.";
});

const inTokens = n => `${count(n)} token${n === 1 ? "" : "s"}`;

/* ---- undo */

function insideState() {
  const ids = isUnread() ? null : inside.seen.ids;
  return { text: $("text").value, ids, at: ids && inside.at };
}

function noteInside() {
  clearTimeout(inside.typing);
  inside.past.note(insideState());
  showPast();
}

function showPast() {
  $("in_undo").disabled = !inside.past.canUndo;
  $("in_redo").disabled = !inside.past.canRedo;
}

// Go back or forth in what was typed and read.
const goInPast = insideTold(async which => {
  noteInside();
  const { past } = inside;
  if (!(which === "undo" ? past.canUndo : past.canRedo)) return;
  const state = past[which]();
  $("text").value = state.text;
  $("inside_said").textContent = "";
  showPast();
  if (state.ids) return look({ tokens: state.ids }, state.at, state.text);
  inside.turn++;
  $("inside_said").textContent = "This text has not been read: press Read.";
});

/* ---- what is shown */

function showInside() {
  showPieces();
  showLens();
  chooseToken(inside.at);
  fillHeads();
  showChange();
  showAttention();
}

// Choose the token whose next one is looked at.
function chooseToken(at) {
  inside.at = at;
  for (const box of [$("inside_pieces"), $("changed_pieces")]) markChosen(box, at);
  [...$("lens").rows].forEach((row, i) => row.classList.toggle("on", i === at + 1));
  const behind = inside.seen.ids.length - at - 1;
  $("after").textContent = `Next token, after ${visible(inside.seen.pieces[at])}`;
  $("roll").title = behind ? `drops the ${inTokens(behind)} behind the chosen one` : "";
  showBars();
  showMoved();
}

function markChosen(box, at) {
  const pieces = [...box.querySelectorAll(".tok")];
  pieces.forEach((piece, i) => {
    piece.classList.toggle("on", i === at);
    piece.ariaSelected = i === at;
  });
  if (pieces.length) stopAt(pieces, at);
}

// The tokens of the text; red says how little the model expected each.
function showPieces() {
  const { pieces, surprise } = inside.seen;
  const most = mostSurprise();
  $("inside_pieces").replaceChildren(...pieces.flatMap(
    (piece, i) => lineOf(tokenPiece(piece, i, surprise[i], most), piece)
  ));
  showLegend(most);
}

// Nats that are shown in full red: the same in both texts where two are shown.
function mostSurprise() {
  const shown = [inside.seen.surprise, ...(whatIf.found?.surprise ?? [])].flat();
  return Math.max(3, ...shown.filter(nats => nats !== null));
}

// A token of a text as it stands in a line: what ends a line does so behind it.
const lineOf = (element, piece) => piece.includes("\n") ? [element, "\n"] : [element];
const onOneLine = piece => piece.replaceAll("\n", "⏎");

// One token of a text, to be chosen.
function tokenPiece(piece, i, nats, most) {
  const special = inside.seen.special.includes(i);
  const element = make("span", {
    className: "tok" + (special ? " special" : ""),
    title: inside.seen.ids[i] + (nats === null ? "" : `: ${nats.toFixed(2)} nats of surprise`),
    role: "option",
    ariaLabel: spokenBlanks(piece),
    onclick: () => chooseToken(i),
    onfocus: () => { if (inside.at !== i) chooseToken(i); }
  }, onOneLine(piece));
  if (nats !== null) element.style.background = tint("--bad", 45 * nats / most);
  return element;
}

// A colour of the style sheet, so many percent of it.
const tint = (colour, share) =>
  `color-mix(in srgb, var(${colour}) ${Math.round(share)}%, transparent)`;

function showLegend(most) {
  const swatch = make("i", { className: "scale" });
  const ids = inside.seen.ids.length;
  const nats = inside.seen.surprise.filter(x => x !== null);
  const mean = nats.reduce((a, b) => a + b, 0) / nats.length;
  $("inside_legend").replaceChildren(
    "surprise: 0 ", swatch, ` ${most.toFixed(1)} nats, the less the model expected a token. `,
    `${inTokens(ids)} of ${count(inside.seen.context)}` +
      (nats.length ? `, ${mean.toFixed(2)} nats each.` : ".")
  );
}

// The likeliest next tokens. Choosing one writes it.
function showBars() {
  const { found } = whatIf;
  const rows = (found ?? inside.seen).next[inside.at];
  $("bars").classList.toggle("two", !!found);
  $("bars_legend").replaceChildren(...barsLegend());
  $("bars").replaceChildren(...rows.flatMap(([id, text, p, q]) => [
    make("button", {
      title: `write token ${id} here`,
      onclick: () => writeToken(id)
    }, visible(text)),
    make("div", { className: "bar" },
      make("i", { style: `width:${100 * p}%` }), make("u", { style: `width:${100 * q}%` })),
    make("span", { className: "share" }, p === q ? percent(p) : `${percent(p)} → ${percent(q)}`)
  ]));
}

function barsLegend() {
  const swatch = className => make("i", { className });
  if (whatIf.found) {
    const [before, after] = namesOfChange();
    return [swatch("before"), ` ${before} `, swatch("changed"), ` ${after}`];
  }
  const own = " the model's own probability ";
  return [swatch("first"), own, swatch("second"), " after temperature and top-p"];
}

// What the model would say if it ended behind each layer.
function showLens() {
  const { lens, pieces } = inside.seen;
  const names = lens.map((_, l) => l ? "layer " + l : "embedding");
  const head = ["token", ...names].map(name => make("th", { scope: "col" }, name));
  const rows = pieces.map((piece, t) => make("tr", {},
    make("th", { scope: "row", className: "lens_cell", onclick: () => chooseToken(t) },
      visible(piece)),
    ...lens.map((layer, l) => lensCell(layer[t], names[l], t))
  ));
  $("lens").replaceChildren(make("tr", {}, ...head), ...rows);
  $("lens").style.setProperty("--columns", head.length);
  $("lens_said").textContent = "Choose a cell to see what else was likely there.";
  stopAt([...$("lens").querySelectorAll(".lens_cell")], 0);
}

function lensCell(guesses, name, t) {
  const [, text, share] = guesses[0];
  const cell = make("td", { className: "lens_cell" }, visible(text));
  cell.style.background = tint("--accent", 50 * share);
  const all = guesses.map(([, guess, x]) => `${visible(guess)} ${percent(x)}`).join(", ");
  cell.title = all;
  cell.onclick = () => {
    chooseToken(t);
    $("lens_said").textContent = `${name}, after ${visible(inside.seen.pieces[t])}: ${all}`;
  };
  return cell;
}

/* ---- buttons and keys */

$("read").onclick = readBox;
$("roll").onclick = drawToken;
$("in_undo").onclick = () => goInPast("undo");
$("in_redo").onclick = () => goInPast("redo");
for (const id of ["inside_model", "in_temperature", "in_top_p"]) $(id).onchange = readAgain;
$("in_special").onchange = readBox;
$("text").oninput = () => {
  clearTimeout(inside.typing);
  inside.typing = setTimeout(noteInside, 400);
};
$("text").onkeydown = event => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  readBox();
};
$("view_inside").addEventListener("keydown", event => {
  const which = undoOf(event);
  const elsewhere = event.target.matches("input, textarea:not(#text)");
  if (!which || elsewhere) return;
  event.preventDefault();
  goInPast(which);
});
for (const id of ["inside_pieces", "changed_pieces"])
  moveByArrows($(id), ".tok", () => Infinity);
moveByArrows($("lens"), ".lens_cell", () => inside.seen.lens.length + 1);
