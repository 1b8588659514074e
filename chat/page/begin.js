"use strict";
/* begin.js: the last script. It asks what there is to see, again and again, as a run may be made
   meanwhile, and shows the first view. */
const ASKED_AGAIN = 2000;               // milliseconds between two questions about the run
const LONGEST_WAIT = 30_000;            // while the server does not answer

// The selects of models, and which of about's models each begins with.
const MODEL_SELECTS = {
  model: "assistant",
  play_model: "base",
  inside_model: "base",
  walk_model: "base"
};

// Fill a select with the models that are there now. It keeps its choice, even if that model is gone
// for a moment, as when it is being replaced.
function fillModelSelect(id, preferred) {
  const select = $(id);
  const chosen = select.value || preferred;
  const names = [...about.models];
  if (chosen && !names.includes(chosen)) names.push(chosen);
  const known = [...select.options].map(option => option.value);
  if (names.join("\n") === known.join("\n")) return;
  const options = names.map(name => make("option", { value: name }, name));
  select.replaceChildren(...options);
  select.value = chosen ?? "";
}

// Ask what there is to see, and tell the views if something has changed.
async function askAbout() {
  const found = await ask("/api/about");
  if (JSON.stringify(found) === JSON.stringify(about)) return;
  about = found;
  for (const [id, preferred] of Object.entries(MODEL_SELECTS))
    fillModelSelect(id, about[preferred]);
  dispatchEvent(new Event("about"));
}

// Ask again for as long as the page is there; more seldom while nobody answers.
async function keepAsking(wait) {
  await new Promise(done => setTimeout(done, wait));
  let next = ASKED_AGAIN;
  if (!document.hidden) {
    try { await askAbout(); }
    catch { next = Math.min(2 * wait, LONGEST_WAIT); }
  }
  keepAsking(next);
}

async function begin() {
  for (const [name, { title }] of Object.entries(views))
    $("nav").append(make("a", { href: "#" + name }, title));
  addEventListener("hashchange", show);
  try { await askAbout(); }
  catch (error) { $("chat_error").textContent = error.message; }
  beginChat();
  show();
  keepAsking(ASKED_AGAIN);
}

$("locked").onclick = () => {
  keyRefused = false;
  askAbout().catch(error => { $("chat_error").textContent = error.message; });
};
begin();
