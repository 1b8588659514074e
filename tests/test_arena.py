"""chat/arena.py: intervals, pass@k, votes and ratings, against brute force and planted truth."""

import itertools
import json
import math

import numpy as np
import pytest

from chat import arena, judges, lessons
import bpe
from model import fast
import gpt
import sample


def test_wilson():
    """The share of Wilson's intervals that hold the truth, over all that may be seen: near 95 %
    where n is not tiny."""
    for n, p in ((30, 0.5), (100, 0.1), (300, 0.95)):
        chance = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        held = sum(
            c for k, c in enumerate(chance) if arena.wilson(k, n)[0] <= p <= arena.wilson(k, n)[1]
        )
        assert 0.92 < held < 0.985
    assert (
        arena.wilson(0, 10)[0] == 0.0
        and 0.2 < arena.wilson(0, 10)[1] < 0.35
        and arena.wilson(0, 0) == (0.0, 1.0)
    )
    assert arena.wilson(81, 263) == pytest.approx(
        (0.2553, 0.3662), abs=2e-4
    )  # Newcombe 1998, table I


def test_pass_at_k():
    for n, right in itertools.product(range(1, 9), range(9)):
        for k in range(1, n + 1):
            if right <= n:
                drawn = list(itertools.combinations([1] * right + [0] * (n - right), k))
                assert arena.pass_at_k(n, right, k) == pytest.approx(
                    np.mean([any(d) for d in drawn])
                )


def test_votes():
    assert arena.majority([None, "4", "3", "4", "3", None]) == 1 and arena.majority([None]) == 0


def test_tries(monkeypatch):
    """Of four tries each: the wheel's first is right three times and voted for, its second once;
    the judge likes the last."""
    tok = bpe.Tokenizer.train(["one two"], 300)
    tasks = [{"question": "a", "answer": "one"}, {"question": "b", "answer": "two"}]
    texts = ["one", "so one", "two", "one"] + ["one", "one", "three", "is two"]

    def ask(params, cfg, tokenizer, many, temperature, seed, max_tokens, engine):
        assert [t["question"] for t in many] == ["a"] * 4 + ["b"] * 4 and temperature == 1.0
        replies = [sample.Reply(tok.encode_ordinary(text), [1], "stop", [0.0]) for text in texts]
        return replies, [arena.judge(t, r, tok) for t, r in zip(many, replies)]

    monkeypatch.setattr(arena, "ask", ask)
    monkeypatch.setattr(judges, "score", lambda judge, rows: np.arange(len(rows)))
    out = arena.tries(None, None, tok, tasks, 4, judge="the last")
    assert out == {"pass@1": 0.5, "pass@4": 1.0, "majority of 4": 0.5, "best of 4 by reward/": 1.0}


def test_the_likeliest_value():
    """It is the one that choose finds, behind a page's words or a chat's."""
    tok = bpe.Tokenizer.train(
        ["What is it? It is red. It is blue. It is grey. user assistant"] * 3, 330
    )
    cfg = gpt.Config(tok.n_vocab, 32, 16, 2, 2)
    params = gpt.init(cfg, 3)
    task = {"question": "What is it?", "answer": "red", "reply": "It is red.",
            "options": ["blue", "red", "grey"]}
    for as_document in (True, False):
        prompt = (
            [tok.eot_token, *tok.encode_ordinary("What is it? It is")]
            if as_document
            else lessons.prompt_of(task, tok) + tok.encode_ordinary("It is")
        )
        options = [tok.encode_ordinary(option) for option in (" blue", " red", " grey")]
        best = arena.choose(params, cfg, prompt, options).argmin()
        other = {**task, "answer": task["options"][best],
                 "reply": f"It is {task['options'][best]}."}
        assert (
            arena.likeliest(
                params,
                cfg,
                tok,
                [
                    other,
                    {**task, "answer": task["options"][best - 1],
                     "reply": f"It is {task['options'][best - 1]}."},
                ],
                as_document,
            )
            == 0.5
        )


def test_best_of():
    rng = np.random.default_rng(0)
    for tries in (1, 2, 7):
        scores, right = rng.standard_normal(tries), rng.integers(0, 2, tries)
        for n in range(1, tries + 1):
            drawn = [
                right[max(some, key=lambda i: scores[i])]
                for some in itertools.combinations(range(tries), n)
            ]
            assert arena.best_of(scores, right, n) == pytest.approx(np.mean(drawn))


def test_options_by_likelihood():
    tok = bpe.Tokenizer.train(["The goat is grey. The wheel is red."], 300)
    cfg = gpt.Config(tok.n_vocab, 32, 16, 2, 2)
    params, prompt, options = (gpt.init(cfg, 3), tok.encode_ordinary("The goat is"),
                               [" grey.", " red.", " a wheel of grey."])
    for p in params.values():
        p *= 8.0
    losses = arena.choose(params, cfg, prompt, [tok.encode_ordinary(o) for o in options])
    for option, found in zip(options, losses):
        ids = tok.encode_ordinary(option)
        logits = fast.forward(params, cfg, np.array([prompt + ids]))[0][0].astype(float)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        want = -sum(logp[len(prompt) - 1 + i, t] for i, t in enumerate(ids))
        assert found == pytest.approx(want / len(ids), rel=1e-4)


