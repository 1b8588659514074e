"use strict";
/* conversation_tokens.js: the conversation as the model reads it, token by token, below the turns.
*/
let tokenDrawings = 0;                  // how often the tokens were to be drawn
let replyInTokens = null;               // the reply whose tokens are shown

// Draw the tokens of the last reply and of what it read. With `opened`, bring them into sight.
async function drawTokens(opened = false) {
  const drawing = ++tokenDrawings;
  const reply = shownMessages().filter(message => message.role === "assistant").at(-1);
  const box = $("conversation_tokens");
  const wanted = $("raw").checked && reply && !running.size;
  if (!wanted) {
    box.replaceChildren();
    replyInTokens = null;
    return;
  }
  if (replyInTokens !== reply) {
    const content = await tokensOfReply(reply).catch(
      error => [make("p", { className: "error" }, error.message)]
    );
    if (drawing !== tokenDrawings) return;      // something else is to be drawn by now
    box.replaceChildren(...content);
    replyInTokens = reply;
  }
  const isTall = box.offsetHeight > innerHeight / 2;
  if (opened) box.scrollIntoView({ block: isTall ? "start" : "nearest" });
}

// The elements that show a reply's tokens.
async function tokensOfReply(reply) {
  const { model } = reply;
  if (!reply.promptIds) return [note("This reply ended before its first token.")];
  const ids = [...reply.promptIds, ...reply.ids];
  const found = await ask("/api/pieces", { model, tokens: ids });
  const kinds = kindsOfTokens(found, reply);
  const openAt = place => inspectIds(ids, model, place);
  const describe = i => `token ${found.ids[i]}${kinds[i].about}`;
  const row = pieceRow(found.pieces, i => kinds[i].className, describe, openAt);
  const button = make("button", { type: "button", onclick: () => openAt(ids.length - 1) },
    "Look inside");
  return [make("h2", {}, "What the model reads and writes"), ...row, legendOfTokens(), button];
}

// {className, about} of each token: whether it is special, and whether the model wrote it.
function kindsOfTokens(found, reply) {
  const special = new Set(found.special);
  const written = new Set(found.written);
  const closed = turnsClosedByFormat(reply);
  const inOurFormat = found.turns.some(turn => turn !== null);
  return found.pieces.map((piece, i) => {
    const isEnd = piece === "<|im_end|>" && special.has(i);
    const byFormat = isEnd && closed.has(found.turns[i]);
    const isWritten = inOurFormat ? written.has(i) : i >= reply.promptIds.length;
    const className = (special.has(i) ? "special " : "") +
      (isWritten && !byFormat ? "learned" : "");
    if (byFormat) return { className, about: ", put here by the format: the reply was cut" };
    return { className, about: isWritten ? ", written by the model" : "" };
  });
}

// The numbers of the messages, as the model counts them, that it did not end itself.
function turnsClosedByFormat(reply) {
  const read = messagesBefore(reply).slice(2 * reply.forgotten);
  const first = reply.hasSystem ? 1 : 0;
  const closed = new Set();
  read.forEach((message, i) => {
    if (message.role === "assistant" && message.finish !== "stop") closed.add(first + i);
  });
  return closed;
}

function legendOfTokens() {
  const written = make("span", { className: "tok learned" }, "written by the model");
  const special = make("span", { className: "tok special" }, "<|special|>");
  return make("p", { className: "note" }, written, " ", special,
    " A click on a token shows what the model expects after it.");
}
