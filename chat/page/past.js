"use strict";
/* past.js: what was typed and read before, so that Undo brings back whatever a button replaced.

   A browser's own undo knows nothing of a text that a script has written. So a view that writes
   into a box keeps its states here, and takes Ctrl+Z into its own hands. */
class Past {
  constructor(most = 200) {
    this.states = [];
    this.now = -1;                      // the place of the state that is shown
    this.most = most;
  }

  // Remember a state {text, ids, ...}. What was undone before is dropped: the text goes another
  // way now. The same text is no new state, whatever else of it has changed.
  note(state) {
    const same = ({ text, ids }) => JSON.stringify([text, ids]);
    if (this.now >= 0 && same(state) === same(this.states[this.now])) {
      this.states[this.now] = state;
      return;
    }
    this.states = [...this.states.slice(0, this.now + 1), state].slice(-this.most);
    this.now = this.states.length - 1;
  }

  get canUndo() { return this.now > 0; }
  get canRedo() { return this.now < this.states.length - 1; }
  undo() { return this.states[--this.now]; }
  redo() { return this.states[++this.now]; }
}

// Whether a key asks for Undo or Redo: "undo", "redo" or null.
function undoOf(event) {
  if (!(event.ctrlKey || event.metaKey) || event.altKey) return null;
  const key = event.key.toLowerCase();
  if (key === "y") return "redo";
  if (key !== "z") return null;
  return event.shiftKey ? "redo" : "undo";
}
