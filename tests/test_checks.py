"""model/checks.py: wrong arguments, each refused before anything is written."""

import math

import numpy as np
import pytest

from model import fast
import gpt
from test_fast import everything, quadratic, same_numbers, tiny  # noqa: F401


BAD_CALLS = {
    "tokens as a list": ({"tokens": [[0, 1]]}, "tokens: a builtins.list"),
    "tokens as floats": (
        {"tokens": np.zeros((3, 7))},
        "tokens: float64 numbers, expected integers",
    ),
    "tokens as bools": ({"tokens": np.zeros((3, 7), bool)}, "tokens: bool numbers"),
    "one dimension": ({"tokens": np.zeros(7, int)}, r"tokens: shape \(7,\)"),
    "no rows": (
        {"tokens": np.zeros((0, 7), int), "targets": np.zeros((0, 7), int)},
        r"tokens: shape \(0, 7\)",
    ),
    "no positions": (
        {"tokens": np.zeros((3, 0), int), "targets": np.zeros((3, 0), int)},
        r"tokens: shape \(3, 0\)",
    ),
    "negative token": ({"tokens": np.full((3, 7), -1)}, "tokens: id -1 is outside"),
    "targets as a list": ({"targets": [[0, 1]]}, "targets: a builtins.list"),
    "targets as floats": ({"targets": np.zeros((3, 7))}, "targets: float64 numbers"),
    "targets transposed": (
        {"targets": np.zeros((7, 3), int)},
        r"targets: shape \(7, 3\), expected \(3, 7\)",
    ),
    "targets of one row": ({"targets": np.zeros((1, 7), int)}, r"targets: shape \(1, 7\)"),
    "targets of -2": ({"targets": np.full((3, 7), -2)}, "targets: id -2 is outside"),
    "target beyond the vocabulary": ({"targets": np.full((3, 7), 13)}, "targets: id 13 is outside"),
    "weights as a list": ({"weights": [[1.0]]}, "weights: a builtins.list"),
    "weights of one row": ({"weights": np.ones((1, 7))}, r"weights have shape \(1, 7\)"),
    "weights of NaN": (
        {"weights": np.where(np.eye(3, 7), np.nan, 1.0)},
        "weights: not all are finite",
    ),
    "weights of inf": (
        {"weights": np.where(np.eye(3, 7), np.inf, 1.0)},
        "weights: not all are finite",
    ),
    "complex weights": ({"weights": np.ones((3, 7), complex)}, "weights: complex128"),
    "temperature 0": ({"temperature": 0.0}, "temperature: 0.0"),
    "temperature below 0": ({"temperature": -1.0}, "temperature: -1.0"),
    "temperature NaN": ({"temperature": math.nan}, "temperature: nan"),
    "temperature inf": ({"temperature": math.inf}, "temperature: inf"),
    "position of the context's length": (
        {"positions": np.full((3, 7), 9)},
        "positions: id 9 is outside the model's context of 9",
    ),
    "negative position": ({"positions": np.full((3, 7), -1)}, "positions: id -1 is outside"),
    "positions of one row": ({"positions": np.zeros((1, 7), int)}, r"positions: shape \(1, 7\)"),
    "positions of one sequence": ({"positions": np.arange(7)}, r"positions: shape \(7,\)"),
    "positions as floats": ({"positions": np.zeros((3, 7))}, "positions: float64"),
    "positions as a list": ({"positions": [[0]]}, "positions: a builtins.list"),
    "segments of one row": ({"segments": np.zeros((1, 7), int)}, r"segments: shape \(1, 7\)"),
    "segments as floats": ({"segments": np.zeros((3, 7))}, "segments: float64"),
    "segments as bools": ({"segments": np.zeros((3, 7), bool)}, "segments: bool"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_wrong_arguments_are_refused_before_anything_is_written(name):
    cfg, params = tiny()
    bad, message = BAD_CALLS[name]
    call = {**everything(params, cfg), **bad}
    grads = {k: np.ones_like(p) for k, p in params.items()}
    with pytest.raises((ValueError, TypeError), match=message):
        fast.loss_and_grads(**call, grads=grads)
    assert all((g == 1.0).all() for g in grads.values())
    if bad.keys() & {"weights", "positions", "segments"}:
        return
    with pytest.raises((ValueError, TypeError), match=message):
        fast.token_losses(**call)
    if "tokens" in bad:
        with pytest.raises((ValueError, TypeError), match=message):
            fast.forward(params, cfg, bad["tokens"])
        with pytest.raises((ValueError, TypeError), match=message):
            fast.hidden_and_grads(params, cfg, bad["tokens"], quadratic)
        with pytest.raises((ValueError, TypeError), match=message):
            fast.decode(params, cfg, bad["tokens"], fast.Cache(cfg, 3, like=params["wte.weight"]))


def without(arrays, name):
    return {k: a for k, a in arrays.items() if k != name}


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda p, cfg: (without(p, "h.1.ln_1.weight"), cfg),
            "no tensor h.1.ln_1.weight, which a model of 2 layers has",
        ),
        (lambda p, cfg: (p, gpt.Config(13, 9, 12, 1, 3)), "more layers than the config's 1"),
        (
            lambda p, cfg: (p, gpt.Config(14, 9, 12, 2, 3)),
            r"wte.weight has shape \(13, 12\), the config says \(14, 12\)",
        ),
        (lambda p, cfg: (p, gpt.Config(13, 10, 12, 2, 3)), r"wpe.weight has shape \(9, 12\)"),
        (
            lambda p, cfg: ({**p, "h.0.ln_2.bias": p["h.0.ln_2.bias"].astype(np.float32)}, cfg),
            "h.0.ln_2.bias is float32, wte.weight float64",
        ),
        (
            lambda p, cfg: ({**p, "h.0.ln_2.bias": np.zeros(1)}, cfg),
            r"h.0.ln_2.bias has shape \(1,\)",
        ),
        (
            lambda p, cfg: ({**p, "wte.weight": p["wte.weight"].tolist()}, cfg),
            "wte.weight: a builtins.list",
        ),
    ],
)
def test_parameters_of_another_config_are_refused(change, message):
    """With fewer layers in the config, the others' gradients were whatever was in memory."""
    cfg, params = tiny()
    params, cfg = change(params, cfg)
    call = everything(params, cfg)
    for f in (
        lambda: fast.loss_and_grads(**call),
        lambda: fast.token_losses(**call),
        lambda: fast.forward(params, cfg, call["tokens"]),
        lambda: fast.hidden_and_grads(params, cfg, call["tokens"], quadratic),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            f()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda g, p: without(g, "h.1.ln_1.bias"), "no array for h.1.ln_1.bias"),
        (
            lambda g, p: {**g, "h.1.ln_1.bias": np.zeros((1, 12))},
            r"h.1.ln_1.bias is float64 \(1, 12\)",
        ),
        (lambda g, p: {**g, "h.1.ln_1.bias": np.zeros(12, np.float32)}, "h.1.ln_1.bias is float32"),
        (lambda g, p: {**g, "h.1.ln_1.bias": [0.0] * 12}, "h.1.ln_1.bias is a list"),
        (
            lambda g, p: {**g, "h.1.ln_1.bias": p["h.1.ln_1.bias"]},
            "h.1.ln_1.bias shares memory with the parameter",
        ),
        (
            lambda g, p: {**g, "h.1.ln_1.bias": p["h.1.ln_1.bias"][::-1]},
            "h.1.ln_1.bias shares memory with the parameter",
        ),
        (
            lambda g, p: {**g, "h.1.ln_1.bias": g["h.0.ln_1.bias"]},
            "one array serves two parameters",
        ),
    ],
)
@pytest.mark.parametrize("add", [False, True])
def test_wrong_places_for_gradients_are_refused(change, message, add):
    cfg, params = tiny()
    call, grads = (
        everything(params, cfg),
        change({k: np.ones_like(p) for k, p in params.items()}, params),
    )
    before = {k: np.array(g) for k, g in grads.items()}
    with pytest.raises((ValueError, TypeError), match=message):
        fast.loss_and_grads(**call, grads=grads, add=add)
    with pytest.raises((ValueError, TypeError), match=message):
        fast.hidden_and_grads(params, cfg, call["tokens"], quadratic, grads=grads, add=add)
    assert all(np.array_equal(grads[k], before[k]) for k in grads)


