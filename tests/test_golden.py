"""gpt.py and train.py against numbers of PyTorch: golden.json, made by golden.py."""

import json

from model import fast
from model import adamw
from model import cores
from model import parallel
import golden
import numpy as np
import pytest
import train

GOLDEN = json.loads(golden.PATH.read_text(encoding="utf-8"))
DTYPES = [np.float64, np.float32]


def tolerance(dtype):
    """How far two right programs may differ, relative to the length of a tensor.

    A sum of n terms is off by about sqrt(n) roundings. The longest have 530 terms, of which there
    are three in a row: logits, softmax, and the way back. The other sums, of at most 64 terms, are
    some 40 in a row, forward and backward. Together that is sqrt(3 * 530 + 40 * 64) = 64 roundings,
    for either program. Seen were 10.
    """
    return 2 * 64 * float(np.finfo(dtype).eps) / 2


def weights(dtype):
    return {name: p.astype(dtype) for name, p in golden.starting_weights().items()}


def check_tensors(arrays, want, dtype):
    """{name: array} against golden's two numbers of each."""
    assert set(arrays) == set(want)
    for name, (length, product) in golden.two_numbers(arrays).items():
        assert arrays[name].dtype == dtype
        assert length == pytest.approx(want[name][0], rel=tolerance(dtype)), name
        most = tolerance(dtype) * want[name][0] * np.linalg.norm(golden.directions()[name])
        assert product == pytest.approx(want[name][1], rel=0, abs=most), name


def check_logits(logits, dtype):
    direction = golden.directions()["logits"]
    # About the length of a row of PyTorch's: that of ours could be anything, where it is wrong.
    length = np.sqrt(np.square(GOLDEN["logits: some columns"]).mean() * golden.CFG.vocab_size)
    most = tolerance(dtype) * length
    some, product = logits[:, [0, -1]][:, :, golden.COLUMNS], logits.astype(np.float64) @ direction
    np.testing.assert_allclose(some, GOLDEN["logits: some columns"], rtol=0, atol=most)
    np.testing.assert_allclose(product, GOLDEN["logits: product with the direction"],
                               rtol=0, atol=most * np.linalg.norm(direction))


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits(dtype):
    tokens = golden.batches()["mean"].tokens
    check_logits(fast.forward(weights(dtype), golden.CFG, tokens)[0], dtype)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_of_decode(monkeypatch, dtype, large):
    """Four tokens at once, then one by one."""
    monkeypatch.setattr(fast, "SMALL_MODEL", 0 if large else fast.SMALL_MODEL)
    params, tokens = weights(dtype), golden.batches()["mean"].tokens
    cache = fast.Cache(golden.CFG, len(tokens), like=params["wte.weight"])
    logits = [fast.decode(params, golden.CFG, tokens[:, :4], cache)]
    for t in range(4, tokens.shape[1]):
        logits.append(fast.decode(params, golden.CFG, tokens[:, t:t + 1], cache))
    check_logits(np.concatenate(logits, 1), dtype)


@pytest.mark.parametrize("name", golden.batches())
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_and_gradients(dtype, name):
    params, batch, want = weights(dtype), golden.batches()[name], GOLDEN["batches"][name]
    arguments = params, golden.CFG, batch.tokens, batch.targets, batch.weights
    loss, grads = fast.loss_and_grads(*arguments, temperature=batch.temperature)
    alone, _ = fast.loss_and_grads(*arguments, temperature=batch.temperature, want_grads=False)
    assert loss == pytest.approx(want["loss"], rel=tolerance(dtype))
    assert alone == pytest.approx(want["loss"], rel=tolerance(dtype))
    check_tensors(grads, want["gradients"], dtype)


@pytest.mark.parametrize("AdamW, n_processes", [(train.AdamW, 1), (adamw.AdamW, 2)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ten_steps(monkeypatch, dtype, AdamW, n_processes):
    """Rows come in two parts, as where memory is short; then clipping, schedule, AdamW."""
    monkeypatch.setattr(cores, "N_THREADS", n_processes)
    recipe, params = golden.RECIPE, weights(dtype)
    betas = recipe.beta1, recipe.beta2
    optimizer = AdamW(params, *betas, weight_decay=recipe.weight_decay)
    work = parallel.Gradients(params, golden.CFG)
    want = GOLDEN["training"]
    clipped = []
    for step, rows in enumerate(golden.training_rows()):
        loss = train.add_gradients(work, rows, micro_batch=2)
        norm, rate, skipped = train.update(optimizer, work.sum, loss, step, recipe)
        step_of_pytorch = want["steps: loss, norm, rate"][step]
        assert [loss, norm, rate] == pytest.approx(step_of_pytorch, rel=tolerance(dtype))
        clipped.append(norm > recipe.clip)
    work.close()
    assert any(clipped) and not all(clipped)
    check_tensors(golden.without_key_biases(params), want["weights"], dtype)
