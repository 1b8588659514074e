"""model/report.py: lines of a run within 80 columns, also where its numbers are large."""

import bpe
import gpt
import numpy as np
import train
from model import ranks, report
from run import progress


def entry_of(recipe, **changes):
    entry = {"step": recipe.steps, "tokens": 150_000_000_000, "loss_nats": 10.8249, "lr": 6e-4,
             "grad_norm": 1.25, "dt_s": 1.7, "tokens_per_s": 468_000, "mfu": 0.381}
    return {**entry, **changes}


def test_a_large_run_fits_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    recipe = train.PRESETS["gpt2-large"]
    report.print_progress(entry_of(recipe), recipe, 486_000.0)
    line = capsys.readouterr().err.removeprefix("\r")
    want = "step 286,102/286,102  135 h 00 min left  loss 10.8249  468,000 tokens/s  mfu 38.1%"
    assert len(line) == 79 and want.startswith(line.rstrip())

    class Windows:
        per_epoch = 146_484_375

    report.print_beginning(recipe, Windows, "out/gpt2/base", 286_000, 16, True)
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 80
    assert "16 of 512 rows at once, activations recomputed" in lines[2]
    assert lines[-3] == "  after 250 steps it can be tried in another terminal:"
    assert lines[-2].split() == ["python", "sample.py", "--model", "out/gpt2/base"]
    assert lines[-1] == "  resuming after step 286,000"


def test_a_skipped_step_has_no_loss(capsys):
    recipe = train.PRESETS["demo"]
    entry = entry_of(recipe, loss_nats=None, grad_norm=None, skipped="loss nan", mfu=None)
    report.print_progress(entry, recipe, 0.0)
    assert capsys.readouterr().err.split() == [
        "step", "1,200/1,200", "0", "s", "left", "468,000", "tokens/s", "lr", "6.00e-04"]


def test_the_result_beside_ngrams(capsys):
    tok = bpe.Tokenizer.characters("ab")
    shards = [np.random.default_rng(0).integers(0, 2, 2000)]
    recipe = train.Recipe(gpt.Config(2, 8, 8, 1, 1), steps=1, batch=1, lr=1.0, min_lr=1.0, warmup=1)
    last = {"tokens": 3_891_200, "val_loss_nats": 0.5, "val_bits_per_byte": 0.72}
    report.print_result(last, recipe, tok, shards, shards)
    *lines, row = capsys.readouterr().out.splitlines()
    assert lines[0] == "validation  model    0.5000 nats a token  0.7200 bits a byte"
    assert lines[1].startswith("validation  1-gram   0.69") and lines[2].split()[1] == "5-gram"
    assert row.split()[:3] == ["base", "3,891,200", "tokens"] and "0.720 bits a byte" in row
    report.print_result({**last, "val_bits_per_byte": None}, recipe, None, shards, shards)
    *lines, row = capsys.readouterr().out.splitlines()
    assert all("unknown bits a byte" in line for line in lines) and "bits" not in row
    assert max(map(len, [*lines, row])) <= 80


def test_what_ranks_had_and_sent(monkeypatch, capsys):
    report.print_ranks()                        # of a run of one there is nothing to say
    two = ranks.Ranks()
    two.size, two.sent = 2, 5_000_000
    two.all_objects = lambda value: [value, [7e9, 6e9]]
    monkeypatch.setattr(ranks, "_here", two)
    report.print_ranks()
    _, first, second = capsys.readouterr().err.splitlines()
    assert second.split() == ["1", "7,000.0", "6,000.0"]
    rank, memory, sent = first.split()
    assert (rank, sent) == ("0", "5.0") and 10 < float(memory.replace(",", "")) < 20_000
