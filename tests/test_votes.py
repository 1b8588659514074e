"""chat/votes.py: who is drawn, what is written down of a vote, and what votes come to."""

import collections
import json
import threading
import time

import numpy as np
import pytest

from chat import arena, votes
from serving import PARAMS, TOK, CFG, post, run, running, send, server  # noqa: F401
import gpt


@pytest.fixture
def file(run):  # noqa: F811
    """The run's file of votes, which is not there at first."""
    path = run / votes.FILE
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def row(left="a", right="b", vote="left", question="q"):
    return {"question": question, "left": left, "right": right, "vote": vote}


# ----------------------------------------------------------------------------------------- ratings


def test_wins_of_votes():
    """A tie, also of two bad replies, is half a win each; votes on one question are one sample."""
    names, wins = votes.wins_of([
        row(), row(vote="right"), row("b", "a"),
        row("c", "a", "tie", "r"), row("a", "c", "bad", "r"),
    ])
    assert names == ["a", "b", "c"] and wins.shape == (2, 3, 3)
    assert wins[0].tolist() == [[0, 1, 0], [2, 0, 0], [0, 0, 0]]
    assert wins[1].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_ratings_find_the_planted_order():
    """Of models whose true ratings are 200 apart, from 400 votes with their sides at random."""
    rng, truth, cast = np.random.default_rng(0), {"a": 1200, "b": 1000, "c": 800}, []
    for i in range(400):
        left, right = rng.choice(list(truth), 2, replace=False)
        p = 1 / (1 + 10 ** ((truth[right] - truth[left]) / 400))
        cast.append(row(left, right, "left" if rng.random() < p else "right", f"q{i}"))
    found = votes.standings(cast)
    assert found["votes"] == found["questions"] == 400
    for rated in found["rated"]:
        assert rated["low"] < truth[rated["name"]] < rated["high"]
    assert [rated["name"] for rated in found["rated"]] == ["a", "b", "c"]
    assert sum(rated["battles"] for rated in found["rated"]) == 800
    names, wins = votes.wins_of(cast)
    assert [r["rating"] for r in found["rated"]] == [r.rating for r in arena.ratings(names, wins)]


def test_few_questions_have_no_interval():
    """Many votes on one question, drawn again, come out alike and would look certain."""
    many = [row(question="the same") for _ in range(50)]
    found = votes.standings(many)
    assert found["votes"] == 50 and found["questions"] == 1
    assert all(rated["low"] is rated["high"] is rated["rank"] is None for rated in found["rated"])
    found = votes.standings(many + [row(question=f"q{i}", vote="tie") for i in range(9)])
    assert all(rated["low"] < rated["rating"] < rated["high"] for rated in found["rated"])
    assert votes.standings([]) == {"votes": 0, "questions": 0, "rated": []}


# ----------------------------------------------------------------------------------------- the file


BATTLE = votes.Battle("q\n\u2028", "a", "b", "left\u20ac", "right", 3, 0.5)


def test_a_vote_is_a_whole_line(tmp_path):
    path = tmp_path / votes.FILE
    votes.append(path, BATTLE, "left")
    votes.append(path, BATTLE, "bad")
    first, second = votes.read(path)
    assert first.pop("time") > 1e9 and first == BATTLE._asdict() | {"vote": "left"}
    assert second["vote"] == "bad" and path.read_bytes().count(b"\n") == 2


def test_a_line_that_was_cut_off_is_named(tmp_path):
    """And it does not take the next vote with it."""
    path = tmp_path / votes.FILE
    path.write_text('{"question": "q", "le')
    votes.append(path, BATTLE, "left")
    with pytest.raises(ValueError, match="votes.jsonl:1"):
        votes.read(path)
    assert json.loads(path.read_text().split("\n")[1])["vote"] == "left"


@pytest.mark.parametrize("broken", [
    [], {}, row(vote="up"), row(left=1), row(left="b"), {**row(), "question": None}])
def test_what_is_no_vote_is_named(tmp_path, broken):
    path = tmp_path / votes.FILE
    path.write_text(f"{json.dumps(row())}\n{json.dumps(broken)}\n")
    with pytest.raises(ValueError, match="votes.jsonl:2: no vote.*remove the line"):
        votes.read(path)


