"use strict";
/* turns.js: how a conversation looks: its turns, and the first screen of an empty one. */
const LONGEST_CALL = 60;                // characters of a call of a tool that is shown unfolded
const turnBoxes = new WeakMap();        // {message: its element}
const sideBoxes = new WeakMap();        // {question to all models: the element of the replies}

/* ---- turns */

// The elements of the conversation: a first screen, or the turns.
function boxesOfTurns() {
  const shown = shownMessages();
  if (!shown.length) return [firstScreen()];
  const editedAt = editedQuestion ? shown.indexOf(editedQuestion) : Infinity;
  return shown.map((message, i) => {
    const question = parentOf.get(message);
    const box = question.asked_of_all ? besideEachOther(question) : turnBox(message);
    box.classList.toggle("later", i > editedAt);
    return box;
  });
}

// The element of a turn: who says it, what, and how it ended.
function turnBox(message) {
  let box = turnBoxes.get(message);
  if (!box) {
    box = make("div", { className: "turn " + message.role },
      make("div", { className: "who" }),
      make("div", { className: "text" }),
      make("p", { className: "ending" }));
    turnBoxes.set(message, box);
  }
  box.querySelector(".who").replaceChildren(...headOf(message));
  drawText(message);
  return box;
}

// All replies to one question, side by side.
function besideEachOther(question) {
  let box = sideBoxes.get(question);
  if (!box) {
    box = make("div", { className: "side" });
    sideBoxes.set(question, box);
  }
  box.replaceChildren(...question.versions.map(turnBox));
  question.versions.forEach((reply, i) => {     // a long one scrolls
    const text = box.children[i].querySelector(".text");
    Object.assign(text, { tabIndex: 0, role: "group", ariaLabel: `reply of ${reply.model}` });
  });
  return box;
}

// The name above a turn, and what can be done with it.
function headOf(message) {
  if (message.role === "user") {
    const isUnsent = "draft" in message && message !== editedQuestion;
    return ["you", actionButton("edit", "change this question", () => edit(message)),
      ...isUnsent ? ["with an unsent change"] : [], ...versionButtons(message)];
  }
  const name = message.model ? `longhand, ${message.model}` : "longhand";
  if (parentOf.get(message).asked_of_all) return [name, pickButton(message)];
  const isLast = message === shownMessages().at(-1);
  const again = () => retryReply(message);
  const retrying = isLast && !running.size ? [actionButton("retry", "another reply", again)] : [];
  return [name, ...retrying, ...versionButtons(message)];
}

function actionButton(text, title, onclick) {
  const button = make("button", { type: "button", title, onclick }, text);
  button.dataset.action = text;
  return button;
}

// Arrows that lead to the other versions of a message: ‹ 2 of 3 ›
function versionButtons(message) {
  const versions = versionsOf(message);
  if (versions.length < 2) return [];
  const place = versions.indexOf(message);
  const go = steps => () => {
    showVersion(message, steps);
    if (editedQuestion && !shownMessages().includes(editedQuestion)) openDraft(null);
    drawChat();
    keepChat();
  };
  const back = actionButton("‹", "the version before", go(-1));
  const forth = actionButton("›", "the next version", go(1));
  back.disabled = place === 0 || running.size > 0;
  forth.disabled = place === versions.length - 1 || running.size > 0;
  return [back, `${place + 1} of ${versions.length}`, forth];
}

// The button that lets the conversation go on from one of several replies.
function pickButton(message) {
  const versions = versionsOf(message);
  const isChosen = parentOf.get(message).chosen === versions.indexOf(message);
  const button = actionButton("go on from this", "the next question follows this reply", () => {
    parentOf.get(message).chosen = versions.indexOf(message);
    drawChat();
    keepChat();
  });
  button.ariaPressed = isChosen;
  return button;
}

/* ---- the text of a turn */

// Show what a message says, how far it has come.
function drawText(message) {
  const box = turnBoxes.get(message);
  const text = box.querySelector(".text");
  if (message.role === "user") { text.textContent = message.content; return; }
  const open = [...text.querySelectorAll("details")].map(details => details.open);
  text.replaceChildren(...thoughtsOf(message), ...shownParts(message));
  text.querySelectorAll("details").forEach((details, i) => { details.open = open[i] ?? false; });
  box.querySelector(".ending").textContent = [endingOf(message), ...remarksOn(message)]
    .filter(Boolean).join("; ");
}

