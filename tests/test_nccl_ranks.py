"""model/nccl_ranks.py: ranks that have a GPU each, on CPUs that play GPUs and with a stand-in of
NCCL that finds calls out of order (tests/cuda/nccl_cpu.py)."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from test_kernels import ON_GPU, cp
from test_resume import assert_same_files, log_of

from model import device, device_training, nccl_ranks, planning, ranks
import gpt
import kernels
from kernels import launching
import train

import cupy_cpu

on_cpus = pytest.mark.skipif(ON_GPU, reason="the stand-in of NCCL works on CPUs")
PROGRAM = [sys.executable, "tests/cuda/card_programs.py"]
MADE = ("model.safetensors", "trainer.safetensors")
CFG = gpt.Config(30, 8, 16, 2, 2)       # of card_programs


def run(tmp_path, program, n, cards=None, **wanted):
    """(exit status, what rank 0 printed, standard error, seconds) of a program on n ranks."""
    started = time.monotonic()
    variables = {
        "LONGHAND_CARDS": str(cards or n),
        "LONGHAND_CUDA_BUILD": str(cupy_cpu.BUILD),
        "LONGHAND_NCCL_LIMIT_S": "20",
        "TMPDIR": str(tmp_path),
    }
    if ON_GPU:
        variables["LONGHAND_GPU"] = "1"
    words = [program, json.dumps(wanted), "--ranks", str(n)]
    done = subprocess.run(
        [*PROGRAM, *words], cwd=ROOT, env={**os.environ, **variables}, capture_output=True,
        text=True, timeout=280)
    said = json.loads(done.stdout) if done.returncode == 0 else None
    return done.returncode, said, done.stderr, time.monotonic() - started


def mirrored(calls):
    """A rank's calls as the other one of two ranks has them."""
    found = []
    for in_graph, operations in calls:
        others = []
        for name, peer, n_bytes in operations:
            others.append([name, None if peer is None else 1 - peer, n_bytes])
        found.append([in_graph, others])
    return found


@on_cpus
@pytest.mark.parametrize("n", [2, 3])
def test_sums_are_made_in_the_order_of_ranks(tmp_path, n):
    """The program compares bit for bit, and bytes with the formula: at once, recorded, replayed."""
    status, said, err, _ = run(tmp_path, "collectives", n)
    assert status == 0, err
    for calls in said:
        third = len(calls) // 3
        assert third == 3 + 1                       # twenty numbers, eight at once
        first, recorded, replayed = (calls[i * third:][:third] for i in range(3))
        assert not any(in_graph for in_graph, _ in first)
        assert recorded == replayed == [[True, operations] for _, operations in first]


@on_cpus
@pytest.mark.parametrize("muon, batch", [(0.0, 5), (5.0, 1)])
def test_two_ranks_train_as_two_ranks_on_cpus(tmp_path, muon, batch):
    """Also with a batch of one row, of which rank 1 has nothing. What is recorded is asked for once
    a step, by both ranks in the same order."""
    wanted = {"muon": muon, "batch": batch, "steps": 4}
    status, steps, err, _ = run(
        tmp_path, "training", 2, folder=str(tmp_path / "gpu"), **wanted)
    assert status == 0, err
    assert run(
        tmp_path, "training", 2, folder=str(tmp_path / "cpu"), device="cpu", **wanted)[0] == 0
    ours, theirs = log_of(tmp_path / "gpu"), log_of(tmp_path / "cpu")
    for entry, expected in zip(ours, theirs):
        for what in {"loss_nats", "grad_norm", "val_loss_nats"} & expected.keys():
            assert entry[what] == pytest.approx(expected[what], rel=1e-5), (entry["step"], what)
    params, expected = gpt.load(tmp_path / "gpu")[0], gpt.load(tmp_path / "cpu")[0]
    for name, p in expected.items():
        if not name.endswith("c_attn.bias"):        # a bias of keys moves by what is only rounding
            np.testing.assert_allclose(params[name], p, atol=2e-4, err_msg=name)
    for i, (calls, of_other) in enumerate(zip(*steps)):
        assert calls == mirrored(of_other)
        names = [[name for name, _, _ in operations] for _, operations in calls]
        exchange = ["send", "recv"]
        assert names == [exchange] * (1 + (muon > 0)) + [
            ["allGather"] * 2, ["allGather"] * (1 + (muon > 0))]
        assert all(in_graph == (i > 0) for in_graph, _ in calls)
    layout = device.Layout(CFG, muon > 0, 2)
    for_norm = ours[2]["sent_bytes"] - 2 * 4 * layout.size // 2     # gradients, and weights back
    assert 0 < for_norm < 100 and layout.size < 1.4 * CFG.n_params