def test_many_votes_at_once(tmp_path):
    path = tmp_path / votes.FILE
    threads = [threading.Thread(target=votes.append, args=(path, BATTLE, "tie")) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(votes.read(path)) == 40


def test_from_the_command_line(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no vote yet"):
        votes.main(["--run", str(tmp_path)])
    votes.append(tmp_path / votes.FILE, BATTLE, "left")
    votes.main(["--run", str(tmp_path)])
    out = capsys.readouterr().out
    assert "votes: 1, questions: 1" in out and "too few votes" in out
    assert max(map(len, out.splitlines())) <= 80


# ----------------------------------------------------------------------------------- over HTTP


def test_a_battle_and_its_vote(server, file):  # noqa: F811
    """The names come with the vote, and the line has all that was said."""
    asked = {"question": " Who? ", "max_tokens": 8, "seed": 5, "temperature": 0.7}
    found = post(server, "/api/battle", asked)
    assert set(found) == {"battle", "left", "right"} and not file.exists()
    assert "sft" not in json.dumps(found) and "base" not in json.dumps(found)
    told = post(server, "/api/vote", {"battle": found["battle"], "vote": "right"})
    assert {told["left"], told["right"]} == {"base", "sft"} and told["votes"] == 1
    [line] = lines(file)
    assert (line["question"], line["vote"], line["seed"]) == ("Who?", "right", 5)
    assert line["temperature"] == 0.7
    for side in ("left", "right"):
        assert line[side] == told[side]
        assert line[f"{side}_reply"] == found[side]["text"]
        own = {"model": told[side], "messages": [{"role": "user", "content": "Who?"}],
               "max_tokens": 8, "seed": 5, "temperature": 0.7}
        [choice] = post(server, "/v1/chat/completions", own)["choices"]
        assert choice["message"]["content"] == found[side]["text"]
        assert found[side]["ended"] == (choice["finish_reason"] == "stop")
    assert json.loads(send(server, "GET", "/api/votes")[2])["votes"] == 1
    again = post(server, "/api/vote", {"battle": found["battle"], "vote": "left"}, 404)
    assert "no battle" in again["error"]["message"] and len(lines(file)) == 1


def events_of(server, body):
    """The events of a stream, without the last one, which says only that it is the last."""
    status, headers, data = send(server, "POST", "/api/battle", {**body, "stream": True})
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream"), data
    texts = [text.removeprefix("data: ") for text in data.decode().split("\n\n") if text]
    assert texts.pop() == "[DONE]"
    return [json.loads(text) for text in texts]


def test_both_replies_are_written_at_once_and_sent_in_step(server, file, monkeypatch):  # noqa: F811
    """A model that takes ten times as long for a token is not told from the other."""
    writers = [server.models.writer(name) for name in ("base", "sft")]
    slow, alive = writers[0].batch, []
    step = type(slow).step

    def late(self):
        alive.append([len(writer.batch) for writer in writers])
        time.sleep(0.02 if self is slow else 0.002)
        return step(self)

    monkeypatch.setattr(type(slow), "step", late)
    asked = {"question": "Who?", "max_tokens": 20, "seed": 5, "temperature": 0.7}
    *grown, found = events_of(server, asked)
    assert [1, 1] in alive                          # one does not wait for the other's end
    for side in ("left", "right"):
        text = "".join(event["grown"][side] for event in grown)
        assert text == found[side]["text"] != ""
    pieces = [[event["grown"][side] for event in grown] for side in ("left", "right")]
    ends = [max(i for i, piece in enumerate(each) if piece) for each in pieces]
    for each in pieces:                     # both grow at each step; half a letter is no text
        assert sum(not piece for piece in each[:min(ends)]) <= 3
    told = post(server, "/api/vote", {"battle": found["battle"], "vote": "left"})
    assert {told["left"], told["right"]} == {"base", "sft"}
    assert [line["left_reply"] for line in lines(file)] == [found["left"]["text"]]


def test_sides_and_models_are_drawn(server, file, run, tmp_path):  # noqa: F811
    """Each of three models meets each other, on either side; a request's seed tells nothing."""
    for stage in ("base", "sft", "rl"):
        gpt.save(tmp_path / stage, PARAMS, CFG)
        TOK.save(tmp_path / stage / "tokenizer.json")
    seen = collections.Counter()
    with running(tmp_path) as three:
        for _ in range(60):
            asked = {"question": "Who?", "max_tokens": 1, "seed": 5}
            number = post(three, "/api/battle", asked)["battle"]
            told = post(three, "/api/vote", {"battle": number, "vote": "tie"})
            seen[told["left"], told["right"]] += 1
        # The chance that one of six pairs is missing is 6 * (5/6)^60, 1 in 10,000.
        assert len(seen) == 6 and max(seen.values()) < 30
        asked["models"] = ["rl", "base"]
        number = post(three, "/api/battle", asked)["battle"]
        told = post(three, "/api/vote", {"battle": number, "vote": "tie"})
        assert {told["left"], told["right"]} == {"rl", "base"}


def test_what_cannot_be_fought(server, file):  # noqa: F811
    cases = [
        ("/api/battle", {}, 400, "question"),
        ("/api/battle", {"question": " "}, 400, "question"),
        ("/api/battle", {"question": "Who?", "models": ["sft"]}, 400, "needs two"),
        ("/api/battle", {"question": "Who?", "models": ["sft", "sft"]}, 400, "needs two"),
        ("/api/battle", {"question": "Who?", "models": ["sft", "x"]}, 404, "does not exist"),
        ("/api/battle", {"question": "Who?", "models": ["sft", 1]}, 404, "does not exist"),
        ("/api/battle", {"question": "goat " * 300}, 400, "context"),
        ("/api/vote", {"battle": "x", "vote": "left"}, 404, "no battle"),
        ("/api/vote", {"battle": "x", "vote": "up"}, 400, "one of left, right"),
    ]
    for path, body, status, said in cases:
        assert said in post(server, path, body, status)["error"]["message"], body
    assert not file.exists()


def test_a_damaged_file_of_votes_is_said(server, file):  # noqa: F811
    file.write_text("{\n")
    status, _, data = send(server, "GET", "/api/votes")
    assert status == 500 and b"arena_votes.jsonl:1" in data


def test_battles_that_nobody_votes_on_give_way(server, file, monkeypatch):  # noqa: F811
    monkeypatch.setattr(votes, "PENDING", 2)
    numbers = [post(server, "/api/battle", {"question": "Who?", "max_tokens": 1})["battle"]
               for _ in range(3)]
    post(server, "/api/vote", {"battle": numbers[0], "vote": "tie"}, 404)
    for number in numbers[1:]:
        post(server, "/api/vote", {"battle": number, "vote": "tie"})


def test_one_model_has_no_arena(run):  # noqa: F811
    from chat import serve, served
    alone = serve.Server(served.Models(folder=run / "sft"), port=0)
    threading.Thread(target=alone.serve_forever, args=(0.01,), daemon=True).start()
    try:
        assert "--run DIR" in post(alone, "/api/battle", {"question": "Who?"}, 404)[
            "error"]["message"]
    finally:
        alone.close()