// The thoughts of a reply, folded.
function thoughtsOf(message) {
  if (!message.thoughts) return [];
  const title = partsSaid(message).length ? "thoughts" : "thinking ...";
  const summary = make("summary", {}, title);
  return [make("details", { className: "thoughts" }, summary, message.thoughts)];
}

// The parts of a reply: texts, and calls of tools with their answers.
function shownParts(message) {
  const shown = [];
  let call = null;
  for (const { type, text } of partsSaid(message)) {
    if (type === "output" && call !== null) shown.pop();        // shown again with its answer
    if (type === "text") shown.push(text);
    if (type === "tool") shown.push(callBox(text, null));
    if (type === "output") shown.push(callBox(call ?? "", text));
    call = type === "tool" ? text : null;
  }
  return shown;
}

// A call of a tool: [37*48 = 1776]. A long one is folded behind what was asked.
function callBox(asked, answer) {
  const whole = answer === null ? `[${asked}]` : `[${asked} = ${answer}]`;
  if (whole.length <= LONGEST_CALL) return make("span", { className: "call" }, whole);
  return make("details", { className: "call" }, make("summary", {}, asked), answer ?? "");
}

// A reply has grown: show it, and scroll along if its end is in sight.
function showGrowth(reply) {
  if (!turnBoxes.has(reply)) return;
  const atEnd = innerHeight + scrollY > document.body.offsetHeight - 200;
  drawText(reply);
  drawFill();
  speakGrowth(reply);
  const isOneOfMany = parentOf.get(reply).asked_of_all;
  if (atEnd && !isOneOfMany && isShown("chat")) scrollTo(0, document.body.scrollHeight);
}

// A screen reader is told each sentence once, when it is whole, and how the reply ended.
function speakGrowth(reply) {
  const text = textOf(reply);
  const ended = !running.has(reply);
  const end = ended ? text.length : endOfSentences(text);
  const spoken = reply.spoken ?? 0;
  if (end > spoken) $("said").append(make("p", {}, text.slice(spoken, end)));
  reply.spoken = Math.max(spoken, end);
  if (ended && endingOf(reply)) $("said").append(make("p", {}, endingOf(reply)));
}

// Where the last whole sentence of a text ends; 0 if none has.
function endOfSentences(text) {
  const ends = [...text.matchAll(/[.!?\n]+\s/g)];
  return ends.length ? ends.at(-1).index + 1 : 0;
}

/* ---- the first screen */

// What an empty conversation shows: what the models have read, what to ask, what was asked before.
function firstScreen() {
  const screen = make("div", { className: "first" });
  screen.append(...about.read.map(note));
  if (!about.models.length) screen.append(note("No model of this run is finished yet. "));
  if (!about.models.length)
    screen.append(make("a", { href: "#training" }, "Watch how it is trained."));
  else if (about.examples.length) screen.append(...exampleButtons());
  if (putAside.length) screen.append(...earlierConversations());
  return screen;
}

function exampleButtons() {
  const buttons = about.examples.map(([label, text]) => {
    const button = actionButton(text, "", () => tryExample(text));
    button.className = "example";
    button.prepend(make("small", {}, label));
    return button;
  });
  const hasWheel = about.examples.some(([label]) => label === "the wheel");
  const ofWheel = hasWheel ? " The wheel needs that: asked fifth in a conversation, it is " +
    "answered wrongly far more often than alone." : "";
  return [make("h2", {}, "Ask, for example"), make("div", { className: "row" }, ...buttons),
    note("Each of these begins a conversation of its own." + ofWheel)];
}

function earlierConversations() {
  const links = putAside.map((other, i) => {
    const take = () => { takeConversation(i); drawChat(); keepChat(); };
    return actionButton(shownAfter(other).content.slice(0, 80), "", take);
  });
  return [make("h2", {}, "Earlier conversations"), make("div", { className: "row" }, ...links)];
}
