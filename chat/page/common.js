"use strict";
/* common.js: what all views use.

   A view is a section of index.html with the id view_NAME, and a script that calls
   view(NAME, its title, begin). begin is called when the view is shown for the first time. All
   scripts of the page share their names, so a name stands in one file only.

   What there is to see of the run stands in `about`. begin.js asks for it again and again, and
   sends the event "about" when it has changed. */

/* ---- elements */

const $ = id => document.getElementById(id);

// A new element with these properties and children.
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const note = text => make("p", { className: "note" }, text);

// A checkbox with its label.
function choice(value, checked, onchange, text) {
  const box = make("input", { type: "checkbox", value, checked, onchange });
  return make("label", {}, box, text);
}

/* ---- numbers and texts */

const count = n => n.toLocaleString("en");

function percent(share) {
  if (share >= .9995) return "100 %";
  return (100 * share).toFixed(share < .01 ? 2 : 1) + " %";
}

// A token's text on one line, with its blanks at the ends and what is no letter to be seen.
const visible = text => text.replaceAll("\n", "⏎").replace(/^ | $/g, "␣")
  .replace(/[\x00-\x1f]/g, control => String.fromCharCode(0x2400 + control.charCodeAt())) || "∅";

// What a screen reader says of a token whose text is nothing to be read; null of any other.
function spokenBlanks(text) {
  if (/[^\s\x00-\x1f]/.test(text)) return null;
  const names = { " ": "blank", "\n": "line break", "\t": "tab" };
  return [...text].map(letter => names[letter] ?? `character ${letter.charCodeAt()}`).join(", ");
}

// A token's text where its lines are kept.
const inLines = text => text.replaceAll("\n", "⏎\n");

// The number in a field. An empty or a wrong one is an error that names the field.
function settingIn(id) {
  const field = $(id);
  const { badInput, rangeUnderflow, rangeOverflow } = field.validity;
  const whole = field.step === "1" && !Number.isInteger(+field.value);
  if (field.value !== "" && !badInput && !rangeUnderflow && !rangeOverflow && !whole)
    return +field.value;
  const name = field.labels[0].textContent.trim();
  const given = field.value === "" ? "is empty" : `is ${field.value}`;
  const most = field.max === "" ? " or more" : ` to ${field.max}`;
  const error = new Error(`${name} ${given}: give a ${whole ? "whole " : ""}number, ` +
    field.min + most);
  error.field = field;
  throw error;
}

/* ---- the server */

let about = {
  models: [], contexts: {}, documents: [], examples: [], read: [], stages: [], trained: [],
  vocabularies: []
};
let apiKey = sessionStorage.getItem("key") ?? "";
let keyRefused = false;                 // whether the question for the key was dismissed

// A header is bytes: the key is sent in UTF-8.
function headersOfRequest() {
  const headers = { "Content-Type": "application/json" };
  const bytes = new TextEncoder().encode(apiKey);
  if (apiKey) headers.Authorization = "Bearer " + String.fromCharCode(...bytes);
  return headers;
}

// Ask for the key; whether there is a new one. Who dismisses this is not asked again, but can give
// the key by a button.
function askForKey() {
  if (keyRefused) return false;
  const given = prompt("The server wants a key.");
  keyRefused = !given;
  $("locked").hidden = !keyRefused;
  if (!given) return false;
  apiKey = given;
  sessionStorage.setItem("key", given);
  return true;
}

// Send a request, with the key if the server wants one. Without a body it is a GET.
async function call(path, body, signal) {
  const sentKey = apiKey;
  const headers = headersOfRequest();
  const post = { method: "POST", headers, body: JSON.stringify(body), signal };
  const answer = await fetch(path, body === undefined ? { headers, signal } : post);
  if (answer.status !== 401) return answer;
  const hasNewKey = apiKey !== sentKey || askForKey();
  return hasNewKey ? call(path, body, signal) : answer;
}

// The value that the server answers with. Error with what it says if it refuses.
async function ask(path, body, signal) {
  const answer = await call(path, body, signal);
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error ? found.error.message : `${path}: ${answer.status}`);
  return found;
}

// The events of a stream, as objects. One may come in several pieces.
async function* eventsOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (held + value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// What makes an action show in an element the error that it may end in. To stop it is no error.
const tellingErrors = id => action => async (...given) => {
  $(id).textContent = "";
  try { return await action(...given); }
  catch (error) { if (error.name !== "AbortError") $(id).textContent = error.message; }
};

/* ---- the view that the address names */

const views = {};                       // {name: {title, begin, scroll}}, in the order of the menu
let shownView = null;

function view(name, title, begin) {
  views[name] = { title, begin, scroll: 0 };
}

// Show the view that the address names, where it was left.
function show() {
  const asked = location.hash.slice(1);
  const name = views[asked] ? asked : "chat";
  if (shownView) views[shownView].scroll = scrollY;
  shownView = name;
  for (const other in views) $("view_" + other).classList.toggle("on", other === name);
  for (const link of $("nav").children) link.ariaCurrent = link.hash === "#" + name ? "page" : null;
  document.title = "Longhand: " + views[name].title;
  scrollTo(0, views[name].scroll);
  views[name].begin?.();
  views[name].begin = null;
}

const isShown = name => shownView === name && !document.hidden;

/* ---- tokens in a row */

// Pieces of a text as a row of buttons. Tab reaches one of them, and the arrows the others.
//   describe(i)   a text about piece i, shown below the row when it is pointed at
//   open(i)       what a click or Enter does, or null. A tap shows the text, and a button for this
//   pointAt(i)    called when piece i is pointed at
function pieceRow(pieces, classOf, describe, open, pointAt = () => {}) {
  const line = make("p", { className: "about_piece" });
  const buttons = pieces.map((piece, i) => make("span", {
    className: "tok " + classOf(i), role: "button", tabIndex: i ? -1 : 0, title: describe(i),
    ariaLabel: spokenBlanks(piece),
    onpointerenter: () => tell(i), onfocus: () => tell(i),
    onclick: event => choose(i, event.pointerType === "touch"),
    onkeydown: event => press(i, event)
  }, inLines(piece)));
  const row = make("div", { className: "pieces" }, ...buttons);

  // Say below the row what piece i is.
  function tell(i, byTap = false) {
    row.querySelector(".on")?.classList.remove("on");
    buttons[i].classList.add("on");
    line.replaceChildren(describe(i));
    pointAt(i);
    if (byTap && open) line.append(" ", make("button", { onclick: () => open(i) }, "look inside"));
  }

  function choose(i, byTap) {
    tell(i, byTap);
    if (open && !byTap) open(i);
  }

  function press(i, event) {
    const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") choose(i, false);
    else if (buttons[to]) {
      buttons[i].tabIndex = -1;
      buttons[to].tabIndex = 0;
      buttons[to].focus();
    } else return;
    event.preventDefault();
  }

  return [row, line];
}
