"use strict";
/* data.js: what the filters kept of the crawl. */
view("data", "Data", drawReport);

let reportDrawn = null;                 // about.report when it was drawn

// Draw the report of data.py, or say that there is none yet.
async function drawReport() {
  reportDrawn = JSON.stringify(about.report);
  if (!about.report) {
    $("funnel").replaceChildren(note("The run has no report yet: data.py writes it."));
    return;
  }
  let report;
  try { report = await ask("/api/report"); }
  catch (error) {
    $("funnel").replaceChildren(note(error.message));
    return;
  }
  const stages = Object.entries(report.stages);
  const title = make("h2", {}, "What was thrown away, and why");
  $("funnel").replaceChildren(funnelOf(stages), title, ...stages.flatMap(droppedBy));
}

// How many documents are left after each stage, as bars.
function funnelOf(stages) {
  const [, first] = stages[0];
  const funnel = make("div", { className: "funnel" });
  funnel.append(...funnelRow("in the crawl", first.documents_in, first.documents_in));
  for (const [name, stage] of stages)
    funnel.append(...funnelRow(name, stage.documents_out, first.documents_in));
  return funnel;
}

// A row of the funnel: a name, a bar, a number.
function funnelRow(name, n, most) {
  const bar = make("i", { style: `width:${100 * n / most}%` });
  return [
    make("span", {}, name),
    make("div", { className: "bar" }, bar),
    make("span", {}, count(n))
  ];
}

// What a stage threw away: for each reason how many, and samples. [] if it kept all.
function droppedBy([name, stage]) {
  const reasons = Object.entries(stage.reasons).sort((a, b) => b[1] - a[1]);
  if (!reasons.length) return [];
  const dropped = count(stage.documents_in - stage.documents_out);
  const details = reasons.map(([reason, n]) => make("details", {},
    make("summary", {}, `${reason} ${count(n)}`),
    ...samplesOf(stage.examples[reason])));
  return [make("details", {}, make("summary", {}, `${name}: ${dropped} dropped`), ...details)];
}

// Samples of dropped documents: a text, an object of texts, or a list of such.
function samplesOf(examples = []) {
  return [examples].flat().map(example =>
    sampleBox(typeof example === "string" ? example : Object.values(example).join("\n")));
}

addEventListener("about", () => {
  const isNew = reportDrawn !== JSON.stringify(about.report);
  if (isNew && views.data.begin === null) drawReport();
});
