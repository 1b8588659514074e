"use strict";
/* whatif.js: the same text once more, with something changed.

   Parts of the model are off, or write what they wrote for another text, or another stage reads the
   text. Pieces, bars and surprise then stand side by side, before and after. */
const whatIf = {
  kind: "",             // "", off, patch or against
  off: new Set(),       // names of parts: 1.3, mlp2
  patch: new Set(),     // and layer2
  found: null,          // what /api/contrast says
  other: null,          // what /api/ids says of the other text
  number: 0,            // counts questions, as inside.turn does
  place: 0              // the token of the other text that is patched where it is one alone
};

/* ---- the switches: a table of layers and their parts */

// The switches of a model; those that are pressed stay so as far as it has such parts.
function fillSwitches(box, pressed, withLayers) {
  const { layers, heads } = inside.seen;
  const columns = Array.from({ length: heads }, (_, h) => `head ${h + 1}`);
  columns.push("MLP", ...(withLayers ? ["all"] : []));
  const head = ["", ...columns].map(name => make("th", { scope: "col" }, name));
  const rows = Array.from({ length: layers }, (_, l) => {
    const names = partsOfLayer(l + 1, heads, withLayers);
    const cells = names.map(name => make("td", {}, switchOf(name, pressed)));
    return make("tr", {}, make("th", { scope: "row" }, `layer ${l + 1}`), ...cells);
  });
  box.replaceChildren(make("tr", {}, ...head), ...rows);
  const there = new Set([...box.querySelectorAll("button")].map(button => button.dataset.part));
  for (const name of pressed) if (!there.has(name)) pressed.delete(name);
  stopAt([...box.querySelectorAll("button")], 0);
}

function partsOfLayer(layer, heads, withLayers) {
  const names = Array.from({ length: heads }, (_, h) => `${layer}.${h + 1}`);
  return [...names, `mlp${layer}`, ...(withLayers ? [`layer${layer}`] : [])];
}

// A switch: pressed is changed.
function switchOf(name, pressed) {
  const button = make("button", {
    ariaPressed: pressed.has(name),
    title: partInWords(name),
    onclick() {
      if (!pressed.delete(name)) pressed.add(name);
      button.ariaPressed = pressed.has(name);
      const all = [...button.closest("table").querySelectorAll("button")];
      stopAt(all, all.indexOf(button));
      changeAgain();
    }
  }, name.replace("layer", "all "));
  button.dataset.part = name;
  button.ariaLabel = partInWords(name);
  return button;
}

function partInWords(name) {
  const [layer, head] = name.split(".");
  if (head) return `head ${head} of layer ${layer}`;
  if (name.startsWith("mlp")) return `MLP of layer ${name.slice(3)}`;
  return `all that is in the stream behind layer ${name.slice(5)}`;
}

/* ---- asking */

// What is to be changed, as /api/contrast wants it; null where nothing is.
function changeAsked() {
  if (whatIf.kind === "against" && $("against").value) return { against: $("against").value };
  if (whatIf.kind === "off" && whatIf.off.size) return { off: [...whatIf.off] };
  if (whatIf.kind !== "patch" || !whatIf.patch.size || !whatIf.other) return null;
  const places = $("patch_place").checked ? [whatIf.place] : undefined;
  return { patch: [...whatIf.patch], other_tokens: whatIf.other.ids, places };
}

// Ask again what the change makes of the text, and show it beside the text as it is.
const changeAgain = insideTold(async () => {
  const asked = changeAsked();
  const turn = inside.turn;
  const number = ++whatIf.number;
  whatIf.found = null;
  const tokens = inside.seen.ids;
  try {
    const found = asked &&
      await ask("/api/contrast", { ...insideSettings(), tokens, ...asked, n: 14 });
    if (turn !== inside.turn || number !== whatIf.number) return;
    whatIf.found = found;
  } finally {
    if (turn === inside.turn && number === whatIf.number) showChanged();
  }
});

// Show the panel for the text that has just been read, and ask anew.
function showChange() {
  fillSwitches($("off_parts"), whatIf.off, false);
  fillSwitches($("patch_parts"), whatIf.patch, true);
  fillAgainst();
  for (const kind of ["off", "patch", "against"])
    $("what_if_" + kind).hidden = whatIf.kind !== kind;
  if (whatIf.kind === "patch") readOther();
  else changeAgain();
}

// The other models of the run.
function fillAgainst() {
  const chosen = $("against").value;
  const others = about.models.filter(name => name !== inside.seen.model);
  $("against").replaceChildren(...others.map(
    name => make("option", { value: name, selected: name === chosen }, name)
  ));
  $("against_none").hidden = others.length > 0;
}

// Cut the other text, and say how its length compares.
const readOther = insideTold(async () => {
  const turn = inside.turn;
  const text = $("other_text").value;
  const found = await ask("/api/ids", { ...insideSettings(), text });
  if (turn !== inside.turn || text !== $("other_text").value) return;
  whatIf.other = found;
  const here = inside.seen.ids.length, there = found.ids.length;
  const equal = here === there;
  $("other_said").textContent = equal
    ? `Both texts have ${inTokens(here)}.`
    : `The text has ${inTokens(here)} and this one ${there}. What a part wrote is put at the ` +
      "same place, so both must have as many.";
  $("other_said").classList.toggle("error", !equal);
  showOther(found);
  if (!equal) whatIf.other = null;
  $("find_places").disabled = !equal;
  forgetPlaces();
  await changeAgain();
});

