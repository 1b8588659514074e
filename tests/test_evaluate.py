"""model/evaluate.py: n-grams against a naive count, bits a byte, dreams, HellaSwag, the command."""

import json
import math

import bpe
import gpt
import numpy as np
import pytest
from conftest import run_script
from model import evaluate, fast
from test_train import TEXT
from tokens.shards import write_shard


def write_jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# --------------------------------------------------------------------------------------- HellaSwag


def test_hellaswag_chooses_the_ending_of_the_lowest_loss(tmp_path, monkeypatch):
    tok, path = bpe.Tokenizer.characters(" abcdxy"), tmp_path / "h.jsonl"
    cfg = gpt.Config(tok.n_vocab, 16, 16, 1, 2)
    write_jsonl(path, {"ctx": "ab", "endings": ["x", "xyx", "dd", "aaaa"], "label": 1},
                {"ctx": "b" * 30, "endings": ["x", "y", "c", "d"], "label": "2"})
    cost = np.array([9.0, 9, 9, 9, 9, 1.0, 1.5])        # of the characters " abcdxy"

    def losses(params, cfg, tokens, targets):
        assert tokens.shape[1] <= cfg.n_positions
        return np.where(targets == -1, 0.0, cost[targets])

    monkeypatch.setattr(fast, "token_losses", losses)
    # The sums are 10, 12.5, 27 and 45: x wins. The means are 5, 3.1, 9 and 9: xyx wins.
    # In the second question x wins and c is right.
    assert evaluate.hellaswag(None, cfg, tok, path) == (0.0, 0.5, 2)
    assert evaluate.hellaswag(None, cfg, tok, path, most=1) == (0.0, 1.0, 1)


@pytest.mark.parametrize("bad", [
    {"endings": None}, {"ctx": ""}, {"endings": []}, {"endings": "xy"}, {"label": 2}, {"label": -1},
])
def test_questions_that_are_none(tmp_path, bad):
    tok = bpe.Tokenizer.characters(" abcdxy")
    cfg = gpt.Config(tok.n_vocab, 16, 16, 1, 2)
    write_jsonl(tmp_path / "h.jsonl", {"ctx": "a", "endings": ["x", "y"], "label": 0, **bad})
    with pytest.raises(ValueError, match="h.jsonl:1: expected ctx, endings and label"):
        evaluate.hellaswag(None, cfg, tok, tmp_path / "h.jsonl")


def test_an_ending_that_does_not_fit_the_context(tmp_path):
    tok = bpe.Tokenizer.characters(" abcdxy")
    cfg = gpt.Config(tok.n_vocab, 16, 16, 1, 2)
    write_jsonl(tmp_path / "h.jsonl", {"ctx": "a", "endings": ["x", "y" * 16], "label": 0})
    with pytest.raises(ValueError, match="an ending of 17 tokens, the model's context is 16"):
        evaluate.hellaswag(None, cfg, tok, tmp_path / "h.jsonl")


# --------------------------------------------------------------------------------- validation loss


def test_ngram_loss_equals_a_naive_count():
    train_ids = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2, 2])
    val_ids = np.array([0, 1, 2, 3, 0, 0])
    V, n, d = 5, 3, 0.75
    whole = np.concatenate([train_ids, val_ids])

    def p(history, w, k):
        """The probability of w under the k-gram model."""
        if k == 0:
            return 1 / V
        lower = p(history[1:], w, k - 1)
        after, recent = [], tuple(history[len(history) - k + 1:])
        for i in range(len(train_ids)):
            gram = tuple(whole[i - k + 1:i + 1])
            if (i >= k - 1 or k == 1) and gram[:-1] == recent:
                after.append(gram[-1])
        if not after:
            return lower
        counted = max(after.count(w) - d, 0) / len(after)
        return counted + d * len(set(after)) / len(after) * lower

    got = evaluate.ngram_nats(train_ids, val_ids, n, V)
    for j in range(3, len(val_ids)):
        i = len(train_ids) + j
        want = -math.log(p(list(whole[i - n + 1:i]), whole[i], n))
        assert got[j] == pytest.approx(want, rel=1e-9)
    unigram = evaluate.ngram_nats(train_ids, val_ids, 1, V)
    counts = np.bincount(train_ids, minlength=V)
    want = np.maximum(counts - d, 0)[val_ids] / 10 + d * 4 / 10 / V
    np.testing.assert_allclose(unigram, -np.log(want))


