"use strict";
/* common.js: what all views use.

   A view is a section of index.html with the id view_NAME, and a script that calls
   view(NAME, its title, begin). begin is called when the view is shown for the first time. All
   scripts of the page share their names, so a name stands in one file only. */
const $ = id => document.getElementById(id);
const views = {};                       // {id: {title, begin}}, in the order of the menu
function view(id, title, begin) { views[id] = { title, begin }; }
const make = (tag, props, ...children) => {
  const e = Object.assign(document.createElement(tag), props);
  e.append(...children);
  return e;
};
const note = text => make("p", { className: "note" }, text);
const count = n => n.toLocaleString("en");
const percent = x => x >= .9995 ? "100 %" : (100 * x).toFixed(x < .01 ? 2 : 1) + " %";
let about = { models: [], examples: [], logs: [], vocabularies: [] };
let key = sessionStorage.getItem("key") ?? "";
// Ask the server, with the key if it wants one. A header is bytes: the key is sent in UTF-8.
async function call(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key)
    headers.Authorization = "Bearer " + String.fromCharCode(...new TextEncoder().encode(key));
  const post = { method: "POST", headers, body: JSON.stringify(body), signal };
  const answer = await fetch(path, body === undefined ? { headers } : post);
  if (answer.status !== 401) return answer;
  const given = prompt("The server wants a key.");
  if (!given) return answer;
  sessionStorage.setItem("key", key = given);
  return call(path, body, signal);
}
async function ask(path, body) {
  const answer = await call(path, body);
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error ? found.error.message : `${path}: ${answer.status}`);
  return found;
}
const visible = text => text.replaceAll("\n", "⏎").replace(/^ | $/g, "␣") || "∅";

/* ---- the view that the address names */
function show() {
  const id = views[location.hash.slice(1)] ? location.hash.slice(1) : "chat";
  for (const name in views) $("view_" + name).classList.toggle("on", name === id);
  for (const a of $("nav").children) a.ariaCurrent = a.hash === "#" + id ? "page" : null;
  document.title = "Longhand: " + views[id].title;
  scrollTo(0, 0);
  views[id].begin?.();
  views[id].begin = null;
}
addEventListener("hashchange", show);
