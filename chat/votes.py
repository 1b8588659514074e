"""votes.py: people vote between two replies of models whose names they do not see.

A battle is one question, answered by two models that are drawn at random, as are their sides. The
names stay on the server until the vote is given. Both write at once, and what they write is sent in
step: a piece of each at a time. So neither order nor speed tells who wrote which. A vote is left,
right, tie, or bad: both are.

Each vote is a line of arena_votes.jsonl in the run:

    question    that both were asked         left, right             the names of the models
    vote        left, right, tie or bad      left_reply, right_reply what they said
    seed, temperature   of the replies       time                    of the vote, in seconds

Ratings are arena.ratings of these votes. The votes on one question are one sample: whole questions
are drawn again to find the intervals, as the replies to one question have much in common.

    python -m chat.votes            the ratings of out/demo's votes

Source: Chiang et al. 2024 (Chatbot Arena).
"""

import argparse
import collections
import itertools
import json
import os
import secrets
import threading
import time
from pathlib import Path
from typing import NamedTuple

from chat import api, arena, fields
from chat.fields import field
from chat.request import Answer, Refused
from run import command, disk
import numpy as np

FILE = "arena_votes.jsonl"
VOTES = ("left", "right", "tie", "bad")
PENDING = 256                   # battles that may wait for their vote; the oldest give way
FEWEST = 10                     # questions from which on an interval says something
LOCK = threading.Lock()         # of a file's end, and of what waits


class Battle(NamedTuple):
    """A question and two replies that wait for a vote."""

    question: str
    left: str                   # names of the models
    right: str
    left_reply: str
    right_reply: str
    seed: int
    temperature: float


# -------------------------------------------------------------------------------- the file of votes


def append(path, battle, vote):
    """Write one line behind the others, whole and on the disk."""
    row = battle._asdict() | {"vote": vote, "time": int(time.time())}
    line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    with LOCK, open(path, "a+b") as f:
        if f.tell() and not ends_whole(f):          # a line was cut off when the power failed
            line = b"\n" + line
        f.write(line)
        f.flush()
        os.fsync(f.fileno())


def ends_whole(f):
    """Whether the last byte of a file ends a line. The file is at its end before and after."""
    f.seek(-1, os.SEEK_END)
    return f.read(1) == b"\n"


def read(path):
    """[vote, a dict] of a file; [] if there is none. ValueError with the line that is no vote."""
    if not path.exists() or not path.stat().st_size:
        return []
    rows = disk.read_jsonl(path)
    for n, row in rows:
        texts = isinstance(row, dict) and [row.get(k) for k in ("question", "left", "right")]
        if not texts or not all(isinstance(text, str) for text in texts) \
                or row.get("vote") not in VOTES or row["left"] == row["right"]:
            raise ValueError(f"{path}:{n}: no vote; it needs a question, the names left and right, "
                             f"and a vote, one of {', '.join(VOTES)}; remove the line")
    return [row for _, row in rows]


def wins_of(votes):
    """(names, wins (questions, models, models)) as arena.ratings takes them.

    wins[q, i, j] counts how often i beat j at question q; a tie, also of two bad replies, is half a
    win for each.
    """
    names = sorted({row[side] for row in votes for side in ("left", "right")})
    place = {name: i for i, name in enumerate(names)}
    questions = collections.defaultdict(lambda: np.zeros((len(names), len(names))))
    for row in votes:
        left, right = place[row["left"]], place[row["right"]]
        share = {"left": 1.0, "right": 0.0}.get(row["vote"], 0.5)
        questions[row["question"]][left, right] += share
        questions[row["question"]][right, left] += 1 - share
    return names, np.array(list(questions.values()))


def standings(votes):
    """{"votes", "questions", "rated": [...]}: the ratings of votes, and what they rest on.

    low and high of a model are None below FEWEST questions: drawn again and again, few questions
    come out alike and would make the rating look certain.
    """
    if not votes:
        return {"votes": 0, "questions": 0, "rated": []}
    names, wins = wins_of(votes)
    enough = len(wins) >= FEWEST
    rated = []
    for each in arena.ratings(names, wins, rounds=200 if enough else 1):
        row = each._asdict()
        if not enough:
            row |= {"low": None, "high": None, "rank": None}
        rated.append(row)
    return {"votes": len(votes), "questions": len(wins), "rated": rated}


# ------------------------------------------------------------------------------------------- routes


def run_of(handler):
    """The run whose models fight; Refused where a single model is served."""
    run = handler.server.models.run
    if run is None:
        raise Refused(404, "one model is served; an arena takes a run with two models or more: "
                           "python sample.py serve --run DIR")
    return run


def fighters(handler, body):
    """The names of the models that may be drawn: those that the request names, or all."""
    there = list(handler.server.models.folders)
    wanted = field(body, "models", there, list)
    for name in wanted:
        if name not in there:
            raise handler.server.models.unknown(str(name))
    if len(set(wanted)) < 2:
        raise Refused(400, f"{len(set(wanted))} models, and a battle needs two; there are "
                           f"{', '.join(there)}", "models")
    return sorted(set(wanted))


