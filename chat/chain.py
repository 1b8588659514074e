"""chain.py: the stages of a run in the order in which they are made, and how far each one is.

The page shows a run while it is made: which stage is at work, what each is about in one sentence,
and what the models have read. All of it lies in the files of the run. A stage of make is finished
when its sign is there, and at work while a process holds its lock (run/runs.py).
"""

import contextlib
import functools
import json
import re
from pathlib import Path
from typing import NamedTuple

from model import checkpoint, folders, resume
from run import disk, runs


class Stage(NamedTuple):
    """A stage of the chain."""

    name: str           # of its folder, where it trains a model
    sign: str           # the name under which make runs it; "" for a stage outside make's chain
    about: str          # a sentence of plain English


STAGES = [
    Stage("world", "1-toyweb", "A small web is invented, as a crawler would bring it home."),
    Stage("documents", "2-data", "Filters keep the good English text of the crawl, and all of it "
          "only once."),
    Stage("tokenizer", "3-bpe", "Bytes that often stand side by side are merged into tokens."),
    Stage("tokens", "4-tokens", "The documents are written down as numbers of tokens."),
    Stage("base", "5-base", "The model reads documents and learns which token comes next."),
    Stage("sft", "6-sft", "It reads conversations and learns to answer as an assistant does."),
    Stage("honest", "", "As sft, but it also learns to say when it does not know."),
    Stage("reward", "", "A judge learns which of two replies people prefer."),
    Stage("dpo", "", "It learns from pairs of replies which one people prefer, without a judge."),
    Stage("rl", "7-rl", "It tries many replies, and those that were right become likelier."),
    Stage("rl_random", "8-control",
          "The control: rewards are drawn at random, so it must not get better."),
    Stage("rlhf", "", "It tries many replies, and those that the judge likes become likelier."),
]
TRAINED = ["base", "sft", "honest", "reward", "dpo", "rl", "rl_random", "rlhf"]
RANKS = {stage.name: i for i, stage in enumerate(STAGES)}
LONGEST_LINE = 1 << 16      # of a log, in bytes
OTHER = "A stage of this run's own."
SYSTEM = re.compile(rb'"role"\s*:\s*"(system|developer)"')


def in_order(names):
    """Names of stages in the order of the chain; those that it does not know come last."""
    return sorted(names, key=lambda name: (RANKS.get(name, len(STAGES)), name))


def logs_of(run):
    """{stage: its log} of a run, in the order of the chain."""
    logs = {path.parent.name: path for path in run.glob("*/log.jsonl")}
    return {name: logs[name] for name in in_order(logs)}


def is_run(run):
    """Whether a folder holds a run, or the beginnings of one."""
    begun = ("log", "crawl", "docs", "tokens", "chat", "tasks", "tokenizer.json")
    if any((run / name).exists() for name in begun):
        return True
    patterns = ("*/config.json", "*/log.jsonl", ".*.lock")      # a lock: its first stage is at work
    return any(any(run.glob(pattern)) for pattern in patterns)


def state_of(run, stage):
    """How far a stage is: done, at work now, stopped on its way, or later.

    A process that is killed by force leaves the file of its lock behind. A training that is ended
    in any way leaves its log.
    """
    folder, signs = run / stage.name, run / "log"
    locks = [(folder, "training"), (signs, f"make of {stage.sign}")]
    if any(runs.is_locked(*lock) for lock in locks):
        return "now"
    if any(runs.lock_of(*lock).exists() for lock in locks):
        return "stopped"
    made = stage.sign and (signs / f"{stage.sign}.json").exists()
    if made or folders.is_finished(folder):
        return "done"
    return "stopped" if (folder / "log.jsonl").exists() else "later"


