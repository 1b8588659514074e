"""planted.py: do the tests find what they are there to find? Faults are planted; a test must fail.

A fault is a plausible mistake in one place: the first rows in place of one's own, a statistic of
another block, a factor that is missing. For each fault the tree is copied to a temporary folder,
the fault is written into the copy, and the test named beside it runs there. The test must fail,
and by a check of its own: a test that dies of a NameError, or cannot be collected, has checked
nothing. Without the fault the same test must pass. The checkout itself is only read.

    python tests/planted.py                         all faults, two at a time: prints a table
    python tests/planted.py --only NAME [NAME ...]  some of them
    python tests/planted.py --jobs 4                so many at a time

Exit code 0 when all are found, 1 when one is not, 2 when the table does not fit the code.
tests/cuda and tests/test_cuda_cpu.py do the same for the kernels.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "out", "__pycache__", ".pytest_cache", "*.tmp")
LIMIT_S = 300                   # for one test; the slowest takes 10 s


class Fault(NamedTuple):
    name: str
    file: str
    old: str                    # occurs exactly once in the file
    new: str
    test: str                   # arguments of pytest: a node id, or a file and -k EXPRESSION


FAULTS = [
    # ------------------------------------------------------- model/operations.py and model/walk.py
    Fault("embedding-forward-positions-of-the-first-row", "model/operations.py",
          "    x += wpe[positions.ravel()]\n",
          "    x += wpe[np.resize(positions[0], len(x))]\n",
          "tests/test_packing.py::test_packed_conversations_have_the_gradient_of_one_a_row"),
    Fault("embedding-backward-assigns", "model/operations.py",
          "    np.add.at(dtable, indices, dx)\n",
          "    dtable[indices] += dx\n",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("layernorm-forward-eps-outside-the-root", "model/operations.py",
          "1.0 / np.sqrt(y @ mean_of + eps)",
          "1.0 / (np.sqrt(y @ mean_of) + eps)",
          "tests/test_golden.py::test_logits"),
    Fault("layernorm-forward-plus-in-first-row", "model/operations.py",
          "        x += plus\n",
          "        x[:1] += plus[:1]\n",
          "tests/test_operations.py::test_what_plus_and_add_add"),
    Fault("layernorm-backward-rstd-of-first-row", "model/operations.py",
          "    d *= rstd\n",
          "    d *= rstd[:1]\n",
          "tests/test_operations.py::test_layernorm_grad"),
    Fault("layernorm-backward-plus-of-first-row", "model/operations.py",
          "0.0 if plus is None else plus,",
          "0.0 if plus is None else plus[0],",
          "tests/test_operations.py::test_what_plus_and_add_add"),
    Fault("layernorm-backward-mean-without-weight", "model/operations.py",
          "    mean_of_w = (w / dy.shape[1])[:, None] ",
          "    mean_of_w = np.full((dy.shape[1], 1), 1.0 / dy.shape[1], dy.dtype) ",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("linear-backward-bias-not-added", "model/operations.py",
          "        dw += x.T @ dy\n        db += ones @ dy\n",
          "        dw += x.T @ dy\n        db[...] = ones @ dy\n",
          "tests/test_operations.py::test_what_plus_and_add_add"),
    Fault("gelu-backward-without-the-three", "model/operations.py",
          "        d = s * (6.0 * GELU_K * GELU_C)\n",
          "        d = s * (2.0 * GELU_K * GELU_C)\n",
          "tests/test_operations.py::test_gelu_grad"),
    Fault("gelu-forward-slope-to-first-rows", "model/operations.py",
          "        np.add(d, s, out=slope_r)\n",
          "        np.add(d, s, out=slope[: len(d)])\n",
          "tests/test_operations.py::test_gelu_grad"),
    Fault("gelu-of-another-cubic-term", "model/operations.py",
          "0.7978845608028654, 0.044715 ",
          "0.7978845608028654, 0.044751 ",
          "tests/test_golden.py::test_logits"),
    Fault("mlp-backward-forgets-add", "model/walk.py",
          "        return ops.linear_backward(dy, x, p[weight], places, add)[0]\n",
          "        return ops.linear_backward(dy, x, p[weight], places)[0]\n",
          "tests/test_stages.py::test_what_a_block_adds"),
    Fault("attention-mask-one-too-late", "model/operations.py",
          "-np.inf, dtype), k=1)",
          "-np.inf, dtype), k=2)",
          "tests/test_fast.py::test_no_position_sees_what_comes_after_it"),
    Fault("attention-forward-o-to-first-sequences", "model/operations.py",
          "        o_heads = o[b].reshape(",
          "        o_heads = o[:len(q)].reshape(",
          "tests/test_operations.py::test_attention_grad"),
    Fault("attention-forward-lse-to-first-sequences", "model/operations.py",
          "out=lse[b, :, t0:t1])\n",
          "out=lse[:len(s), :, t0:t1])\n",
          "tests/test_operations.py::test_attention_grad"),
    Fault("attention-forward-hidden-of-first-sequences", "model/operations.py",
          "            _hide(s, t0, None if hidden is None else hidden[b])\n",
          "            _hide(s, t0, None if hidden is None else hidden[: len(s)])\n",
          "tests/test_operations.py::test_attention_grad_of_several_texts_in_a_row"),
    Fault("attention-backward-hidden-of-first-sequences", "model/operations.py",
          "            None if hidden is None else hidden[b],\n",
          "            None if hidden is None else hidden[: len(qkv[b])],\n",
          "tests/test_operations.py::test_attention_grad_of_several_texts_in_a_row"),
    Fault("attention-backward-lse-of-first-sequences", "model/operations.py",
          "heads(qkv[b], n_head), lse[b],\n",
          "heads(qkv[b], n_head), lse[: len(qkv[b])],\n",
          "tests/test_operations.py::test_attention_grad"),
    Fault("attention-backward-lse-of-first-queries", "model/operations.py",
          "        s -= lse[:, :, t0:t1] ",
          "        s -= lse[:, :, : t1 - t0] ",
          "tests/test_operations.py::test_attention_grad"),
    Fault("attention-backward-queries-not-scaled-back", "model/operations.py",
          "        np.multiply(ds @ k_t, scale, out=dq[:, :, t0:t1])\n",
          "        np.matmul(ds, k_t, out=dq[:, :, t0:t1])\n",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("attention-backward-values-of-last-queries-only", "model/operations.py",
          "            dv[:, :, :t1] += p.swap",
          "            p.swap",
          "tests/test_operations.py::test_attention_grad"),
    Fault("segments-hide-the-shared-beginning", "model/operations.py",
          "    seen = (segments[:, :, None] == segments[:, None]) | (segments[:, None] == 0)\n",
          "    seen = segments[:, :, None] == segments[:, None]\n",
          "tests/test_packing.py::test_prompts_that_are_shared_change_no_gradient"),
    Fault("segments-see-their-future", "model/operations.py",
          "np.where(seen & np.tri(T, dtype=bool), 0,",
          "np.where(seen, 0,",
          "tests/test_packing.py::test_packed_conversations_have_the_gradient_of_one_a_row"),
    Fault("cross-entropy-backward-scale-of-first-row", "model/operations.py",
          "    dz = np.multiply(e, scale, out=e)\n",
          "    dz = np.multiply(e, scale[:1], out=e)\n",
          "tests/test_operations.py::test_cross_entropy_grad"),
    Fault("cross-entropy-backward-target-without-weight", "model/operations.py",
          "targets] -= weights\n",
          "targets] -= np.abs(weights)\n",
          "tests/test_golden.py::test_losses_and_gradients"),

    # --------------------------------------------------------------------- model/fast.py: a step
    Fault("step-recomputes-from-the-block-before", "model/walk.py",
          "block_forward(ops, a[f\"x.{i}\"], None",
          "block_forward(ops, a[f\"x.{max(i - 1, 0)}\"], None",
          "tests/test_fast.py::test_recomputing_activations_changes_no_bit"),
    Fault("step-targets-of-first-rows", "model/fast.py",
          "cross_entropy_forward(z, targets[rows])",
          "cross_entropy_forward(z, targets[:len(rows)])",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("step-weights-of-first-rows", "model/fast.py",
          "cross_entropy_backward(weights[rows], cache)",
          "cross_entropy_backward(weights[:len(rows)], cache)",
          "tests/test_fast.py::test_blocks_and_threads_change_nothing_but_rounding"),
    Fault("head-forward-without-temperature", "model/fast.py",
          "        y /= temperature ",
          "        pass ",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("head-backward-without-temperature", "model/fast.py",
          "= dz @ wte / temperature\n",
          "= dz @ wte\n",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("head-weight-backward-without-temperature", "model/fast.py",
          "            np.matmul(y, wte.T, out=z)\n",
          "            np.matmul(y, wte.T, out=z)\n            y *= temperature\n",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("head-weight-backward-adds-one-block", "model/fast.py",
          "        for r in operations.row_blocks(dw):  ",
          "        for r in operations.row_blocks(dw)[:1]:  ",
          "tests/test_fast.py -k 'test_model_grad and add'"),
    Fault("head-weight-backward-last-block-of-logits-only", "model/fast.py",
          "            begun = True\n",
          "            pass\n",
          "tests/test_fast.py::test_what_grads_and_arena_held_before_does_not_matter"),
    Fault("loss-of-last-block-of-logits-only", "model/fast.py",
          "            loss += float(weights[rows] @ nll)\n",
          "            loss = float(weights[rows] @ nll)\n",
          "tests/test_fast.py::test_blocks_and_threads_change_nothing_but_rounding"),
    Fault("rows-of-weight-0-keep-their-hidden-states", "model/fast.py",
          '            step.a["y"][weights == 0.0] = 0.0 ',
          "            pass ",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("without-a-counted-row-wte-keeps-its-gradient", "model/fast.py",
          "[cfg.vocab_size if len(counted) else 0 :] = 0.0\n",
          "[cfg.vocab_size :] = 0.0\n",
          "tests/test_stages.py::test_a_step_without_weight_clears_the_gradients"),
    Fault("mean-over-ignored-targets-too", "model/checks.py",
          "        weights = counted / counted.sum()\n",
          "        weights = counted / counted.size\n",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("position-embeddings-by-column-of-the-row", "model/fast.py",
          "embedding_backward(dx, self.positions.ravel(), ",
          "embedding_backward(dx, np.resize(np.arange(4), len(dx)), ",
          "tests/test_packing.py::test_packed_conversations_have_the_gradient_of_one_a_row"),
    Fault("token-losses-without-temperature", "model/fast.py",
          "of_step, None, temperature)",
          "of_step, None, 1.0)",
          "tests/test_golden.py::test_losses_and_gradients"),
    Fault("token-losses-targets-of-first-rows", "model/fast.py",
          "        of_step = targets[rows].ravel()\n",
          "        of_step = targets[: rows.stop - rows.start].ravel()\n",
          "tests/test_fast.py::test_losses_are_those_of_the_logits"),
    Fault("hidden-and-grads-leaves-out-other-threads", "model/fast.py",
          "                grads[name] += of_rows\n",
          "                pass\n",
          "tests/test_fast.py::test_hidden_grad"),
    Fault("hidden-and-grads-of-first-rows", "model/fast.py",
          '        step.a["y"][...] = dy[part(len(tokens))].reshape(',
          '        step.a["y"][...] = dy[: len(step.tokens)].reshape(',
          "tests/test_fast.py::test_hidden_grad"),
    Fault("hidden-and-grads-overwrites-what-is-added-to", "model/fast.py",
          "        step.backward(mine, add and part.index == 0)\n",
          "        step.backward(mine, False)\n",
          "tests/test_fast.py::test_hidden_grad"),
    Fault("hidden-and-grads-overwrites-wte", "model/fast.py",
          '        grads["wte.weight"] += dwte\n',
          '        grads["wte.weight"][...] = dwte\n',
          "tests/test_objectives.py::test_exact_kl_through_the_model"),
    Fault("init-projections-not-scaled-by-depth", "gpt.py",
          '        std = 0.02 / (2 * cfg.n_layer) ** 0.5 if "c_proj" in name else 0.02\n',
          '        std = 0.02\n',
          "tests/test_stages.py::test_fresh_parameters"),

    # ------------------------------------------------------------------ model/fast.py: generation
    Fault("decode-row-parts-all-begin-at-row-0", "model/fast.py",
          "            some = cache.rows(at)\n",
          "            some = cache.rows(slice(0, at.stop - at.start))\n",
          "tests/test_fast.py::test_cached_decoding_equals_the_full_forward"),
    Fault("decode-n_new-of-first-rows", "model/fast.py",
          "some, n_new[at], 1)",
          "some, n_new[: at.stop - at.start], 1)",
          "tests/test_fast.py::test_cached_decoding_equals_the_full_forward"),
    Fault("decode-head-second-block-of-columns", "model/fast.py",
          "out=logits[:, at])",
          "out=logits[:, mine.start : mine.start + at.stop - begin])",
          "tests/test_golden.py::test_logits_of_decode"),
    Fault("decode-projection-rows-of-first-heads", "model/fast.py",
          "[heads.start * HS : heads.stop * HS]",
          "[: (heads.stop - heads.start) * HS]",
          "tests/test_golden.py::test_logits_of_decode"),
    Fault("decode-bias-of-first-hidden-units", "model/fast.py",
          'p["mlp.c_fc.bias"][at]\n',
          'p["mlp.c_fc.bias"][: at.stop - at.start]\n',
          "tests/test_golden.py::test_logits_of_decode"),
    Fault("decode-values-of-first-heads", "model/fast.py",
          "np.matmul(s, v_cache[:, heads, :S]",
          "np.matmul(s, v_cache[:, :heads.stop - heads.start, :S]",
          "tests/test_golden.py::test_logits_of_decode"),
    Fault("decode-single-tokens-see-places-not-yet-used", "model/fast.py",
          "            if later.any():\n",
          "            if T > 1:\n",
          "tests/test_fast.py::test_cached_decoding_equals_the_full_forward"),
    Fault("decode-last-query-of-a-block-does-not-see-itself", "model/fast.py",
          "            S = int(at.max()) + 1\n",
          "            S = max(int(at.max()), 1)\n",
          "tests/test_fast.py::test_cached_decoding_equals_the_full_forward"),
    Fault("decode-padding-written-into-the-cache", "model/fast.py",
          "np.nonzero(np.arange(T) < n_new[:, None])",
          "np.nonzero(np.ones((B, T)))",
          "tests/test_fast.py::test_padding_never_lands_on_a_token_of_the_cache"),
    Fault("decode-last-column-and-not-last-counted", "model/fast.py",
          "[np.arange(B), self.n_new - 1]",
          "[np.arange(B), T - 1]",
          "tests/test_fast.py::test_padding_never_lands_on_a_token_of_the_cache"),
    Fault("decode-padding-counts-as-length", "model/fast.py",
          "    cache.length += n_new\n",
          "    cache.length += tokens.shape[1]\n",
          "tests/test_fast.py::test_cached_decoding_equals_the_full_forward"),
    Fault("decode-looks-as-far-as-the-shortest-row", "model/fast.py",
          "        self.S = min(int(cache.length.max()) + T, room)",
          "        self.S = min(int(cache.length.min()) + T, room)",
          "tests/test_fast.py::test_cached_decoding_equals_the_full_forward"),

    # ------------------------------------------------------------------------------------- train.py
    Fault("adamw-no-correction-of-the-second-moment", "train.py",
          "            v_corrected = v / (1.0 - self.beta2 ** self.t)\n",
          "            v_corrected = v\n",
          "tests/test_golden.py::test_ten_steps"),
    Fault("adamw-decays-all", "train.py",
          "            decay = self.weight_decay if p.ndim >= 2 else 0.0\n",
          "            decay = self.weight_decay\n",
          "tests/test_adamw.py::test_the_definition_by_hand"),
    Fault("adamw-second-moment-of-unclipped-gradients", "train.py",
          "            v += (1.0 - self.beta2) * (g * g - v)\n",
          "            v += (1.0 - self.beta2) * (grads[name] ** 2 - v)\n",
          "tests/test_golden.py::test_ten_steps"),
    Fault("clipping-forgotten", "train.py",
          "        optimizer.step(grads, lr, scale)\n",
          "        optimizer.step(grads, lr)\n",
          "tests/test_golden.py::test_ten_steps"),
    Fault("clipping-by-the-square", "train.py",
          "    return math.sqrt(squares)\n",
          "    return squares\n",
          "tests/test_golden.py::test_ten_steps"),
    Fault("schedule-first-rate-is-0", "train.py",
          "        return recipe.lr * (step + 1) / recipe.warmup\n",
          "        return recipe.lr * step / recipe.warmup\n",
          "tests/test_golden.py::test_ten_steps"),
    Fault("schedule-cosine-as-long-as-the-run", "train.py",
          "(step - recipe.warmup) / max(1, recipe.steps - recipe.warmup) ",
          "(step - recipe.warmup) / max(1, recipe.steps) ",
          "tests/test_golden.py::test_ten_steps"),
    Fault("schedule-down-to-0", "train.py",
          "    return recipe.min_lr + (recipe.lr - recipe.min_lr) * remaining\n",
          "    return recipe.lr * remaining\n",
          "tests/test_train.py::test_schedule_and_clipping"),
    Fault("schedule-not-in-the-identity", "train.py",
          '    flat["schedule"] = ',
          "    _ = ",
          "tests/test_resume.py::test_resuming_with_another_schedule_is_an_error"),
    Fault("windows-same-order-in-every-epoch", "train.py",
          "np.random.default_rng((self.seed, epoch))\n",
          "np.random.default_rng(self.seed)\n",
          "tests/test_train.py::test_windows_visit_everything_once_an_epoch_and_need_no_memory"),
    Fault("windows-order-of-the-epoch-asked-first", "train.py",
          "            if epoch != self.epoch:\n",
          "            if self.epoch is None:\n",
          "tests/test_train.py::test_windows_visit_everything_once_an_epoch_and_need_no_memory"),
    Fault("windows-overlap", "train.py",
          "offset + self.T * np.arange(len(shard) // self.T - 1)",
          "offset + (self.T - 1) * np.arange(len(shard) // self.T - 1)",
          "tests/test_train.py::test_windows_visit_everything_once_an_epoch_and_need_no_memory"),
    Fault("micro-batches-see-the-same-rows", "train.py",
          "        inputs = rows[i:i + micro_batch, :-1]\n"
          "        targets = rows[i:i + micro_batch, 1:]\n",
          "        inputs = rows[:len(rows[i:i + micro_batch]), :-1]\n"
          "        targets = rows[:len(rows[i:i + micro_batch]), 1:]\n",
          "tests/test_train.py::test_micro_batches_do_not_change_the_step"),
    Fault("micro-batches-each-a-mean", "train.py",
          "np.full(targets.shape, 1.0 / n_tokens)",
          "np.full(targets.shape, 1.0 / targets.size)",
          "tests/test_train.py::test_micro_batches_do_not_change_the_step"),
    Fault("a-step-reads-the-first-rows-again", "train.py",
          "windows.rows(step * recipe.batch, recipe.batch)",
          "windows.rows((step - stage.done) * recipe.batch, recipe.batch)",
          "tests/test_resume.py::test_a_run_goes_on_with_the_bits_it_would_have_had"),
    Fault("a-skipped-step-counts-as-an-update", "train.py",
          "    if not reason:\n        optimizer.step(",
          "    if reason:\n        optimizer.t += 1\n    else:\n        optimizer.step(",
          "tests/test_train.py::test_a_step_that_is_not_finite_is_skipped_and_ten_are_too_many"),

    # ----------------------------------------------------------------- model/adamw.py, parallel.py
    Fault("fast-adamw-no-root-in-the-second-correction", "model/adamw.py",
          "math.sqrt(1.0 - b2 ** self.t)",
          "1.0 - b2 ** self.t",
          "tests/test_adamw.py::test_it_equals_the_definition"),
    Fault("fast-adamw-eps-not-corrected", "model/adamw.py",
          "        d += c2 * self.eps\n",
          "        d += self.eps\n",
          "tests/test_adamw.py::test_it_equals_the_definition"),
    Fault("fast-adamw-counts-to-1", "model/adamw.py",
          "        self.t += 1\n",
          "        self.t = max(1, self.t)\n",
          "tests/test_golden.py::test_ten_steps"),
    Fault("adamw-decays-biases-and-norms", "model/adamw.py",
          "lr * self.weight_decay if self.params[name].ndim >= 2 else 0.0\n",
          "lr * self.weight_decay\n",
          "tests/test_golden.py::test_ten_steps"),
    Fault("fast-adamw-decay-without-rate", "model/adamw.py",
          "decay = lr * self.weight_decay if",
          "decay = 0.01 * self.weight_decay if",
          "tests/test_golden.py::test_ten_steps"),
    Fault("fast-adamw-decays-after-the-update", "model/adamw.py",
          "        if decay:\n            p *= 1.0 - decay\n        p -= d\n",
          "        p -= d\n        if decay:\n            p *= 1.0 - decay\n",
          "tests/test_golden.py::test_ten_steps"),
    Fault("fast-adamw-leaves-out-the-last-short-block", "model/adamw.py",
          "            for start in range(0, p.size, BLOCK):\n",
          "            for start in range(0, max(1, p.size - BLOCK + 1), BLOCK):\n",
          "tests/test_adamw.py::test_it_does_not_depend_on_its_block_size"),
    Fault("micro-batches-last-gradient-only", "model/parallel.py",
          "own.append(self.ranks[0](shares[0], self.added))",
          "own.append(self.ranks[0](shares[0], False))",
          "tests/test_golden.py::test_ten_steps"),
    Fault("processes-add-what-is-left-of-an-earlier-batch", "model/parallel.py",
          "        self._add_up(self.flat_of_others[:n - 1])\n",
          "        self._add_up(self.flat_of_others)\n",
          "tests/test_parallel.py::test_processes_add_up_to_the_whole_batch"),
    Fault("processes-add-one-block", "model/parallel.py",
          "range(mine.start, mine.stop, operations.BLOCK_FLOATS):\n",
          "range(mine.start, mine.start + 1, operations.BLOCK_FLOATS):\n",
          "tests/test_parallel.py::test_processes_add_up_to_the_whole_batch"),
    Fault("processes-loss-of-the-first", "model/parallel.py",
          "        return sum(losses)\n",
          "        return losses[0]\n",
          "tests/test_golden.py::test_ten_steps"),
    Fault("gradients-not-cleared", "model/parallel.py",
          "        self.added = False\n\n    def add(",
          "        pass\n\n    def add(",
          "tests/test_golden.py::test_ten_steps"),

    # ------------------------------------------------------------------------------ model/resume.py
    Fault("resume-forgets-the-count-of-updates", "model/resume.py",
          '    optimizer.t = int(about["adamw.t"])\n',
          "",
          "tests/test_resume.py::test_a_run_goes_on_with_the_bits_it_would_have_had"),
    Fault("resume-forgets-how-many-steps-were-skipped", "model/resume.py",
          '    optimizer.skipped = int(about["adamw.skipped"])\n',
          "",
          "tests/test_resume.py::test_a_kill_does_not_forget_how_many_steps_were_skipped"),
    Fault("resume-forgets-the-second-moments", "model/resume.py",
          '        arrays[f"adamw.v.{name}"] = optimizer.v[name]\n',
          "        pass\n",
          "tests/test_resume.py::test_a_run_goes_on_with_the_bits_it_would_have_had"),
    Fault("log-keeps-the-steps-after-the-checkpoint", "model/resume.py",
          '                if entry["step"] > step:\n',
          '                if entry["step"] < 1:\n',
          "tests/test_resume.py::test_a_run_goes_on_with_the_bits_it_would_have_had"),

    # -------------------------------------------------------------- sample.py: the mask and drawing
    Fault("mask-leaves-out-the-end-of-a-reply", "sample.py",
          '        add([special(tokenizer, "<|im_end|>")], own)\n',
          '        add([special(tokenizer, "<|im_end|>")], False)\n',
          "tests/test_sample.py::test_render_token_by_token"),
    Fault("mask-learns-what-tools-wrote", "sample.py",
          'add(tokens, own and part["type"] != "output")\n',
          'add(tokens, own)\n',
          "tests/test_sample.py::test_render_token_by_token"),
    Fault("temperature-times-logits", "sample.py",
          "z = (z - z.max()) / temperature\n",
          "z = (z - z.max()) * temperature\n",
          "tests/test_sample.py::test_probabilities"),
    Fault("top-p-keeps-one-more", "sample.py",
          "p[order[before >= top_p]] = 0.0",
          "p[order[before > top_p]] = 0.0",
          "tests/test_sample.py::test_probabilities"),
    Fault("top-p-before-top-k", "sample.py",
          "    p = np.exp(z)\n    p /= p.sum()\n",
          "    p = np.exp(z)\n",
          "tests/test_sample.py::test_when_the_order_of_the_steps_matters"),
    Fault("draw-may-hit-a-token-without-probability", "sample.py",
          "(ends <= u * ends[-1])",
          "(ends < u * ends[-1])",
          "tests/test_sample.py::test_draw_hits_each_token_as_often_as_it_should"),
    Fault("a-call-that-has-ended-is-answered-again", "sample.py",
          "    if end in call: ",
          "    if end in call[:0]: ",
          "tests/test_sample.py::test_a_call_is_answered_once"),

    # ------------------------------------------------------------------- chat/generate.py: batches
    Fault("temperature-of-the-first-row-for-all", "chat/generate.py",
          "        z /= np.where(temperature == 0, 1.0, temperature)[:, None]\n",
          "        z /= np.where(temperature == 0, 1.0, temperature)[0]\n",
          "tests/test_generate.py::test_each_row_has_its_own_settings"),
    Fault("draw-in-a-batch-may-hit-a-token-without-probability", "chat/generate.py",
          "(total <= u[:, None] * total[:, -1:])",
          "(total < u[:, None] * total[:, -1:])",
          "tests/test_stages.py::test_draw_never_hits_a_token_without_probability"),
    Fault("rows-of-a-batch-share-their-chance", "chat/generate.py",
          "np.random.default_rng((settings.seed, stream))",
          "np.random.default_rng(settings.seed)",
          "tests/test_sample.py::test_same_seed_same_text_whatever_the_batch"),
    Fault("copied-prompts-get-the-first-logits", "chat/generate.py",
          "np.concatenate([logits, logits[sources]])",
          "np.concatenate([logits, logits[np.arange(len(copies)) % len(logits)]])",
          "tests/test_stages.py::test_a_reply_is_the_same_whoever_comes_and_goes"),
    Fault("rows-that-stay-get-the-first-logits", "chat/generate.py",
          "self.logits = self.logits[kept]",
          "self.logits = self.logits[:len(kept)]",
          "tests/test_stages.py::test_a_reply_is_the_same_whoever_comes_and_goes"),

    # ----------------------------------------------------------------------- align.py and its rooms
    Fault("loss-mask-not-shifted", "align.py",
          "        values[r, :n] = value[1:]\n",
          "        values[r, :n] = value[:-1]\n",
          "tests/test_align.py::test_rows_line_up_targets_with_weights"),
    Fault("loss-a-mean-of-each-conversation", "align.py",
          "    return mask / max(mask.sum(), 1.0)\n",
          "    return mask / np.maximum(mask.sum(1, keepdims=True), 1.0) / len(mask)\n",
          "tests/test_packing.py::test_packed_conversations_have_the_gradient_of_one_a_row"),
    Fault("packed-replies-at-positions-from-0", "chat/packing.py",
          "np.arange(begin, begin + n)",
          "np.arange(n)",
          "tests/test_packing.py::test_prompts_that_are_shared_change_no_gradient"),
    Fault("packed-texts-see-the-text-before", "chat/packing.py",
          "            segments[place] = segment\n",
          "            segments[place] = 1\n",
          "tests/test_packing.py::test_packed_conversations_have_the_gradient_of_one_a_row"),
    Fault("policy-learns-what-tools-wrote", "align.py",
          "of_prompt + reply.sampled)",
          "of_prompt + [1] * len(reply.ids))",
          "tests/test_align.py::test_the_policy_gradient_is_that_of_the_surrogate"),
    Fault("advantages-across-groups", "align.py",
          "    r = np.asarray(rewards, np.float64).reshape(-1, group)\n",
          "    r = np.asarray(rewards, np.float64).reshape(group, -1).T\n",
          "tests/test_objectives.py::test_advantages"),
    Fault("advantages-rloo-without-its-factor", "chat/variants.py",
          "a * (a.shape[1] / (a.shape[1] - 1))",
          "a * ((a.shape[1] - 1) / a.shape[1])",
          "tests/test_objectives.py::test_advantages"),
    Fault("normaliser-of-replies-by-their-mean-length", "chat/variants.py",
          "    length = np.maximum(sampled.sum(1, keepdims=True), 1.0)\n",
          "    length = np.maximum(sampled.sum(1, keepdims=True).mean(), 1.0)\n",
          "tests/test_objectives.py::test_normalisers"),
    Fault("leash-pushes-away", "align.py",
          "        d = np.clip(log_p_reference - log_p, -FAR, FAR)\n",
          "        d = np.clip(log_p - log_p_reference, -FAR, FAR)\n",
          "tests/test_stages.py::test_the_gradient_of_a_rollout"),
    Fault("leash-tied-to-the-model-itself", "chat/tuning.py",
          "        return {name: p.copy() for name, p in params.items()}\n",
          "        return params\n",
          "tests/test_align.py::test_dpo"),
    Fault("reward-forgotten-in-the-identity", "chat/rollouts.py",
          '    identity["reward"] = [name, tuning.source_digest(reward)]\n',
          '    identity["reward"] = [name]\n',
          "tests/test_tuning.py::test_an_edited_reward_does_not_resume"),
    Fault("cut-off-replies-earn", "align.py",
          "    return np.array(right) & rollout.ended\n",
          "    return np.array(right)\n",
          "tests/test_align.py::test_what_replies_earn"),
    Fault("dpo-without-beta-in-its-gradient", "align.py",
          "    u = beta * sigmoid(",
          "    u = sigmoid(",
          "tests/test_objectives.py::test_weights_are_the_gradient_through_the_model"),
    Fault("dpo-rejected-replies-without-sign", "align.py",
          "    weights[1::2] = -u[:, None]",
          "    weights[1::2] = +u[:, None]",
          "tests/test_objectives.py::test_weights_are_the_gradient_through_the_model"),
    Fault("dpo-mean-over-rows-and-not-pairs", "align.py",
          "sigmoid(-beta * delta) / len(delta)\n",
          "sigmoid(-beta * delta) / len(mask)\n",
          "tests/test_objectives.py::test_weights_are_the_gradient_through_the_model"),
    Fault("preferences-by-pairs-and-not-prompts", "align.py",
          "1.0 / (len(better) * len(different))\n",
          "1.0 / len(different)\n",
          "tests/test_objectives.py::test_preferences"),
    Fault("reward-head-reads-the-padding", "chat/judges.py",
          "[len(ids) - 1 for ids in rows])\n",
          "-1)\n",
          "tests/test_judges.py::test_the_gradient_of_a_reward_model"),
    Fault("reward-head-keeps-the-gradient-of-the-step-before", "chat/judges.py",
          "total + dvector if gradients.added else dvector\n",
          "total + dvector\n",
          "tests/test_judges.py::test_the_gradient_of_a_reward_model"),
    Fault("reward-head-gradient-of-the-last-part-only", "chat/judges.py",
          "gradients.sum, gradients.added, gradients.arena)",
          "gradients.sum, False, gradients.arena)",
          "tests/test_judges.py::test_the_gradient_of_a_reward_model"),
    Fault("replay-weight-forgotten", "align.py",
          "    each = recipe.replay_weight / targets.size\n",
          "    each = 1.0 / targets.size\n",
          "tests/test_stages.py::test_a_step_of_sft_is_what_it_says"),
    Fault("fine-tuning-decays-the-weights", "chat/tuning.py",
          "recipe.beta2, weight_decay=0.0)",
          "recipe.beta2)",
          "tests/test_stages.py::test_fine_tuning_decays_nothing"),
    Fault("conversations-same-order-in-every-epoch", "chat/lessons.py",
          "np.random.default_rng((self.seed, epoch))",
          "np.random.default_rng(self.seed)",
          "tests/test_lessons.py::test_every_conversation_comes_once_an_epoch"),
    # ------------------------------------------------------------------------------ bpe.py, tokens/
    Fault("merge-joins-the-highest-rank", "bpe.py",
          "rank, i = min(found)",
          "rank, i = max(found)",
          "tests/test_bpe.py::test_published_examples"),
    Fault("training-counts-every-piece-once", "bpe.py",
          "pairs[left, right] += count ",
          "pairs[left, right] += 1 ",
          "tests/test_bpe.py::test_published_examples"),
    Fault("heap-merge-trusts-old-entries", "tokens/encoder.py",
          "if rank_at[i] != rank:",
          "if rank_at[i] is None:",
          "tests/test_encoder.py -k 'test_the_fast_twin_equals_its_definition and check_merge'"),
    Fault("merge-all-forgets-the-pair-before", "tokens/encoder.py",
          "flat_lowest[previous] = rank[len(column):] | previous_row",
          "flat_lowest[previous] = never",
          "tests/test_encoder.py "
          "-k 'test_the_fast_twin_equals_its_definition and check_merge_all'"),
    Fault("new-ids-overwrite-the-pool", "tokens/encoder.py",
          "len(self.pool) + np.cumsum(count) - count",
          "np.cumsum(count) - count",
          "tests/test_encoder.py -k 'test_the_fast_twin_equals_its_definition and check_encode'"),
    Fault("training-merges-a-run-at-every-place", "tokens/trainer.py",
          "place_in_run(~in_run) % 2 == 0",
          "place_in_run(~in_run) % 2 < 2",
          "tests/test_encoder.py -k 'test_the_fast_twin_equals_its_definition and check_train'"),
    Fault("the-fast-trainer-forgets-the-rule-about-tokens", "tokens/trainer.py",
          "if not bpe.may_be_token(token):",
          "if not token:",
          "tests/test_bpe.py -k test_a_rule_about_tokens_holds_for_both_trainers"),
    Fault("the-plain-trainer-forgets-the-rule-about-tokens", "bpe.py",
          "for pair in pairs if rule(tokens[pair[0]] + tokens[pair[1]])]",
          "for pair in pairs]",
          "tests/test_bpe.py -k test_a_rule_about_tokens_holds_for_both_trainers"),
    Fault("training-believes-an-old-count", "tokens/trainer.py",
          "if count < -bound:",
          "if count < -bound - 1:",
          "tests/test_encoder.py -k 'test_the_fast_twin_equals_its_definition and check_train'"),
    Fault("the-last-of-equal-keys-is-the-first", "tokens/hashtable.py",
          "self.number[slot[todo]] < 0][::-1]",
          "self.number[slot[todo]] < 0]",
          "tests/test_hashtable.py::test_keys_that_share_a_home"),
    Fault("a-search-ends-at-another-key", "tokens/hashtable.py",
          "rest = np.flatnonzero(other & (number >= 0))",
          "rest = np.flatnonzero(other & (number > 9))",
          "tests/test_hashtable.py::test_keys_that_share_a_home"),
    Fault("a-mark-behind-a-space-goes-with-the-word", "tokens/pieces.py",
          " & ((before2 & BLANK) == 0)\n",
          "\n",
          "tests/test_pieces.py::test_short_texts_are_cut_as_the_pattern_cuts"),
    Fault("long-tokens-are-written-over", "tokens/decoder.py",
          "words[begin[long] + 8] = high",
          "words[begin[long]] = high",
          "tests/test_encoder.py -k 'test_the_fast_twin_equals_its_definition and check_decode'"),
    Fault("names-of-special-tokens-pass", "tokens/added.py",
          "disallowed = every - allowed if",
          "disallowed = every - every if",
          "tests/test_added.py::test_special_token_rules"),
    Fault("one-per-cent-more-for-validation", "tokens/shards.py",
          "percent < val_percent",
          "percent <= val_percent",
          "tests/test_shards.py::test_train_and_encode_commands"),
    Fault("merges-in-any-order-are-read", "tokens/huggingface.py",
          "if products != sorted(products):",
          "if not products:",
          "tests/test_huggingface.py::test_unsupported_json_is_refused_by_name"),
    # ------------------------------------------------------------------------ data.py and its rooms
    Fault("c4-wants-four-words-in-a-line", "data.py",
          "        if len(pieces) < 3 or (",
          "        if len(pieces) < 4 or (",
          "tests/test_data.py::test_c4_lines"),
    Fault("sentence-begins-with-a-mark", "web/words.py",
          "            elif ended and not is_punctuation(word):",
          "            elif ended:",
          "tests/test_words.py::test_count_sentences"),
    Fault("top-ngram-any-of-equals", "web/quality.py",
          "            i = int((nearest == numbers).argmax())",
          "            i = int((numbers == most[0]).argmax())",
          "tests/test_data.py::test_the_words_of_a_text_are_counted_alike"),
    Fault("duplicate-ngrams-do-not-jump", "web/quality.py",
          "                    chars, free = chars + len(n_gram), i + n",
          "                    chars, free = chars + len(n_gram), i + 1",
          "tests/test_data.py::test_duplicate_ngrams_scan"),
    Fault("signature-of-the-last-block", "web/dedup.py",
          "            np.minimum(row, u.min(0), out=row)",
          "            row[:] = u.min(0)",
          "tests/test_dedup.py::test_signature_is_the_minimum_over_shingles_in_any_blocks"),
    Fault("clusters-forget-earlier-bands", "web/dedup.py",
          "            low = np.minimum(root[left], root[right])",
          "            low = np.minimum(left, right)",
          "tests/test_dedup.py::test_union_in_any_order_agrees_with_a_plain_search"),
    Fault("email-leaves-its-domain", "web/pii.py",
          "            done = behind_at.end()",
          "            done = at",
          "tests/test_pii.py::test_redact"),
    Fault("duplicates-keep-their-bytes-in-the-funnel", "web/pipeline.py",
          "                    doc[\"trail\"][-1][2] = 0",
          "                    doc[\"trail\"][-1][1] = 0",
          "tests/test_pipeline.py::test_pipeline_end_to_end"),
]


class Outcome(NamedTuple):
    verdict: str                # passed, failed (by a check), or what else became of the test
    seconds: float


# What pytest says of a test that failed by a check of its own, not of an error before it.
CHECKED = re.compile(r"^FAILED \S.*? - (assert|AssertionError|Failed: )", re.M)


def copy_tree(to, tree=ROOT):
    shutil.copytree(tree, to, ignore=LEFT_OUT)


def run_test(folder, test):
    """Run a test in a copy of the tree. -> Outcome"""
    begun = time.monotonic()
    env = {**os.environ, "COLUMNS": "1000"}             # pytest cuts its summary to this width
    options = ["-x", "-q", "-rf", "--tb=short", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *shlex.split(test)]
    try:
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True,
                              timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return Outcome(f"not done after {LIMIT_S} s", time.monotonic() - begun)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:] or "no output"]
    if done.returncode == 0 and re.search(r"\b[1-9]\d* passed", lines[-1]):
        verdict = "passed"
    elif done.returncode == 1 and CHECKED.search(done.stdout):
        verdict = "failed"
    else:                                               # an error, nothing collected, all skipped
        said = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
        verdict = f"exit code {done.returncode}: {(said or lines)[-1]}"
    return Outcome(verdict, time.monotonic() - begun)


def broken_text(folder, fault):
    """The text of the fault's file with the fault in it.

    ValueError when its place is not there exactly once.
    """
    text = (folder / fault.file).read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.name}: its place occurs {text.count(fault.old)} times in "
                         f"{fault.file}, expected once: {fault.old!r}")
    return text.replace(fault.old, fault.new)


def try_fault(whole, fault):
    """Plant a fault in a copy of a tree and run its test there. -> Outcome"""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        broken = Path(folder) / "tree"
        shutil.copytree(whole, broken)
        path = broken / fault.file
        path.write_text(broken_text(broken, fault), encoding="utf-8")
        # Python tells whether this is up to date by the second and the size of the source.
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()
        return run_test(broken, fault.test)


def run(faults, jobs=2, say=print, tree=ROOT):
    """Plant each fault and say a line for it.

    Returns the names of those that are not found. A test that fails anyway finds none.
    """
    missed = []
    tests = list(dict.fromkeys(fault.test for fault in faults))
    pool = ThreadPoolExecutor(jobs)
    with tempfile.TemporaryDirectory(prefix="planted-") as folder, pool:
        whole = Path(folder) / "tree"
        copy_tree(whole, tree)
        for fault in faults:                            # a place that is not there is said at once
            broken_text(whole, fault)
        without = dict(zip(tests, pool.map(lambda test: run_test(whole, test), tests)))
        width = max(len(fault.name) for fault in faults)
        outcomes = pool.map(lambda fault: try_fault(whole, fault), faults)
        for fault, outcome in zip(faults, outcomes):
            verdict = "found" if outcome.verdict == "failed" else f"NOT FOUND: {outcome.verdict}"
            if without[fault.test].verdict != "passed":
                verdict = f"NOT FOUND: without the fault too, {without[fault.test].verdict}"
            if verdict != "found":
                missed.append(fault.name)
            test = fault.test.removeprefix("tests/")
            say(f"{fault.name:{width}}  {fault.file:13} {outcome.seconds:5.1f} s  "
                f"{verdict}  {test}")
    return missed


def parse_args(argv=None):
    p = argparse.ArgumentParser(description="Plant faults in copies of the code.")
    p.add_argument("--only", nargs="+", metavar="NAME", help="faults to plant (default: all)")
    p.add_argument("--jobs", type=int, default=2, help="tests at a time (default: 2)")
    return p.parse_args(argv)


def main(argv=None):
    args, begun = parse_args(argv), time.monotonic()
    unknown = set(args.only or ()) - {fault.name for fault in FAULTS}
    if unknown:
        names = ", ".join(fault.name for fault in FAULTS)
        raise ValueError(f"no fault is called {', '.join(sorted(unknown))}; "
                         f"expected some of {names}")
    if args.jobs < 1:
        raise ValueError(f"--jobs {args.jobs}: must be at least 1")
    faults = [fault for fault in FAULTS if not args.only or fault.name in args.only]
    missed = run(faults, args.jobs, lambda line: print(line, flush=True))
    seconds = time.monotonic() - begun
    print(f"{len(faults) - len(missed)} of {len(faults)} faults found in {seconds:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from run import command

    command.run(main, error_status=2)
