"""chat/generate.py: rows that come and go, prompts that were read before."""

import numpy as np
import pytest

import sample
from chat import generate
from model import fast
from small_talker import CFG, PARAMS, TOK, enc


def test_each_row_has_its_own_settings():
    """A batch with settings of all kinds is each row with its own."""
    rng = np.random.default_rng(1)
    z = rng.standard_normal((200, 30)) * 3
    how = [rng.choice([0, 0.5, 1.0, 2.0], 200), rng.choice([0, 1, 3, 29, 30, 99], 200),
           rng.choice([0.01, 0.5, 0.9, 1.0], 200), rng.choice([0, 0.05, 0.5, 1.0], 200)]
    together = generate.probabilities(z, *how)
    for r in range(200):
        alone = generate.probabilities(z[r : r + 1], *(x[r].item() for x in how))[0]
        np.testing.assert_allclose(together[r], alone, rtol=1e-12, atol=0)
        assert alone.sum() == pytest.approx(1) and alone[z[r].argmax()] == alone.max()
        if how[1][r] and how[0][r]:
            assert (alone > 0).sum() <= how[1][r]
        if how[0][r] and how[2][r] == 1 and not how[1][r] and how[3][r]:
            whole = generate.probabilities(z[r : r + 1], how[0][r])[0]
            np.testing.assert_array_equal(alone > 0, whole >= how[3][r] * whole.max())


def test_rows_come_and_go():
    """At random moments rows of all settings join, are dropped, or end; each is as if alone."""
    rng = np.random.default_rng(8)
    batch, waiting, running = generate.Batch(PARAMS, CFG, TOK, 6), [], []
    for n in range(40):
        settings = sample.Settings(max_new_tokens=int(rng.integers(1, 30)),
                                   temperature=float(rng.choice([0, 1])),
                                   top_k=int(rng.choice([0, 5])), seed=n, tools=False,
                                   presence_penalty=float(rng.choice([0, 2])),
                                   alternatives=int(rng.choice([-1, 3])))
        waiting.append(([int(i) for i in rng.integers(0, 200, rng.integers(1, 20))], settings))
    finished, dropped = [], 0
    while waiting or len(batch):
        while waiting and len(batch) < 6 and rng.random() < 0.7:
            prompt, settings = waiting.pop()
            n = min(2, 6 - len(batch))
            running += batch.add([prompt] * n, settings)
        if len(batch):
            for row, token, *_ in batch.step():
                assert row.ids[-1] == token
            if rng.random() < 0.1 and (alive := [row for row in batch.rows if row.finish is None]):
                batch.drop(alive[0])
                dropped += 1
    for row in running:
        stream = running.index(row) - next(
            i for i, r in enumerate(running) if r.prompt is row.prompt
        )
        alone = generate.Batch(PARAMS, CFG, TOK, 1)
        (other,) = alone.add([row.prompt], row.settings, [stream])
        while len(alone):
            alone.step()
        assert other.ids[: len(row.ids)] == row.ids and (
            row.finish == other.finish or row.finish is None
        )
        finished.append(row.finish)
        assert len(row.likeliest) == (len(row.ids) if row.settings.alternatives >= 0 else 0)
    assert finished.count(None) <= dropped and finished.count("length") > 20
    with pytest.raises(ValueError, match="7 more rows, and 6 of 6 places are free"):
        batch.add([[1]] * 7, sample.Settings())


def test_a_prompt_that_goes_on_from_what_was_read_is_read_from_there(monkeypatch):
    """The next turn of a conversation, the same prompt again: as if read anew, and less is read."""
    read, decode = [], fast.decode
    monkeypatch.setattr(
        fast,
        "decode",
        lambda params, cfg, tokens, *a, **k: (
            read.append(tokens.size) or decode(params, cfg, tokens, *a, **k)
        ),
    )
    batch, settings, history = (generate.Batch(PARAMS, CFG, TOK, 2),
                                sample.Settings(max_new_tokens=5, tools=False, seed=3),
                                enc("the lamp"))
    for turn, known in ((" is lit", 0), (" said the goat", None), ("user", None)):
        prompt, before = history + enc(turn), len(history)
        read.clear()
        (row,) = batch.add([prompt], settings)
        while len(batch):
            batch.step()
        n_read = sum(read) - len(row.ids)       # beside the last token of the prompt, and so on
        assert n_read == len(prompt) - 1 - (0 if known == 0 else before - 1)
        (fresh,) = generate.generate(
            PARAMS, CFG, TOK, [prompt], max_new_tokens=5, tools=False, seed=3
        )
        assert row.ids == fresh.ids
        history = prompt + row.ids
    read.clear()
    (again,) = batch.add([prompt], settings)
    batch.step()
    assert read == [1] and again.prompt == row.prompt


def test_alternatives_are_the_models_own():
    """Whatever the temperature and the penalties, they are the model's log-probabilities."""
    batch = generate.Batch(PARAMS, CFG, TOK, 1)
    (row,) = batch.add(
        [enc("the lamp")],
        sample.Settings(
            max_new_tokens=6, temperature=0.3, presence_penalty=1.0, alternatives=4, tools=False
        ),
    )
    while len(batch):
        batch.step()
    ids = row.prompt + row.ids
    z = fast.forward(PARAMS, CFG, np.array([ids]))[0][0].astype(float)
    for i, (logp, best) in enumerate(row.likeliest):
        want = z[len(row.prompt) + i - 1, : TOK.n_vocab]
        want = want - want.max() - np.log(np.exp(want - want.max()).sum())
        assert logp == pytest.approx(want[row.ids[i]], abs=1e-4) and [
            b for _, b in best
        ] == pytest.approx(np.sort(want)[::-1][:4].tolist(), abs=1e-4)


def test_rows_that_end_at_any_time_change_no_other():
    """Prompts of all lengths, some many times, and stops at any token: each as if alone."""
    rng = np.random.default_rng(4)
    prompts = [rng.integers(0, 200, n).tolist() for n in range(1, CFG.n_positions, 3)]
    prompts = [prompts[i] for i in rng.integers(0, len(prompts), 40)]
    free = generate.generate(
        PARAMS, CFG, TOK, prompts, max_new_tokens=200, temperature=0.0, tools=False
    )
    stop = {i for reply in free for i in reply.ids[2:]} - {
        i for reply in free[:2] for i in reply.ids
    }
    together = generate.generate(
        PARAMS, CFG, TOK, prompts, stop=stop, max_new_tokens=200, temperature=0.0, tools=False
    )
    assert len({len(r.ids) for r in together}) > 3 and {r.finish for r in together} == {
        "stop",
        "length",
    }
    for prompt, reply in zip(prompts, together):
        assert (
            reply[:3]
            == generate.generate(PARAMS, CFG, TOK, [prompt], stop=stop, max_new_tokens=200,
                                 temperature=0.0, tools=False)[0][:3]
        )
