"use strict";
/* chat.js: the page keeps the conversation, and sends all of it with each question. */
view("chat", "Chat", () => $("question").focus());

let messages = [], running = null, drawn = 0;
// In an empty conversation: questions to try.
function invite() {
  const buttons = about.examples.map(text => make("button", { onclick: () => send(text) }, text));
  $("turns").replaceChildren(...(buttons.length ? [note("Ask, for example:")] : []));
  $("turns").append(make("div", { className: "row" }, ...buttons));
}
function send(text) {
  messages.push({ role: "user", content: text });
  $("question").value = "";
  grow();
  reply();
}
function draw() {
  drawn++;
  $("turns").replaceChildren(...messages.map((m, i) => {
    const text = make("div", { className: "text" });
    const who = make("div", { className: "who" }, m.role === "user" ? "you" : "longhand");
    const title = "change this and go on from here";
    if (m.role === "user") who.append(make("button", { title, onclick: () => edit(i) }, "edit"));
    else if (!running && i === messages.length - 1)
      who.append(make("button", { onclick: () => { messages.pop(); reply(); } }, "retry"));
    m.role === "user" ? text.textContent = m.content : written(text, m);
    return make("div", { className: "turn " + m.role }, who, text);
  }));
  if ($("raw").checked && !running && messages.at(-1)?.role === "assistant") raw(messages.at(-1));
  if (!messages.length) invite();
  $("again").disabled = !messages.length;
  $("stop").disabled = !running;
  $("send").disabled = !!running;
}
// A reply comes in parts: texts, calls of the calculator, and its answers. The next request sends
// them back as such parts. A text that looks like a call, such as [1+1 = 3], stays a text.
function said(m) { return m.parts.filter(Boolean).map(({ type, text }) => ({ type, text })); }
// Show a reply: its thoughts, folded, and its parts; a call is shown as [37*48 = 1776].
function written(element, m) {
  const open = element.querySelector("details")?.open ?? false;
  element.replaceChildren();
  if (m.thoughts) element.append(make("details", { className: "thoughts", open },
    make("summary", {}, said(m).length ? "thoughts" : "thinking ..."), m.thoughts));
  let call = null;
  for (const { type, text } of said(m)) {
    if (type === "text") { element.append(text); call = null; continue; }
    if (type === "tool" || !call) element.append(call = make("span", { className: "call" }));
    call.textContent = call.textContent.slice(0, -1) + (
      type === "tool" ? `[${text}]` : ` = ${text}]`
    );
  }
}
// Remove a call at the end that was cut off or has no answer.
function unfinished(m) {
  const parts = said(m);
  while (parts.length && parts.at(-1).type !== "text") parts.pop();
  m.parts = parts;
}
// The conversation as the model reads it. Green is what it wrote, and would learn from. The server
// says where special tokens stand, as a text can look like one.
async function raw(last) {
  const box = make("div", { className: "pieces" }), turn = ++drawn;
  try {
    const what = last.ids ? { tokens: last.ids } : { messages: history(messages.length - 1) };
    const found = await ask("/api/look", { model: $("model").value, n: 1, ...what });
    let role = "", learned = false, tool = false;
    found.pieces.forEach((p, i) => {
      const special = found.special.includes(i), mark = special ? p : "";
      if (mark === "<|output_start|>") tool = true;
      const className = "tok" + (special ? " special" : "") + (learned && !tool ? " learned" : "");
      box.append(make("span", { className, title: found.ids[i] }, p));
      if (mark === "<|im_start|>") role = "";
      else if (mark === "<|im_sep|>") learned = role === "assistant";
      else role += p;
      if (mark === "<|im_end|>") { learned = false; box.append("\n"); }
      else if (mark === "<|output_end|>") tool = false;
    });
  } catch (e) { box.textContent = e.message; box.className = "error"; }
  if (turn === drawn) $("turns").append(box);
}
function history(n) {
  const turns = messages.slice(0, n).map(m => m.role === "user"
    ? { role: m.role, content: m.content }
    : { role: m.role, content: said(m), reasoning_content: m.thoughts || undefined });
  const system = $("system").value.trim();
  return system ? [{ role: "system", content: system }, ...turns] : turns;
}
function edit(i) {
  stop();
  $("question").value = messages[i].content;
  messages = messages.slice(0, i);
  draw();
  grow();
  $("question").focus();
}
function stop() { if (running) running.abort(); }
async function reply() {
  const controller = running = new AbortController();
  const mine = { role: "assistant", parts: [], thoughts: "" };
  const started = performance.now();
  let sent = history(messages.length);
  messages.push(mine); $("chat_error").textContent = ""; draw();
  try {
    const body = {
      model: $("model").value, messages: sent, stream: true,
      stream_options: { include_usage: true }, show_calls: true, return_token_ids: true,
      temperature: +$("temperature").value, top_p: +$("top_p").value, top_k: +$("top_k").value,
      max_tokens: +$("max_tokens").value
    };
    if ($("seed").value !== "") body.seed = +$("seed").value;
    let answer, forgotten = 0;
    while (!(answer = await call("/v1/chat/completions", body, controller.signal)).ok) {
      const { error } = await answer.json(), system = sent[0].role === "system" ? 1 : 0;
      if (error.code !== "context_length_exceeded" || sent.length < system + 3)
        throw new Error(error.message);
      body.messages = sent = [...sent.slice(0, system), ...sent.slice(system + 2)];
      forgotten += 1;
      $("chat_error").textContent = "The conversation is longer than the model's context: " +
        `its oldest turns are forgotten (${forgotten}).`;
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    // An event may come in pieces.
    for (let held = "", part; !(part = await reader.read()).done;) {
      const events = (held + part.value).split("\n\n");
      held = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
        const found = JSON.parse(event.slice(6));
        if (found.error) throw new Error(found.error.message);
        if (found.choices.length) {
          const choice = found.choices[0];
          mine.thoughts += choice.delta.reasoning_content ?? "";
          for (const { index, type, text } of choice.delta.parts ?? [])
            (mine.parts[index] ??= { type, text: "" }).text += text;
          if (choice.token_ids) mine.ids = [...choice.prompt_token_ids, ...choice.token_ids];
        } else {
          const n = found.usage.completion_tokens, seconds = (performance.now() - started) / 1000;
          $("speed").textContent = `${n} tokens, ${Math.round(n / seconds)} a second`;
        }
      }
      if (messages.includes(mine)) {
        written($("turns").lastElementChild.querySelector(".text"), mine);
        if (innerHeight + scrollY > document.body.offsetHeight - 200)
          scrollTo(0, document.body.scrollHeight);
      }
    }
  } catch (e) {
    if (e.name === "AbortError") unfinished(mine);
    // The question is put back, so that it can be asked again.
    else if (messages.includes(mine)) {
      $("chat_error").textContent = e.message;
      messages = messages.filter(m => m !== mine);
      const { content } = messages.pop();
      if (!$("question").value) { $("question").value = content; grow(); }
    }
  }
  if (running === controller) running = null;
  draw();
}
function grow() {
  const q = $("question");
  q.style.height = "auto";
  q.style.height = Math.min(200, q.scrollHeight + 2) + "px";
}
$("question").oninput = grow;
$("question").onkeydown = e => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
    e.preventDefault();
    $("composer").requestSubmit();
  }
};
$("composer").onsubmit = e => {
  e.preventDefault();
  const text = $("question").value.trim();
  if (text && !running) send(text);
};
$("stop").onclick = stop; $("raw").onchange = draw;
$("again").onclick = () => {
  stop();
  messages = [];
  $("speed").textContent = "";
  draw();
  $("question").focus();
};
