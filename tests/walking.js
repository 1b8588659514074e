"use strict";
/* walking.js: the passes of some texts, for tests/walking.py, under node.

   node walking.js FOLDER SCRIPT...     reads FOLDER/cases.json and FOLDER/weights,
                                        writes FOLDER/grids.json and FOLDER/values */
const fs = require("fs");
const vm = require("vm");

const [folder, ...scripts] = process.argv.slice(2);
for (const path of scripts) vm.runInThisContext(fs.readFileSync(path, "utf8"), path);
const { cases, formulas } = JSON.parse(fs.readFileSync(`${folder}/cases.json`));
const data = fs.readFileSync(`${folder}/weights`);
const made = [], output = [];
let offset = 0;

for (const { about, offset: first, targets, weights } of cases) {
  const bytes = data.buffer.slice(data.byteOffset + first);
  const forward = vm.runInThisContext("forwardPass")(
    vm.runInThisContext("modelOf")(about, new Float32Array(bytes, 0, bytes.byteLength >> 2)));
  const backward = vm.runInThisContext("backwardPass")(forward, targets, weights);
  const grids = [...forward.sections, ...backward.sections].flatMap(section => section.grids);
  made.push(grids.map(describe));
}
fs.writeFileSync(`${folder}/grids.json`, JSON.stringify(made));
fs.writeFileSync(`${folder}/values`, Buffer.concat(output));

// A grid as JSON, with the formulas of some of its numbers. Its values go to the output.
function describe(grid) {
  const { id, name, kind, shape, lines, formula } = grid;
  const found = { id, name, kind, shape, lines, formula, offset, formulas: [] };
  found.gradient = grid.gradient?.id;
  found.words = vm.runInThisContext("wordsOf")(grid);
  output.push(Buffer.from(Float64Array.from(grid.values).buffer));
  offset += grid.size;
  for (let n = 0; n < formulas; n++) {
    const index = (n * 7919 + grid.size - 1) % grid.size;       // spread, and the last one
    const tree = grid.explain(index);
    const write = most => vm.runInThisContext("spelledOut")(tree, most);
    if (tree !== null) found.formulas.push([index, write(8), write(Infinity)]);
  }
  return found;
}
