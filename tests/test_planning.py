"""model/planning.py: what fits in memory, and the operations of a token."""

from types import SimpleNamespace

import gpt
import pytest
import train
from model import cores, llama, planning
from test_train import TEXT


def test_fewer_rows_at_once_where_memory_is_short():
    cfg = gpt.PRESETS["shakespeare"]
    whole = sum(planning.memory_plan(cfg, 12).values())
    assert planning.fit_batch(cfg, 12, whole) == (12, False, planning.memory_plan(cfg, 12))
    rows, recompute, plan = planning.fit_batch(cfg, 12, whole - 1)
    assert (rows, recompute) == (11, False) and sum(plan.values()) < whole
    least = sum(planning.memory_plan(cfg, 1, True).values())
    assert planning.fit_batch(cfg, 12, least)[:2] == (1, True)
    assert planning.fit_batch(cfg, 12, whole, micro_batch=5)[:2] == (5, False)
    with pytest.raises(ValueError, match="809,856 parameters with 1 row of 64 tokens at once need"):
        planning.fit_batch(cfg, 12, least - 1)
    assert planning.fit_batch(gpt.PRESETS["gpt2"], 512, 1e12)[0] <= 8


@pytest.mark.parametrize("n", [1, 3])
def test_a_plan_counts_gradients_for_each_process_and_weights_once(monkeypatch, n):
    cfg = gpt.PRESETS["shakespeare"]
    monkeypatch.setattr(cores, "N_THREADS", n)
    plan, floats = planning.memory_plan(cfg, 12), 4 * cfg.n_params
    assert plan["parameters"] == floats and plan["AdamW"] == 2 * floats
    assert n * floats <= plan["gradients"] < (n + 1) * floats       # and a little scratch


def test_utilisation():
    """70 % of an H100's 989 TFLOP/s are as many tokens a second as the count of llm.c says."""
    cfg = gpt.PRESETS["gpt2"]
    flops = 6 * cfg.n_params + 6 * 12 * 768 * 1024
    h100 = SimpleNamespace(name="NVIDIA H100 80GB HBM3", bf16=True)
    assert planning.utilisation(cfg, 0.7 * 989e12 / flops, h100) == pytest.approx(0.7)
    pcie = SimpleNamespace(name="NVIDIA H100 PCIe", bf16=True)
    of_pcie = planning.utilisation(cfg, 0.7 * 756e12 / flops, pcie)     # not of the other H100
    assert of_pcie == pytest.approx(0.7)
    unknown = SimpleNamespace(name="NVIDIA GeForce 8800", bf16=True)
    float32 = SimpleNamespace(name="NVIDIA H100", bf16=False)
    for gpu in (None, unknown, float32):
        assert planning.utilisation(cfg, 1e6, gpu) is None


def test_another_run_in_a_folder_takes_what_fits_itself(tmp_path, capsys):
    (tmp_path / "t.txt").write_text(TEXT)
    command = ["--data", str(tmp_path / "t.txt"), "--run", str(tmp_path),
               "--preset", "shakespeare", "--steps", "2"]
    train.main([*command, "--batch", "6", "--micro-batch", "5"])
    with pytest.raises(ValueError, match="cannot resume, batch: checkpoint 6, now 4"):
        train.main([*command, "--batch", "4"])
    capsys.readouterr()
    train.main([*command, "--batch", "4", "--on-mismatch", "restart"])
    assert "4 of 4 rows at once" in capsys.readouterr().err


def test_the_table_of_presets(capsys):
    planning.main(["--tokens", "64"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(gpt.PRESETS) + len(llama.PRESETS)
    last = lines[-1].split()
    assert last[:2] == ["llama-3.1-8b", "8,030,261,248"] and last[2:4] == ["32.12", "16.06"]
    assert float(last[4]) == pytest.approx(1000 * 4 * 2 * 32 * 8 * 128 / 1e6, abs=0.1)
    with pytest.raises(ValueError, match="--tokens 0: must be at least 1"):
        planning.main(["--tokens", "0"])
