"use strict";
/* arena.js: two models answer the same question, and somebody votes without knowing their names.

   The server draws the models and their sides, sends a piece of each reply at a time, and tells the
   names when it has the vote. */
view("arena", "Arena", () => beginDuels());

const duel = {
  number: null,         // of the battle that waits for a vote
  asking: false
};

const duelTold = tellingErrors("duel_error");

const beginDuels = duelTold(async () => {
  const questions = about.examples.map(example => [example].flat().at(-1));
  $("duel_examples").replaceChildren(...questions.map(
    text => make("button", { type: "button", onclick: () => startDuel(text) }, text)
  ));
  offerModels();
  await showRanked();
  showVotes(await ask("/api/votes"));
});

// The models that may be drawn: all, unless somebody leaves one out.
function offerModels() {
  const there = [...$("duel_models").querySelectorAll("input")].map(box => box.value);
  for (const name of about.models.filter(name => !there.includes(name)))
    $("duel_models").append(make("label", {},
      make("input", { type: "checkbox", value: name, checked: true }), name));
}

/* ---- a battle */

// Have two models answer, and show both while they write. Votes count when both have ended.
const startDuel = duelTold(async question => {
  question = question.trim();
  if (duel.asking || !question) return;
  setAsking(true);
  $("duel_said").textContent = "Two models are answering ...";
  try {
    const models = [...$("duel_models").querySelectorAll("input:checked")].map(box => box.value);
    const temperature = settingIn("duel_temperature");
    const asked = { question, models, temperature, stream: true };
    const answer = await call("/api/battle", asked);
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    clearDuel(question);
    for await (const event of eventsOf(answer)) {
      if (event.error) throw new Error(event.error.message);
      if (event.grown) growReplies(event.grown);
      else endDuel(event);
    }
    if (!duel.number) throw new Error("The server ended before the replies did: ask again.");
    $("duel_question").value = "";
    $("duel_said").textContent = "Which reply is better? Their names follow your vote.";
    voteButtons()[0].focus({ preventScroll: true });
  } catch (e) {
    $("duel_said").textContent = "";
    throw e;
  } finally {
    setAsking(false);
  }
});

function setAsking(asking) {
  duel.asking = asking;
  for (const button of $("duel_form").querySelectorAll("button")) button.disabled = asking;
  if (asking) for (const button of voteButtons()) button.disabled = true;
}

const voteButtons = () => [...document.querySelectorAll("[data-vote]")];

const SIDES = ["left", "right"];

// Room for two replies to a question.
function clearDuel(question) {
  duel.number = null;
  $("duel").hidden = false;
  $("duel_asked").textContent = question;
  for (const side of SIDES) {
    $("duel_" + side).replaceChildren();
    $("duel_" + side).classList.remove("better");
    $(`duel_${side}_name`).textContent = side;
  }
}

function growReplies(grown) {
  for (const side of SIDES) $("duel_" + side).append(grown[side]);
}

// Both replies are whole: say how they ended, and wait for the vote.
function endDuel(found) {
  duel.number = found.battle;
  for (const side of SIDES) {
    const { text, ended } = found[side];
    const end = ended ? [] : [make("span", { className: "cut" }, " … (cut off)")];
    $("duel_" + side).replaceChildren(text || make("i", {}, "no text"), ...end);
  }
  for (const button of voteButtons()) button.disabled = false;
}

// Give a vote, and learn the names. Meanwhile no other battle begins, which they would belong to.
const giveVote = duelTold(async vote => {
  if (!duel.number || duel.asking) return;
  setAsking(true);
  let found;
  try {
    found = await ask("/api/vote", { battle: duel.number, vote });
    duel.number = null;
  } finally {
    setAsking(false);
    for (const button of voteButtons()) button.disabled = !duel.number;
  }
  for (const side of SIDES) {
    $(`duel_${side}_name`).textContent = `${side}: ${found[side]}`;
    $("duel_" + side).classList.toggle("better", side === vote);
  }
  $("duel_said").textContent = `Left was ${found.left}, right was ${found.right}.`;
  showVotes(found);
  $("duel_question").focus({ preventScroll: true });
});

/* ---- the two tables */

const ratingTable = (head, rows) => make("table", {},
  make("tr", {}, ...head.map(name => make("th", { scope: "col" }, name))),
  ...rows.map(cells => make("tr", {}, ...cells.map(cell => make("td", {}, cell)))));

// The ratings of the votes of people, and how many votes they rest on.
function showVotes({ votes, questions, rated }) {
  $("votes_note").textContent = votes
    ? `${count(votes)} vote${votes === 1 ? "" : "s"} on ${count(questions)} ` +
      `question${questions === 1 ? "" : "s"}, of people who did not see the names ` +
      "(arena_votes.jsonl of the run)." +
      (rated[0].low === null ? " Below ten questions there is no interval." : "")
    : "No votes yet.";
  const rows = rated.map(r => [
    r.name, Math.round(r.rating),
    r.low === null ? "too few votes" : `${Math.round(r.low)} to ${Math.round(r.high)}`,
    r.battles, `${Math.round(100 * r.score)} %`
  ]);
  const head = ["model", "rating", "95 %", "votes", "won"];
  $("votes_table").replaceChildren(...(votes ? [ratingTable(head, rows)] : []));
}

// The ratings of `align.py arena`, whose battles a program decides.
async function showRanked() {
  if (!about.arena) {
    $("ranked_note").textContent = "No battles yet: python align.py arena";
    return $("ranked_table").replaceChildren();
  }
  $("ranked_note").textContent = "Nobody voted here: python align.py arena asks questions whose " +
    "answers it knows. A right answer beats a wrong one, and a wrong one beats one without an end.";
  const rows = (await ask("/api/arena")).map(r => [
    r.name, Math.round(r.rating), `${Math.round(r.low)} to ${Math.round(r.high)}`, r.battles,
    `${Math.round(100 * r.score)} %`
  ]);
  $("ranked_table").replaceChildren(
    ratingTable(["model", "rating", "95 %", "battles", "won"], rows)
  );
}

/* ---- buttons and keys */

$("duel_form").onsubmit = event => {
  event.preventDefault();
  startDuel($("duel_question").value);
};
$("duel_question").onkeydown = event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  startDuel($("duel_question").value);
};
addEventListener("about", () => { if (!views.arena.begin) offerModels(); });
for (const button of document.querySelectorAll("[data-vote]")) {
  button.disabled = true;
  button.onclick = () => giveVote(button.dataset.vote);
}
