"use strict";
/* training.js: the columns of log.jsonl as curves. Each request asks for what is new. */
view("training", "Training", follow);

const logs = {};
const choice = (value, checked, onchange, text) =>
  make("label", {}, make("input", { type: "checkbox", value, checked, onchange }), text);
const charts = {
  loss_nats: "loss, nats", val_loss_nats: "validation, nats", lr: "learning rate",
  grad_norm: "gradient norm", tokens_per_s: "tokens a second", reward: "reward",
  accuracy: "accuracy", length: "length of replies", entropy: "entropy", kl_nats: "KL, nats",
  in_order: "pairs in order", replay_loss_nats: "loss on old text", dt_s: "seconds a step"
};
async function follow() {
  stages();
  ranking(); await update();
  setInterval(
    () => { if (!document.hidden && $("view_training").classList.contains("on")) update(); }, 2000
  );
}
function stages() {
  const known = [...$("stages").querySelectorAll("input")].map(e => e.value);
  const latest = about.logs.at(-1);
  for (const stage of about.logs.filter(s => !known.includes(s)))
    $("stages").append(choice(stage, stage === latest, plot, stage));
}
let updating = false;
async function update() {
  if (updating) return; updating = true;
  let fresh = false;
  try {
    about.logs = (await ask("/api/about")).logs; stages();
    for (const { value: stage } of $("stages").querySelectorAll("input:checked")) {
      const log = logs[stage] ??= { next: 0, columns: {}, n: 0 };
      const found = await ask(`/api/log?stage=${encodeURIComponent(stage)}&after=${log.next}`);
      if (found.next < log.next) Object.assign(log, { columns: {}, n: 0 });
      const n = Math.max(0, ...Object.values(found.columns).map(c => c.length));
      for (const key of new Set([...Object.keys(log.columns), ...Object.keys(found.columns)])) {
        const column = log.columns[key] ??= Array(log.n).fill(null);
        const more = found.columns[key] ?? Array(n).fill(null);
        for (let i = 0; i < n; i++) column.push(more[i] ?? null);
      }
      log.n += n; log.next = found.next; fresh ||= n > 0;
    }
    $("training_note").textContent = about.logs.length ? "" : "The run has no log yet.";
  } catch (e) { $("training_note").textContent = e.message; } finally { updating = false; }
  if (fresh) plot(true);
}
function plot(known) {
  if (known !== true) { update(); }
  const boxes = [...$("stages").querySelectorAll("input:checked")];
  const chosen = boxes.map(e => e.value).filter(s => logs[s]);
  const wanted = Object.keys(charts).filter(
    key => chosen.some(s => logs[s].columns[key]?.some(v => v !== null))
  );
  for (const figure of [...$("charts").children])
    if (!wanted.includes(figure.dataset.key)) figure.remove();
  for (const key of wanted) {
    let figure = $("charts").querySelector(`[data-key=${key}]`);
    if (!figure) {
      const caption = make("figcaption", {}, make("span", {}, charts[key]), make("span"));
      figure = make("figure", {}, caption, make("canvas"));
      figure.dataset.key = key;
      $("charts").append(figure);
    }
    line(figure, chosen.map(s => [s, logs[s].columns.step, logs[s].columns[key] ?? []]));
  }
}
function line(figure, series) {
  const canvas = figure.querySelector("canvas");
  const w = canvas.width = canvas.clientWidth * devicePixelRatio;
  const h = canvas.height = canvas.clientHeight * devicePixelRatio;
  const c = canvas.getContext("2d");
  const style = getComputedStyle(document.body);
  const pad = 34 * devicePixelRatio;
  const points = series.flatMap(
    ([, xs, ys]) => ys.map((y, i) => [xs[i], y])
  ).filter(([, y]) => y !== null);
  if (!points.length) return;
  let [x0, x1, y0, y1] = points.reduce(
    ([a, b, d, e], [x, y]) => [Math.min(a, x), Math.max(b, x), Math.min(d, y), Math.max(e, y)],
    [Infinity, -Infinity, Infinity, -Infinity]
  );
  if (x0 === x1) x1 = x0 + 1; if (y0 === y1) y1 = y0 + (Math.abs(y0) || 1) * .1;
  const X = x => pad + (x - x0) / (x1 - x0) * (w - pad * 1.2);
  const Y = y => h - pad * .6 - (y - y0) / (y1 - y0) * (h - pad);
  c.font = `${11 * devicePixelRatio}px system-ui`;
  c.fillStyle = c.strokeStyle = style.getPropertyValue("color");
  c.globalAlpha = .55;
  const short = v => Math.abs(v) >= 1e4 || v && Math.abs(v) < 1e-3 ? (
    Math.abs(v) < 1 ? v.toExponential(0) : (v / 1e3).toPrecision(3) + "k"
  ) : +v.toPrecision(3);
  for (const v of [y0, (y0 + y1) / 2, y1]) {
    c.fillText(short(v), 3 * devicePixelRatio, Y(v) + 4 * devicePixelRatio);
    c.globalAlpha = .12;
    c.fillRect(pad, Y(v), w, 1);
    c.globalAlpha = .55;
  }
  c.fillText(short(x1), w - 40 * devicePixelRatio, h - 3 * devicePixelRatio);
  const colour = s => ["#4a86c5", "#c97b3d", "#4f9d69", "#a565b0", "#b3504a"][s % 5];
  series.forEach(([, xs, ys], s) => {
    c.globalAlpha = 1;
    c.strokeStyle = colour(s);
    c.lineWidth = 1.4 * devicePixelRatio;
    c.beginPath();
    // One stroke, with at most two points for each column of pixels.
    let from = true;
    for (let i = 0, px = -1, lo = 0, hi = 0; i <= ys.length; i++) {
      const y = ys[i]; if (i < ys.length && y === null) continue;
      const x = i < ys.length ? Math.round(X(xs[i])) : -2;
      if (x !== px) {
        if (px >= 0) {
          from ? c.moveTo(px, Y(lo)) : c.lineTo(px, Y(lo));
          c.lineTo(px, Y(hi));
          from = false;
        }
        px = x;
        lo = hi = y;
      }
      else { lo = Math.min(lo, y); hi = Math.max(hi, y); }
    }
    c.stroke();
  });
  figure.querySelector("figcaption").lastChild.replaceChildren(
    ...series.flatMap(([name, , ys], s) => {
      const last = ys.findLast(y => y !== null), style = "color:" + colour(s);
      return last === undefined ? [] : [make("span", { style }, `  ${name} ${short(last)}`)];
    })
  );
}
addEventListener("resize", () => { if (Object.keys(logs).length) plot(true); });
async function ranking() {
  if (!about.arena)
    return $("arena").replaceChildren(note("No battles yet: python align.py arena"));
  const row = (tag, ...cells) => make("tr", {}, ...cells.map(text => make(tag, {}, text)));
  const rows = (await ask("/api/arena")).map(r => row(
    "td", r.name, r.rank, Math.round(r.rating), `${Math.round(r.low)} to ${Math.round(r.high)}`,
    r.battles, percent(r.score)
  ));
  const head = row("th", "model", "rank", "rating", "95 %", "battles", "won");
  $("arena").replaceChildren(make("table", {}, head, ...rows));
}
