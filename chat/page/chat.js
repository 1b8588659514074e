"use strict";
/* chat.js: the view of a conversation, and the box in which one writes. */
view("chat", "Chat", () => { growQuestion(); focusQuestion(); });

const LONGEST_CALL = 60;                // characters of a call of a tool that is shown unfolded
const turnBoxes = new WeakMap();        // {message: its element}
const sideBoxes = new WeakMap();        // {question to all models: the element of the replies}
let editedQuestion = null;              // the question that is being changed
let earlierDraft = "";                  // what was being typed before that

/* ---- asking */

// Ask what stands in the box. With `ofAll`, every model answers it.
function askQuestion(ofAll) {
  const text = $("question").value.trim();
  if (!text || running.size) return;
  const last = shownMessages().at(-1) ?? conversation;
  const parent = editedQuestion ? parentOf.get(editedQuestion) : last;
  const names = ofAll ? about.models : [$("model").value];
  if (!askBelow(parent, text, names, ofAll)) return;
  $("question").value = editedQuestion ? earlierDraft : "";
  editedQuestion = null;
  growQuestion();
  keepChat();
}

// Let models answer a question that follows a message; whether the settings allow it.
function askBelow(parent, content, names, ofAll = false) {
  const settings = checkedSettings();
  if (!settings) return false;
  const question = addVersion(parent, { role: "user", content, asked_of_all: ofAll });
  const replies = names.map(name => addVersion(question, newReply(name)));
  question.chosen = Math.max(0, names.indexOf($("model").value));
  $("said").replaceChildren();
  for (const reply of replies) beginReply(reply, { ...settings });
  return true;
}

const newReply = model =>
  ({ role: "assistant", model, parts: [], thoughts: "", ids: [], forgotten: 0 });

// The settings, or null: then the one that is wrong is shown and told.
function checkedSettings() {
  $("chat_error").textContent = "";
  try { return settingsOfRequest(); }
  catch (error) {
    $("chat_error").textContent = error.message;
    $("settings").open = true;
    error.field.focus();
    return null;
  }
}

// Have a reply written, and show it meanwhile.
async function beginReply(reply, settings) {
  const written = writeReply(reply, settings, showGrowth);
  drawChat();
  const last = $("turns").lastElementChild;
  last.scrollIntoView({ block: last.offsetHeight > innerHeight / 2 ? "start" : "nearest" });
  await written;
  if (reply.finish === "failed" && !reply.ids.length) giveBack(reply);
  drawChat();
  keepChat();
}

// A question that got no reply goes back into the box, so that it can be changed and asked again.
// It stays where it is if something else is being typed, or if others answer it too.
function giveBack(reply) {
  const question = parentOf.get(reply);
  $("chat_error").textContent = reply.error;
  if ($("question").value || versionsOf(reply).length > 1) return;
  $("question").value = question.content;
  const before = parentOf.get(question);
  removeVersion(question);
  editedQuestion = shownAfter(before) ?? null;  // it was the new version of another question
  growQuestion();
}

// Write the last reply once more, beside the one that is there.
function retryReply(reply) {
  const settings = checkedSettings();
  if (!settings) return;
  const another = addVersion(parentOf.get(reply), newReply($("model").value || reply.model));
  changeForRetry(another, settings);
  $("said").replaceChildren();
  beginReply(another, settings);
}

function beginEdit(question) {
  if (!editedQuestion) earlierDraft = $("question").value;
  editedQuestion = question;
  $("question").value = question.content;
  growQuestion();
  drawChat();
  $("question").focus();
}

function cancelEdit() {
  editedQuestion = null;
  $("question").value = earlierDraft;
  growQuestion();
  drawChat();
  $("question").focus();
}

function stopReplies() {
  stopAllReplies();
  focusQuestion();
}

// Begin a new conversation. What is being typed stays in the box.
function beginConversation() {
  stopAllReplies();
  if (editedQuestion) cancelEdit();
  putConversationAside();
  $("chat_error").textContent = "";
  drawChat();
  keepChat();
  focusQuestion();
}

// An example begins a conversation of its own.
function tryExample(text) {
  beginConversation();
  askBelow(conversation, text, [$("model").value]);
}

/* ---- turns */

// Draw everything that is not as it should be. What has the focus keeps it.
function drawChat() {
  const focused = focusedAction();
  const boxes = boxesOfTurns();
  const there = [...$("turns").children];
  if (boxes.length !== there.length || boxes.some((box, i) => box !== there[i]))
    $("turns").replaceChildren(...boxes);
  drawComposer();
  drawTokens();
  if (focused) focusAgain(focused);
}

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
  return box;
}

// The name above a turn, and what can be done with it.
function headOf(message) {
  if (message.role === "user") {
    return ["you", actionButton("edit", "change this question", () => beginEdit(message)),
      ...versionButtons(message)];
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
  const go = steps => () => { showVersion(message, steps); drawChat(); keepChat(); };
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
    if (type === "text") shown.push(text);
    if (type === "tool") call = { asked: text, answer: null };
    if (type === "output") call = { asked: call?.asked ?? "", answer: text };
    if (type === "output") shown.pop();
    if (type !== "text") shown.push(callBox(call));
  }
  return shown;
}