@on_cpus
def test_a_killed_rank_and_bfloat16(tmp_path):
    """The other rank ends. The same command goes on, with the bits of a run that nobody killed."""
    wanted = {"dtype": "bf16", "muon": 5.0, "batch": 4, "steps": 4}
    calm, killed = str(tmp_path / "calm"), str(tmp_path / "killed")
    status, _, err, _ = run(tmp_path, "training", 2, folder=calm, **wanted)
    assert status == 0, err
    status, _, err, _ = run(tmp_path, "training", 2, folder=killed, die=[1, 3], **wanted)
    assert status == 1 and "rank 1 (pid " in err and "goes on from the last checkpoint" in err
    status, _, err, _ = run(tmp_path, "training", 2, folder=killed, **wanted)
    assert status == 0, err
    assert_same_files(tmp_path / "calm", tmp_path / "killed", MADE)
    losses = [entry["loss_nats"] for entry in log_of(tmp_path / "calm")]
    run(tmp_path, "training", 2, folder=str(tmp_path / "cpu"), device="cpu", **wanted)
    expected = [entry["loss_nats"] for entry in log_of(tmp_path / "cpu")]
    np.testing.assert_allclose(losses, expected, rtol=0.02)


@on_cpus
def test_a_run_goes_on_with_fewer_cards(tmp_path):
    """What two cards had parts of comes together on one."""
    wanted = {"muon": 5.0, "batch": 4, "steps": 5, "folder": str(tmp_path / "r")}
    assert run(tmp_path, "training", 2, die=[0, 3], **wanted)[0] != 0
    status, _, err, _ = run(tmp_path, "training", 1, **wanted)
    assert status == 0 and "going on with 1 rank where there were 2" in err, err
    wanted.update(folder=str(tmp_path / "cpu"), device="cpu")
    assert run(tmp_path, "training", 1, **wanted)[0] == 0
    losses, expected = (
        [entry["loss_nats"] for entry in log_of(tmp_path / name)] for name in ("r", "cpu"))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@on_cpus
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_ends_all(tmp_path, rank):
    """Without waiting for the others in NCCL, though its graph is recorded by then."""
    status, _, err, _ = run(
        tmp_path, "training", 2, folder=str(tmp_path / "r"), fail=[rank, 2], steps=4)
    assert status == 1 and "this rank has no luck" in err
    assert "NCCL" not in err, err


@on_cpus
def test_more_ranks_than_cards(tmp_path):
    status, _, err, _ = run(tmp_path, "collectives", 2, cards=1)
    assert status == 1
    assert "ranks 0 and 1 would share the GPU 0000:00:00.0 of" in err
    assert "where 1 can be seen; each rank needs one of its own" in err


def test_one_card_by_itself(monkeypatch):
    """With NCCL itself where there is a GPU: names, recording, and the order of the end."""
    if not ON_GPU:
        import nccl_cpu
        monkeypatch.setattr(cp.cuda, "nccl", nccl_cpu, raising=False)
        monkeypatch.setitem(sys.modules, "cupy.cuda", cp.cuda)
    try:
        cards = nccl_ranks.connect(ranks.Ranks(), cp)
    except ValueError as error:
        pytest.skip(str(error))
    numbers = np.arange(6, dtype=np.float32).reshape(1, 6)
    table, other = cp.asarray(numbers), cp.asarray(numbers)
    recording = launching.Recording()
    for _ in range(3):
        cards.run(recording, lambda: cards.all_gather(table, other))
    assert recording.graph and cards.here.sent == 0
    np.testing.assert_array_equal(cp.asnumpy(table), numbers)
    cards.close()
    assert recording.graph is None


