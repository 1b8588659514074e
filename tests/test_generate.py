"""chat/generate.py: rows that come and go, prompts that were read before."""

import dataclasses

import numpy as np
import pytest

import bpe
import sample
from chat import generate
from model import fast, llama
from small_talker import CFG, PARAMS, TOK, enc
from test_llama import random_params


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


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_what_is_likely_is_found_without_sorting_all(spread):
    """top_k and top_p of a large vocabulary, flat or not, many logits equal: no bit differs."""
    z = np.random.default_rng(0).standard_normal(3001).round(2) * spread
    for top_k in (0, 1, 2, 50, 700, 3000):
        for top_p in (1e-9, 0.3, 0.9, 0.99, 0.9999, 1 - 1e-7, 1 - 1e-12, 1.0):
            want = sample.probabilities(z, top_k=top_k, top_p=top_p)
            found, = generate.probabilities(z[None], top_k=top_k, top_p=top_p)
            np.testing.assert_array_equal(found, want)


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


SETTINGS = sample.Settings(max_new_tokens=5, tools=False, seed=3)


@pytest.fixture
def read(monkeypatch):
    """How many tokens each row has to read in a call of decode, one list a call."""
    calls, decode = [], fast.decode

    def counted(params, cfg, tokens, cache, n_new=None, **k):
        calls.append([tokens.shape[1]] * len(tokens) if n_new is None else list(n_new))
        return decode(params, cfg, tokens, cache, n_new, **k)

    monkeypatch.setattr(fast, "decode", counted)
    return calls


def finish(batch):
    while len(batch):
        batch.step()


def fresh(prompt, settings=SETTINGS):
    """The reply to a prompt in a batch of its own."""
    batch = generate.Batch(PARAMS, CFG, TOK, 1)
    (row,) = batch.add([prompt], settings)
    finish(batch)
    return row.ids


def test_a_prompt_that_goes_on_from_what_was_read_is_read_from_there(read):
    """The next turn of a conversation, the same prompt again: as if read anew, and less is read."""
    batch, history = generate.Batch(PARAMS, CFG, TOK, 2), enc("the lamp")
    for turn in (" is lit", " said the goat", "user"):
        prompt, before = history + enc(turn), len(history)
        read.clear()
        (row,) = batch.add([prompt], SETTINGS)
        finish(batch)
        n_read = sum(map(sum, read)) - len(row.ids)
        known = 0 if turn == " is lit" else before - 1      # the last token was never read
        assert n_read == len(prompt) - 1 - known
        assert row.ids == fresh(prompt)
        history = prompt + row.ids
    read.clear()
    (again,) = batch.add([prompt], SETTINGS)
    batch.step()
    assert read == [[1]] and again.prompt == row.prompt


def test_what_rows_beside_it_have_read_is_not_read_again(read):
    """From a row that is written, and from one that is still reading; each as if alone."""
    system = enc("the lamp is lit, said the goat.")
    first, *others = [system + enc(text) for text in ("who", "user", "user", "lamp")]
    batch = generate.Batch(PARAMS, CFG, TOK, 6)
    rows = batch.add([first], SETTINGS)
    batch.step()
    read.clear()
    rows += batch.add(others, SETTINGS, [0, 0, 0])
    batch.step()
    (pieces, last) = read
    assert sorted(pieces) == sorted(len(prompt) - 1 - len(system) for prompt in others[1:])
    assert last == [1] * 4              # the second "user" has waited for the first
    finish(batch)
    assert [row.ids for row in rows] == [fresh(row.prompt) for row in rows]
    assert batch.n_prompt - batch.n_known == len(first) + sum(pieces) + len(others)


def test_the_text_that_was_used_least_recently_goes():
    """Three conversations in three places; the first goes on, and a fourth takes the second's."""
    batch, texts = generate.Batch(PARAMS, CFG, TOK, 3), {}

    def turn(name):
        prompt, known = [*texts.get(name, []), *enc(f"the {name} said")], batch.n_known
        (row,) = batch.add([prompt], SETTINGS)
        finish(batch)
        assert row.ids == fresh(prompt)
        n_before = len(texts.get(name, [])) - 1
        texts[name] = prompt + row.ids
        return batch.n_known - known == n_before        # whether all was known but the last token

    assert [turn(name) for name in ("lamp", "goat", "user")] == [False] * 3
    assert turn("lamp")
    assert not turn("who")
    assert [turn("user"), turn("lamp"), turn("who"), turn("goat")] == [True, True, True, False]


