"use strict";
/* chat.js: the view of a conversation, and the box in which one writes. */
view("chat", "Chat", () => { growQuestion(); focusQuestion(); });

let editedQuestion = null;              // the question that is being changed
let draft = "";                         // what is being typed as a new question, or was before that

/* ---- asking */

// Ask what stands in the box. With `ofAll`, every model answers it.
function askQuestion(ofAll) {
  const text = $("question").value.trim();
  if (!text || running.size) return;
  const settings = checkedSettings();
  if (!settings) return;
  const last = shownMessages().at(-1) ?? conversation;
  const parent = editedQuestion ? parentOf.get(editedQuestion) : last;
  if (editedQuestion) delete editedQuestion.draft;
  else draft = "";
  editedQuestion = null;
  $("question").value = draft;
  growQuestion();
  const names = ofAll ? about.models : [$("model").value];
  askBelow(parent, { role: "user", content: text, asked_of_all: ofAll }, names, settings);
  keepChat();
}

// Let models answer a question that follows a message.
function askBelow(parent, question, names, settings) {
  addVersion(parent, question);
  const replies = names.map(name => addVersion(question, newReply(name)));
  question.chosen = Math.max(0, names.indexOf($("model").value));
  $("said").replaceChildren();
  for (const reply of replies) beginReply(reply, { ...settings });
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
  keepDraft();
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

// Keep what stands in the box: as the draft of the question that is being changed, or of a new one.
function keepDraft() {
  const text = $("question").value;
  if (!editedQuestion) draft = text;
  else if (!text.trim() || text === editedQuestion.content) delete editedQuestion.draft;
  else editedQuestion.draft = text;
}

// Put a draft into the box: that of a question that is changed, or with null that of a new one.
function openDraft(question) {
  keepDraft();
  editedQuestion = question;
  $("question").value = question ? question.draft ?? question.content : draft;
  growQuestion();
  drawChat();
  keepChat();
}

function edit(question) {
  openDraft(question);
  $("question").focus();
}

function stopReplies() {
  stopAllReplies();
  focusQuestion();
}

// Begin a new conversation. What is being typed stays in the box.
function beginConversation() {
  stopAllReplies();
  if (editedQuestion) edit(null);
  putConversationAside();
  $("chat_error").textContent = "";
  drawChat();
  keepChat();
  focusQuestion();
}

// An example begins a conversation of its own.
function tryExample(text) {
  const settings = checkedSettings();
  if (!settings) return;
  beginConversation();
  askBelow(conversation, { role: "user", content: text }, [$("model").value], settings);
}

/* ---- drawing */

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
  try { keepAll({ text: $("question").value, draft, editedAt }); }
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

$("question").oninput = () => { keepDraft(); growQuestion(); keepChat(); };
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
$("cancel_edit").onclick = () => edit(null);
$("raw").onchange = () => drawTokens(true);
$("settings").onchange = keepChat;
addEventListener("keydown", event => {
  if (event.key !== "Escape" || !isShown("chat")) return;
  if (running.size) stopReplies();
  else if (editedQuestion) edit(null);
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
  draft = typed.draft;
  editedQuestion = shownMessages()[typed.editedAt] ?? null;
  growQuestion();
  drawChat();
}
