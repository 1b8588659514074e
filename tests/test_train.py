"""train.py: the optimizer against its formula, the loader, the n-gram model, and runs that are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import bpe
from tokens.shards import write_shard
from model import cores
from model import fast
from model import operations
import gpt
from run import runs
import train
from model import checkpoint
from conftest import ROOT, kill_and_rerun, run_main, run_script

TEXT = "".join(random.Random(1).choice(["the lamp is lit. ", "a goat ate it. ", "who knows? ", "nobody said so.\n"]) for _ in range(900))
SMALL = ("--preset", "shakespeare", "--steps", "30", "--batch", "4", "--eval-every", "15", "--save-every", "4")
FEW = ("--preset", "shakespeare", "--steps", "6", "--batch", "2", "--eval-every", "3", "--save-every", "2")     # where nothing need be learned


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------- optimizer


@pytest.mark.parametrize("block", [4, 15, 131072])
def test_adamw_equals_its_formula(monkeypatch, block):
    """Matrices in several blocks, the last one shorter; vectors, which are updated as one; tensors of equal size."""
    monkeypatch.setattr(train.AdamW, "BLOCK", block)
    rng = np.random.default_rng(0)
    shapes = {"w": (5, 3), "b": (4,), "w2": (3, 5), "b2": (4,), "b3": (7,)}
    params = {k: rng.standard_normal(shape) for k, shape in shapes.items()}
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
            decay = 0.1 if g.ndim == 2 else 0.0
            want[k] = want[k] - lr * (m[k] / (1 - 0.9 ** t) / (np.sqrt(v[k] / (1 - 0.95 ** t)) + 1e-8) + decay * want[k])
            np.testing.assert_allclose(params[k], want[k], rtol=1e-12)
            np.testing.assert_allclose(opt.m[k], m[k], rtol=1e-12)          # these go into a checkpoint
            np.testing.assert_allclose(opt.v[k], v[k], rtol=1e-12)


def test_adamw_does_not_depend_on_its_block_size(monkeypatch):
    rng = np.random.default_rng(0)
    start, g = rng.standard_normal((2, 20, 50)).astype(np.float32)      # a matrix: vectors are not updated in blocks
    results = []
    for block in (7, 1000, 999):
        monkeypatch.setattr(train.AdamW, "BLOCK", block)
        params = {"w": start.copy()}
        train.AdamW(params).step({"w": g}, 0.1)
        assert (params["w"] != start).all()
        results.append(params["w"])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_schedule_and_clipping():
    recipe = train.Recipe(None, steps=100, batch=1, lr=1.0, min_lr=0.1, warmup=10)
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
        write_shard(tmp_path / "tokens" / f"{split}_000000.bin", other.encode_to_numpy(TEXT), other)
    done = run_script("train.py", "--run", tmp_path)
    assert done.returncode != 0 and "made by another tokenizer" in done.stderr and "bpe.py encode" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "base").exists()


@pytest.mark.parametrize("end, pad", [("<|endoftext|>", "<|output_end|>"), ("<|im_end|>", "<|endoftext|>")])
def test_a_folder_says_what_begins_ends_and_pads_a_text(tmp_path, end, pad):
    """In generation_config.json, in config.json, where classifiers look, and in tokenizer_config.json; also once the model is there."""
    tok = bpe.Tokenizer.train([TEXT], 300)
    cfg = gpt.Config(tok.n_vocab, 8, 12, 1, 3)
    params = gpt.init(cfg, 0)
    with train.begun(tmp_path / "m", params, train.AdamW(params), cfg, tok, {}, end=end) as stage:
        stage.finish(params, cfg, gpt.save)
    want = {"bos_token_id": tok.eot_token, "eos_token_id": tok.special_tokens[end], "pad_token_id": tok.special_tokens[pad]}
    for name in ("generation_config.json", "config.json"):
        assert want.items() <= json.loads((tmp_path / "m" / name).read_text()).items()
    config = json.loads((tmp_path / "m/tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == ("<|endoftext|>", end, pad)


def test_windows_at_the_start_of_documents(capsys):
    shard = np.arange(1, 200)
    shard[[0, 30, 35, 90, 91, 150, 195]] = 0            # 0 begins a document
    windows = train.Windows([shard], 10, 0, document_start=0)
    rows = windows.rows(0, windows.per_epoch)
    assert sorted(r[2] for r in rows) == [3, 33, 93, 153]       # from 0, 30, 90, 150; 35 and 91 are inside a window, 195 is too late
    assert (rows[:, 0] == 0).all() and rows.shape == (4, 11)
    assert "79.9% of the tokens are in none" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no document starts 100 tokens"):
        train.Windows([np.ones(300, int)], 100, 0, document_start=0)


def test_shards_of_other_programs(tmp_path):
    ids = np.random.default_rng(0).integers(0, 60, 3000)
    for name, kind in (("fineweb_train_000001.bin", "<u2"), ("fineweb_val_000000.bin", "<u2")):
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, len(ids)
        (tmp_path / name).write_bytes(header.tobytes() + ids.astype(kind).tobytes())
    train_shards, val_shards = train.load_shards([tmp_path], raw=False)
    np.testing.assert_array_equal(train_shards[0], ids)
    assert len(train_shards) == len(val_shards) == 1
    raw = tmp_path / "nano"
    raw.mkdir()
    for name in ("train.bin", "val.bin"):
        (raw / name).write_bytes(ids.astype("<u2").tobytes())
    np.testing.assert_array_equal(train.load_shards([raw / "train.bin", raw / "val.bin"], raw=True)[1][0], ids)
    with pytest.raises(ValueError, match="train.bin: magic .* is no token shard's"):
        train.load_shards([raw], raw=False)
    for bad in (b"abc", b""):
        (raw / "val.bin").write_bytes(bad)
        with pytest.raises(ValueError, match=f"val.bin: {len(bad)} bytes are no whole number of uint16"):
            train.load_shards([raw], raw=True)
    with pytest.raises(FileNotFoundError, match="no shard for val"):
        train.load_shards([raw / "train.bin"], raw=True)


def test_training_on_jsonl_on_shards_and_from_a_given_model(tmp_path):
    tok = bpe.Tokenizer.train([TEXT], 300)
    tok.save(tmp_path / "tokenizer.json")
    docs = tmp_path / "docs.jsonl"
    docs.write_text("".join(json.dumps({"text": TEXT[i:i + 300], "id": i}) + "\n" for i in range(0, len(TEXT), 300)) + "\n")
    small = ["--preset", "shakespeare", "--steps", "4", "--batch", "4"]
    train.main(["--data", str(docs), "--tokenizer", str(tmp_path / "tokenizer.json"), "--run", str(tmp_path / "a"), *small, "--align-documents"])
    params, cfg = gpt.load(tmp_path / "a/base")
    assert cfg.vocab_size == tok.n_vocab
    log = [json.loads(line) for line in (tmp_path / "a/base/log.jsonl").read_text().splitlines()]
    assert log[-1]["mfu"] is None and log[-1]["val_bits_per_byte"] > 0
    (tmp_path / "s").mkdir()
    for split in ("train", "val"):
        write_shard(tmp_path / "s" / f"{split}.bin", tok.encode_to_numpy(TEXT))
    # without a tokenizer: the preset's vocabulary or the given model's, and no bits a byte
    train.main(["--data", str(tmp_path / "s"), "--run", str(tmp_path / "b"), *small, "--init", str(tmp_path / "a/base"), "--lr", "1e-12"])
    again, same = gpt.load(tmp_path / "b/base")
    assert same == cfg and all(np.allclose(again[k], params[k], atol=1e-6) for k in params)
    with pytest.raises(ValueError, match="is beyond the vocabulary of 65"):
        train.main(["--data", str(tmp_path / "s"), "--run", str(tmp_path / "c"), *small])
    with pytest.raises(ValueError, match="give the --tokenizer"):
        train.main(["--data", str(docs), "--run", str(tmp_path / "c"), *small])
    with pytest.raises(ValueError, match="--raw: says how to read --data"):
        train.main(["--raw", "--run", str(tmp_path / "c")])
    small_tok = bpe.Tokenizer.characters(TEXT)
    small_tok.save(tmp_path / "other.json")
    with pytest.raises(ValueError, match=f"beyond the vocabulary of {small_tok.n_vocab}"):      # though the model knows more
        train.main(["--data", str(tmp_path / "s"), "--run", str(tmp_path / "c"), *small, "--init", str(tmp_path / "a/base"),
                    "--tokenizer", str(tmp_path / "other.json")])
    for split in ("train", "val"):
        write_shard(tmp_path / "s" / f"{split}.bin", tok.encode_to_numpy(TEXT), tok)
    with pytest.raises(ValueError, match="made by another tokenizer"):
        train.main(["--data", str(tmp_path / "s"), "--run", str(tmp_path / "c"), *small, "--tokenizer", str(tmp_path / "other.json")])


def test_another_run_in_a_folder_takes_what_fits_itself(tmp_path, capsys):
    (tmp_path / "t.txt").write_text(TEXT)
    command = ["--data", str(tmp_path / "t.txt"), "--run", str(tmp_path), "--preset", "shakespeare", "--steps", "2"]
    train.main([*command, "--batch", "6", "--micro-batch", "5"])
    with pytest.raises(ValueError, match="cannot resume, batch: checkpoint 6, now 4"):
        train.main([*command, "--batch", "4"])
    capsys.readouterr()
    train.main([*command, "--batch", "4", "--on-mismatch", "restart"])
    assert "4 of 4 rows at once" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- memory and speed


def test_fewer_rows_at_once_where_memory_is_short():
    cfg = gpt.PRESETS["shakespeare"]
    whole = sum(train.memory_plan(cfg, 12).values())
    assert train.fit_batch(cfg, 12, whole) == (12, False, train.memory_plan(cfg, 12))
    rows, recompute, plan = train.fit_batch(cfg, 12, whole - 1)
    assert (rows, recompute) == (11, False) and sum(plan.values()) < whole
    least = sum(train.memory_plan(cfg, 1, True).values())
    assert train.fit_batch(cfg, 12, least)[:2] == (1, True)
    assert train.fit_batch(cfg, 12, whole, micro_batch=5)[:2] == (5, False)
    with pytest.raises(ValueError, match="809,856 parameters with 1 row of 64 tokens at once need"):
        train.fit_batch(cfg, 12, least - 1)
    assert train.fit_batch(gpt.PRESETS["gpt2"], 512, 1e12)[0] <= 8


def test_processes_add_up_to_the_whole_batch(monkeypatch):
    cfg = gpt.Config(50, 12, 16, 2, 2)
    params, rng = gpt.init(cfg, 0), np.random.default_rng(0)
    monkeypatch.setattr(operations, "BLOCK_FLOATS", 1000)      # the sum goes in blocks
    # Of three processes the batch of two rows leaves one idle, with the gradients of the batch before.
    batches = [(*rng.integers(0, 50, (2, B, 12)), rng.standard_normal((B, 12))) for B in (5, 2, 1, 4)]
    losses, want = [], {k: 0.0 for k in params}
    for tokens, targets, weights in batches:
        loss, grads = fast.loss_and_grads(params, cfg, tokens, targets, weights)
        losses.append(loss)
        want = {k: want[k] + grads[k] for k in want}
    before = {k: p.copy() for k, p in params.items()}
    for n in (1, 2, 3):                                 # how many does not depend on this machine's cores
        monkeypatch.setattr(train, "n_processes", lambda cfg, n=n: n)
        grads = train.Gradients(params, cfg)
        for _ in range(2):                              # clear() forgets the first time
            grads.clear()
            np.testing.assert_allclose([grads.add(*batch) for batch in batches], losses, rtol=1e-4, atol=1e-4)
        for k in params:
            np.testing.assert_allclose(grads.sum[k], want[k], rtol=1e-3, atol=1e-4, err_msg=k)
        assert len(grads.others) == n - 1 and all(np.array_equal(params[k], before[k]) for k in params)
        optimizer, (tokens, targets, weights) = train.AdamW(params), batches[0]
        optimizer.step(grads.sum, 0.01)                 # the processes see what the optimizer does
        want_loss = fast.loss_and_grads(params, cfg, tokens, targets, weights, want_grads=False)[0]
        assert grads.add(tokens, targets, weights) == pytest.approx(want_loss, rel=1e-4) and want_loss != pytest.approx(losses[0], rel=1e-3)
        for k in params:
            params[k][...] = before[k]


def test_what_goes_wrong_in_another_process(monkeypatch):
    cfg = gpt.Config(50, 12, 16, 2, 2)
    monkeypatch.setattr(train, "n_processes", lambda cfg: 3)
    grads = train.Gradients(gpt.init(cfg, 0), cfg)
    good, weights = np.zeros((3, 12), int), np.ones((3, 12))
    for row in range(3):                                # the first row is this process's own
        bad = good.copy()
        bad[row, 5] = 50 + row
        with pytest.raises(ValueError, match=f"id {50 + row} is outside the model's vocabulary of 50"):
            grads.add(bad, good, weights)
        assert grads.add(good, good, weights) > 0.0     # nothing is left over from the failure
    processes = [other.process for other in grads.others]
    os.kill(processes[1].pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="exit code -9"):
        grads.add(good, good, weights)
    grads.close()
    assert processes[0].exitcode == 0                   # it ends when nobody can ask any more


def test_no_process_outlives_a_killed_run(tmp_path):
    if train.n_processes(train.PRESETS["shakespeare"].model) == 1:
        pytest.skip("one core, one process")
    (tmp_path / "a.txt").write_text("ab" * 5000)
    run = subprocess.Popen([sys.executable, "train.py", "--preset", "shakespeare", "--data", str(tmp_path / "a.txt"), "--run", str(tmp_path)],
                           cwd=ROOT, stderr=subprocess.DEVNULL)
    log = tmp_path / "base" / "log.jsonl"
    while not log.exists() or not log.read_text():
        assert run.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    assert len(children) == cores.N_THREADS - 1
    run.kill()
    run.wait()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_bench_prints_a_line_of_json(capsys, monkeypatch):
    monkeypatch.setitem(train.BENCH, "char", (gpt.Config(20, 8, 16, 1, 2), 3))
    monkeypatch.setattr(train, "bench", lambda setting, f=train.bench: f(setting, seconds=0.1))
    train.main(["--bench", "char"])
    line = json.loads(capsys.readouterr().out)
    assert line["bench"] == "char" and min(line[k] for k in ("tokens_per_s", "peak_rss_mb", "steps")) > 0
    flops = train.flops_per_token(train.BENCH["char"][0], 8)
    assert line["gflop_per_s"] == pytest.approx(line["tokens_per_s"] * flops / 1e9, abs=0.06)     # it is rounded to 0.1


def test_a_step_that_is_not_finite_is_skipped_and_ten_are_too_many(capsys):
    params = {"w": np.ones((2, 2), np.float32)}
    optimizer, recipe = train.AdamW(params), train.PRESETS["shakespeare"]
    good, bad = {"w": np.ones((2, 2), np.float32)}, {"w": np.full((2, 2), np.nan, np.float32)}
    assert train.update(optimizer, bad, 1.0, 3, recipe)[2] == "loss 1.0, gradient norm nan"
    assert train.update(optimizer, good, float("inf"), 4, recipe)[2].startswith("loss inf")
    assert optimizer.t == 0 and (params["w"] == 1).all() and "step 4: skipped, loss 1.0" in capsys.readouterr().err
    assert train.update(optimizer, good, 1.0, 5, recipe)[2] is None and (params["w"] < 1).all()
    for step in range(train.MOST_SKIPPED - 1):
        train.update(optimizer, bad, 1.0, step, recipe)
    with pytest.raises(ValueError, match="10 steps in a row were skipped, the last with loss 1.0, gradient norm nan; lower --lr"):
        train.update(optimizer, bad, 1.0, 9, recipe)


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
    weights, logs = [], []
    for micro in ("4", "3", "1"):
        base = tmp_path / micro / "base"
        train.main(["--data", str(text), "--run", str(tmp_path / micro), *SMALL, "--steps", "3", "--micro-batch", micro])
        weights.append(gpt.load(base)[0])
        logs.append([json.loads(line) for line in (base / "log.jsonl").read_text().splitlines()])
    for i in (1, 2):
        for other, whole in zip(logs[i], logs[0]):      # AdamW would forgive a gradient of the wrong length; these do not
            assert other["loss_nats"] == pytest.approx(whole["loss_nats"], rel=2e-6)
            assert other["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
        for k, w in weights[0].items():                 # by tensor: where a gradient is all rounding, AdamW makes much of it
            assert np.linalg.norm(weights[i][k] - w) <= 1e-3 * np.linalg.norm(w), k


def test_a_run_goes_on_with_the_bits_it_would_have_had(tmp_path, monkeypatch):
    """Interrupted in step 5, with a checkpoint after step 3."""
    monkeypatch.setattr(train, "n_processes", lambda cfg: 1)
    recipe = train.Recipe(gpt.Config(30, 8, 16, 2, 2), steps=8, batch=3, lr=1e-2, min_lr=1e-3, warmup=2, save_every=3, eval_every=4)
    shards = [np.random.default_rng(seed).integers(0, 30, 400) for seed in (0, 1)]
    update = train.update

    def interrupted(optimizer, grads, loss, step, recipe):
        if step == 4:
            raise KeyboardInterrupt
        return update(optimizer, grads, loss, step, recipe)

    monkeypatch.setattr(train, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, None, shards[:1], shards[1:], tmp_path / "interrupted")
    monkeypatch.setattr(train, "update", update)
    logs = []
    for name in ("interrupted", "calm"):
        train.train(recipe, None, shards[:1], shards[1:], tmp_path / name)
        lines = (tmp_path / name / "log.jsonl").read_text(encoding="utf-8").splitlines()
        logs.append([{k: v for k, v in json.loads(line).items() if k not in ("dt_s", "tokens_per_s", "spent_s")} for line in lines])
    assert logs[0] == logs[1] and [entry["step"] for entry in logs[0]] == list(range(1, 9))
    for name in ("model.safetensors", "trainer.safetensors"):
        assert (tmp_path / "interrupted" / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name


def test_killed_at_any_moment_ends_with_the_same_bits(tmp_path, text):
    args = ["--data", text, *SMALL, "--steps", "60"]
    assert run_script("train.py", *args, "--run", tmp_path / "calm").returncode == 0
    kill_and_rerun("train.py", [*args, "--run", tmp_path / "killed"], random.Random(0))
    for name in ("model.safetensors", "trainer.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "calm/base" / name).read_bytes() == (tmp_path / "killed/base" / name).read_bytes(), name
    steps = [[{k: v for k, v in json.loads(line).items() if k not in ("dt_s", "tokens_per_s", "spent_s")}
              for line in (tmp_path / run / "base/log.jsonl").read_text().splitlines()] for run in ("calm", "killed")]
    assert steps[0] == steps[1] and len(steps[0]) == 60
    assert not list(tmp_path.rglob("*.tmp"))


def test_resuming_with_other_settings_is_an_error(tmp_path, text):
    run = ["--data", str(text), "--run", str(tmp_path / "r")]
    train.main([*run, *FEW])
    before = (tmp_path / "r/base/model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="cannot resume, lr: checkpoint .*, now 0.5"):
        train.main([*run, *FEW, "--lr", "0.5"])
    with pytest.raises(ValueError, match="cannot resume, seed: checkpoint 0, now 1"):
        train.main([*run, *FEW, "--seed", "1"])
    assert (tmp_path / "r/base/model.safetensors").read_bytes() == before
    train.main([*run, *FEW])                          # the same again: nothing to do, nothing changes
    assert (tmp_path / "r/base/model.safetensors").read_bytes() == before
    train.main([*run, *FEW, "--seed", "1", "--on-mismatch", "restart"])
    assert (tmp_path / "r/base/model.safetensors").read_bytes() != before


def test_a_model_of_someone_else_is_not_overwritten(tmp_path, text, monkeypatch):
    theirs = tmp_path / "r/base/model.safetensors"
    gpt.save(theirs.parent, gpt.init(gpt.Config(9, 8, 16, 1, 2), 5), gpt.Config(9, 8, 16, 1, 2))
    before = theirs.read_bytes()
    run = ["--data", str(text), "--run", str(tmp_path / "r"), *FEW]
    with pytest.raises(ValueError, match="a model that this run did not make is already there"):
        train.main(run)
    assert theirs.read_bytes() == before
    steps, update = [], train.update

    def until_step_4(*args):
        steps.append(args[3])
        return update(*args) if len(steps) != 5 else 1 / 0

    monkeypatch.setattr(train, "update", until_step_4)
    again = [*run, "--on-mismatch", "restart"]
    with pytest.raises(ZeroDivisionError):
        train.main(again)
    assert theirs.read_bytes() == before and gpt.load(theirs.parent)[1].vocab_size == 9     # theirs, until ours is whole
    train.main(again)
    assert steps == [0, 1, 2, 3, 4, 4, 5]               # ours went on from its checkpoint
    assert gpt.load(theirs.parent)[1].vocab_size == len(set(TEXT)) and not (theirs.parent / train.NEW).exists()
    monkeypatch.undo()
    train.main(["--data", str(text), "--run", str(tmp_path / "calm"), *FEW])
    for name in ("model.safetensors", "trainer.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "r/base" / name).read_bytes() == (tmp_path / "calm/base" / name).read_bytes(), name


def test_two_processes_do_not_train_in_one_folder(tmp_path, text):
    with runs.locked(tmp_path / "r/base", "training"):
        done = run_script("train.py", "--data", text, "--run", tmp_path / "r", *FEW)
    assert done.returncode == 1 and "another training is writing there" in done.stderr
    assert not (tmp_path / "r/base/config.json").exists()


def test_a_run_that_moves_to_a_machine_with_other_cores_keeps_its_threads(tmp_path, text, monkeypatch, capsys):
    run = ["--data", str(text), *FEW]
    for place in ("calm", "moved"):
        monkeypatch.setattr(cores, "N_THREADS", 3)
        update = train.update
        if place == "moved":
            monkeypatch.setattr(train, "update", lambda *args: update(*args) if args[3] < 3 else 1 / 0)
            with pytest.raises(ZeroDivisionError):
                train.main([*run, "--run", str(tmp_path / place)])
            monkeypatch.setattr(train, "update", update)
            monkeypatch.setattr(cores, "N_THREADS", 1)  # the other machine
        train.main([*run, "--run", str(tmp_path / place)])
    assert "going on with 3 threads, as this run began" in capsys.readouterr().err
    files = [(tmp_path / place / "base/trainer.safetensors").read_bytes() for place in ("calm", "moved")]
    assert files[0] == files[1]


def test_a_resumed_run_counts_the_time_of_the_killed_one(tmp_path, text, monkeypatch):
    run = ["--data", str(text), "--run", str(tmp_path / "r"), *SMALL, "--save-every", "10"]
    update = train.update
    monkeypatch.setattr(train, "update", lambda *args: update(*args) if args[3] < 15 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.main(run)
    path = tmp_path / "r/base/log.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[9]["spent_s"] = 5000.0                        # as if the first ten steps had taken so long
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(train, "update", update)
    train.main(run)
    spent = [json.loads(line)["spent_s"] for line in path.read_text().splitlines()]
    assert len(spent) == 30 and min(spent[9:]) >= 5000.0 and spent[9:] == sorted(spent[9:])


def test_how_often_it_is_saved_does_not_matter_to_a_resume(tmp_path, text):
    run = ["--data", str(text), "--run", str(tmp_path / "r")]
    train.main([*run, *FEW])
    before = (tmp_path / "r/base/model.safetensors").read_bytes()
    train.main([*run, *FEW, "--save-every", "5", "--eval-every", "4"])
    assert (tmp_path / "r/base/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("spoil, message", [
    (lambda t, m: (t, {**m, "step": "two"}), "it is damaged"),
    (lambda t, m: (t, {**m, "step": "999"}), "step 999 with 6 updates: impossible"),
    (lambda t, m: (t, {**m, "identity": "[1]"}), "it is damaged"),
    (lambda t, m: (t, {}), "it is damaged"),
    (lambda t, m: ({**t, "wpe.weight": np.ones(1, np.float32)}, m), r"wpe.weight: checkpoint \(1,\), now \(64, 128\)"),
    (lambda t, m: ({k: a for k, a in t.items() if k != "adamw.m.wpe.weight"}, m), "adamw.m.wpe.weight: checkpoint None"),
])
def test_a_damaged_checkpoint_is_refused_or_started_over(tmp_path, text, spoil, message, capsys):
    run, path = ["--data", str(text), "--run", str(tmp_path / "r"), *FEW], tmp_path / "r/base/trainer.safetensors"
    train.main(run)
    before = (tmp_path / "r/base/model.safetensors").read_bytes()
    checkpoint.save_safetensors(path, *spoil(*checkpoint.load_safetensors(path)))
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
    done = run_main("train.py", "--run", tmp_path / "run", *[a.format(d=tmp_path) for a in args])
    assert done.returncode != 0 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "run/base").exists()


def test_a_checkpoint_of_another_shape_is_refused(tmp_path, text):
    run = ["--data", str(text), "--run", str(tmp_path / "r")]
    train.main([*run, *FEW])
    text.write_text(TEXT + "\u00e9" * 50, encoding="utf-8")     # one more character: one more row in the embedding
    with pytest.raises(ValueError, match=r"cannot resume, .*vocab_size: checkpoint \d+, now \d+"):
        train.main([*run, *FEW])


def test_shakespeare_preset_is_nanogpts_but_for_the_learning_rate(shared):
    recipe = train.PRESETS["shakespeare"]
    assert (recipe.model.n_layer, recipe.model.n_head, recipe.model.n_embd, recipe.model.n_positions) == (4, 4, 128, 64)
    assert (recipe.batch, recipe.steps, recipe.warmup, recipe.beta2, recipe.weight_decay) == (12, 2000, 100, 0.99, 0.1)
    assert (recipe.lr, recipe.min_lr) == (3e-3, 3e-4)   # nanoGPT: 1e-3, 1e-4
    tokenizer, train_ids, val_ids = train.load_characters(shared("tinyshakespeare.txt"))
    assert tokenizer.n_vocab == 65 and len(train_ids[0]) == 1_003_854 and len(val_ids[0]) == 111_540
