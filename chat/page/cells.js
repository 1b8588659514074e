"use strict";
/* cells.js: cells that are reached by keyboard: Tab goes into a box, arrows move within it.

   Of all cells in a box only one is a stop of Tab. Enter and Space are a click. */
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

// Make the cells of a box, the elements of a selector, move by arrows.
// columns(): how many stand in a row; Infinity where up and down mean the same as left and right.
function moveByArrows(box, selector, columns) {
  box.addEventListener("keydown", event => {
    const cells = [...box.querySelectorAll(selector)];
    const from = cells.indexOf(event.target.closest(selector));
    if (from < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return cells[from].click();
    }
    const to = cellAt(event.key, from, cells.length, columns());
    if (to === null) return;
    event.preventDefault();
    enter(cells, Math.max(0, Math.min(cells.length - 1, to)));
  });
}

// The place of the cell that a key leads to, or null if it leads nowhere.
function cellAt(key, from, count, columns) {
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  if (!STEPS[key]) return null;
  const [down, right] = STEPS[key];
  return from + right + down * (columns === Infinity ? 1 : columns);
}

// Focus a cell, which becomes the one that Tab stops at.
function enter(cells, place) {
  stopAt(cells, place);
  cells[place].focus();
}

function stopAt(cells, place) {
  cells.forEach((cell, i) => cell.tabIndex = i === place ? 0 : -1);
}