def test_a_cache_of_another_shape_is_refused():
    cfg, params = tiny()
    like, one = params["wte.weight"], np.zeros((2, 1), int)
    good = fast.Cache(cfg, 2, like=like)
    one_layer, two_heads = gpt.Config(13, 9, 12, 1, 3), gpt.Config(13, 9, 12, 2, 2)
    for rows, cache_of, model in (
        (1, cfg, cfg),
        (3, cfg, cfg),
        (2, one_layer, cfg),
        (2, two_heads, cfg),
        (2, one_layer, one_layer),
    ):
        cache = fast.Cache(cache_of, rows, like=like)
        with pytest.raises(ValueError, match="a cache of . rows"):
            fast.decode(params, model, one, cache)
        assert not cache.length.any()
    for n_new in (
        np.array([1]),
        np.array(1),
        np.array([1.0, 1.0]),
        np.array([[1], [1]]),
        np.array([True, True]),
        [1, 1, 1],
    ):
        with pytest.raises(ValueError, match="n_new: .* expected an integer for each of 2 rows"):
            fast.decode(params, cfg, one, good, n_new=n_new)
    for n_positions in (0, -1, 10):
        with pytest.raises(ValueError, match=f"cache of {n_positions} positions"):
            fast.Cache(cfg, 2, n_positions)
    for index in (0, np.array(1), np.array([0, 1])):
        with pytest.raises(ValueError, match="rows of a cache"):
            good.rows(index)
    assert not good.length.any()
    fast.decode(params, cfg, one, good, n_new=[1, 1])  # a list of the right length is as good
    assert good.length.tolist() == [1, 1]