def test_a_long_prompt_does_not_stop_the_others(read, monkeypatch):
    """Between two tokens of a row no more than a piece is read, however many prompts come."""
    monkeypatch.setattr(generate, "PIECE", 8)
    monkeypatch.setattr(generate, "SHORTEST", 4)
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 200, n).tolist() for n in (3, 40, 30, 9, 2)]
    settings = sample.Settings(max_new_tokens=40, tools=False, seed=3)
    batch = generate.Batch(PARAMS, CFG, TOK, 5)
    rows = batch.add(prompts[:1], settings)
    batch.step()
    rows += batch.add(prompts[1:], settings, [0] * 4)
    n_steps = 0
    while batch.ready < 5:
        read.clear()
        assert rows[0] in [row for row, _ in batch.step()]
        assert sum(map(sum, read[:-1])) <= 8 and len(read) <= 2
        n_steps += 1
    assert n_steps < 15
    finish(batch)
    assert [row.ids for row in rows] == [fresh(prompt, settings) for prompt in prompts]


def test_what_a_tool_writes_is_read_like_a_prompt(read, monkeypatch):
    """In one piece, and once for two that wrote the same; a third goes on in the meantime."""
    end, output = TOK.special_tokens["<|tool_end|>"], enc("the goat said 1 2")
    monkeypatch.setattr(
        sample, "tool_output", lambda reply, _: list(output) if reply == [end] * 3 else []
    )
    calls = sample.Settings(max_new_tokens=5, temperature=0, logit_bias=((end, 99.0),))
    prompts = [enc("the lamp"), enc("user"), enc("the lamp")]
    batch = generate.Batch(PARAMS, CFG, TOK, 3)
    first, other, twin = batch.add(prompts, [calls, SETTINGS, calls])
    for _ in range(3):
        batch.step()
    read.clear()
    assert [row for row, _ in batch.step()].count(other) == 1
    assert read[0] == [len(output)]                 # with the third token, without the last
    assert len(read) == 2 and sum(read[1]) == 3
    finish(batch)
    assert first.ids == twin.ids == [*[end] * 3, *output, end, end]
    assert first.sampled == twin.sampled == [*[1] * 3, *[0] * len(output), 1, 1]
    assert other.ids == sample.generate(PARAMS, CFG, TOK, prompts[:2], **vars(SETTINGS))[1].ids


def test_many_prompts_are_read_before_replies_are_written(read, monkeypatch):
    """Where nobody waits for a token, pieces stay large."""
    monkeypatch.setattr(generate, "PIECE", 2)
    monkeypatch.setattr(generate, "ALONE", 24)
    monkeypatch.setattr(generate, "SHORTEST", 4)
    prompts = [[n] * 4 for n in range(16)]
    generate.generate(PARAMS, CFG, TOK, prompts, max_new_tokens=5, tools=False)
    assert [call for call in read if max(call) > 1] == [[3] * 6, [3] * 6, [3] * 4]


def test_a_client_that_goes_while_its_prompt_is_read(monkeypatch):
    """Nothing more of it is read, and who waited for it reads on alone."""
    monkeypatch.setattr(generate, "ALONE", 4)
    monkeypatch.setattr(generate, "SHORTEST", 2)
    prompt = np.random.default_rng(2).integers(0, 200, 30).tolist()
    batch = generate.Batch(PARAMS, CFG, TOK, 3)
    gone, twin = batch.add([prompt, prompt], SETTINGS, [0, 0])
    batch.step()
    batch.drop(gone)
    batch.step()
    assert batch.rows == [twin]
    finish(batch)
    assert gone.ids == [] and twin.ids == fresh(prompt)


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


@pytest.mark.parametrize("name", llama.EXAMPLES)
def test_llamas_write_what_the_plain_loop_writes(name):
    """Cached keys, prompts that repeat, rows of different length: the other family's too."""
    cfg = dataclasses.replace(llama.EXAMPLES[name], vocab_size=TOK.n_vocab, n_positions=48)
    params = random_params(cfg)
    prompts = [enc("the lamp"), enc("a goat said 3 4 5"), enc("the lamp"), enc("the lamp is lit")]
    how = dict(max_new_tokens=12, temperature=1.0, seed=2)
    replies = generate.generate(params, cfg, TOK, prompts, **how)
    plain = sample.generate(params, cfg, TOK, prompts, **how)
    assert [reply.ids for reply in replies] == [reply.ids for reply in plain]
    for reply, other in zip(replies, plain):
        np.testing.assert_allclose(reply.logp, other.logp, atol=1e-9)


@pytest.mark.parametrize("names, begin", [
    (["<|im_end|>", "<|endoftext|>"], ["<|endoftext|>"]),
    (["<|end_of_text|>", "<|begin_of_text|>"], ["<|begin_of_text|>"]),      # Llama 3
    (["<\uff5cbegin\u2581of\u2581sentence\uff5c>"], ["<\uff5cbegin\u2581of\u2581sentence\uff5c>"]),
    (["<s>"], []),
])
def test_what_stands_before_a_document(names, begin):
    tokenizer = bpe.Tokenizer.train(["a text"], 270, special_tokens=names)
    assert tokenizer.decode(generate.document_begin(tokenizer)) == "".join(begin)
