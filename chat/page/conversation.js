"use strict";
/* conversation.js: conversations, kept in the storage of this tab. Nothing here draws.

   A conversation is a tree. Every message has the versions of what follows it, and says which one
   is shown. So an edited question and a second reply lose nothing.

   message     {role, versions: [message], chosen: number of the version that is shown}
   a question  also has content, asked_of_all where all models answer it side by side, and a draft
               where somebody began to change it
   a reply     also has the model's name, its parts {type, text}, its thoughts, promptIds and ids,
               and finish: why it ended. chat.js says which other fields tell how it was written */

const MOST_CONVERSATIONS = 20;
let conversation = { versions: [], chosen: 0 };
let putAside = [];                      // earlier conversations, the latest one first
const parentOf = new WeakMap();          // {message: what it follows}

// The version of what follows a message that is shown.
const shownAfter = message => message.versions[message.chosen];

// The messages that are shown, from the first to the last.
function shownMessages() {
  const found = [];
  let message = shownAfter(conversation);
  while (message) {
    found.push(message);
    message = shownAfter(message);
  }
  return found;
}

// The messages before one, from the first to the last.
function messagesBefore(message) {
  const found = [];
  for (let m = parentOf.get(message); m.role; m = parentOf.get(m)) found.unshift(m);
  return found;
}

// All versions of a message, itself among them.
const versionsOf = message => parentOf.get(message).versions;

// Let a message follow another one, as the version that is shown.
function addVersion(parent, message) {
  Object.assign(message, { versions: [], chosen: 0 });
  parentOf.set(message, parent);
  parent.versions.push(message);
  parent.chosen = parent.versions.length - 1;
  return message;
}

function removeVersion(message) {
  const parent = parentOf.get(message);
  parent.versions.splice(parent.versions.indexOf(message), 1);
  parent.chosen = Math.max(0, Math.min(parent.chosen, parent.versions.length - 1));
}

// Show another version of a message: steps away from this one.
function showVersion(message, steps) {
  const parent = parentOf.get(message);
  const place = parent.versions.indexOf(message) + steps;
  if (parent.versions[place]) parent.chosen = place;
}

// Begin anew. The conversation that was shown is put aside.
function putConversationAside() {
  if (conversation.versions.length) putAside.unshift(conversation);
  putAside.length = Math.min(putAside.length, MOST_CONVERSATIONS);
  conversation = { versions: [], chosen: 0 };
}

function takeConversation(place) {
  const [taken] = putAside.splice(place, 1);
  putConversationAside();
  conversation = taken;
}

/* ---- what is sent to a model */

// The parts of a reply so far. Their list may have holes while it is being written.
const partsSaid = message =>
  message.parts.filter(Boolean).map(({ type, text }) => ({ type, text }));

// A message as the API takes it. A reply goes back in its parts, so that a call of a tool stays a
// call, and a text that looks like one, such as [1+1 = 3], stays a text.
function asSent(message) {
  if (message.role === "user") return { role: "user", content: message.content };
  const sent = { role: "assistant", content: partsSaid(message) };
  if (message.thoughts) sent.reasoning_content = message.thoughts;
  return sent;
}

// Remove a call at the end of a reply that was cut off or has no answer.
function removeHalfCall(message) {
  const parts = partsSaid(message);
  while (parts.length && parts.at(-1).type !== "text") parts.pop();
  message.parts = parts;
}

/* ---- storage */

const FIELDS = ["model", "temperature", "top_p", "top_k", "max_tokens", "seed", "system"];

// Keep everything in this tab's storage: conversations, settings, and what is being typed.
function keepAll(typed) {
  const settings = FIELDS.map(id => [id, $(id).value]);
  const kept = { conversation, putAside, settings, typed };
  while (true) {
    try { return sessionStorage.setItem("chat", JSON.stringify(kept)); }
    catch (error) {
      if (!putAside.pop()) throw error;         // the storage is full: the oldest gives way
    }
  }
}

// Find the parentOf of the messages below one again. A reply that was being written has ended.
function restoreBelow(message) {
  for (const version of message.versions) {
    parentOf.set(version, message);
    if (version.role === "assistant") version.finish ??= "stopped";
    restoreBelow(version);
  }
}

// What keepAll has kept is there again. Returns what was being typed.
function restoreAll() {
  const kept = JSON.parse(sessionStorage.getItem("chat") ?? "null");
  if (!kept) return { text: "", draft: "", editedAt: -1 };
  ({ conversation, putAside } = kept);
  [conversation, ...putAside].forEach(restoreBelow);
  for (const [id, value] of kept.settings)
    if (id !== "model" || about.models.includes(value)) $(id).value = value;
  return kept.typed;
}
