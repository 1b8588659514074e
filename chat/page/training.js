"use strict";
/* training.js: the stages of the run, and the columns of their logs as curves, while they grow. */
view("training", "Training", beginTraining);

const LOGS_ASKED_AGAIN = 2000;          // milliseconds
const MOST_COLOURS = 8;                 // that style.css has, --stage-0 and so on
const CHARTS = {
  loss_nats: "loss, nats",
  val_loss_nats: "loss on unseen text, nats",
  reward: "reward",
  accuracy: "accuracy",
  length: "length of replies, tokens",
  entropy: "entropy, nats",
  kl_nats: "distance from the start (KL), nats",
  in_order: "pairs in order",
  replay_loss_nats: "loss on old text, nats",
  grad_norm: "length of the gradient",
  lr: "learning rate",
  tokens_per_s: "tokens a second",
  dt_s: "seconds a step"
};
const STATES = { done: "finished", now: "at work now", stopped: "stopped", later: "to come" };
const trainingLogs = {};                // {stage: {next, columns, n, dreams}}
let updating = false;

async function beginTraining() {
  drawStages();
  const chosen = $("stages").querySelector("li:has(:checked)");
  chosen?.scrollIntoView({ block: "nearest", inline: "center" });       // on a phone they scroll
  await updateLogs();
  setInterval(() => { if (isShown("training")) updateLogs(); }, LOGS_ASKED_AGAIN);
}

/* ---- the stages */

// A card for each stage of the run, in the order of the chain. Those with a log can be chosen.
function drawStages() {
  const boxes = [...$("stages").querySelectorAll("input")];
  const known = new Map(boxes.map(box => [box.value, box.checked]));
  const opened = stageToOpen();
  const focused = document.activeElement?.value;
  $("stages").replaceChildren(...about.stages.map(stage => {
    const isChosen = known.get(stage.name) ?? (known.size === 0 && stage.name === opened);
    return stageCard(stage, isChosen);
  }));
  for (const box of $("stages").querySelectorAll("input"))
    if (box.value === focused) box.focus();
  drawArena();
  $("training_note").textContent = about.stages.some(stage => stage.log) ? ""
    : "Nothing has been trained yet. The curves begin here with the first step.";
}

// The stage whose curves are shown at first: one that is trained now, or base.
function stageToOpen() {
  const withLog = about.stages.filter(stage => stage.log);
  const now = withLog.findLast(stage => stage.state === "now");
  const base = withLog.find(stage => stage.name === "base");
  return (now ?? base ?? withLog[0])?.name;
}

function stageCard(stage, isChosen) {
  const { name, state, about: sentence, log } = stage;
  const title = log ? choice(name, isChosen, chooseStage, name) : make("span", {}, name);
  const card = make("li", { className: state }, title,
    make("span", { className: "state" }, STATES[state]), make("p", {}, sentence));
  if (state === "stopped") card.append(make("p", { className: "stopped_at" }, whereStopped(stage)));
  card.style.setProperty("--stage", log ? colourOfStage(name) : "var(--line)");
  return card;
}

// How far a stage came whose process has ended, and what makes it go on.
function whereStopped({ made, stopped: { step, steps, saved } }) {
  const whole = steps === null ? "" : ` of ${count(steps)}`;
  const where = step === null ? "Stopped" : `Stopped at step ${count(step)}${whole}`;
  const command = made ? "make" : "its command";
  const from = saved === null ? "begins it anew" : `goes on from step ${count(saved)}`;
  return `${where}: ${command} ${from}.`;
}

// The colour of a stage: the same, whatever else is chosen.
function colourOfStage(name) {
  const trained = about.trained;
  const place = trained.indexOf(name);
  return `var(--stage-${(place < 0 ? trained.length : place) % MOST_COLOURS})`;
}

function chosenStages() {
  const boxes = [...$("stages").querySelectorAll("input:checked")];
  return boxes.map(box => box.value);
}

function chooseStage() {
  drawCharts();
  updateLogs();
}

/* ---- the logs */

// Ask for what is new in the logs of the chosen stages, and draw it.
async function updateLogs() {
  if (updating) return;
  updating = true;
  let isNew = false;
  try {
    for (const stage of chosenStages()) {
      const log = trainingLogs[stage] ??= emptyLog();
      const found = await ask(`/api/log?stage=${encodeURIComponent(stage)}&after=${log.next}`);
      isNew = addToLog(log, found) || isNew;
    }
  } catch (error) {
    $("training_note").textContent = error.message;
  } finally {
    updating = false;
  }
  if (isNew) drawCharts();
}

const emptyLog = () => ({ next: 0, columns: {}, n: 0, dreams: [] });

