"use strict";
/* words.js: what the parts of the walk are for, and what each array is, in a sentence. */

const ABOUT = {
  embedding: "The text in tokens. Each looks up its row of a table: that row is the beginning of "
    + "its residual stream, to which every block adds.",
  norm: "Each position's row is brought to one size, so that what reads it finds the same scale.",
  attention: "Each position asks (q) all positions up to itself (k), and takes a mean of what they "
    + "offer (v). Each head asks another question.",
  mlp: "Each position by itself: units that fire on what they find, and what they add.",
  lastNorm: "The stream after all blocks, brought to one size.",
  logits: "A number for each token of the vocabulary: how well its row of the table fits the "
    + "stream. Softmax makes of them the probabilities to come next.",
  loss: "How surprised the model is by the target, in nats: minus the logarithm of its "
    + "probability. From here on each number says how the loss grows with another.",
  logitsBack: "The gradient of a logit is its probability, less by one at the target. A step down "
    + "the gradient raises the target and lowers the others.",
  lastNormBack: "From what the logits read to the stream after all blocks.",
  partBack: "From the gradient of what it added to the gradient of what it read.",
  normBack: "What the norm read also went past it, so the stream's gradient is a sum of two.",
  embeddingBack: "A row of a table receives the gradients of all positions that looked it up.",
};

// A key is the end of an id.
const WORDS = {
  ids: "the numbers of the text's tokens",
  x: "the residual stream: what the model knows at each position so far",
  visible: "which positions (across) each position (down) may look at",
  angles: "how far each pair of channels is turned at each position",
  cos: "the cosines of the angles",
  sin: "the sines of the angles",

  mean: "the mean of each position's row",
  d: "how far each number is from its row's mean",
  variance: "how much each row varies about its mean",
  rstd: "one over each row's standard deviation",
  mean_square: "the mean square of each row",
  rrms: "one over the root mean square of each row",
  n: "the row, normalised: every position is on one scale",
  "ln_1.y": "what the attention of this block reads",
  "ln_2.y": "what the MLP of this block reads",
  "ln_f.y": "the last hidden state, which the logits are read from",
  "q_norm.y": "the queries, each brought to one length and scaled",
  "k_norm.y": "the keys, each brought to one length and scaled",

  qkv: "queries, keys and values of all heads, side by side",
  q: "queries: what each position looks for",
  k: "keys: what each position can be found by",
  v: "values: what each position gives to those that look at it",
  q_wide: "the queries of all heads, side by side",
  k_wide: "the keys of all heads, side by side",
  v_wide: "the values of all heads, side by side",
  q_wide_without_bias: "the queries before the bias is added",
  k_wide_without_bias: "the keys before the bias is added",
  v_wide_without_bias: "the values before the bias is added",
  y_without_bias: "the result before the bias is added",
  q_unturned: "the queries, before the position turns them",
  k_unturned: "the keys, before the position turns them",
  keys: "each head's keys: heads of a group share them",
  values: "each head's values: heads of a group share them",
  scores: "how well each query fits each key",
  s: "the scores, without those of later positions",
  largest: "the largest of each row, taken away so that exp cannot overflow",
  total: "the sum that makes probabilities of a row add up to 1",
  lse: "the logarithm of the softmax's sum",
  p: "attention: how much each position (down) takes from each other (across)",
  o: "the mean of the values, as attention weighs them",
  joined: "the results of all heads, side by side",
  "attn.y": "what attention adds to the stream",

  h: "the input of each unit of the MLP",
  t: "how far each unit is open, from -1 to 1",
  u: "what each unit gives: GELU of its input",
  gate: "what decides how far each unit is open",
  up: "what each unit would let through",
  sigmoid: "how far each unit is open, from 0 to 1",
  "mlp.y": "what the MLP adds to the stream",

  logits: "a score for each token of the vocabulary to come next",
  z: "the scores, the best one at 0",
  log_p: "the logarithm of each token's probability",
  "loss.p": "the probability of each token to come next",
  targets: "the token that should have come",
  weights: "how much each position counts in the loss",
  nll: "how surprised the model is by each target, in nats",
  "loss.loss": "what training makes smaller",
  onehot: "the probabilities as they should have been",

  dlogits: "what the loss wants: a smaller logit where this is positive",
  along_ones: "the part of dn that would shift the whole row: a norm takes shifts away",
  along_n: "the part of dn that would stretch the row: a norm takes stretches away",
  "ln_1.dx": "the gradient by what this norm read: added to the stream's",
  "ln_2.dx": "the gradient by what this norm read: added to the stream's",
  dt_dx: "the slope of tanh's part of GELU",
  dy_dx: "the slope of GELU at each unit's input",
  do_o: "the part of dp that would raise a whole row of p: softmax takes it away",
  dsilu: "the gradient by the gated part of each unit",
  dn_q: "the part of dn that came by the queries",
  dn_k: "the part of dn that came by the keys",
  dn_v: "the part of dn that came by the values",
  dn_gate: "the part of dn that came by the gates",
  dn_up: "the part of dn that came by the other matrix",
  "embedding.dwte": "the gradient of the table, as the text's tokens looked it up",
  dwte: "the gradient of the table, as the head",
};

// The sentence about a grid: of its id, of the end of its id, or that it is a gradient.
function wordsOf({ id, kind, of }) {
  const parts = id.split("."), ends = parts.map((_, n) => parts.slice(n).join("."));
  const found = ends.find(end => end in WORDS);
  if (found) return WORDS[found];
  if (kind === "parameter") return "learned in training";
  return of ? `how fast the loss grows with each number of ${of.id}` : "a part of a gradient";
}