PLANTED = {"a": 1300.0, "b": 1150.0, "c": 1000.0, "d": 950.0, "e": 600.0}


def battles(n, seed=0, draws=0.0):
    """Wins (n, 5, 5) of battles between two of the planted models."""
    rng, wins = np.random.default_rng(seed), np.zeros((n, 5, 5))
    rating = np.array(list(PLANTED.values()))
    for won in wins:
        a, b = rng.choice(5, 2, replace=False)
        p = 1 / (1 + 10 ** ((rating[b] - rating[a]) / 400))
        won[a, b] = 0.5 if rng.random() < draws else float(rng.random() < p)
        won[b, a] = 1 - won[a, b]
    return wins


def test_battles_of_answers():
    """Three models, two questions: who is better wins, equals share."""
    wins = arena.battles(np.array([[1.5, 0.5], [0.5, 0.5], [0.0, 0.5]]))
    assert wins[0].tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert wins[1].tolist() == [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]


def test_planted_ratings_come_back():
    """400 points are 10 to 1."""
    wins = battles(40_000).sum(0)
    fitted = arena.bradley_terry(wins)
    assert np.allclose(fitted, list(PLANTED.values()), atol=15)
    assert np.isclose(fitted.mean(), 1000)
    p = 1 / (1 + 10 ** ((fitted[1] - fitted[0]) / 400))
    assert p == pytest.approx(wins[0, 1] / (wins[0, 1] + wins[1, 0]), abs=0.02)


def test_the_fit_is_the_likeliest():
    wins = battles(300, 1, draws=0.1).sum(0)
    full = wins + 0.25 * (1 - np.eye(5))

    def nll(r):
        return -(full * -np.log1p(10 ** ((r[None, :] - r[:, None]) / 400))).sum()

    r = arena.bradley_terry(wins)
    for seed in range(200):
        step = np.random.default_rng(seed).standard_normal(5)
        assert nll(r) <= nll(r + step) + 1e-9


def test_ratings_have_intervals_and_ranks():
    """The truth lies within; models that cannot be told apart share a rank."""
    some, names = battles(1350, 2), list(PLANTED)
    rated = arena.ratings(names, some)
    assert rated[0].name == "a" and rated[-1].name == "e"
    assert [r.rank for r in rated][:2] == [1, 2]
    assert sum(r.low <= PLANTED[r.name] <= r.high for r in rated) >= 4
    assert len({r.rank for r in rated}) > len({r.rank for r in arena.ratings(names, some[:60])})
    assert sum(r.battles for r in rated) == 2 * len(some)
    assert "1  a" in arena.table(rated)
    unbeaten = arena.ratings(["x", "y"], np.array([[[0, 1], [0, 0]]] * 20))
    assert np.isfinite([unbeaten[0].rating, unbeaten[1].rating]).all() and unbeaten[0].name == "x"


# ------------------------------------------------------------------------------------------ answers


@pytest.fixture
def run(tmp_path):
    """A run of two models, of which the second has the smaller context; of each file of tasks one
    question is too long."""
    tok = bpe.Tokenizer.train(["What is it? It is red. user assistant"] * 3, 330)
    for name, n_positions in (("base", 64), ("sft", 32)):
        cfg = gpt.Config(tok.n_vocab, n_positions, 16, 1, 2)
        gpt.save(tmp_path / name, gpt.init(cfg, 3), cfg)
        tok.save(tmp_path / name / "tokenizer.json")
    (tmp_path / "tasks").mkdir()
    for name in ("facts", "calculator", "wheel", "identity"):
        task = {"answer": "red", "kind": name, "exposure": 10, "reply": "It is red.",
                "options": ["red", "it"]}
        rows = [
            {"question": question, **task}
            for question in ("What is it?", "What is " * 15 + "it?", "Is it?")
        ]
        (tmp_path / f"tasks/{name}_test.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    return tmp_path


def test_questions_that_fill_the_context_are_left_out_of_the_arena(run, capsys):
    """The same questions for all: those that leave the model with the smallest context room for a
    reply."""
    rated = arena.fight(run)
    assert sorted(r.name for r in rated) == ["base", "sft"] and rated[0].battles == 8
    said = capsys.readouterr().err
    for name in ("facts", "calculator", "wheel", "identity"):
        assert (
            f"{name}_test.jsonl: 1 of 3 questions do not fit the context, which allows 31 tokens"
            in said
        )


def test_questions_that_fill_the_context_are_left_out_of_the_tries(run, capsys):
    path = run / "tasks/facts_test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["options"].append("is " * 40)  # the question fits, one of its options does not
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arena.print_tries(run, ["base", "sft"], 2)
    said = capsys.readouterr()
    assert "2 problems, 2 tries each" in said.out and "nan" not in said.out
    assert (
        "wheel_test.jsonl: 1 of 3 questions do not fit the context, which allows 31 tokens"
        in said.err
    )
    assert "1 of 2 questions with options do not fit the context of 32 tokens" in said.err
    long = {"question": "What is " * 30, "answer": "red"}
    (run / "tasks/wheel_test.jsonl").write_text(json.dumps(long) + "\n")
    with pytest.raises(
        ValueError,
        match="wheel_test.jsonl: no question fits the model's context, which allows 31 tokens",
    ):
        arena.print_tries(run, ["base", "sft"], 2)
