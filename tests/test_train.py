"""train.py: the optimizer against its formula, the loader, the n-gram model, and runs that are killed."""

import json
import math
import random

import numpy as np
import pytest

import bpe
import gpt
import train
import weights
from conftest import kill_and_rerun, run_script

TEXT = "".join(random.Random(1).choice(["the lamp is lit. ", "a goat ate it. ", "who knows? ", "nobody said so.\n"]) for _ in range(900))
SMALL = ("--preset", "shakespeare", "--steps", "30", "--batch", "4", "--eval-every", "15", "--save-every", "4")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------- optimizer


def test_adamw_equals_its_formula():
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((5, 3)), "b": rng.standard_normal(4)}
    want = {k: p.copy() for k, p in params.items()}
    m, v = ({k: np.zeros_like(p) for k, p in want.items()} for _ in range(2))
    opt = train.AdamW(params, 0.9, 0.95, 1e-8, weight_decay=0.1)
    for t in range(1, 6):
        grads, lr = {k: rng.standard_normal(p.shape) for k, p in params.items()}, 0.01 * t
        opt.step(grads, lr, scale=0.5)
        for k, g in grads.items():
            g = g * 0.5
            m[k] = 0.9 * m[k] + 0.1 * g
            v[k] = 0.95 * v[k] + 0.05 * g * g
            decay = 0.1 if k == "w" else 0.0
            want[k] = want[k] - lr * (m[k] / (1 - 0.9 ** t) / (np.sqrt(v[k] / (1 - 0.95 ** t)) + 1e-8) + decay * want[k])
            np.testing.assert_allclose(params[k], want[k], rtol=1e-12)


def test_adamw_does_not_depend_on_its_block_size(monkeypatch):
    rng = np.random.default_rng(0)
    start, g = rng.standard_normal(1000).astype(np.float32), rng.standard_normal(1000).astype(np.float32)
    results = []
    for block in (7, 1000):
        monkeypatch.setattr(train.AdamW, "BLOCK", block)
        params = {"w": start.copy()}
        train.AdamW(params).step({"w": g}, 0.1)
        results.append(params["w"])
    np.testing.assert_array_equal(*results)


def test_schedule_and_clipping():
    recipe = train.Recipe(None, steps=100, batch=1, micro_batch=1, lr=1.0, min_lr=0.1, warmup=10)
    lr = [train.learning_rate(s, recipe) for s in range(101)]
    assert lr[0] == pytest.approx(0.1) and lr[9] == lr[10] == 1.0
    assert lr[55] == pytest.approx(0.55) and lr[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(lr[10:], lr[11:]))
    assert train.grad_norm({"a": np.array([3.0]), "b": np.array([[4.0]])}) == 5.0
    assert train.clip_scale(5.0, 1.0) == 0.2 and train.clip_scale(0.5, 1.0) == 1.0 and train.clip_scale(0.0, 1.0) == 1.0


# ---------------------------------------------------------------------------------------------------- loader


def test_windows_visit_everything_once_an_epoch_and_need_no_memory():
    shards, T = [np.arange(1000), np.arange(5000, 5321)], 16
    windows = train.Windows(shards, T, seed=3)
    rows = windows.rows(0, windows.per_epoch)
    assert rows.shape == (windows.per_epoch, T + 1) and (np.diff(rows, axis=1) == 1).all()
    seen = np.sort(rows[:, :T].ravel())
    assert len(np.unique(seen)) == len(seen) > 0.95 * (1321 - 4 * T)
    again = train.Windows(shards, T, seed=3)
    np.testing.assert_array_equal(again.rows(100, 7), windows.rows(100, 7))         # across an epoch's end, out of order
    assert not np.array_equal(windows.rows(windows.per_epoch, 5), rows[:5])         # another epoch, another order
    assert not np.array_equal(train.Windows(shards, T, seed=4).rows(0, 5), rows[:5])
    with pytest.raises(ValueError, match="20 tokens are too few for windows of 16"):
        train.Windows([np.arange(20)], 16, 0)


def test_tokens_of_another_tokenizer_are_refused(tmp_path):
    ours = bpe.Tokenizer.train([TEXT], 300)
    other = bpe.Tokenizer.train([TEXT[::-1]], 300)
    (tmp_path / "tokens").mkdir()
    ours.save(tmp_path / "tokenizer.json")
    for split in ("train", "val"):
        bpe.write_shard(tmp_path / "tokens" / f"{split}_000000.bin", other.encode_to_numpy(TEXT), other)
    done = run_script("train.py", "--run", tmp_path)
    assert done.returncode != 0 and "made by another tokenizer" in done.stderr and "bpe.py encode" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "base").exists()


