"use strict";
/* replies.js: have a model write a reply. The page sends the whole conversation each time. */

const running = new Map();              // {reply that is being written: its AbortController}
const RETRY_TEMPERATURE = .8;           // where 0 would only repeat the reply
let leaving = false;                    // whether the page is being left, which ends all requests

// The settings of a request. Error if one is empty or wrong.
function settingsOfRequest() {
  const settings = {
    temperature: settingIn("temperature"),
    top_p: settingIn("top_p"),
    top_k: settingIn("top_k"),
    max_tokens: settingIn("max_tokens")
  };
  if ($("seed").value !== "") settings.seed = settingIn("seed");
  return settings;
}

// Change the settings under which a model writes a reply once more, so that it can be another one.
function changeForRetry(message, settings) {
  const others = versionsOf(message).filter(other => other !== message);
  if (!others.some(other => other.model === message.model)) return;
  if (settings.temperature === 0) settings.temperature = RETRY_TEMPERATURE;
  else if (settings.seed === undefined) return;
  if (settings.seed !== undefined) settings.seed += others.length;
  message.drawn = { temperature: settings.temperature, seed: settings.seed };
}

// The request for a text that goes on from the last question. A base model knows only documents.
function requestForText(message) {
  return ["/v1/completions", { prompt: messagesBefore(message).at(-1).content }];
}

// The request for a reply to the conversation. The server says how much of it the model can read.
async function requestForReply(message, room, signal) {
  const system = $("system").value.trim();
  const messages = messagesBefore(message).map(asSent);
  if (system) messages.unshift({ role: "system", content: system });
  message.hasSystem = system !== "";
  const fitting = await ask("/api/fit", { model: message.model, messages, room }, signal);
  message.forgotten = fitting.forgotten;
  return ["/v1/chat/completions", { messages: fitting.messages, show_calls: true }];
}

// Write a reply. grown(message) is called when there is more of it, and in the end.
async function writeReply(message, settings, grown) {
  const controller = new AbortController();
  running.set(message, controller);
  message.settings = settings;
  const began = performance.now();
  try {
    const isDocument = about.documents.includes(message.model);
    const [path, request] = isDocument ? requestForText(message)
      : await requestForReply(message, settings.max_tokens, controller.signal);
    Object.assign(request, settings);
    Object.assign(request, { model: message.model, stream: true, return_token_ids: true });
    const answer = await call(path, request, controller.signal);
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const event of eventsOf(answer)) {
      takeEvent(message, event);
      grown(message);
    }
  } catch (error) {
    endEarly(message, error);
  }
  message.seconds = (performance.now() - began) / 1000;
  running.delete(message);
  grown(message);
}

// A reply ends before the model has ended it: somebody stopped it, or something went wrong.
function endEarly(message, error) {
  message.finish = error.name === "AbortError" || leaving ? "stopped" : "failed";
  if (message.finish === "failed") message.error = error.message;
  removeHalfCall(message);
}

// The parts that a reply grows by. A document has one part.
function partsIn(said) {
  if (said.delta) return said.delta.parts ?? [];
  return said.text ? [{ index: 0, type: "text", text: said.text }] : [];
}

// Add what an event says to a reply.
function takeEvent(message, event) {
  if (event.error) throw new Error(event.error.message);
  const [said] = event.choices;
  for (const { index, type, text } of partsIn(said)) {
    message.parts[index] ??= { type, text: "" };
    message.parts[index].text += text;
  }
  message.thoughts += said.delta?.reasoning_content ?? "";
  if (said.prompt_token_ids) message.promptIds = said.prompt_token_ids;
  message.ids.push(...said.token_ids ?? []);
  message.finish = said.finish_reason ?? message.finish;
}

function stopAllReplies() {
  for (const controller of running.values()) controller.abort();
}

/* ---- what there is to say about a reply */

const textOf = message => partsSaid(message).map(part => part.text).join("");

// How many tokens of the context a reply and what it read take.
const tokensOf = message => (message.promptIds?.length ?? 0) + message.ids.length;

// Why a reply that did not end by itself has ended; "" for all others.
function endingOf(message) {
  const context = about.contexts[message.model];
  const n = message.ids.length;
  if (message.finish === "stopped") return `stopped after ${count(n)} tokens`;
  if (message.finish === "failed") return message.error;
  if (message.finish !== "length") return "";
  if (tokensOf(message) >= context)
    return `cut at the context: ${tokensOf(message)} of ${context} tokens, ` +
      `${message.promptIds.length} read and ${n} written`;
  return `cut at the longest reply, ${count(message.settings.max_tokens)} tokens`;
}

// How a reply came about, where that is not what one would expect.
function remarksOn(message) {
  const remarks = [];
  if (about.documents.includes(message.model))
    remarks.push("goes on from your text, as it has only read documents");
  if (message.forgotten === 1) remarks.push("the oldest turn is forgotten, to leave room");
  if (message.forgotten > 1)
    remarks.push(`the ${message.forgotten} oldest turns are forgotten, to leave room`);
  if (message.drawn) remarks.push(remarkOnRetry(message));
  return remarks;
}

function remarkOnRetry(message) {
  const { temperature, seed } = message.drawn;
  const how = `drawn at temperature ${temperature}` + (seed === undefined ? "" : `, seed ${seed}`);
  const others = versionsOf(message).filter(other => other !== message);
  const isSame = message.finish && others.some(other => textOf(other) === textOf(message));
  return isSame ? `${how}: the same again, the model is sure of it` : how;
}