// The tokens of the other text, one of which may be the place that is patched.
function showOther({ pieces, ids }) {
  $("other_pieces").replaceChildren(...pieces.flatMap((piece, i) => {
    const element = make("span", {
      className: "tok", role: "option", title: ids[i], ariaLabel: spokenBlanks(piece),
      onclick: () => choosePlace(i),
      onfocus: () => { if (whatIf.place !== i) choosePlace(i); }
    }, onOneLine(piece));
    return lineOf(element, piece);
  }));
  whatIf.place = pieces.length - 1;
  markPlace();
}

// Choose the place that is patched, where it is one alone.
function choosePlace(place) {
  whatIf.place = place;
  markPlace();
  if ($("patch_place").checked) changeAgain();
}

function markPlace() {
  markChosen($("other_pieces"), whatIf.place);
  $("other_pieces").classList.toggle("whole", !$("patch_place").checked);
}

/* ---- showing */

// The names of both sides, for legends.
function namesOfChange() {
  const model = inside.seen.model;
  if (whatIf.kind === "against") return [model, $("against").value];
  if (whatIf.kind === "off") return ["as it is", `without ${listed(whatIf.off)}`];
  return ["as it is", `${listed(whatIf.patch)} patched`];
}

// Up to three names, and how many more there are.
function listed(names) {
  const shown = [...names].slice(0, 3).join(", ");
  return names.size > 3 ? `${shown} and ${names.size - 3} more` : shown;
}

// Show the text as it is read after the change, beside the text as it is.
function showChanged() {
  const { found } = whatIf;
  $("changed").hidden = !found;
  showPieces();
  if (found) {
    const [, after] = namesOfChange();
    const most = mostSurprise();
    const second = found.surprise[1];
    $("changed_pieces").replaceChildren(...inside.seen.pieces.flatMap(
      (piece, i) => lineOf(tokenPiece(piece, i, second[i], most), piece)
    ));
    $("changed_name").textContent = `${after}: ${meanOf(second)}`;
  }
  chooseToken(inside.at);
}

function meanOf(surprise) {
  const nats = surprise.filter(x => x !== null);
  if (!nats.length) return "one token";
  return `${(nats.reduce((a, b) => a + b, 0) / nats.length).toFixed(2)} nats of surprise a token`;
}

// How far the prediction behind the chosen token has moved.
function showMoved() {
  const { found } = whatIf;
  $("moved").textContent = found
    ? `${percent(found.moved[inside.at])} of the probability has moved to other tokens.` : "";
}

/* ---- one place after the other */

// For each layer and place: what the model says if all behind that layer is patched there alone.
const findPlaces = insideTold(async () => {
  const { seen, turn } = inside;
  const { other } = whatIf;
  if (!other) return;
  $("places_said").textContent = "The model reads the text once for each layer and place ...";
  try {
    const asked = { model: seen.model, tokens: seen.ids, other_tokens: other.ids };
    const found = await ask("/api/trace", asked);
    if (turn === inside.turn && other === whatIf.other) showPlaces(found);
  } catch (e) {
    forgetPlaces();
    throw e;
  }
});

function forgetPlaces() {
  $("places").replaceChildren();
  $("places_said").textContent = "";
}

// A table of places and layers. Choosing a cell patches there.
function showPlaces({ token, before, after, shares }) {
  $("places_said").textContent = `How likely ${visible(token[1])} becomes, which is ` +
    `${percent(before)} behind the text and ${percent(after)} behind the other one, if all ` +
    "behind a layer is patched at one place.";
  const names = shares.map((_, l) => make("th", { scope: "col" }, `layer ${l + 1}`));
  const rows = inside.seen.pieces.map((piece, t) => {
    const theirs = whatIf.other.pieces[t];
    const name = piece === theirs ? visible(piece) : `${visible(piece)} ← ${visible(theirs)}`;
    return make("tr", {}, make("th", { scope: "row" }, name),
      ...shares.map((row, l) => make("td", {}, placeOf(row[t], l, t))));
  });
  $("places").replaceChildren(make("tr", {}, make("th", {}, ""), ...names), ...rows);
  stopAt([...$("places").querySelectorAll("button")], 0);
}

function placeOf(share, layer, place) {
  const button = make("button", {
    title: `patch all behind layer ${layer + 1} at this place`,
    onclick() {
      whatIf.patch.clear();
      whatIf.patch.add(`layer${layer + 1}`);
      $("patch_place").checked = true;
      fillSwitches($("patch_parts"), whatIf.patch, true);
      chooseToken(inside.seen.ids.length - 1);
      choosePlace(place);
    }
  }, percent(share));
  button.style.background = tint("--accent", 60 * share);
  return button;
}

/* ---- buttons and keys */

for (const radio of document.querySelectorAll("input[name=what_if]"))
  radio.onchange = () => {
    whatIf.kind = radio.value;
    if (inside.seen) showChange();
  };
$("against").onchange = changeAgain;
$("patch_place").onchange = () => { markPlace(); changeAgain(); };
moveByArrows($("other_pieces"), ".tok", () => Infinity);
addEventListener("about", () => { if (inside.seen) fillAgainst(); });
let otherSoon;
$("other_text").oninput = () => {
  clearTimeout(otherSoon);
  otherSoon = setTimeout(readOther, 300);
};
$("find_places").onclick = findPlaces;
for (const id of ["off_parts", "patch_parts", "places"])
  moveByArrows($(id), "button", () => $(id).rows[0].cells.length - 1);
