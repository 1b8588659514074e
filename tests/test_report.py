"""model/report.py: lines of a run within 80 columns, also where its numbers are large."""

import train
from model import report


def entry_of(recipe, **changes):
    entry = {"step": recipe.steps, "tokens": 150_000_000_000, "loss_nats": 10.8249, "lr": 6e-4,
             "grad_norm": 1.25, "dt_s": 1.7, "tokens_per_s": 468_000, "mfu": 0.381}
    return {**entry, **changes}


def test_a_large_run_fits_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
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
    assert lines[-1] == "  resuming after step 286,000"


def test_a_skipped_step_has_no_loss(capsys):
    recipe = train.PRESETS["demo"]
    entry = entry_of(recipe, loss_nats=None, grad_norm=None, skipped="loss nan", mfu=None)
    report.print_progress(entry, recipe, 0.0)
    assert capsys.readouterr().err.split() == [
        "step", "1,900/1,900", "0", "s", "left", "468,000", "tokens/s", "lr", "6.00e-04"]
