"""train.py: batches, micro-batches, clipping, schedule, skipped steps, the loop, the command."""

import json
import random

import bpe
import gpt
import numpy as np
import pytest
import train
from conftest import run_main, run_script
from model import adamw, corpus
from run import progress

SENTENCES = ["the lamp is lit. ", "a goat ate it. ", "who knows? ", "nobody said so.\n"]
TEXT = "".join(random.Random(1).choice(SENTENCES) for _ in range(900))
SMALL = ("--preset", "shakespeare", "--steps", "30", "--batch", "4",
         "--eval-every", "15", "--save-every", "4")
FEW = ("--preset", "shakespeare", "--steps", "6", "--batch", "2",       # where nothing is learned
       "--eval-every", "3", "--save-every", "2")


@pytest.fixture
def text(tmp_path):
    """A text file to learn."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------- parts of a step


def test_windows_visit_everything_once_an_epoch_and_need_no_memory():
    shards, T = [np.arange(1000), np.arange(5000, 5321)], 16
    windows = train.Windows(shards, T, seed=3)
    rows = windows.rows(0, windows.per_epoch)
    assert rows.shape == (windows.per_epoch, T + 1) and (np.diff(rows, axis=1) == 1).all()
    seen = np.sort(rows[:, :T].ravel())
    assert len(np.unique(seen)) == len(seen) > 0.95 * (1321 - 4 * T)
    again = train.Windows(shards, T, seed=3)
    # Across an epoch's end, out of order.
    np.testing.assert_array_equal(again.rows(100, 7), windows.rows(100, 7))
    assert not np.array_equal(windows.rows(windows.per_epoch, 5), rows[:5])     # another epoch
    assert not np.array_equal(train.Windows(shards, T, seed=4).rows(0, 5), rows[:5])
    with pytest.raises(ValueError, match="20 tokens are too few for windows of 16"):
        train.Windows([np.arange(20)], 16, 0)


def test_schedule_and_clipping():
    recipe = train.Recipe(None, steps=100, batch=1, lr=1.0, min_lr=0.1, warmup=10)
    lr = [train.learning_rate(s, recipe) for s in range(101)]
    assert lr[0] == pytest.approx(0.1) and lr[9] == lr[10] == 1.0
    assert lr[55] == pytest.approx(0.55) and lr[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(lr[10:], lr[11:]))
    assert train.grad_norm({"a": np.array([3.0]), "b": np.array([[4.0]])}) == 5.0
    assert train.clip_scale(5.0, 1.0) == 0.2
    assert train.clip_scale(0.5, 1.0) == train.clip_scale(0.0, 1.0) == 1.0


def test_a_step_that_is_not_finite_is_skipped_and_ten_are_too_many(capsys):
    params = {"w": np.ones((2, 2), np.float32)}
    optimizer, recipe = adamw.AdamW(params), train.PRESETS["shakespeare"]
    good = {"w": np.ones((2, 2), np.float32)}
    bad = {"w": np.full((2, 2), np.nan, np.float32)}
    _, _, why = train.update(optimizer, bad, 1.0, 3, recipe)
    assert why == "loss 1.0, gradient norm nan"
    _, _, why = train.update(optimizer, good, float("inf"), 4, recipe)
    assert why.startswith("loss inf") and optimizer.skipped == 2
    assert optimizer.t == 0 and (params["w"] == 1).all()
    assert "step 4: skipped, loss 1.0" in capsys.readouterr().err
    _, _, why = train.update(optimizer, good, 1.0, 5, recipe)
    assert why is None and (params["w"] < 1).all() and optimizer.skipped == 0
    for step in range(train.MOST_SKIPPED - 1):
        train.update(optimizer, bad, 1.0, step, recipe)
    with pytest.raises(ValueError, match="10 steps in a row were skipped, the last with loss 1.0, "
                                         "gradient norm nan; lower --lr"):
        train.update(optimizer, bad, 1.0, 9, recipe)


# ------------------------------------------------------------------------------------ whole runs


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_logs_and_can_be_loaded(tmp_path, text):
    train.main(["--data", str(text), "--run", str(tmp_path / "r"), *SMALL])
    log = read_log(tmp_path / "r/base")
    assert [entry["step"] for entry in log] == list(range(1, 31))
    names = {"tokens", "loss_nats", "lr", "grad_norm", "dt_s", "tokens_per_s", "spent_s"}
    assert names <= set(log[0]) and "val_loss_nats" in log[-1]
    assert [entry["step"] for entry in log if "dream" in entry] == [
        entry["step"] for entry in log if "val_loss_nats" in entry]
    assert isinstance(log[-1]["dream"], str)
    assert log[-1]["loss_nats"] < 0.8 * log[0]["loss_nats"]
    params, cfg = gpt.load(tmp_path / "r/base")
    tok = bpe.Tokenizer.load(tmp_path / "r/base/tokenizer.json")
    assert cfg.vocab_size == tok.n_vocab == len(set(TEXT))
    assert tok.decode(tok.encode("goat")) == "goat"


def test_micro_batches_do_not_change_the_step(tmp_path, text):
    weights, logs = [], []
    for micro in ("4", "3", "1"):
        run = ["--data", str(text), "--run", str(tmp_path / micro), *SMALL, "--steps", "3"]
        train.main([*run, "--micro-batch", micro])
        weights.append(gpt.load(tmp_path / micro / "base")[0])
        logs.append(read_log(tmp_path / micro / "base"))
    for i in (1, 2):
        for other, whole in zip(logs[i], logs[0]):
            # AdamW would forgive a gradient of the wrong length; these do not.
            assert other["loss_nats"] == pytest.approx(whole["loss_nats"], rel=2e-6)
            assert other["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
        for k, w in weights[0].items():
            # By tensor: where a gradient is nothing but rounding, AdamW makes much of it.
            assert np.linalg.norm(weights[i][k] - w) <= 1e-3 * np.linalg.norm(w), k


def test_lines_of_progress_fit_a_terminal(tmp_path, text, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    train.main(["--data", str(text), "--run", str(tmp_path / "r"), *FEW])
    said = capsys.readouterr().err
    lines = [line for line in said.split("\r") if line.startswith("step ")]
    assert len(lines) == 6 and "step 1/6  " in lines[0] and " s left  loss " in lines[0]
    assert all(len(line.partition("\n")[0]) <= 79 for line in lines)
    monkeypatch.setenv("COLUMNS", "30")
    train.main(["--data", str(text), "--run", str(tmp_path / "narrow"), *FEW])
    lines = [line for line in capsys.readouterr().err.split("\r") if line.startswith("step ")]
    assert len(lines) == 6 and all(len(line.partition("\n")[0]) == 29 for line in lines)


def test_shakespeare_preset_is_nanogpts_but_for_the_optimizer(shared):
    recipe = train.PRESETS["shakespeare"]
    cfg = recipe.model
    assert (cfg.n_layer, cfg.n_head, cfg.n_embd, cfg.n_positions) == (4, 4, 128, 64)
    assert (recipe.batch, recipe.beta2, recipe.weight_decay) == (12, 0.99, 0.1)
    assert recipe.steps == 1000 and recipe.muon             # nanoGPT: 2,000 steps of AdamW
    found = corpus.load_characters(shared("tinyshakespeare.txt"))
    tokenizer, train_ids, val_ids = found
    assert tokenizer.n_vocab == 65
    assert len(train_ids[0]) == 1_003_854 and len(val_ids[0]) == 111_540


# ----------------------------------------------------------------------------------- the command


def write(name, content):
    """A function that writes a file into a folder."""
    return lambda folder: (folder / name).write_bytes(content)


TINY = ["--preset", "shakespeare", "--data"]


@pytest.mark.parametrize("prepare, args, message", [
    (None, [], "no such run folder"),
    (lambda folder: (folder / "run").mkdir(), [], "python bpe.py train"),
    (None, ["--data", "{d}/missing.txt"], "No such file"),
    (write("empty.txt", b""), [*TINY, "{d}/empty.txt"], "empty file"),
    (write("short.txt", b"abc"), [*TINY, "{d}/short.txt"], "too few for windows"),
    (write("bin.txt", b"\xff\xfe\x00"), ["--data", "{d}/bin.txt"], "not UTF-8"),
    (None, ["--steps", "0"], "--steps 0: must be above 0"),
    (None, ["--lr", "nan"], "--lr nan: must be above 0"),
    (None, ["--memory-gb", "inf"], "--memory-gb inf: must be above 0 and finite"),
    (None, ["--seed", "-1"], "--seed -1"),
    (None, ["--batch", "4", "--micro-batch", "5"], "--micro-batch 5: more rows than the 4"),
    (write("x.txt", b"ab" * 320), [*TINY, "{d}/x.txt"], "do not fill one window"),
])
def test_bad_input(tmp_path, prepare, args, message):
    if prepare:
        prepare(tmp_path)
    words = [word.format(d=tmp_path) for word in args]
    done = run_main("train.py", "--run", tmp_path / "run", *words)
    assert done.returncode != 0 and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run/base").exists()


def test_check_finds_a_wrong_schedule_and_a_wrong_step(capsys, monkeypatch):
    assert train.main(["--check"]) == 0
    assert train.main(["--check", "--preset", "gpt2", "--steps", "50"]) == 0    # all warm-up
    cosine, add = train.learning_rate, train.add_gradients
    monkeypatch.setattr(train, "learning_rate", lambda step, recipe: cosine(step, recipe) / 2)
    assert train.main(["--check"]) == 1
    assert "WRONG: rates from " in capsys.readouterr().out
    monkeypatch.setattr(train, "learning_rate", lambda step, recipe: cosine(max(99, step), recipe))
    assert train.main(["--check"]) == 1
    assert "does not rise in the warm-up" in capsys.readouterr().out

    def without_end(step, recipe):              # linear, but only down to a quarter
        remaining = 1.0 - 0.75 * (step - recipe.warmup) / (recipe.steps - recipe.warmup)
        return cosine(step, recipe) if step < recipe.warmup else recipe.lr * remaining

    monkeypatch.setattr(train, "learning_rate", without_end)
    assert train.main(["--check"]) == 1
    assert "ends at 0.004 and not at 0" in capsys.readouterr().out
    monkeypatch.setattr(train, "learning_rate", cosine)

    def mean_of_means(work, rows, micro_batch):
        work.clear()
        for i in range(0, len(rows), micro_batch):
            part = rows[i:i + micro_batch]
            weights = np.full(part[:, 1:].shape, 1.0 / part[:, 1:].size / 3)
            work.add(part[:, :-1], part[:, 1:], weights)

    monkeypatch.setattr(train, "add_gradients", mean_of_means)
    assert train.main(["--check"]) == 1
    assert "WRONG: the gradient of wte.weight in micro-batches" in capsys.readouterr().out
    monkeypatch.setattr(train, "add_gradients", add)
    monkeypatch.setattr(adamw.AdamW, "step", lambda self, grads, lr, scale: None)
    assert train.main(["--check"]) == 1
    assert "WRONG: AdamW's update of wte.weight" in capsys.readouterr().out


def test_help_fits_a_terminal_and_has_the_presets_values(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = run_script("train.py", "--help")
    assert done.returncode == 0 and "None" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    recipe = train.PRESETS["shakespeare"]
    line = next(line for line in done.stdout.splitlines() if line.startswith("shakespeare"))
    assert line.split()[1:] == ["809,856", "1,000", "12", "64", "0.007", "100", "250"]
    assert f"{recipe.model.n_params:,}" == "809,856" and recipe.steps == 1000


@pytest.mark.parametrize("name", ["demo", "llama-demo"])
def test_a_demo_dreams_at_four_steps(name):
    """The last of them is its end. The page and the README show them beside the loss."""
    recipe = train.PRESETS[name]
    assert recipe.steps / recipe.eval_every == 4
