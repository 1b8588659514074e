"""model/device_training.py: steps on a GPU against those of train.py in NumPy, of either family; on
the CPU that plays GPU where there is none."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from test_device import CFG, MODELS, RNG, batch, cfg, model      # noqa: F401  cfg is a fixture

import gpt
from kernels import launching
from model import cores, device, device_training, families, fast, resume
import train

RECIPE = train.Recipe(CFG, steps=5, batch=5, lr=1e-2, warmup=2, clip=0.5)
OPTIMIZERS = {"AdamW": train.AdamW, "Muon": partial(train.Muon, ratio=2.0)}


def pair_of(kind, params):
    """(parameters, optimizer) twice, of equal copies: one for NumPy, one for the GPU."""
    for _ in range(2):
        copy = {k: p.copy() for k, p in params.items()}
        more = {"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1}
        yield copy, OPTIMIZERS[kind](copy, **more)


def step_on_cpu(params, optimizer, step, rows, cfg=CFG):
    """(loss, norm) of a step in NumPy. rows: tokens, targets, weights."""
    loss, grads = fast.loss_and_grads(params, cfg, *rows)
    norm, _, _ = train.update(optimizer, grads, loss, step, RECIPE)
    return loss, norm


def step_on_gpu(training, step, rows):
    """The same on the GPU, in micro-batches of three rows and two."""
    training.clear()
    for some in (slice(0, 3), slice(3, 5)):
        training.add(*(a[some] for a in rows))
    return training.update(train.learning_rate(step, RECIPE), RECIPE.clip)


def arrays_of(params, optimizer):
    """{name: copy} of all that training changes. A bias of the keys is left out: it moves all
    scores of a query alike, so its gradient is rounding, and AdamW's step its sign."""
    arrays = {}
    for name, a in resume.checkpoint_arrays(params, optimizer).items():
        keys = slice(CFG.n_embd, 2 * CFG.n_embd) if name.endswith("c_attn.bias") else slice(0)
        if "attn.k.bias" not in name:
            arrays[name] = np.delete(a, keys, axis=0)
    return arrays


def five_rows(factor=1.0):
    """A batch with so many times the weights of a mean."""
    tokens, targets, _ = batch(5, CFG.n_positions)
    return tokens, targets, np.where(targets < 0, 0.0, factor / targets.size)


TRAINED = [(name, kind, bf16) for name in ("GPT-2", "Qwen 3") for kind in OPTIMIZERS
           for bf16 in (False, True)]
TRAINED += [("Llama", "AdamW", False), ("Llama", "Muon", True), ("Qwen 2", "AdamW", True)]


@pytest.mark.parametrize("name, kind, bf16", TRAINED)
def test_training_equals_numpy(name, kind, bf16):
    """Five steps of unequal micro-batches, the last three from the recorded graph. The second is
    not clipped, and before the last there is one that must be skipped. What each parameter moved by
    is compared, not what it is."""
    cfg, tolerance = MODELS[name], 0.3 if bf16 else 1e-3
    start = model(cfg, bf16)
    (params, ours), (there, theirs) = pair_of(kind, start)
    gpu = device_training.Training(there, theirs, cfg, rows=3, bf16=bf16)
    begin = arrays_of(there, theirs)
    for step in range(RECIPE.steps):
        if step == 4:
            gpu.download()
            before = arrays_of(there, theirs)
            _, norm = step_on_gpu(gpu, step, five_rows(np.inf))
            gpu.download()
            after = arrays_of(there, theirs)
            assert not np.isfinite(norm) and theirs.t == 4
            assert all(np.array_equal(after[name], a) for name, a in before.items())
        rows = five_rows(0.05 if step == 1 else 1.0)
        loss, norm = step_on_cpu(params, ours, step, rows, cfg)
        got = step_on_gpu(gpu, step, rows)
        np.testing.assert_allclose(got, (loss, norm), rtol=3e-2 if bf16 else 1e-4)
        assert (norm < RECIPE.clip) == (step == 1)
    gpu.download()
    assert theirs.t == 5
    got = arrays_of(there, theirs)
    for name, want in arrays_of(params, ours).items():
        error = np.linalg.norm(got[name] - want) / np.linalg.norm(want - begin[name])
        assert error < tolerance, f"{name}: off by {error:.1e} of what it moved"


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_on_another_device(kind):
    """Two steps on a GPU, one in NumPy, and one on a GPU again equal four in NumPy."""
    (params, ours), (there, theirs) = pair_of(kind, model())
    begin = arrays_of(there, theirs)
    for step in range(4):
        rows = five_rows()
        step_on_cpu(params, ours, step, rows)
        if step == 2:
            gpu.download()
            step_on_cpu(there, theirs, step, rows)
            continue
        if step in (0, 3):
            gpu = device_training.Training(there, theirs, CFG, rows=3, bf16=False)
        step_on_gpu(gpu, step, rows)
    gpu.close()
    got = arrays_of(there, theirs)
    for name, want in arrays_of(params, ours).items():
        error = np.linalg.norm(got[name] - want) / np.linalg.norm(want - begin[name])
        assert error < 1e-3, f"{name}: off by {error:.1e} of what it moved"