// A call of a tool: [37*48 = 1776]. A long one is folded behind what was asked.
function callBox({ asked, answer }) {
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
  const end = ended ? text.length : Math.max(0, text.search(/[.!?\n]\s(?!.*[.!?\n]\s)/s) + 1);
  const spoken = reply.spoken ?? 0;
  if (end > spoken) $("said").append(make("p", {}, text.slice(spoken, end)));
  reply.spoken = Math.max(spoken, end);
  if (ended && endingOf(reply)) $("said").append(make("p", {}, endingOf(reply)));
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
  return [make("h2", {}, "Ask, for example"), make("div", { className: "row" }, ...buttons),
    note("Each of these begins a conversation of its own. The wheel needs that: asked fifth in a " +
      "conversation, it is answered wrongly far more often than alone.")];
}

function earlierConversations() {
  const links = putAside.map((other, i) => {
    const take = () => { takeConversation(i); drawChat(); keepChat(); };
    return actionButton(shownAfter(other).content.slice(0, 80), "", take);
  });
  return [make("h2", {}, "Earlier conversations"), make("div", { className: "row" }, ...links)];
}

/* ---- the box in which one writes */

function drawComposer() {
  const busy = running.size > 0;
  $("send").disabled = busy || !about.models.length;
  $("ask_all").disabled = busy || about.models.length < 2;
  $("stop").disabled = !busy;
  $("again").disabled = !conversation.versions.length;
  $("editing").hidden = !editedQuestion;
  $("system_note").hidden = about.system !== false;
  drawFill();
}

// How full the context is, and how fast the last reply came.
function drawFill() {
  const reply = shownMessages().filter(message => message.role === "assistant").at(-1);
  const context = about.contexts[reply?.model];
  const n = reply ? tokensOf(reply) : 0;
  $("fill").hidden = !n || !context;
  $("speed").textContent = "";
  if (!n || !context) return;
  $("fill_meter").max = context;
  $("fill_meter").value = n;
  $("fill_text").textContent = `context ${n} of ${context}`;
  if (!reply.seconds) return;
  const speed = Math.round(reply.ids.length / reply.seconds);
  $("speed").textContent = `${reply.ids.length} tokens, ${speed} a second`;
}

function growQuestion() {
  const question = $("question");
  question.style.height = "auto";
  question.style.height = Math.min(200, question.scrollHeight + 2) + "px";
}

// Keep all that was typed and said. If the storage is full of this one conversation, say so.
function keepChat() {
  const editedAt = shownMessages().indexOf(editedQuestion);
  try { keepAll({ text: $("question").value, earlierDraft, editedAt }); }
  catch { $("chat_error").textContent = "This conversation is too long to be kept over a reload."; }
}

/* ---- the focus */

// Where a finger points, a keyboard would come up and hide what has just been said.
function focusQuestion() {
  if (!matchMedia("(pointer: coarse)").matches) $("question").focus();
}

// The button of the conversation that has the focus, and which of its kind it is; or null.
function focusedAction() {
  const button = document.activeElement;
  if (!button?.dataset.action || !$("turns").contains(button)) return null;
  return { button, place: buttonsFor(button).indexOf(button) };
}

// All buttons of the conversation that do the same as one.
const buttonsFor = button => [...$("turns").querySelectorAll("button")]
  .filter(other => other.dataset.action === button.dataset.action);

// The same button of the new drawing gets the focus; where there is none, the question.
function focusAgain({ button, place }) {
  if (document.activeElement === button) return;
  const same = buttonsFor(button)[place];
  if (same && !same.disabled) same.focus();
  else focusQuestion();
}

/* ---- events */

$("question").oninput = () => { growQuestion(); keepChat(); };
$("question").onkeydown = event => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
};
$("composer").onsubmit = event => {
  event.preventDefault();
  askQuestion(false);
};
$("ask_all").onclick = () => askQuestion(true);
$("stop").onclick = stopReplies;
$("again").onclick = beginConversation;
$("cancel_edit").onclick = cancelEdit;
$("raw").onchange = () => drawTokens(true);
$("settings").onchange = keepChat;
addEventListener("keydown", event => {
  if (event.key !== "Escape" || !isShown("chat")) return;
  if (running.size) stopReplies();
  else if (editedQuestion) cancelEdit();
});
addEventListener("pagehide", () => {
  leaving = true;
  keepChat();
});
addEventListener("pageshow", () => { leaving = false; });
addEventListener("about", drawChat);

// What was said and typed before a reload is there again.
function beginChat() {
  const typed = restoreAll();
  $("question").value = typed.text;
  earlierDraft = typed.earlierDraft;
  editedQuestion = shownMessages()[typed.editedAt] ?? null;
  growQuestion();
  drawChat();
}
