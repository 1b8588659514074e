"use strict";
/* chart.js: lines over steps, drawn on a canvas.

   A series is {name, colour, steps, values, marks}. values has null where a step has none; marks
   are steps that get a ring. Lengths here are in pixels of the canvas, of which a screen may have
   several for each pixel of the page. */

const SPARSE = 40;                      // a series of fewer values shows each as a point

const shortNumber = value => {
  const size = Math.abs(value);
  if (size >= 1e4) return (value / 1e3).toPrecision(3) + "k";
  if (size && size < 1e-3) return value.toExponential(0);
  return String(+value.toPrecision(3));
};

// The points of a series: [step, value] where it has a value.
const pointsOf = ({ steps, values }) =>
  values.map((value, i) => [steps[i], value]).filter(([, value]) => value !== null);

// Draw the series on the canvas of a figure, and name them above it.
function drawChart(figure, title, series) {
  const canvas = figure.querySelector("canvas");
  const shown = series.map(each => ({ ...each, points: pointsOf(each) }))
    .filter(each => each.points.length);
  if (!shown.length || !canvas.clientWidth) return;
  const pen = penFor(canvas);
  const plot = plotOf(pen, boundsOf(shown));
  drawAxes(pen, plot);
  for (const each of shown) {
    drawLine(pen, plot, each);
    drawMarks(pen, plot, each);
  }
  const last = ({ name, points }) => `${name} ${shortNumber(points.at(-1)[1])}`;
  figure.querySelector(".legend").replaceChildren(...shown.map(each =>
    make("span", { style: `color:${each.colour}` }, last(each))));
  canvas.ariaLabel = `${title}: ` + shown.map(describeSeries).join("; ");
}

// A series in words, for those who do not see it.
function describeSeries({ name, points }) {
  const [from, to] = [points[0], points.at(-1)];
  return `${name} from ${shortNumber(from[1])} at step ${from[0]} ` +
    `to ${shortNumber(to[1])} at step ${to[0]}`;
}

// The context of a canvas, cleared and as fine as the screen, with what drawing needs.
function penFor(canvas) {
  const scale = devicePixelRatio;
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  context.font = `${12 * scale}px system-ui, sans-serif`;
  return { context, scale, width: canvas.width, height: canvas.height,
    soft: style.getPropertyValue("color"), canvas };
}

// The least and the largest step and value of all series.
function boundsOf(series) {
  const bounds = { left: Infinity, right: -Infinity, low: Infinity, high: -Infinity };
  for (const { points } of series) {
    for (const [step, value] of points) {
      bounds.left = Math.min(bounds.left, step);
      bounds.right = Math.max(bounds.right, step);
      bounds.low = Math.min(bounds.low, value);
      bounds.high = Math.max(bounds.high, value);
    }
  }
  if (bounds.left === bounds.right) bounds.right += 1;
  if (bounds.low === bounds.high) bounds.high += Math.abs(bounds.low) * .1 || 1;
  return bounds;
}

// Where the plot lies on the canvas: the numbers of the axes stand beside it and below it.
function plotOf({ context, scale, width, height }, bounds) {
  const { left, right, low, high } = bounds;
  const numbers = [low, (low + high) / 2, high];
  const widths = numbers.map(value => context.measureText(shortNumber(value)).width);
  const x0 = Math.max(...widths) + 14 * scale;
  const x1 = width - 10 * scale;
  const y0 = height - 24 * scale;
  const y1 = 12 * scale;
  return { bounds, numbers, x0, x1, y0, y1,
    x: step => x0 + (step - left) / (right - left) * (x1 - x0),
    y: value => y0 + (value - low) / (high - low) * (y1 - y0) };
}

// Three numbers beside the plot with their lines, and the steps below it.
function drawAxes({ context, scale, soft, height }, plot) {
  const { bounds, numbers, x0, x1 } = plot;
  context.fillStyle = soft;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const value of numbers) {
    context.fillText(shortNumber(value), x0 - 6 * scale, plot.y(value));
    context.globalAlpha = .2;
    context.fillRect(x0, plot.y(value), x1 - x0, scale);
    context.globalAlpha = 1;
  }
  const below = height - 9 * scale;
  context.fillText(shortNumber(bounds.right), x1, below);
  context.textAlign = "left";
  context.fillText(shortNumber(bounds.left), x0, below);
  context.textAlign = "center";
  context.fillText("step", (x0 + x1) / 2, below);
}

// One stroke through the points. In each column of pixels it goes from the least to the largest.
function drawLine({ context, scale }, plot, { points, colour, canvasColour }) {
  context.strokeStyle = canvasColour ?? colour;
  context.lineWidth = 1.5 * scale;
  context.beginPath();
  for (const { column, low, high } of columnsOf(points, plot)) {
    context.lineTo(column, plot.y(low));
    context.lineTo(column, plot.y(high));
  }
  context.stroke();
}

// The columns of pixels that have points: {column, low, high}
function columnsOf(points, plot) {
  const columns = [];
  for (const [step, value] of points) {
    const column = Math.round(plot.x(step));
    const last = columns.at(-1);
    if (last?.column === column) {
      last.low = Math.min(last.low, value);
      last.high = Math.max(last.high, value);
    } else columns.push({ column, low: value, high: value });
  }
  return columns;
}

// A point for each value of a sparse series, and a ring at each marked step.
function drawMarks({ context, scale, canvas }, plot, { points, colour, canvasColour, marks }) {
  context.fillStyle = context.strokeStyle = canvasColour ?? colour;
  if (points.length < SPARSE)
    for (const [step, value] of points) circle(step, value, 2.5, "fill");
  for (const [step, value] of points)
    if (marks.includes(step)) circle(step, value, 5, "stroke");

  function circle(step, value, radius, how) {
    context.beginPath();
    context.arc(plot.x(step), plot.y(value), radius * scale, 0, 2 * Math.PI);
    context[how]();
  }
}
