"use strict";
/* data.js: what the filters kept of the crawl. */
view("data", "Data", funnel);

async function funnel() {
  let report;
  try { report = await ask("/api/report"); }
  catch (e) { return $("funnel").replaceChildren(note(e.message)); }
  const stages = Object.entries(report.stages);
  const most = stages[0][1].documents_in;
  const out = make("div", { className: "funnel" });
  const line = (name, n, title) => out.append(
    make("span", {}, name),
    make("div", { className: "bar", title }, make("i", { style: `width:${100 * n / most}%` })),
    make("span", {}, count(n))
  );
  const dropped = s => count(s.documents_in - s.documents_out) + " dropped";
  line("in the crawl", most, "");
  for (const [name, s] of stages) line(name, s.documents_out, dropped(s));
  const drops = stages.filter(([, s]) => Object.keys(s.reasons).length).map(([name, s]) => {
    const reasons = Object.entries(s.reasons).sort((a, b) => b[1] - a[1]);
    return make("details", {}, make("summary", {}, `${name}: ${dropped(s)}`), ...reasons.map(
      ([reason, n]) => make("details", {}, make("summary", {}, `${reason} ${count(n)}`),
        ...[].concat(s.examples[reason] ?? []).map(
          x => sample(typeof x === "string" ? x : Object.values(x).join("\n"))
        ))
    ));
  });
  $("funnel").replaceChildren(out, make("h2", {}, "What was thrown away, and why"), ...drops);
}