@pytest.mark.skipif(not ON_GPU, reason="needs two GPUs")
@pytest.mark.parametrize("muon", [0.0, 5.0])
def test_two_real_cards(tmp_path, muon):
    """Sums bit for bit, and losses as on CPUs; the same bits when it is run again."""
    if cp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs, one is here")
    status, _, err, _ = run(tmp_path, "collectives", 2)
    assert status == 0, err
    for name, where in (("gpu", "cuda"), ("again", "cuda"), ("cpu", "cpu")):
        folder = str(tmp_path / name)
        status, _, err, _ = run(tmp_path, "training", 2, folder=folder, device=where, muon=muon)
        assert status == 0, err
    assert_same_files(tmp_path / "gpu", tmp_path / "again", MADE)
    for entry, expected in zip(log_of(tmp_path / "gpu"), log_of(tmp_path / "cpu")):
        assert entry["loss_nats"] == pytest.approx(expected["loss_nats"], rel=1e-4)


class Two(ranks.Ranks):
    """Rank 0 of two, whose other one says the same."""

    size = local_size = 2

    def say(self, value):
        return [value, value]


@on_cpus
def test_without_nccl(monkeypatch):
    cuda = SimpleNamespace(**vars(cp.cuda))
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)
    with pytest.raises(ValueError, match="no NCCL.*pip install nvidia-nccl-cu12, or"):
        nccl_ranks.connect(Two(), cp)
    cuda.nccl = SimpleNamespace(available=False)
    with pytest.raises(ValueError, match="this CuPy is built without it"):
        nccl_ranks.connect(Two(), cp)


class Nccl:
    """An NCCL whose other rank is gone: nothing comes to its end."""

    NcclError = RuntimeError

    def NcclCommunicator(self, *_):
        return self

    def check_async_error(self):
        raise RuntimeError("NCCL_ERROR_SYSTEM_ERROR: unhandled system error")

    def abort(self):
        time.sleep(60)


@on_cpus
def test_a_network_that_breaks_is_an_error(monkeypatch, capsys):
    """And not a wait without end. Nor does the process wait for NCCL to give up."""
    here = Two()
    here.sent = 0
    cards = nccl_ranks.Cards(here, cp, Nccl(), (0,) * 128, kernels)
    monkeypatch.setattr(cupy_cpu.Event, "done", False)
    monkeypatch.setattr(nccl_ranks, "ABORT_S", 0.05)

    def work():
        cards.sent = 8

    class Recording:
        def __call__(self, work):
            work()

        def forget(self):
            self.graph = None

    recording = Recording()
    with pytest.raises(ConnectionError, match="GPU of rank 0 no longer reaches.*SYSTEM_ERROR"):
        cards.run(recording, work)
    assert here.sent == 8
    cards.abort()
    assert recording.graph is None and "NCCL does not give up" in capsys.readouterr().err


@pytest.mark.parametrize("has_muon", [False, True])
def test_the_plan_of_a_rank_is_what_it_takes(has_muon):
    cfg = gpt.Config(vocab_size=300, n_positions=20, n_embd=32, n_layer=2, n_head=2)
    device.connect()
    params, N = gpt.init(cfg, 0), 3
    optimizer = train.Muon(params, ratio=1.0) if has_muon else train.AdamW(params)
    cards = SimpleNamespace(rank=1, size=N, cp=cp, kernels=kernels)
    gpu = device_training.Training(params, optimizer, cfg, 3, cards=cards)
    plan = device_training.memory_plan(cfg, 3, True, True, has_muon, N)
    taken = {
        "parameters": [gpu.weights, *gpu.masters],
        "gradients": [gpu.flat],
        "AdamW": [gpu.m, gpu.v],
        "exchange": [gpu.sums.room],
    }
    for what, arrays in taken.items():
        assert plan[what] == sum(a.nbytes for a in arrays), what
    whole = device_training.memory_plan(cfg, 3, True, True, has_muon)
    assert plan["AdamW"] == pytest.approx(whole["AdamW"] / N, rel=0.05)
    if has_muon:
        saved = whole["Muon"] - plan["Muon"]
        assert saved == layout_bytes(cfg) - gpu.mean.nbytes


def layout_bytes(cfg):
    """The bytes of Muon's means in a run of one rank."""
    region = device.Layout(cfg, True).of_muon
    return 4 * (region.stop - region.start)


def test_more_rows_fit_where_the_optimizer_is_divided():
    cfg, gpu = gpt.PRESETS["gpt2"], SimpleNamespace(bf16=True)
    budget = sum(device_training.memory_plan(cfg, 4).values())
    assert planning.fit_batch(cfg, 64, budget, gpu=gpu)[0] == 4
    assert planning.fit_batch(cfg, 64, budget, gpu=gpu, n_ranks=8)[0] > 4