// Add lines that are new to a log; whether there are any.
function addToLog(log, found) {
  if (found.next < log.next) Object.assign(log, emptyLog());      // it was begun anew
  const n = Math.max(0, ...Object.values(found.columns).map(column => column.length));
  for (const key of new Set([...Object.keys(log.columns), ...Object.keys(found.columns)])) {
    const column = log.columns[key] ??= Array(log.n).fill(null);
    const more = found.columns[key] ?? Array(n).fill(null);
    for (let i = 0; i < n; i++) column.push(more[i] ?? null);
  }
  log.dreams.push(...found.dreams);
  log.n += n;
  log.next = found.next;
  return n > 0;
}

/* ---- the curves */

// A figure for each column that a chosen stage has; the dreams stand beside the first.
function drawCharts() {
  const chosen = chosenStages().filter(stage => trainingLogs[stage]);
  const valuesOf = (stage, key) => trainingLogs[stage].columns[key] ?? [];
  const hasValues = (stage, key) => valuesOf(stage, key).some(value => value !== null);
  const wanted = Object.keys(CHARTS).filter(key => chosen.some(stage => hasValues(stage, key)));
  const figures = wanted.map(key => chartFigure(key));
  const dreams = dreamsOf(chosen);
  const elements = dreams ? [...figures.slice(0, 1), dreams, ...figures.slice(1)] : figures;
  const there = [...$("charts").children];
  if (elements.length !== there.length || elements.some((each, i) => each !== there[i]))
    $("charts").replaceChildren(...elements);
  for (const figure of figures) {
    const { key } = figure.dataset;
    drawChart(figure, CHARTS[key], chosen.map(stage => seriesOf(stage, key)));
  }
}

// A stage's column as chart.js takes it.
function seriesOf(stage, key) {
  const { columns, dreams } = trainingLogs[stage];
  const colour = colourOfStage(stage);
  const name = colour.slice("var(".length, -1);
  const canvasColour = resolvedColour(name);
  const marks = key === "loss_nats" ? dreams.map(([step]) => step) : [];
  const values = columns[key] ?? [];
  return { name: stage, colour, canvasColour, steps: columns.step, values, marks };
}

// A colour of style.css as a canvas takes it: for light or for dark, as the page is now.
function resolvedColour(name) {
  $("charts").style.outlineColor = `var(${name})`;
  return getComputedStyle($("charts")).outlineColor;
}

// The figure of a column: there already, or a new one.
function chartFigure(key) {
  const there = $("charts").querySelector(`figure[data-key=${key}]`);
  if (there) return there;
  const legend = make("span", { className: "legend" });
  const caption = make("figcaption", {}, make("span", {}, CHARTS[key]), legend);
  const figure = make("figure", {}, caption, make("canvas", { role: "img" }));
  figure.dataset.key = key;
  return figure;
}

// What the chosen models wrote by themselves, from the first to the last; null if nothing.
function dreamsOf(chosen) {
  const dreamsIn = stage => trainingLogs[stage].dreams.map(dream => [stage, ...dream]);
  const all = chosen.flatMap(dreamsIn);
  if (!all.length) return null;
  const there = $("charts").querySelector(".dreams");
  if (there?.dataset.n === String(all.length)) return there;
  const box = make("section", { className: "dreams" },
    make("h2", {}, "Dreams: what it writes by itself, at each ring of the curve"));
  for (const [stage, step, text] of all) box.append(dreamOf(`${stage}, step ${count(step)}`, text));
  box.lastChild.open = true;
  box.dataset.n = all.length;
  return box;
}

// A dream: its beginning on one line, and the whole text when it is unfolded.
function dreamOf(name, text) {
  const beginning = make("span", {}, text);
  const summary = make("summary", {}, make("b", {}, name), " ", beginning);
  return make("details", {}, summary, make("p", {}, text));
}

/* ---- the arena */

// Draw which models won how many battles.
async function drawArena() {
  if (!about.arena) {
    $("arena").replaceChildren(note("No battles yet: python align.py arena"));
    return;
  }
  const cells = (tag, texts) => make("tr", {}, ...texts.map(text => make(tag, {}, text)));
  const head = cells("th", ["model", "rank", "rating", "95 %", "battles", "won"]);
  const models = await ask("/api/arena").catch(() => []);       // it is being replaced
  const rows = models.map(({ name, rank, rating, low, high, battles, score }) => cells("td", [
    name, rank, Math.round(rating), `${Math.round(low)} to ${Math.round(high)}`, battles,
    percent(score)
  ]));
  $("arena").replaceChildren(make("table", {}, head, ...rows));
}

addEventListener("about", () => { if (views.training.begin === null) drawStages(); });
addEventListener("resize", drawCharts);
matchMedia("(prefers-color-scheme: dark)").onchange = drawCharts;
