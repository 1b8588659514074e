"use strict";
/* sheet.js: a grid of numbers as a picture, one pixel a number, and where in it a number lies.

   Colours: negative numbers are blue and darker than zero, positive ones orange and brighter. So
   the picture is readable in grey too, on light and dark paper. A number of three times the array's
   root mean square, or more, has the full colour. */

const SCALE = [[10, 32, 66], [38, 104, 178], [128, 136, 146], [232, 146, 50], [255, 226, 160]];
const SHADES = 255;                     // an odd number: the middle one is zero
const FULL = 3;                         // root mean squares of the full colour
const MOST_COLUMNS = 8192;              // of a canvas: browsers draw no wider ones

// The colours of -1 to 1 as pixels: a Uint32Array.
function coloursOf(scale) {
  const pixels = new Uint8ClampedArray(4 * SHADES);
  for (let i = 0; i < SHADES; i++) {
    const along = i / (SHADES - 1) * (scale.length - 1);
    const from = Math.min(scale.length - 2, Math.floor(along));
    for (let part = 0; part < 3; part++) {
      const [a, b] = [scale[from][part], scale[from + 1][part]];
      pixels[4 * i + part] = a + (b - a) * (along - from);
    }
    pixels[4 * i + 3] = 255;
  }
  return new Uint32Array(pixels.buffer);
}

const COLOURS = coloursOf(SCALE);

// The root of the mean square of the numbers of a grid that are finite.
function rmsOf(values) {
  let sum = 0, count = 0;
  for (const x of values)
    if (x - x === 0) {                  // neither infinite nor no number
      sum += x * x;
      count++;
    }
  return count ? Math.sqrt(sum / count) : 0;
}

// How a grid is laid out: positions go down, channels and units across, heads stand side by side.
// A tall matrix lies on its side.
class Sheet {
  constructor(grid) {
    this.grid = grid;
    const letters = grid.axes.map(axis => axis.letter), { shape } = grid;
    if (shape.length === 3) [this.block, this.row, this.column] = [0, 1, 2];
    else if (shape.length === 1)
      [this.row, this.column] = letters[0] === "T" ? [0, -1] : [-1, 0];
    else if (letters[0] === "NH") [this.row, this.column] = [1, 0];
    else [this.row, this.column] = shape[0] > 2.5 * shape[1] ? [1, 0] : [0, 1];
    this.block ??= -1;
    const size = axis => axis < 0 ? 1 : shape[axis];
    this.rows = size(this.row);
    this.across = size(this.column);                    // columns of a block
    this.blocks = size(this.block);
    this.columns = this.blocks * (this.across + 1) - 1; // one is left free between blocks
    this.isOnItsSide = shape.length === 2 && this.row === 1 && letters[0] !== "NH";
    const step = axis => axis < 0 ? 0 : shape.slice(axis + 1).reduce((a, b) => a * b, 1);
    this.steps = [this.row, this.column, this.block].map(step);     // in the grid's values
  }

  // [row, column] of a number.
  pixelOf(index) {
    const at = this.grid.coordinates(index), of = axis => axis < 0 ? 0 : at[axis];
    return [of(this.row), of(this.block) * (this.across + 1) + of(this.column)];
  }

  // The index of the number at a pixel; null between two blocks.
  indexAt(row, column) {
    if (row < 0 || row >= this.rows || column < 0 || column >= this.columns) return null;
    const block = Math.floor(column / (this.across + 1)), within = column % (this.across + 1);
    if (within === this.across) return null;
    return row * this.steps[0] + within * this.steps[1] + block * this.steps[2];
  }

  // Paint the numbers on a canvas, one pixel each. What is not finite stays transparent.
  paint(canvas) {
    this.full = FULL * rmsOf(this.grid.values);
    this.paintPart(canvas, 0, 0, this.rows, this.columns);
  }

  // Paint a part: so many rows and columns from a pixel on, which may lie outside. Where that are
  // more columns than a canvas can have, a pixel stands for several, and shows the strongest.
  paintPart(canvas, top, left, rows, columns) {
    const each = Math.ceil(columns / MOST_COLUMNS);
    canvas.width = Math.ceil(columns / each);
    canvas.height = rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, rows);
    const pixels = new Uint32Array(image.data.buffer);
    for (let row = 0, pixel = 0; row < rows; row++)
      for (let column = 0; column < columns; column += each, pixel++) {
        let x = this.numberAt(top + row, left + column);
        for (let next = column + 1; next < column + each; next++) {
          const other = this.numberAt(top + row, left + next);
          if (Math.abs(other) > Math.abs(x)) x = other;
        }
        if (x - x === 0) pixels[pixel] = this.colourOf(x);
      }
    context.putImageData(image, 0, 0);
  }

  // The number at a pixel; NaN where there is none.
  numberAt(row, column) {
    const index = this.indexAt(row, column);
    return index === null ? NaN : this.grid.values[index];
  }

  colourOf(x) {
    const middle = (SHADES - 1) / 2, share = this.full ? x / this.full : 0;
    return COLOURS[Math.round(middle * (1 + Math.max(-1, Math.min(1, share))))];
  }

  // Rectangles [row, column, rows, columns] that cover some numbers: one if they fill it.
  boxesOf(indices) {
    const pixels = [...new Set(indices)].map(index => this.pixelOf(index));
    const rows = pixels.map(([row]) => row), columns = pixels.map(([, column]) => column);
    const top = Math.min(...rows), left = Math.min(...columns);
    const height = Math.max(...rows) - top + 1, width = Math.max(...columns) - left + 1;
    if (height * width === pixels.length) return [[top, left, height, width]];
    return pixels.map(([row, column]) => [row, column, 1, 1]);
  }
}
