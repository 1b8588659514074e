"use strict";
/* begin.js: the last script. It asks what there is to see, and shows the first view. */
for (const [id, { title }] of Object.entries(views))
  $("nav").append(make("a", { href: "#" + id }, title));
(async () => {
  try { about = await ask("/api/about"); } catch (e) { $("chat_error").textContent = e.message; }
  for (const [id, wanted] of [["model", about.assistant], ["inside_model", about.base]])
    $(id).append(
      ...about.models.map(m => make("option", { value: m, selected: m === wanted }, m))
    );
  $("vocabularies").append(...[about.base, ...about.vocabularies].filter(Boolean).map(
    v => choice(v, true, cut, v === about.base ? "the run's" : v)
  ));
  draw(); show();
})();
