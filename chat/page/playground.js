"use strict";
/* playground.js: a page that a base model goes on with.

   The box holds the page. `written` says which parts of it are the model's, [from, to) in
   characters: they are coloured. As long as nobody types, the page's very tokens are kept, and the
   model goes on from them; a text that was typed is cut into tokens anew. */
view("playground", "Playground", beginPlay);

const play = {
  text: "",             // what the box held when it was last looked at
  written: [],          // [[from, to], ...]
  ids: null,            // the tokens of the page, or null after typing
  running: null,        // the AbortController of what is being written
  shown: null,          // with probabilities: what /api/look says of the page
  at: 0,                // the token that was chosen there
  past: new Past(),     // {text, ids, written}
  typing: 0
};

async function beginPlay() {
  notePlay();
  drawPlay();
  $("play_text").focus({ preventScroll: true });
  const { beginnings } = await ask("/api/beginnings").catch(() => ({ beginnings: [] }));
  const buttons = beginnings.map(({ label, text }) => make("button", {
    title: text,
    onclick: playTold(() => { takeText(text); return continuePage(); })
  }, label));
  $("play_beginnings").replaceChildren(...(buttons.length ? ["Try:", ...buttons] : []));
}

const playTold = tellingErrors("play_error");

/* ---- the page */

// Put a text into the box that somebody has typed, or a button.
function takeText(text, written = [], ids = null) {
  stopPlay();
  Object.assign(play, { text, written, ids });
  $("play_text").value = text;
  notePlay();
  drawPlay();
}

// Somebody has typed. What of the model's text is still there keeps its colour.
function typedPlay() {
  const text = $("play_text").value;
  play.written = movedParts(play.text, text, play.written);
  Object.assign(play, { text, ids: null });
  drawPlay();
  clearTimeout(play.typing);
  play.typing = setTimeout(notePlay, 400);
}

// Where parts of a text lie after one place of it was changed. What was changed is nobody's part.
function movedParts(before, after, parts) {
  const most = Math.min(before.length, after.length);
  let begin = 0, end = 0;
  while (begin < most && before[begin] === after[begin]) begin++;
  while (end < most - begin && before.at(-1 - end) === after.at(-1 - end)) end++;
  const shift = after.length - before.length;
  const behind = before.length - end;           // where the old text is the same again
  const pieces = parts.flatMap(([from, to]) => [
    [from, Math.min(to, begin)],
    [Math.max(from, behind) + shift, to + shift]
  ]);
  return pieces.filter(([from, to]) => from < to);
}

// Show the page in colours behind the box, and make the box as high as its text.
function drawPlay() {
  const children = [];
  let done = 0;
  for (const [from, to] of play.written) {
    children.push(play.text.slice(done, from), make("mark", {}, play.text.slice(from, to)));
    done = to;
  }
  // A line that ends the text has a height only if something stands in it.
  $("play_mirror").replaceChildren(...children, play.text.slice(done) + "\u200b");
  const box = $("play_text");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
  $("play_stop").disabled = !play.running;
  $("play_go").disabled = !!play.running;
  $("play_undo").disabled = !play.past.canUndo;
  $("play_redo").disabled = !play.past.canRedo;
}

function notePlay() {
  clearTimeout(play.typing);
  const { text, ids, written } = play;
  play.past.note({ text, ids, written });
  $("play_undo").disabled = !play.past.canUndo;
  $("play_redo").disabled = !play.past.canRedo;
}

// Go back or forth in what was typed and written.
const goInPlay = playTold(async which => {
  stopPlay();
  notePlay();
  const { past } = play;
  if (!(which === "undo" ? past.canUndo : past.canRedo)) return;
  const { text, ids, written } = past[which]();
  Object.assign(play, { text, ids, written });
  $("play_text").value = text;
  $("play_said").textContent = "";
  drawPlay();
  await showShares();
});

/* ---- writing */

// The fields of a request to go on. Error if one is empty or wrong; an empty seed is any.
function playSettings() {
  const body = {
    model: $("play_model").value, stream: true, stream_options: { include_usage: true },
    return_token_ids: true, max_tokens: settingIn("play_longest"),
    temperature: settingIn("play_temperature"), top_p: settingIn("play_top_p"),
    top_k: settingIn("play_top_k"), min_p: settingIn("play_min_p")
  };
  if ($("play_seed").value !== "") body.seed = settingIn("play_seed");
  const ends = $("play_ends").value.replaceAll("\\n", "\n");
  if (ends) body.stop = [ends];
  return body;
}