def stopped_at(folder):
    """{"step", "steps", "saved"} of a training that was stopped; None for what is unknown.

    step: the last one in its log. saved: the one of its checkpoint, from which it goes on. The
    checkpoint also says how many steps it wants to make.
    """
    new = folder / resume.NEW           # there while an old model is kept
    place = new if new.exists() else folder
    found = {"step": None, "steps": None, "saved": None}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        found["step"] = json.loads(last_line(place / "log.jsonl"))["step"]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        _, metadata = checkpoint.load_safetensors(place / resume.CHECKPOINT)
        found["saved"] = int(metadata["step"])
        found["steps"] = json.loads(metadata["identity"])["steps"]
    return found


def last_line(path):
    """The last line of a file that has its end: of half a line, which a kill leaves, nothing."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - LONGEST_LINE))
        *lines, _ = file.read().split(b"\n")
    return lines[-1]


def stages(run):
    """[{name, about, state, log: whether it has one, made: whether make makes it}] of a run.

    One that is stopped has "stopped", too: see stopped_at().
    Stages that make has yet to run are among them where make has begun. Others are there if they
    have a folder.
    """
    logs, found = logs_of(run), []
    made_by_make = any((run / "log").glob("*1-toyweb*"))
    known = {stage.name for stage in STAGES}
    others = [Stage(name, "", OTHER) for name in logs if name not in known]
    for stage in [*STAGES, *others]:
        state, has_log = state_of(run, stage), stage.name in logs
        if has_log or state != "later" or stage.sign and made_by_make:
            entry = {
                "name": stage.name,
                "about": stage.about,
                "state": state,
                "log": has_log,
                "made": bool(stage.sign),
            }
            if state == "stopped":
                entry["stopped"] = stopped_at(run / stage.name)
            found.append(entry)
    return found


# ------------------------------------------------------------------------ what the models have read

def changed(path):
    """What changes with a file: its time and size; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(64)
def counts_of(path, _):
    """(lines, whether a message of the system is among them) of a file of conversations.

    The second argument is changed(path): an answer is kept until the file is another one.
    """
    n, with_system = 0, False
    with open(path, "rb") as file:
        for line in file:
            n += bool(line.strip())
            with_system = with_system or SYSTEM.search(line) is not None
    return n, with_system


def conversations(run):
    """(how many conversations chat/train.jsonl holds, whether any of chat/ has a system message).

    (0, None) for a run without them.
    """
    paths = sorted((run / "chat").glob("*.jsonl"))
    counts = {path.name: counts_of(path, changed(path)) for path in paths}
    if not counts:
        return 0, None
    n, _ = counts.get("train.jsonl", (0, False))
    return n, any(with_system for _, with_system in counts.values())


@functools.lru_cache(8)
def documents_in(path, _):
    """How many documents a report of data.py says that it kept. The second argument: changed()."""
    done = list(disk.read_json(path)["stages"].values())
    return done[-1]["documents_out"]


def documents(run):
    """How many documents data.py kept; 0 for a run without a report."""
    path = Path(run) / "docs/report.json"
    at = changed(path)
    return documents_in(path, at) if at else 0


def what_was_read(run, models):
    """One or two sentences about what the models of a run have read; [] where nothing is known.

    models: the names of those that are finished. All of them go back to the base model.
    """
    n_documents = documents(run) if models else 0
    n_conversations = conversations(run)[0] if set(models) - {"base"} else 0
    invented = (run / "tasks/wheel_test.jsonl").exists()        # web/toyweb.py's world
    found = []
    if n_documents and invented:
        found.append(f"The base model has read {n_documents:,} pages of a small invented web, "
                     "about animals, towns and people that exist nowhere else; "
                     "and nothing besides.")
    elif n_documents:
        found.append(f"The base model has read {n_documents:,} documents, and nothing besides.")
    if n_conversations and invented:
        found.append(f"From {n_conversations:,} conversations it then learned to answer, to use a "
                     "calculator and to play a counting game; the rest it makes up.")
    elif n_conversations:
        found.append(f"From {n_conversations:,} conversations it then learned to answer.")
    return found
