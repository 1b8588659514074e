"""model/evaluate.py: the n-gram model against a naive count, bits per byte, HellaSwag, and the command line."""

import json
import math
import random

import numpy as np
import pytest

import bpe
from tokens.shards import write_shard
from model import evaluate
from model import fast
import gpt
from conftest import run_script

TEXT = "".join(random.Random(1).choice(["the lamp is lit. ", "a goat ate it. ", "who knows? ", "nobody said so.\n"]) for _ in range(900))


def test_hellaswag_chooses_the_ending_of_the_lowest_loss(tmp_path, monkeypatch):
    tok = bpe.Tokenizer.characters(" abcdxy")
    cfg = gpt.Config(tok.n_vocab, 16, 16, 1, 2)
    rows = [{"ctx": "ab", "endings": ["x", "xyx", "dd", "aaaa"], "label": 1}, {"ctx": "b" * 30, "endings": ["x", "y", "c", "d"], "label": "2"}]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    cost = np.array([9.0, 9, 9, 9, 9, 1.0, 1.5])        # of the characters " abcdxy"; " " costs 9

    def losses(params, cfg, tokens, targets):
        assert tokens.shape[1] <= cfg.n_positions
        return np.where(targets == -1, 0.0, cost[targets])

    monkeypatch.setattr(fast, "token_losses", losses)
    # sums 10, 12.5, 27, 45: x wins; means 5, 3.1, 9, 9: xyx wins. Second: x wins, the label is c
    assert evaluate.hellaswag(None, cfg, tok, tmp_path / "h.jsonl") == (0.0, 0.5, 2)
    assert evaluate.hellaswag(None, cfg, tok, tmp_path / "h.jsonl", most=1) == (0.0, 1.0, 1)
    whole = {"ctx": "a", "endings": ["x", "y"], "label": 0}
    for bad in ({"ctx": "a"}, {**whole, "ctx": ""}, {**whole, "endings": []}, {**whole, "endings": "xy"}, {**whole, "label": 2}, {**whole, "label": -1}):
        (tmp_path / "h.jsonl").write_text(json.dumps(bad) + "\n")
        with pytest.raises(ValueError, match="h.jsonl:1: expected ctx, endings and label"):
            evaluate.hellaswag(None, cfg, tok, tmp_path / "h.jsonl")
    (tmp_path / "h.jsonl").write_text(json.dumps({**whole, "endings": ["x", "y" * 16]}))
    with pytest.raises(ValueError, match="h.jsonl:1: an ending of 17 tokens, the model's context is 16"):
        evaluate.hellaswag(None, cfg, tok, tmp_path / "h.jsonl")


def test_ngram_loss_equals_a_naive_count():
    train_ids, val_ids, V, n, d = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2, 2]), np.array([0, 1, 2, 3, 0, 0]), 5, 3, 0.75
    whole = np.concatenate([train_ids, val_ids])

    def p(history, w, k):           # of the k-gram model
        if k == 0:
            return 1 / V
        lower = p(history[1:], w, k - 1)
        follow = [tuple(whole[i - k + 1:i + 1]) for i in range(len(train_ids)) if i >= k - 1 or k == 1]
        after = [g[-1] for g in follow if g[:-1] == tuple(history[len(history) - k + 1:])]
        if not after:
            return lower
        return max(after.count(w) - d, 0) / len(after) + d * len(set(after)) / len(after) * lower

    got = evaluate.ngram_nats(train_ids, val_ids, n, V)
    for j in range(3, len(val_ids)):
        i = len(train_ids) + j
        assert got[j] == pytest.approx(-math.log(p(list(whole[i - n + 1:i]), whole[i], n)), rel=1e-9)
    unigram = evaluate.ngram_nats(train_ids, val_ids, 1, V)
    counts = np.bincount(train_ids, minlength=V)
    np.testing.assert_allclose(unigram, -np.log(np.maximum(counts - d, 0)[val_ids] / 10 + d * 4 / 10 / V))


def test_bits_per_byte_leaves_special_tokens_out():
    tok = bpe.Tokenizer.train([TEXT], 300)
    cfg = gpt.Config(tok.n_vocab, 8, 16, 1, 2)
    params = gpt.init(cfg, 0)
    params["wte.weight"][:] = 0.0                       # a model that guesses evenly
    ids = np.array(tok.encode("<|endoftext|>the lamp is lit. " * 20, allowed_special="all"))
    nats, bits = evaluate.validation_loss(params, cfg, tok, [ids])
    rows = [ids[i:i + 9] for i in range(0, len(ids) - 8, 8)]
    targets = np.concatenate([r[1:] for r in rows])
    plain = [t for t in targets if t != tok.eot_token]
    assert nats == pytest.approx(math.log(tok.n_vocab), rel=1e-5)
    assert bits == pytest.approx(len(plain) * math.log2(tok.n_vocab) / sum(len(tok.token_bytes[t]) for t in plain), rel=1e-5)


def test_from_the_command_line(tmp_path):
    tok = bpe.Tokenizer.train([TEXT], 280)
    cfg = gpt.Config(tok.n_vocab, 16, 16, 1, 2)
    gpt.save(tmp_path / "m", gpt.init(cfg, 0), cfg)
    tok.save(tmp_path / "m/tokenizer.json")
    write_shard(tmp_path / "val.bin", tok.encode_to_numpy(TEXT))
    (tmp_path / "h.jsonl").write_text(json.dumps({"ctx": "the lamp", "endings": ["is", "a", "b", "c"], "label": 0}) + "\n")
    done = run_script("model/evaluate.py", tmp_path / "m", "--tokens", tmp_path / "val.bin", "--hellaswag", tmp_path / "h.jsonl")
    assert done.returncode == 0 and " nats a token, " in done.stdout and "1 examples" in done.stdout, done.stderr
    write_shard(tmp_path / "other.bin", tok.encode_to_numpy(TEXT), bpe.Tokenizer.train([TEXT[::-1]], 280))
    write_shard(tmp_path / "beyond.bin", np.array([1, 2, tok.n_vocab] * 9))
    for args, message in (([tmp_path / "m"], "nothing to measure"), ([tmp_path / "m", "--tokens", tmp_path / "other.bin"], "made by another tokenizer"),
                          ([tmp_path / "m", "--tokens", tmp_path / "beyond.bin"], f"token {tok.n_vocab} is beyond the vocabulary"),
                          ([tmp_path / "n", "--tokens", tmp_path / "val.bin"], "no such file"),
                          ([tmp_path / "m", "--hellaswag", tmp_path / "h.jsonl", "--most", "0"], "--most 0")):
        done = run_script("model/evaluate.py", *args)
        assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr, done.stderr
