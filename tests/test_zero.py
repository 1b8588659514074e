"""model/zero.py: train.py on ranks. The optimizer divided, the sums, checkpoints, what is sent."""

import json

import numpy as np
import pytest
from model import ranks, zero
from rank_programs import CFG
from test_resume import assert_same_files, log_of
from test_shared_ranks import run

MADE = ("model.safetensors", "trainer.safetensors", "config.json")


def trained(folder, n, **wanted):
    """Train in a folder on n ranks. -> (exit status, bytes of means of each rank, errors, log)"""
    argument = json.dumps({"folder": str(folder), **wanted})
    status, out, err, _ = run("training", argument, "--ranks", n, "--chunk", 4096)
    means = json.loads(out)["means"] if status == 0 else None
    return status, means, err, log_of(folder)


def losses(log):
    """The losses of a run, its norms and its validations."""
    found = []
    for entry in log:
        found += [entry["loss_nats"], entry["grad_norm"], entry.get("val_loss_nats", 0.0)]
    return found


@pytest.mark.parametrize("muon", [0.0, 5.0])
def test_the_same_losses_on_any_number_of_ranks(tmp_path, muon):
    """With 5 rows a step. Each rank has its part of AdamW's means, and sends what it must."""
    status, means, err, log = trained(tmp_path / "1", 1, muon=muon)
    assert status == 0 and "sent_bytes" not in log[0], err
    expected, whole = losses(log), means[0]
    n_bytes = 4 * CFG.n_params
    for n in (2, 3, 4):
        status, means, err, log = trained(tmp_path / str(n), n, muon=muon)
        assert status == 0, err
        np.testing.assert_allclose(losses(log), expected, rtol=3e-5, err_msg=str(n))
        assert len(means) == n and sum(means) == whole and max(means) < 1.3 * whole / n
        formula = 2 * (n - 1) / n * n_bytes             # of one rank, if all had as many rows
        assert log[0]["sent_bytes"] == pytest.approx(formula, rel=0.15)


def test_more_ranks_than_rows(tmp_path):
    """Two rows on three ranks: one of them has nothing to add."""
    expected = losses(trained(tmp_path / "1", 1, batch=2)[3])
    status, _, err, log = trained(tmp_path / "3", 3, batch=2)
    assert status == 0, err
    np.testing.assert_allclose(losses(log), expected, rtol=3e-5)


@pytest.mark.parametrize("muon", [0.0, 5.0])
def test_the_same_bits_as_without_division(tmp_path, muon):
    for divided in (True, False):
        status, means, err, _ = trained(tmp_path / str(divided), 3, muon=muon, divided=divided)
        assert status == 0, err
    assert len(set(means)) == 1                         # every rank had all of them
    assert_same_files(tmp_path / "True", tmp_path / "False", MADE)
    sent = [log_of(tmp_path / name)[0].pop("sent_bytes") for name in ("True", "False")]
    assert sent[0] == pytest.approx(sent[1], rel=0.15)


@pytest.mark.parametrize("muon", [0.0, 5.0])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_and_the_run_goes_on_with_the_same_bits(tmp_path, rank, muon):
    trained(tmp_path / "calm", 2, muon=muon)
    status, _, err, log = trained(tmp_path / "killed", 2, muon=muon, die=[rank, 4])
    assert status != 0 and len(log) in (4, 5)
    assert f"rank {rank} (pid " in err and "goes on from the last checkpoint" in err
    assert trained(tmp_path / "killed", 2, muon=muon)[0] == 0
    assert_same_files(tmp_path / "calm", tmp_path / "killed", MADE)
    calm, killed = log_of(tmp_path / "calm"), log_of(tmp_path / "killed")
    for entry in [*calm, *killed]:
        entry.pop("sent_bytes")                         # the calm run sent a checkpoint more
    assert calm == killed


@pytest.mark.parametrize("muon", [0.0, 5.0])
@pytest.mark.parametrize("before, after", [(3, 2), (1, 3), (2, 1)])
def test_a_run_goes_on_on_another_number_of_ranks(tmp_path, before, after, muon):
    expected = losses(trained(tmp_path / "calm", 1, muon=muon)[3])
    assert trained(tmp_path / "r", before, muon=muon, die=[0, 4])[0] != 0
    status, _, err, log = trained(tmp_path / "r", after, muon=muon)
    assert status == 0, err
    assert f"going on with {after} rank" in err and f"where there were {before}" in err
    np.testing.assert_allclose(losses(log), expected, rtol=3e-5)
    assert ("sent_bytes" in log[-1]) == (after > 1)