// Have the model go on with the page.
const continuePage = playTold(async () => {
  stopPlay();
  notePlay();
  const controller = play.running = new AbortController();
  await showShares();                   // which are hidden now
  $("play_said").textContent = "";
  try {
    const { ids, context } = await tokensOfPage();
    const body = playSettings();
    // Of a page that is longer than the context, the model reads the end.
    const room = Math.max(1, context - Math.min(body.max_tokens, context / 2));
    body.prompt = ids.slice(-Math.floor(room));
    if (controller === play.running) await writeOn(controller, body, ids);
  } finally {
    if (controller === play.running) endPlay();
  }
});

// The tokens of the page, and how many fit the model's context.
async function tokensOfPage() {
  const model = $("play_model").value;
  const found = await ask("/api/ids", { model, text: play.text });
  const same = play.ids && play.idsOf === model;
  return { ids: same ? play.ids : found.ids, context: found.context };
}

// Add what comes to the page. `ids`: the tokens of all that stands there.
async function writeOn(controller, body, ids) {
  const started = performance.now();
  const answer = await call("/v1/completions", body, controller.signal);
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const from = play.text.length;
  const more = [];                      // tokens, which come with the text or at its end
  let written = 0, reason = null;
  for await (const { error, choices, usage } of eventsOf(answer)) {
    if (error) throw new Error(error.message);
    if (controller !== play.running) return;
    for (const choice of choices) {
      addText(choice.text, from);
      reason = choice.finish_reason ?? reason;
      more.push(...choice.token_ids ?? []);
    }
    written = usage?.completion_tokens ?? written;
  }
  // The token that ends a page, or a stop string, is no part of the text.
  if (reason === "length") Object.assign(play, { ids: [...ids, ...more], idsOf: body.model });
  const seconds = (performance.now() - started) / 1000;
  const ended = reason === "length" ? "" : "; the page ends here";
  const read = body.prompt.length < ids.length
    ? ` The model has read the last ${inTokens(body.prompt.length)} of ${count(ids.length)}.` : "";
  $("play_said").textContent =
    `${inTokens(written)}, ${Math.round(written / seconds)} a second${ended}.${read}`;
}

function addText(text, from) {
  if (!text) return;
  const box = $("play_text");
  const follows = innerHeight + scrollY > document.body.offsetHeight - 120;
  play.text += text;
  play.ids = null;
  box.value = play.text;
  play.written = [...play.written.filter(([begin]) => begin < from), [from, play.text.length]];
  drawPlay();
  if (follows) scrollTo(0, document.body.scrollHeight);
}

// Stop writing. What is there stays.
function stopPlay() {
  if (!play.running) return;
  play.running.abort();
  endPlay();
}

function endPlay() {
  play.running = null;
  notePlay();
  drawPlay();
  if ($("play_shares").checked) showShares();
}

/* ---- probabilities */

// While nothing is written, the tokens of the page may stand in place of the box.
const showShares = playTold(async () => {
  const wanted = $("play_shares").checked && !play.running;
  $("play_paper").hidden = wanted;
  $("play_pieces").hidden = $("play_alternatives").hidden = !wanted;
  if (!wanted) return drawPlay();
  const { text } = play;
  const model = $("play_model").value;
  const { ids, context } = await tokensOfPage();
  const tokens = ids.slice(-context);
  const found = await ask("/api/look", { model, tokens, n: 12 });
  if (text !== play.text || play.running) return;
  play.shown = { ...found, before: ids.slice(0, ids.length - tokens.length) };
  drawShares();
});

// The tokens, each the redder the less probable it was; those of the model have an edge.
function drawShares() {
  const { pieces, parts } = play.shown;
  const marks = writtenTokens(parts);
  $("play_pieces").replaceChildren(...pieces.flatMap(
    (piece, i) => lineOf(sharePiece(piece, i, marks[i]), piece)
  ));
  $("play_legend").replaceChildren(
    "probability: 100 % ", make("i", { className: "scale" }), " 0 %, ",
    make("i", { className: "written" }), " written by the model"
  );
  const first = marks.indexOf(true);
  chooseShare(first < 0 ? pieces.length - 1 : first);
}