def test_what_is_computed_again_is_the_same_to_the_bit(cfg):
    """Also when it is replayed from a recorded graph."""
    moved, rows = [], five_rows()
    for recompute in (False, True):
        params = families.of(cfg).init(cfg, 0)
        training = device_training.Training(params, train.AdamW(params), cfg, 2, recompute, False)
        for _ in range(3):
            training.clear()
            training.add(*(a[:2] for a in rows))
            training.update(1e-2, 1.0)
        training.close()
        moved.append(params)
    for name, p in moved[0].items():
        np.testing.assert_array_equal(p, moved[1][name], err_msg=name)


def run(tmp_path, name, gpu, steps=4, save_every=250, muon=0.0, cfg=CFG):
    text = np.random.default_rng(2).integers(0, cfg.vocab_size, 4000).astype(np.uint16)
    recipe = train.Recipe(
        cfg,
        steps=steps,
        batch=4,
        lr=1e-2,
        min_lr=1e-3,
        warmup=2,
        muon=muon,
        eval_every=2,
        save_every=save_every,
    )
    train.train(
        recipe, None, [text[:3000]], [text[3000:3100]], tmp_path / name, micro_batch=2, gpu=gpu
    )
    return [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("of, muon", [("GPT-2", 0.0), ("GPT-2", 5.0), ("Qwen 3", 5.0)])
def test_train_on_a_gpu(tmp_path, of, muon, capsys):
    gpu, cfg = device.connect("float32"), MODELS[of]
    ours = run(tmp_path, "cpu", None, muon=muon, cfg=cfg)
    theirs = run(tmp_path, "gpu", gpu, muon=muon, cfg=cfg)
    assert (", Muon " in capsys.readouterr().err) == bool(muon)         # in the plan of memory
    for a, b in zip(ours, theirs):
        for what in {"loss_nats", "grad_norm", "val_loss_nats"} & a.keys():
            assert a[what] == pytest.approx(b[what], rel=1e-4), (a["step"], what)
    kept = resume.kept_settings(tmp_path / "gpu", {}, ("device",))
    assert kept == {"device": f"{gpu.name}, float32"}
    params = gpt.load(tmp_path / "gpu")[0]
    for name in ("wte.weight", families.head_name(cfg)):        # without what pads them
        assert params[name].shape == (cfg.vocab_size, cfg.n_embd)
    with pytest.raises(ValueError, match="device: checkpoint .*float32.*now .*bf16"):
        run(tmp_path, "gpu", device.connect(), muon=muon, cfg=cfg)


@pytest.mark.parametrize("muon", [0.0, 5.0])
def test_a_run_on_a_gpu_resumes_to_the_same_bits(tmp_path, monkeypatch, muon):
    gpu, save = device.connect(), resume.Stage.save_checkpoint
    run(tmp_path, "whole", gpu, muon=muon)

    def save_and_die(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(resume.Stage, "save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "killed", gpu, save_every=3, muon=muon)
    monkeypatch.undo()
    run(tmp_path, "killed", gpu, save_every=3, muon=muon)
    whole, resumed = (gpt.load(tmp_path / name)[0] for name in ("whole", "killed"))
    assert all(np.array_equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_plan_is_what_is_taken(cfg, kind):
    cfg = replace(cfg, vocab_size=300)
    plan = device_training.memory_plan(cfg, 3, bf16=True, has_muon=kind == "Muon")
    params = families.of(cfg).init(cfg, 0)
    gpu = device_training.Training(params, OPTIMIZERS[kind](params), cfg, 3)
    of_adamw = [*gpu.masters, gpu.m, gpu.v, gpu.weights, gpu.flat, gpu.arena.memory]
    of_muon = 0
    if kind == "Muon":
        of_muon = gpu.mean.nbytes
        for a in gpu.in_rounds.values():
            of_muon += cores.padded(a.shape, a.dtype.itemsize)
    taken = sum(a.nbytes for a in of_adamw) + of_muon
    assert taken == sum(plan.values()) - plan["scratch"]
    assert of_muon == plan.get("Muon", 0)
    launching._memory["scratch"] = None
    gpu.add(*RNG.integers(0, 300, (2, 3, cfg.n_positions)), np.full((3, cfg.n_positions), 1e-2))
    gpu.update(1e-3, 1.0)
    assert launching._memory["scratch"].nbytes <= plan["scratch"] - (32 << 20)
