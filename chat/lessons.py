"""lessons.py: what a stage of align.py learns from, as ids: files of conversations or comparisons.

chat/chats.py reads the files, the format of the model (chat/formats.py) makes the ids. What does
not fit the model's context is left out, and how many are is printed.
"""

import itertools
import operator
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from chat import chats, formats         # before numpy
import numpy as np

from chat.template import Unusable
from run import command, progress


def fitting(paths, what, n_read, found, most, notes=None):
    """Return what was found in files; print what was left out. ValueError if nothing was found.

    n_read: how many there were, before those of more than `most` tokens were left out.
    """
    names = ", ".join(map(str, paths))
    if notes:
        print(f"{names}: {chats.report(notes)}", file=sys.stderr)
    if not n_read:
        raise ValueError(f"{names}: no {what} in it")
    if not found:
        raise ValueError(f"{names}: no {what} fits the model's context, which allows {most} tokens")
    if len(found) < n_read:
        print(f"{names}: {n_read - len(found):,} of {n_read:,} {what}s do not fit the context, "
              f"which allows {most} tokens, and are left out", file=sys.stderr)
    return found


CALLS = "call of the calculator, which the model's chats have no place for"
THOUGHTS = "reasoning beside a reply, which the model's chats have no place for"


def rows_of(messages, format, where, notes):
    """[(ids, mask)] of a conversation; [] if it cannot be used. Notes what is left out."""
    try:
        rows = format.conversation(messages, where)
    except Unusable as e:
        notes[e.reason] += 1
        return []
    if not format.has_calls:
        parts = itertools.chain.from_iterable(map(chats.parts_of, messages))
        notes[CALLS] += sum(part["type"] == "tool" for part in parts)
    thoughts = [m["reasoning_content"] for m in messages
                if m.get("reasoning_content") and m.get("weight", 1)]
    if thoughts:                        # seldom, so what is learned is made a text only for them
        learned = [[i for i, is_learned in zip(*row) if is_learned] for row in rows]
        texts = "".join(format.tokenizer.decode(ids) for ids in learned)
        notes[THOUGHTS] += sum(thought.strip() not in texts for thought in thoughts)
    return rows


def with_progress(path, found):
    """What is found in a file. Of .jsonl it is known how much there is: a line tells the rest."""
    if Path(path).suffix != ".jsonl" or not Path(path).is_file():
        return found
    with open(path, "rb") as file:
        n_lines = sum(1 for _ in file)
    return progress.each(found, f"{path}: conversations", n_lines)


def conversations(paths, tokenizer, n_positions, but_not=()):
    """[(ids, mask)] of files in any schema of chat/chats.py.

    but_not: kinds of conversation to leave out, where the rows say their "kind".
    """
    format = formats.of(tokenizer)
    found, n_read, notes = [], 0, Counter()
    for path in paths:
        for where, messages, kind in with_progress(path, chats.conversations(path, notes)):
            if kind is not None and kind in but_not:
                continue
            rows = rows_of(messages, format, where, notes)
            n_read += len(rows)
            for ids, mask in rows:
                if len(ids) - 1 <= n_positions:     # the last id is only predicted
                    found.append((ids, mask))
    return fitting(paths, "conversation", n_read, found, n_positions + 1, notes)


class Compared(NamedTuple):
    """Replies to one prompt. Each row is the whole conversation, its mask 1 on the reply."""

    rows: list              # [(ids, mask)]
    scores: np.ndarray      # the higher, the better; only their order counts