// Which tokens lie in what the model wrote, by what each adds to the text. What begins a page adds
// nothing, and of a long page the first tokens are not shown.
function writtenTokens(parts) {
  let end = play.text.length - parts.join("").length;
  return parts.map((part, i) => {
    const begin = end;
    end += part.length;
    return i > 0 && play.written.some(([from, to]) => from <= begin && end <= to);
  });
}

function sharePiece(piece, i, isWritten) {
  const { surprise, special } = play.shown;
  const share = surprise[i] === null ? null : Math.exp(-surprise[i]);
  const kind = (special.includes(i) ? " special" : "") + (isWritten ? " written" : "");
  const element = make("span", {
    className: "tok" + kind,
    role: "option",
    ariaLabel: spokenBlanks(piece),
    title: share === null ? "nothing stands before it" : percent(share),
    onclick: () => chooseShare(i),
    onpointerenter: event => { if (event.pointerType === "mouse") showAlternatives(i); },
    onpointerleave: () => showAlternatives(play.at),
    onfocus: () => { if (play.at !== i) chooseShare(i); }
  }, onOneLine(piece));
  if (share !== null) element.style.background = tint("--bad", 45 * (1 - share));
  return element;
}

function chooseShare(i) {
  play.at = i;
  markChosen($("play_pieces"), i);
  showAlternatives(i);
}

// What might have stood in place of a token. Choosing one goes on from there.
function showAlternatives(i) {
  const { pieces, ids, next, surprise } = play.shown;
  if (i === 0) {
    $("play_chosen").textContent = `${visible(pieces[0])}: the model was not asked for it`;
    return $("play_bars").replaceChildren();
  }
  const share = percent(Math.exp(-surprise[i]));
  $("play_chosen").textContent = `In place of ${visible(pieces[i])} (${share})`;
  $("play_bars").replaceChildren(...next[i - 1].flatMap(([id, text, p]) => [
    make("button", {
      className: id === ids[i] ? "on" : "",
      title: id === ids[i] ? "go on anew from here" : "write this here, and go on",
      onclick: () => takeAlternative(i, id)
    }, visible(text)),
    make("div", { className: "bar" }, make("i", { style: `width:${100 * p}%` })),
    make("span", { className: "share" }, percent(p))
  ]));
}

// Put another token in a place, drop what stood behind it, and go on. Undo brings all back.
const takeAlternative = playTold(async (i, id) => {
  const { before, ids } = play.shown;
  const tokens = [...before, ...ids.slice(0, i), id];
  const model = $("play_model").value;
  const { text } = await ask("/api/ids", { model, tokens });
  const parts = movedParts(play.text, text, play.written);
  const from = parts.reduce((most, [, to]) => Math.max(most, to), sharedLength(play.text, text));
  takeText(text, [...parts, [from, text.length]].filter(([a, b]) => a < b), tokens);
  play.idsOf = model;
  await continuePage();
});

function sharedLength(a, b) {
  let n = 0;
  while (n < Math.min(a.length, b.length) && a[n] === b[n]) n++;
  return n;
}

/* ---- buttons and keys */

$("play_go").onclick = continuePage;
$("play_stop").onclick = () => { stopPlay(); $("play_text").focus(); };
$("play_undo").onclick = () => goInPlay("undo");
$("play_redo").onclick = () => goInPlay("redo");
$("play_shares").onchange = showShares;
$("play_model").onchange = () => { if ($("play_shares").checked) showShares(); };
$("play_text").oninput = () => {
  stopPlay();
  typedPlay();
};
$("view_playground").addEventListener("keydown", event => {
  const which = undoOf(event);
  if (which && !event.target.matches("input")) {
    event.preventDefault();
    goInPlay(which);
  } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    continuePage();
  } else if (event.key === "Escape" && play.running) {
    stopPlay();
  }
});
moveByArrows($("play_pieces"), ".tok", () => Infinity);
addEventListener("resize", drawPlay);