def test_bits_per_byte_leaves_special_tokens_out():
    tok = bpe.Tokenizer.train([TEXT], 300)
    cfg = gpt.Config(tok.n_vocab, 8, 16, 1, 2)
    params = gpt.init(cfg, 0)
    params["wte.weight"][:] = 0.0                       # a model that guesses evenly
    text = "<|endoftext|>the lamp is lit. " * 20
    ids = np.array(tok.encode(text, allowed_special="all"))
    nats, bits = evaluate.validation_loss(params, cfg, tok, [ids])
    targets = np.concatenate([ids[i + 1:i + 9] for i in range(0, len(ids) - 8, 8)])
    plain = [t for t in targets if t != tok.eot_token]
    n_bytes = sum(len(tok.token_bytes[t]) for t in plain)
    assert nats == pytest.approx(math.log(tok.n_vocab), rel=1e-5)
    assert bits == pytest.approx(len(plain) * math.log2(tok.n_vocab) / n_bytes, rel=1e-5)
    assert evaluate.validation_loss(params, cfg, None, [ids])[1] is None


def test_a_dream_follows_the_model_and_never_an_id_without_a_token():
    tok = bpe.Tokenizer.characters("ab")
    cfg = gpt.Config(tok.n_vocab + 3, 8, 16, 1, 2)      # three ids that no token has
    params = gpt.init(cfg, 0)
    one = evaluate.dream(params, cfg, tok, seed=1)
    assert len(one) == 8 and set(one) <= set("ab")      # as long as the context
    assert evaluate.dream(params, cfg, tok, seed=1) == one
    assert {evaluate.dream(params, cfg, tok, seed) for seed in range(5)} != {one}


# ------------------------------------------------------------------------------------ the command


def test_from_the_command_line(tmp_path):
    tok = bpe.Tokenizer.train([TEXT], 280)
    other = bpe.Tokenizer.train([TEXT[::-1]], 280)
    cfg, model = gpt.Config(tok.n_vocab, 16, 16, 1, 2), tmp_path / "m"
    gpt.save(model, gpt.init(cfg, 0), cfg)
    tok.save(model / "tokenizer.json")
    ids = tok.encode_to_numpy(TEXT)
    write_shard(tmp_path / "val.bin", ids)
    write_shard(tmp_path / "other.bin", ids, other)
    write_shard(tmp_path / "beyond.bin", np.array([1, 2, tok.n_vocab] * 9))
    questions = tmp_path / "h.jsonl"
    write_jsonl(questions, {"ctx": "the lamp", "endings": ["is", "a", "b", "c"], "label": 0})
    words = [model, "--tokens", tmp_path / "val.bin", "--hellaswag", questions]
    done = run_script("model/evaluate.py", *words)
    assert done.returncode == 0, done.stderr
    assert " nats a token, " in done.stdout and "1 examples" in done.stdout
    refused = [
        ([model], f"{model}: nothing to measure; give --tokens or --hellaswag"),
        ([model, "--tokens", tmp_path / "other.bin"], "made by another tokenizer"),
        ([model, "--tokens", tmp_path / "beyond.bin"],
         f"token {tok.n_vocab} is beyond the vocabulary"),
        ([tmp_path / "n", "--tokens", tmp_path / "val.bin"], "no such file"),
        ([model, "--hellaswag", questions, "--most", "0"], "--most 0"),
    ]
    for words, message in refused:
        done = run_script("model/evaluate.py", *words)
        assert done.returncode != 0 and message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