# ------------------------------------------------------------------------------------------------ evaluation


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

    got = train.ngram_nats(train_ids, val_ids, n, V)
    for j in range(3, len(val_ids)):
        i = len(train_ids) + j
        assert got[j] == pytest.approx(-math.log(p(list(whole[i - n + 1:i]), whole[i], n)), rel=1e-9)
    unigram = train.ngram_nats(train_ids, val_ids, 1, V)
    counts = np.bincount(train_ids, minlength=V)
    np.testing.assert_allclose(unigram, -np.log(np.maximum(counts - d, 0)[val_ids] / 10 + d * 4 / 10 / V))


def test_bits_per_byte_leaves_special_tokens_out():
    tok = bpe.Tokenizer.train([TEXT], 300)
    cfg = gpt.Config(tok.n_vocab, 8, 16, 1, 2)
    params = gpt.init(cfg, 0)
    params["wte.weight"][:] = 0.0                       # a model that guesses evenly
    ids = np.array(tok.encode("<|endoftext|>the lamp is lit. " * 20, allowed_special="all"))
    nats, bits = train.evaluate(params, cfg, tok, [ids])
    rows = [ids[i:i + 9] for i in range(0, len(ids) - 8, 8)]
    targets = np.concatenate([r[1:] for r in rows])
    plain = [t for t in targets if t != tok.eot_token]
    assert nats == pytest.approx(math.log(tok.n_vocab), rel=1e-5)
    assert bits == pytest.approx(len(plain) * math.log2(tok.n_vocab) / sum(len(tok.token_bytes[t]) for t in plain), rel=1e-5)


# ------------------------------------------------------------------------------------------------- whole runs


