"use strict";
/* tokens.js: a text in several vocabularies. */
view("tokens", "Tokens", cutText);

const WAIT_FOR_TYPING = 200;            // milliseconds
let cutsAsked = 0;                      // how often texts were to be cut
let cutTimer = null;

const sampleBox = text => make("pre", { className: "sample" }, text);

// The colour behind piece i: neighbours differ.
function colourOfPiece(i) {
  return `light-dark(hsl(${i * 47 % 360} 70% 86%), hsl(${i * 47 % 360} 45% 24%))`;
}

// The vocabularies one can choose from: that of the run, and published ones that are here.
function drawVocabularies() {
  const names = [about.base, ...about.vocabularies].filter(Boolean);
  const boxes = [...$("vocabularies").querySelectorAll("input")];
  $("vocabularies_note").hidden = about.vocabularies.length > 0;
  if (names.join("\n") === boxes.map(box => box.value).join("\n")) return;
  const switchedOff = boxes.filter(box => !box.checked).map(box => box.value);
  $("vocabularies").replaceChildren(...names.map(name => {
    const title = name === about.base ? "the run's" : name;
    return choice(name, !switchedOff.includes(name), cutText, title);
  }));
  if (shownView === "tokens") cutText();
}

// Cut the text as each chosen vocabulary does.
async function cutText() {
  const turn = ++cutsAsked;
  const chosen = [...$("vocabularies").querySelectorAll("input:checked")].map(box => box.value);
  const boxes = [];
  for (const name of chosen) {
    try { boxes.push(...await piecesOfText(name, $("cut_text").value)); }
    catch (error) { boxes.push(make("div", { className: "error" }, error.message)); }
  }
  if (!chosen.length) boxes.push(note("No vocabulary is there yet, or none is chosen."));
  if (turn === cutsAsked) $("cuts").replaceChildren(...boxes);
}

// The elements that show a text in one vocabulary: its pieces, and their numbers.
async function piecesOfText(vocabulary, text) {
  const found = await ask("/api/cut", { vocabulary, text });
  const numbers = found.ids.map(id => make("span", {}, id));
  const pointAt = i => {
    numbers.forEach((number, other) => number.classList.toggle("on", other === i));
  };
  const row = pieceRow(found.pieces, () => "", i => `token ${found.ids[i]}`, null, pointAt);
  row[0].querySelectorAll(".tok").forEach((piece, i) => {
    piece.style.background = colourOfPiece(i);
  });
  const ids = make("p", { className: "ids" });
  for (const number of numbers) ids.append(number, " ");
  const title = `${vocabulary}: ${found.ids.length} of ${count(found.size)} tokens`;
  return [make("h2", {}, title), ...row,
    make("details", { open: true }, make("summary", {}, "numbers"), ids)];
}

$("cut_text").oninput = () => {
  clearTimeout(cutTimer);
  cutTimer = setTimeout(cutText, WAIT_FOR_TYPING);
};
addEventListener("about", drawVocabularies);