def comparisons(paths, tokenizer, most):
    """[Compared] of files of comparisons in any schema of chat/chats.py.

    most: ids of the longest row. A reward is read at the last id, so the model's context must hold
    all of them. DPO only predicts the last id, so a row may have one more.
    """
    found, n_read, notes = [], 0, Counter()
    format = formats.of(tokenizer)
    for path in paths:
        for where, (prompt, replies, scores) in chats.comparisons(path, notes):
            begin = [{**m, "weight": 0} for m in prompt]        # earlier replies are prompt
            rows = []
            for reply in replies:
                messages = [*begin, {"role": "assistant", "content": reply}]
                rows += rows_of(messages, format, where, notes)
            if len(rows) < len(replies):
                continue
            n_read += 1
            if max(len(ids) for ids, _ in rows) <= most:
                found.append(Compared(rows, np.array(scores, float)))
    return fitting(paths, "comparison", n_read, found, most, notes)


def pairs(paths, tokenizer, n_positions):
    """[(better, worse)] of comparisons: the best reply of each with every reply that is worse."""
    found = []
    for rows, scores in comparisons(paths, tokenizer, n_positions + 1):
        best = rows[int(scores.argmax())]
        found += [(best, rows[i]) for i in np.flatnonzero(scores < scores.max())]
    return found


def side_by_side(compared):
    """[Compared] -> all rows of ids, their scores, and for each the number of its prompt."""
    rows, scores, prompts = [], [], []
    for i, (of_prompt, their_scores) in enumerate(compared):
        rows += [ids for ids, _ in of_prompt]
        scores += their_scores.tolist()
        prompts += [i] * len(of_prompt)
    return rows, np.array(scores), np.array(prompts)


def train_and_test(read, run, data, held_out, *more):
    """(files, examples, held-out examples) of comparisons, by default the run's. read: a function.
    """
    data = data or [run / "pairs/train.jsonl"]
    return data, read(data, *more), read([held_out or run / "pairs/test.jsonl"], *more)


def prompt_of(task, tokenizer):
    """The ids of a task's question up to where the assistant begins to speak."""
    question = {"role": "user", "content": task["question"]}
    return formats.of(tokenizer).prompt([question])


def tasks(path, models):
    """The tasks of a file whose questions leave every model room for a reply.

    models: [(params, cfg, tokenizer)]
    """
    read, fit = chats.tasks(path), []
    for task in read:
        room = [cfg.n_positions - len(prompt_of(task, tok)) for _, cfg, tok in models]
        if min(room) > 0:
            fit.append(task)
    least = min(cfg.n_positions for _, cfg, _ in models)
    return fitting([path], "question", len(read), fit, least - 1)


class Batches:
    """Examples in a new random order in each epoch.

    The batch of a step depends on seed and step alone, so resuming needs no saved position.
    """

    def __init__(self, examples, batch, seed):
        if batch > len(examples):
            print(f"only {len(examples)} examples: a step sees all of them, not {batch}",
                  file=sys.stderr)
        self.examples, self.seed = examples, seed
        self.batch = min(batch, len(examples))
        self.epoch, self.order = None, None

    def at(self, step):
        """The examples of a step."""
        epoch, i = divmod(step, len(self.examples) // self.batch)
        if self.epoch != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self.epoch, self.order = epoch, rng.permutation(len(self.examples))
        chosen = self.order[i * self.batch:(i + 1) * self.batch]
        return [self.examples[j] for j in chosen]


def show(ids, mask, tokenizer):
    """Print a conversation as the model sees it, with what it learns from marked.

    In green on a terminal, else in brackets. Control characters in the text are spelled out.
    """
    stream = command.uncensored(sys.stderr)
    start, begin, end, stop = "", "[", "]", ""
    if command.has_colours(sys.stderr):         # grey, green, grey again, and as it was
        start, begin, end, stop = "\033[90m", "\033[32m", "\033[90m", "\033[0m"
    how = "green" if start else "in [brackets]"
    print(f"One conversation. The model reads all of it and learns to write what is {how}:",
          file=stream)
    print(start, end="", file=stream)
    for learned, pairs in itertools.groupby(zip(mask, ids), key=operator.itemgetter(0)):
        text = command.printable(tokenizer.decode([i for _, i in pairs]))
        print(begin + text + end if learned else text, end="", file=stream)
    print(stop, file=stream)