def test_a_full_disk_ends_all_ranks(tmp_path):
    """Rank 0 finds it, when the others wait to send their parts of a checkpoint."""
    status, _, err, _ = trained(tmp_path / "r", 3, full=True)
    assert status == 1 and err.count("trainer.safetensors: No space left on device") == 3
    assert "rank 2: rank 0 (pid " in err and not list((tmp_path / "r").glob("trainer*"))
    assert trained(tmp_path / "r", 3)[0] == 0


def test_ranks_with_other_settings(tmp_path):
    argument = json.dumps({"folder": str(tmp_path / "r"), "seed": 7})
    status, _, err, _ = run("training", argument, "--ranks", 2)
    assert status == 1 and "seed: rank 1 has 7, rank 0 has 0; all need the same data" in err
    assert not (tmp_path / "r" / "log.jsonl").exists()


class Fourth(ranks.Ranks):
    """Rank 3 of four, of which nothing is heard."""

    rank, size = 3, 4


def test_whole_matrices_are_balanced():
    """One has 60 numbers, three 20, three 10: the largest first, each to who has least."""
    sizes = [20, 10, 60, 20, 10, 20, 10]
    params = {f"h.{i}.w": np.zeros((n // 5, 5)) for i, n in enumerate(sizes)}
    params["b"] = np.zeros(9)
    parts = zero.Parts(params, Fourth(), whole_matrices=True)
    loads = [0, 0, 0, 0]
    for name, p in params.items():
        covered = [i for s in parts.slices[name] for i in range(s.start, s.stop)]
        assert covered == list(range(len(p)))
        for r, s in enumerate(parts.slices[name]):
            if name != "b":
                assert s.stop - s.start in (0, len(p))
                loads[r] += p[s].size
    assert sorted(loads) == [30, 30, 30, 60]
    assert parts.own(params)["b"].base is params["b"] and len(parts.own(params)["b"]) == 2


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_arrays_in_a_row_are_cut_once_between_two_ranks(n):
    """Seven ranks for few rows: some get nothing."""
    params = {"a": np.zeros((3, 4)), "b": np.zeros(5), "c": np.zeros((2, 2, 2)), "d": np.zeros(1)}
    slices = zero.in_a_row(params, n)
    owner_of_each = []
    for name, p in params.items():
        assert slices[name][0].start == 0 and slices[name][-1].stop == len(p)
        for r, rows in enumerate(slices[name]):
            assert r == 0 or rows.start == slices[name][r - 1].stop
            owner_of_each += [r] * p[rows].size
    assert owner_of_each == sorted(owner_of_each) and len(owner_of_each) == 26
    for r in range(n):
        assert abs(owner_of_each.count(r) - 26 / n) <= 4        # a row has at most 4 numbers


def test_one_vector_and_its_arrays_are_the_same_numbers():
    like = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}
    found = zero.InARow(like, ranks.ALONE.memory)
    assert {name: a.shape for name, a in found.items()} == {"a": (2, 3), "b": (4,)}
    found.flat[...] = np.arange(10)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["b"].tolist() == [6, 7, 8, 9]


def test_a_vector_is_cut_where_its_arrays_are():
    """What rank 3 of four owns of the vector is what it owns of all arrays."""
    like = {"a": np.zeros((5, 3)), "b": np.zeros(7), "c": np.zeros((6, 2))}
    parts, found = zero.Parts(like, Fourth()), zero.InARow(like, ranks.ALONE.memory)
    found.flat[...] = np.arange(34)
    (flat,), (of_ranks,) = parts.with_slices(found)
    own = np.concatenate([a.ravel() for a in parts.own(found).values()])
    assert flat is found.flat and len(own) == 8
    assert flat[of_ranks[3]].tolist() == own.tolist()
    several, _ = parts.with_slices(dict(found))             # others do not lie in a row
    assert [a.shape for a in several] == [a.shape for a in like.values()]


def test_alone_everything_is_ones_own():
    params = {"a": np.ones(3)}
    parts = zero.Parts(params)
    assert parts.own(params) is params and parts.updated(params) is params
    assert parts.gathered("a", params["a"]) is params["a"] and parts.kept("a") == slice(None)
    parts.add_up(params)
    parts.spread()
    assert (params["a"] == 1).all()
