"use strict";
/* inside.js: what the model expects after each token of a text, and where it looks. */
view("inside", "Inside", read);

let seen = null, at = 0, reads = 0;
const how = () => ({
  model: $("inside_model").value, temperature: +$("in_temperature").value,
  top_p: +$("in_top_p").value
});
const shade = (element, colour, percent) => {
  element.style.background =
    `color-mix(in srgb, var(${colour}) ${Math.round(percent)}%, transparent)`;
  return element;
};
async function read(tokens) {
  const turn = ++reads;
  $("inside_error").textContent = "";
  try {
    const what = Array.isArray(tokens) ? { tokens } : { text: $("text").value };
    const found = await ask("/api/look", { ...how(), ...what, n: 14 });
    if (turn !== reads) return;                   // something else was asked meanwhile
    seen = found;
  } catch (e) { $("inside_error").textContent = e.message; return; }
  at = seen.ids.length - 1;
  for (const [id, n] of [["layer", seen.layers], ["head", seen.heads]])
    if ($(id).length !== n)
      $(id).replaceChildren(
        ...Array.from({ length: n }, (_, i) => make("option", { value: i }, i + 1))
      );
  inspect(); attention();
}
function inspect() {
  const held = [
    ...document.querySelectorAll("#inside_pieces .tok, #bars button")
  ].indexOf(document.activeElement);
  const bars = document.activeElement.closest("#bars");
  const most = Math.max(3, ...seen.surprise.filter(x => x !== null));
  $("inside_pieces").replaceChildren(...seen.pieces.map((p, i) => {
    const s = seen.surprise[i];
    const title = seen.ids[i] + (s === null ? "" : `: ${s.toFixed(2)} nats of surprise`);
    const e = make("span", {
      className: "tok" + (i === at ? " on" : ""), title, tabIndex: 0, role: "button",
      onclick() { at = i; inspect(); },
      onkeydown(ev) { if (ev.key === "Enter") e.onclick(); }
    }, p.replaceAll("\n", "⏎\n"));
    return s === null ? e : shade(e, "--bad", 45 * s / most);
  }));
  $("after").textContent = `Next token, after ${JSON.stringify(seen.pieces[at])}`;
  $("bars").replaceChildren(...seen.next[at].flatMap(([id, text, p, q]) => {
    const onclick = told(() => read([...seen.ids.slice(0, at + 1), id]).then(spell));
    return [
      make("button", { title: `write token ${id} here`, onclick }, visible(text)),
      make("div", { className: "bar" },
        make("i", { style: `width:${100 * p}%` }), make("u", { style: `width:${100 * q}%` }),
        make("span", {}, p === q ? percent(p) : `${percent(p)} → ${percent(q)}`))
    ];
  }));
  const layers = seen.lens.map((_, l) => make("th", {}, l ? "layer " + l : "embedding"));
  const rows = seen.pieces.map((p, i) => {
    const cells = seen.lens.map(layer => {
      const [, text, share] = layer[i][0];
      const title = layer[i].map(([, t, x]) => `${visible(t)} ${percent(x)}`).join("\n");
      return shade(make("td", { title }, visible(text)), "--accent", 50 * share);
    });
    const onclick = () => { at = i; inspect(); };
    return make("tr", { onclick }, make("td", {}, visible(p)), ...cells);
  });
  $("lens").replaceChildren(make("tr", {}, make("th", {}, "token"), ...layers), ...rows);
  if (held >= 0)
    (bars ? $("bars").querySelector("button") : $("inside_pieces").children[at])?.focus();
}
async function spell() {
  const plain = seen.ids.filter((_, i) => !seen.special.includes(i));
  const found = await ask("/detokenize", { tokens: plain, model: $("inside_model").value });
  $("text").value = found.content;
}
const told = f => async (...given) => {
  try { await f(...given); } catch (e) { $("inside_error").textContent = e.message; }
};
const attention = told(async () => {
  if (!seen) return;
  const where = { tokens: seen.ids, layer: +$("layer").value, head: +$("head").value };
  const found = await ask("/api/look", { model: $("inside_model").value, ...where });
  const n = found.size;
  const bytes = Uint8Array.from(atob(found.attention), c => c.charCodeAt(0));
  const canvas = $("grid");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  canvas.width = canvas.height = n;
  canvas.parentElement.style.setProperty("--side", Math.min(34, 2.2 * n) + "rem");
  for (const id of ["keys", "queries"])
    $(id).replaceChildren(...(n > 32 ? [] : seen.pieces.map(p => make("span", {}, visible(p)))));
  const image = new ImageData(n, n);
  const from = dark ? [30, 32, 36] : [255, 255, 255];
  const to = dark ? [138, 180, 232] : [47, 93, 140];
  bytes.forEach((b, i) => {
    for (let c = 0; c < 3; c++)
      image.data[4 * i + c] = from[c] + (to[c] - from[c]) * Math.sqrt(b / 255);
    image.data[4 * i + 3] = 255;
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.onpointermove = e => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor((e.clientX - box.left) / box.width * n);
    const y = Math.floor((e.clientY - box.top) / box.height * n);
    if (seen.pieces[y] === undefined || seen.pieces[x] === undefined) return;
    const share = percent(bytes[y * n + x] / 255);
    $("where").textContent =
      `${visible(seen.pieces[y])} looks at ${visible(seen.pieces[x])}: ${share}`;
  };
});
$("read").onclick = read;
$("inside_model").onchange = () => read();
for (const id of ["layer", "head"]) $(id).onchange = attention;
for (const id of ["in_temperature", "in_top_p"])
  $(id).onchange = () => {
    const keep = at;
    if (seen) read(seen.ids).then(() => { at = keep; inspect(); });
  };
$("roll").onclick = told(async () => {
  if (!seen) return;
  const prompt = seen.ids.slice(0, at + 1);
  const answer = await ask(
    "/v1/completions", { ...how(), prompt, max_tokens: 1, return_token_ids: true }
  );
  await read([...prompt, ...answer.choices[0].token_ids]);
  await spell();
});
// Show tokens of elsewhere, such as a chat's.
function inspectIds(ids, model) {
  views.inside.begin = null;            // it would read its own text
  $("inside_model").value = model;
  location.hash = "inside";
  return read(ids);
}