def battle(handler, body):
    """Two replies to a question, left and right, and no word about who wrote them.

    seed: of the replies; who fights is drawn apart from it, so it tells nothing of the names.
    With stream, events say what both have grown by, {"grown": {"left": text, "right": text}}, and
    the last one is the whole answer: {"battle": its number, "left": {"text", "ended"}, "right"}.
    """
    run_of(handler)
    question = field(body, "question", "", str).strip()
    if not question:
        raise Refused(400, "question is missing or empty", "question")
    seed = field(body, "seed", secrets.randbelow(1 << 31), int, 0, fields.MANY)
    temperature = field(body, "temperature", 1.0, fields.NUMBER, 0, 2)
    names = fighters(handler, body)
    for name in names:              # all are loaded before two are drawn: no draw takes longer
        handler.model_of({"model": name}, ())
    left, right = secrets.SystemRandom().sample(names, 2)
    is_stream = field(body, "stream", False, bool)
    asked = {"messages": [{"role": "user", "content": question}], "temperature": temperature,
             "seed": seed, "max_tokens": field(body, "max_tokens", 200, int, 1, fields.MANY),
             "stream": True}
    chats = [api.Chat(handler, {**asked, "model": name}) for name in (left, right)]

    def events():
        """What both grow by; then, when it is kept who wrote what, both texts."""
        replies = [{"text": "", "ended": True} for _ in chats]
        for grown in in_step(chats, replies):
            yield [{"grown": grown}]
        texts = [reply["text"] for reply in replies]
        number = keep(handler.server, Battle(question, left, right, *texts, seed, temperature))
        yield [{"battle": number, "left": replies[0], "right": replies[1]}, "[DONE]"]

    def answer():
        """Have both written, and send the texts."""
        try:
            if is_stream:
                return handler.send_stream(events())
            *_, (found, _) = events()
            return Answer(found)
        finally:
            for chat in chats:
                chat.writer.leave(chat.job)

    return answer


def in_step(chats, replies):
    """Have two chats written at once, and add to their replies {"text", "ended"} what comes.

    Yields {"left": text, "right": text}, what a user reads of what they have grown by. The faster
    one waits for the other at each step, until one of them has ended.
    """
    for chat in chats:
        chat.begin()
    for pair in itertools.zip_longest(*[chat.events() for chat in chats], fillvalue={}):
        texts = []
        for chat, reply, event in zip(chats, replies, pair):
            text = ""
            for i, grown in event.items():
                text += chat.told(i, grown, grown.finish is not None).get("content", "")
                reply["ended"] = grown.finish != "length"
            reply["text"] += text
            texts.append(text)
        yield dict(zip(("left", "right"), texts))


def keep(server, fought):
    """Let a battle wait for its vote; returns its number, which says nothing about it."""
    number = secrets.token_hex(16)
    with LOCK:
        server.battles[number] = fought
        while len(server.battles) > PENDING:
            server.battles.popitem(last=False)
    return number


def vote(handler, body):
    """Write a vote down; the answer names the models and has the ratings."""
    run = run_of(handler)
    given = field(body, "vote", None, str)
    if given not in VOTES:
        expected = f"one of {', '.join(VOTES)}"
        raise Refused(400, f"vote is {fields.shown(given)}, expected {expected}", "vote")
    with LOCK:
        fought = handler.server.battles.pop(field(body, "battle", "", str), None)
    if fought is None:
        raise Refused(404, "no battle of that number waits for a vote: it has one, or the server "
                           "was started anew; ask for another", "battle")
    append(run / FILE, fought, given)
    return Answer({"left": fought.left, "right": fought.right, **checked_standings(run)})


def checked_standings(run):
    """standings() of a run; Refused if its file is damaged."""
    try:
        return standings(read(run / FILE))
    except ValueError as e:
        raise Refused(500, str(e)) from None


def table(handler, _):
    """The ratings of the run's votes."""
    return Answer(checked_standings(run_of(handler)))


# ---------------------------------------------------------------------------------- in the terminal


def main(argv=None):
    """Print the ratings of a run's votes."""
    parser = argparse.ArgumentParser(
        prog="python -m chat.votes", description="Show the ratings of the votes of a run.")
    parser.add_argument("--run", default="out/demo", help="run folder (default: %(default)s)")
    path = Path(parser.parse_args(argv).run) / FILE
    found = standings(read(path))
    if not found["votes"]:
        raise FileNotFoundError(f"{path}: no vote yet; give some on the page, in Arena: "
                                "python sample.py serve")
    print(f"votes: {found['votes']:,}, questions: {found['questions']:,}")
    print(f"{'model':24}{'rating':>8}{'95 %':>16}{'votes':>8}{'won':>8}")
    for row in found["rated"]:
        interval = "too few votes"
        if row["low"] is not None:
            interval = f"{row['low']:,.0f} to {row['high']:,.0f}"
        print(f"{row['name']:24}{row['rating']:8,.0f}{interval:>16}"
              f"{row['battles']:8,}{row['score']:8.1%}")


if __name__ == "__main__":
    command.run(main)