def test_a_run_learns_logs_and_can_be_loaded(tmp_path, text):
    train.main(["--data", str(text), "--run", str(tmp_path / "r"), *SMALL])
    log = [json.loads(line) for line in (tmp_path / "r/base/log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log] == list(range(1, 31))
    assert {"tokens", "loss_nats", "lr", "grad_norm", "dt_s", "tokens_per_s"} <= set(log[0]) and "val_loss_nats" in log[-1]
    assert log[-1]["loss_nats"] < 0.8 * log[0]["loss_nats"]
    params, cfg = gpt.load(tmp_path / "r/base")
    tok = bpe.Tokenizer.load(tmp_path / "r/base/tokenizer.json")
    assert cfg.vocab_size == tok.n_vocab == len(set(TEXT)) and tok.decode(tok.encode("goat")) == "goat"


def test_micro_batches_do_not_change_the_step(tmp_path, text):
    weights = []
    for micro in ("4", "3", "1"):
        train.main(["--data", str(text), "--run", str(tmp_path / micro), *SMALL, "--steps", "3", "--micro-batch", micro])
        weights.append(gpt.load(tmp_path / micro / "base")[0])
    for other in weights[1:]:
        for k, w in weights[0].items():
            np.testing.assert_allclose(other[k], w, atol=2e-5)


def test_killed_at_any_moment_ends_with_the_same_bits(tmp_path, text):
    args = ["--data", text, *SMALL, "--steps", "60"]
    assert run_script("train.py", *args, "--run", tmp_path / "calm").returncode == 0
    kill_and_rerun("train.py", [*args, "--run", tmp_path / "killed"], random.Random(0))
    for name in ("model.safetensors", "trainer.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "calm/base" / name).read_bytes() == (tmp_path / "killed/base" / name).read_bytes(), name
    steps = [[{k: v for k, v in json.loads(line).items() if k not in ("dt_s", "tokens_per_s")}
              for line in (tmp_path / run / "base/log.jsonl").read_text().splitlines()] for run in ("calm", "killed")]
    assert steps[0] == steps[1] and len(steps[0]) == 60
    assert not list(tmp_path.rglob("*.tmp"))


def test_resuming_with_other_settings_is_an_error(tmp_path, text):
    run = ["--data", str(text), "--run", str(tmp_path / "r")]
    train.main([*run, *SMALL])
    before = (tmp_path / "r/base/model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="cannot resume, lr: checkpoint .*, now 0.5"):
        train.main([*run, *SMALL, "--lr", "0.5"])
    with pytest.raises(ValueError, match="cannot resume, seed: checkpoint 0, now 1"):
        train.main([*run, *SMALL, "--seed", "1"])
    assert (tmp_path / "r/base/model.safetensors").read_bytes() == before
    train.main([*run, *SMALL])                          # the same again: nothing to do, nothing changes
    assert (tmp_path / "r/base/model.safetensors").read_bytes() == before
    train.main([*run, *SMALL, "--seed", "1", "--on-mismatch", "restart"])
    assert (tmp_path / "r/base/model.safetensors").read_bytes() != before


def test_a_model_of_someone_else_is_not_overwritten(tmp_path, text, monkeypatch):
    theirs = tmp_path / "r/base/model.safetensors"
    gpt.save(theirs.parent, gpt.init(gpt.Config(9, 8, 16, 1, 2), 5), gpt.Config(9, 8, 16, 1, 2))
    before = theirs.read_bytes()
    run = ["--data", str(text), "--run", str(tmp_path / "r"), *SMALL]
    with pytest.raises(ValueError, match="a model that this run did not make is already there"):
        train.main(run)
    assert theirs.read_bytes() == before
    monkeypatch.setattr(train, "update", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.main([*run, "--on-mismatch", "restart"])
    assert not theirs.exists()                          # half a training never looks finished


def test_how_often_it_is_saved_does_not_matter_to_a_resume(tmp_path, text):
    run = ["--data", str(text), "--run", str(tmp_path / "r")]
    train.main([*run, *SMALL])
    before = (tmp_path / "r/base/model.safetensors").read_bytes()
    train.main([*run, *SMALL, "--save-every", "7", "--eval-every", "9"])
    assert (tmp_path / "r/base/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("spoil, message", [
    (lambda t, m: (t, {**m, "step": "two"}), "it is damaged"),
    (lambda t, m: (t, {**m, "step": "999"}), "step 999 with 30 updates: impossible"),
    (lambda t, m: (t, {**m, "identity": "[1]"}), "it is damaged"),
    (lambda t, m: (t, {}), "it is damaged"),
    (lambda t, m: ({**t, "wpe.weight": np.ones(1, np.float32)}, m), r"wpe.weight: checkpoint \(1,\), now \(64, 128\)"),
    (lambda t, m: ({k: a for k, a in t.items() if k != "adamw.m.wpe.weight"}, m), "adamw.m.wpe.weight: checkpoint None"),
])
def test_a_damaged_checkpoint_is_refused_or_started_over(tmp_path, text, spoil, message, capsys):
    run, path = ["--data", str(text), "--run", str(tmp_path / "r"), *SMALL], tmp_path / "r/base/trainer.safetensors"
    train.main(run)
    before = (tmp_path / "r/base/model.safetensors").read_bytes()
    weights.save_safetensors(path, *spoil(*weights.load_safetensors(path)))
    with pytest.raises(ValueError, match=f"trainer.safetensors: cannot resume, {message}"):
        train.main(run)
    train.main([*run, "--on-mismatch", "restart"])
    assert (tmp_path / "r/base/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("prepare, args, message", [
    (lambda d: None, [], "no such run folder"),
    (lambda d: d.joinpath("run").mkdir(), [], "python bpe.py train"),
    (lambda d: None, ["--data", "{d}/missing.txt"], "No such file"),
    (lambda d: d.joinpath("empty.txt").write_text(""), ["--preset", "shakespeare", "--data", "{d}/empty.txt"], "empty file"),
    (lambda d: d.joinpath("short.txt").write_text("abc"), ["--preset", "shakespeare", "--data", "{d}/short.txt"], "too few for windows"),
    (lambda d: d.joinpath("bin.txt").write_bytes(b"\xff\xfe\x00"), ["--data", "{d}/bin.txt"], "not UTF-8"),
    (lambda d: None, ["--steps", "0"], "--steps 0: must be above 0"),
    (lambda d: None, ["--lr", "nan"], "--lr nan: must be above 0"), (lambda d: None, ["--seed", "-1"], "--seed -1"),
    (lambda d: d.joinpath("x.txt").write_text("ab" * 320), ["--preset", "shakespeare", "--data", "{d}/x.txt"], "do not fill one window"),
])
def test_bad_input(tmp_path, prepare, args, message):
    prepare(tmp_path)
    done = run_script("train.py", "--run", tmp_path / "run", *[a.format(d=tmp_path) for a in args])
    assert done.returncode != 0 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "run/base").exists()


def test_a_checkpoint_of_another_shape_is_refused(tmp_path, text):
    run = ["--data", str(text), "--run", str(tmp_path / "r")]
    train.main([*run, *SMALL])
    text.write_text(TEXT + "\u00e9" * 50, encoding="utf-8")     # one more character: one more row in the embedding
    with pytest.raises(ValueError, match=r"cannot resume, .*vocab_size: checkpoint \d+, now \d+"):
        train.main([*run, *SMALL])


def test_shakespeare_preset_is_nanogpts_but_for_the_learning_rate(shared):
    recipe = train.PRESETS["shakespeare"]
    assert (recipe.model.n_layer, recipe.model.n_head, recipe.model.n_embd, recipe.model.n_positions) == (4, 4, 128, 64)
    assert (recipe.batch, recipe.steps, recipe.warmup, recipe.beta2, recipe.weight_decay) == (12, 2000, 100, 0.99, 0.1)
    assert (recipe.lr, recipe.min_lr) == (3e-3, 3e-4)   # nanoGPT: 1e-3, 1e-4
    tokenizer, train_ids, val_ids = train.load_characters(shared("tinyshakespeare.txt"))
    assert tokenizer.n_vocab == 65 and len(train_ids[0]) == 1_003_854 and len(val_ids[0]) == 111_540
