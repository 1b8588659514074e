"""model/parallel.py: processes that share a batch, and what happens when one fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gpt
import numpy as np
import pytest
from conftest import ROOT
from model import adamw, cores, fast, operations, parallel

CFG = gpt.Config(50, 12, 16, 2, 2)


def sum_of_batches(params, batches):
    """([loss], {name: gradient of all batches together}) without other processes."""
    losses, total = [], {k: 0.0 for k in params}
    for tokens, targets, weights in batches:
        loss, grads = fast.loss_and_grads(params, CFG, tokens, targets, weights)
        losses.append(loss)
        total = {k: total[k] + grads[k] for k in total}
    return losses, total


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_processes_add_up_to_the_whole_batch(monkeypatch, n, platform):
    """n does not depend on this machine's cores. Of three workers the batch of two rows leaves one
    idle, with the gradients of the batch before. Elsewhere than on Linux, workers are threads."""
    monkeypatch.setattr(cores, "N_THREADS", n)
    monkeypatch.setattr(parallel.sys, "platform", platform)
    monkeypatch.setattr(operations, "BLOCK_FLOATS", 1000)         # the sum goes in blocks
    params, rng = gpt.init(CFG, 0), np.random.default_rng(0)
    batches = []
    for B in (5, 2, 1, 4):
        tokens, targets = rng.integers(0, 50, (2, B, 12))
        batches.append((tokens, targets, rng.standard_normal((B, 12))))
    losses, want = sum_of_batches(params, batches)
    before = {k: p.copy() for k, p in params.items()}
    grads = parallel.Gradients(params, CFG)
    for _ in range(2):                                      # clear() forgets the first time
        grads.clear()
        assert not grads.added
        got = [grads.add(*batch) for batch in batches]
        np.testing.assert_allclose(got, losses, rtol=1e-4, atol=1e-4)
    for k in params:
        np.testing.assert_allclose(grads.sum[k], want[k], rtol=1e-3, atol=1e-4, err_msg=k)
        assert np.array_equal(params[k], before[k])
    assert len(grads.workers) == n and grads.added
    assert bool(grads.in_order) == (n > 1 and platform == "linux")
    adamw.AdamW(params).step(grads.sum, 0.01)               # the processes see what it does
    (moved,), _ = sum_of_batches(params, batches[:1])
    assert grads.add(*batches[0]) == pytest.approx(moved, rel=1e-4)
    assert moved != pytest.approx(losses[0], rel=1e-3)
    grads.close()


@pytest.mark.parametrize("tokens_a_part", [1, 20, 1000])
def test_rows_of_about_the_same_length_go_together(monkeypatch, tokens_a_part):
    """What pads them is not computed; the gradient is that of the whole batch."""
    monkeypatch.setattr(cores, "N_THREADS", 1)
    monkeypatch.setattr(parallel, "TOKENS", tokens_a_part)
    params, rng = gpt.init(CFG, 0), np.random.default_rng(0)
    tokens, targets = rng.integers(0, 50, (2, 6, 12))
    weights = rng.standard_normal((6, 12))
    lengths = np.array([9, 3, 4, 3, 10, 9])
    weights[np.arange(12) >= lengths[:, None]] = 0.0
    weights[:, 1] = 0.0
    (loss,), want = sum_of_batches(params, [(tokens, targets, weights)])
    shapes, compute = [], fast.loss_and_grads

    def counted(params, cfg, tokens, *args, **k):
        shapes.append(tokens.shape)
        return compute(params, cfg, tokens, *args, **k)

    monkeypatch.setattr(fast, "loss_and_grads", counted)
    grads = parallel.Gradients(params, CFG)
    for times in (1, 2):
        assert grads.add(tokens, targets, weights) == pytest.approx(loss, abs=1e-4)
        for k in params:
            np.testing.assert_allclose(grads.sum[k], times * want[k], rtol=1e-3, atol=1e-4)
    assert shapes[:len(shapes) // 2] == {
        1: [(1, 3), (1, 3), (1, 4), (1, 9), (1, 9), (1, 10)],
        20: [(3, 4), (3, 10)],
        1000: [(6, 12)],
    }[tokens_a_part]
    grads.close()


def children():
    """The process ids of this process's children."""
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


@pytest.mark.skipif(sys.platform != "linux", reason="children are counted through /proc")
def test_what_goes_wrong_in_another_process(monkeypatch):
    monkeypatch.setattr(cores, "N_THREADS", 3)
    others = set(children())
    grads = parallel.Gradients(gpt.init(CFG, 0), CFG)
    processes = sorted(set(children()) - others, key=int)
    assert len(processes) == 2
    good, weights = np.zeros((3, 12), int), np.ones((3, 12))
    for row in range(3):                                    # the first row is this process's own
        bad = good.copy()
        bad[row, 5] = 50 + row
        with pytest.raises(ValueError, match=f"id {50 + row} is outside the model's vocabulary"):
            grads.add(bad, good, weights)
        assert grads.add(good, good, weights) > 0.0         # nothing is left of the failure
    os.kill(int(processes[1]), signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="exit code -9.*goes on from the last checkpoint"):
        grads.add(good, good, weights)
    grads.close()
    assert not set(processes) & set(children())


@pytest.mark.skipif(sys.platform != "linux", reason="children are counted through /proc")
def test_processes_end_with_their_object(monkeypatch):
    monkeypatch.setattr(cores, "N_THREADS", 3)
    others = set(children())
    grads = parallel.Gradients(gpt.init(CFG, 0), CFG)
    assert len(set(children()) - others) == 2
    del grads
    assert not set(children()) - others


def test_no_process_outlives_a_killed_run(tmp_path):
    if cores.N_THREADS == 1 or sys.platform != "linux":
        pytest.skip("there is one process")
    (tmp_path / "a.txt").write_text("ab" * 5000)
    words = ["--preset", "shakespeare", "--data", str(tmp_path / "a.txt"), "--run", str(tmp_path)]
    run = subprocess.Popen([sys.executable, "train.py", *words], cwd=ROOT,
                           stderr=subprocess.DEVNULL)
    log = tmp_path / "base" / "log.jsonl"
    while not log.exists() or not log.read_text():
        assert run.poll() is None
        time.sleep(0.05)
    others = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    assert len(others) == cores.N_THREADS - 1
    run.kill()
    run.wait()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in others):
        assert time.monotonic() < until
        time.sleep(0.05)
