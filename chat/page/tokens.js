"use strict";
/* tokens.js: a text in several vocabularies. */
view("tokens", "Tokens", cut);

const sample = text => make("pre", { className: "sample" }, text);
function hue(i) {
  const lightness = matchMedia("(prefers-color-scheme: dark)").matches ? 26 : 86;
  return `hsl(${(i * 47) % 360} 70% ${lightness}%)`;
}
async function cut() {
  const chosen = [...$("vocabularies").querySelectorAll("input:checked")].map(e => e.value);
  const boxes = [];
  for (const name of chosen) {
    try {
      const found = await ask("/api/cut", { vocabulary: name, text: $("cut_text").value });
      const pieces = found.pieces.map((p, i) => make(
        "span", { className: "tok", title: found.ids[i], style: "background:" + hue(i) },
        p.replaceAll("\n", "⏎\n")
      ));
      boxes.push(
        make("h2", {}, `${name}: ${found.ids.length} of ${count(found.size)} tokens`),
        make("div", { className: "pieces" }, ...pieces),
        make("details", {}, make("summary", {}, "ids"), sample(found.ids.join(", ")))
      );
    } catch (e) { boxes.push(make("div", { className: "error" }, e.message)); }
  }
  $("cuts").replaceChildren(...boxes);
}
let soon; $("cut_text").oninput = () => { clearTimeout(soon); soon = setTimeout(cut, 200); };
