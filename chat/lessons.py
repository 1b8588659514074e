"""lessons.py: what a stage of align.py learns from, as ids: files of conversations or comparisons.

    conversations(paths, ...)   [(ids, mask)]: mask is 1 on what the assistant is to learn
    comparisons(paths, ...)     [Compared]: replies to one prompt and how good each is
    tasks(path, ...)            questions with answers that leave room for a reply
    Batches                     a new random order in each epoch

chat/chats.py reads the files, sample.render makes the ids. What does not fit the model's context is
left out, and how many are is printed.
"""

import sys
from collections import Counter
from typing import NamedTuple

import sample                           # before numpy
import numpy as np

from chat import chats
from run import command

GREEN, GREY, PLAIN = "\033[32m", "\033[90m", "\033[0m"


def conversations(paths, tokenizer, n_positions, but_not=()):
    """[(ids, mask)] of files in any schema of chat/chats.py.

    but_not: kinds of conversation to leave out, where the rows say their "kind".
    """
    found, too_long, notes = [], 0, Counter()
    for path in paths:
        for where, messages, kind in chats.conversations(path, notes):
            if kind is not None and kind in but_not:
                continue
            ids, mask = sample.render(messages, tokenizer, where)
            if len(ids) - 1 > n_positions:      # the last id is only predicted
                too_long += 1
            else:
                found.append((ids, mask))
    names = ", ".join(map(str, paths))
    if notes.total():
        print(f"{names}: {chats.report(notes)}", file=sys.stderr)
    if too_long:
        print(f"{names}: {too_long:,} of {too_long + len(found):,} conversations exceed the "
              f"context of {n_positions} tokens and are left out", file=sys.stderr)
    if not found and too_long:
        raise ValueError(f"{names}: no conversation fits the model's context of "
                         f"{n_positions} tokens")
    if not found:
        raise ValueError(f"{names}: no conversation in it")
    return found


class Compared(NamedTuple):
    """Replies to one prompt. Each row is the whole conversation, its mask 1 on the reply."""

    rows: list              # [(ids, mask)]
    scores: np.ndarray      # the higher, the better; only their order counts


def comparisons(paths, tokenizer, most):
    """[Compared] of files of comparisons in any schema of chat/chats.py.

    most: ids of the longest row. A reward is read at the last id, so the model's context must hold
    all of them. DPO only predicts the last id, so a row may have one more.
    """
    found, notes = [], Counter()
    for path in paths:
        for where, (prompt, replies, scores) in chats.comparisons(path, notes):
            begin = len(sample.render_prompt(prompt, tokenizer))
            rows = []
            for reply in replies:
                messages = [*prompt, {"role": "assistant", "content": reply}]
                ids, mask = sample.render(messages, tokenizer, where)
                rows.append((ids, [0] * begin + mask[begin:]))      # earlier replies are prompt
            if max(len(ids) for ids, _ in rows) > most:
                notes[f"longer than {most} tokens, which is what the model's context allows"] += 1
            else:
                found.append(Compared(rows, np.array(scores, float)))
    names = ", ".join(map(str, paths))
    if notes.total():
        print(f"{names}: {chats.report(notes)}", file=sys.stderr)
    if not found:
        raise ValueError(f"{names}: no comparison fits the model's context, "
                         f"which allows {most} tokens")
    return found


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


def best_replies(compared):
    """The ids of the best reply of each Compared."""
    found = []
    for rows, scores in compared:
        ids, _ = rows[int(scores.argmax())]
        found.append(ids)
    return found


def prompt_of(task, tokenizer):
    """The ids of a task's question up to where the assistant begins to speak."""
    return sample.render_prompt([{"role": "user", "content": task["question"]}], tokenizer)


def tasks(path, readers):
    """The tasks of a file whose questions leave every reader room for a reply.

    readers: [(tokenizer, n_positions)]
    """
    read = chats.tasks(path)
    fit = []
    for task in read:
        lengths = [(len(prompt_of(task, tokenizer)), room) for tokenizer, room in readers]
        if all(length < room for length, room in lengths):
            fit.append(task)
    least = min(n_positions for _, n_positions in readers)
    if len(fit) < len(read):
        print(f"{path}: {len(read) - len(fit):,} of {len(read):,} questions fill the context of "
              f"{least} tokens and are left out", file=sys.stderr)
    if not fit:
        raise ValueError(f"{path}: no question that fits the model's context of {least} tokens")
    return fit


def split_tasks(run, path, unseen, tokenizer, n_positions):
    """([the file], tasks to learn from, tasks to measure on) for RL.

    path, unseen: files, by default those of the run's wheel. Of another file without one of unseen
    tasks, every tenth is kept to measure on, or fewer where that were more than 300.
    """
    reader = [(tokenizer, n_positions)]
    if not path:
        path, unseen = run / "tasks/wheel_train.jsonl", unseen or run / "tasks/wheel_test.jsonl"
    found = tasks(path, reader)
    if unseen:
        return [path], found, tasks(unseen, reader)
    every = max(10, -(-len(found) // 300))
    rest = [task for i, task in enumerate(found) if i % every]
    return [path], rest or found, found[::every]


def beside(run, files, tasks, batch, seed, tokenizer, cfg):
    """(files, Batches) of the run's conversations about other things than the tasks, for RL."""
    path = run / "chat" / "train.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no conversations about other things to learn beside the "
                                "replies; leave them out with --batch 0")
    kinds = {str(task["kind"]) for task in tasks if "kind" in task}
    others = conversations([path], tokenizer, cfg.n_positions, but_not=kinds)
    return [*files, path], Batches(others, batch, seed)


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
    colours = sys.stderr.isatty()
    stream = command.uncensored(sys.stderr)
    mark = "green" if colours else "in [brackets]"
    print(f"One conversation. The model reads all of it and learns to write what is {mark}:",
          file=stream)
    before = 0
    for i, learned in zip(ids, mask):
        text = command.printable(tokenizer.decode([i]))
        if colours:
            print((GREEN if learned else GREY) + text, end="", file=stream)
        else:
            print("[" * (learned > before) + "]" * (learned < before) + text, end="", file=stream)
        before = learned
    if colours:
        print(PLAIN, file=stream)
    else:
        print("]" * before, file=stream)


if __name__ == "__main__":
    command.only_imported(__doc__)
