"""kernels/draw.cu: tokens drawn on a GPU are those that chat/generate.py draws."""

import numpy as np
import pytest
from test_kernels import cp, device, host

from chat import generate
import kernels


def drawn(z, n_vocab, temperature, top_k, top_p, min_p, u, dtype="float32", hidden=None):
    """(tokens, logp) of the kernel and of generate, from the same logits. z: (B,stride)"""
    B = len(z)
    z, z64 = device(z, dtype)
    rows = [np.broadcast_to(np.asarray(x, np.float64), B) for x in
            (temperature, top_k, top_p, min_p, u)]
    tokens, logp = cp.empty((B,), np.int32), cp.empty((B,), np.float32)
    there = None if hidden is None else cp.asarray(hidden)
    kernels.draw(z, cp.asarray(np.stack(rows)), tokens, logp, n_vocab, there)
    z64 = z64[:, :n_vocab] + (0.0 if hidden is None else hidden)
    p = generate.probabilities(z64, rows[0], rows[1].astype(int), *rows[2:4])
    want = generate.draw(p, rows[4])
    return (cp.asnumpy(tokens), host(logp)), (want, np.log(p[np.arange(B), want]))


def check_drawn(*args, **kwargs):
    """Both draw the same, with the same probability."""
    (tokens, logp), (want, want_logp) = drawn(*args, **kwargs)
    np.testing.assert_array_equal(tokens, want)
    np.testing.assert_allclose(logp, want_logp, atol=1e-5)


SETTINGS = {                    # temperature, top_k, top_p, min_p
    "plain": (1.0, 0, 1.0, 0.0),
    "greedy": (0.0, 0, 1.0, 0.0),
    "warm": (1.7, 0, 1.0, 0.0),
    "top-k": (0.8, 7, 1.0, 0.0),
    "all of top-k": (1.0, 2000, 1.0, 0.0),
    "top-p": (1.0, 0, 0.6, 0.0),
    "hardly any": (1.0, 0, 1e-6, 0.0),
    "min-p": (1.2, 0, 1.0, 0.1),
    "all three": (0.9, 20, 0.8, 0.05),
}


@pytest.mark.parametrize("V, stride", [(1, 1), (31, 32), (300, 304)])
@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_are_those_of_the_cpu(name, V, stride):
    rng = np.random.default_rng(0)
    check_drawn(3 * rng.standard_normal((3, stride)), V, *SETTINGS[name], rng.random(3))


def test_each_row_has_its_own_settings():
    """Also where logits are in bfloat16, in which many are equal, and where ids have no token."""
    rng = np.random.default_rng(1)
    each = np.array([*SETTINGS.values()]).T
    z, u = 2 * rng.standard_normal((len(SETTINGS), 300)), rng.random(len(SETTINGS))
    hidden = np.zeros(300, np.float32)
    hidden[z.argmax(1)] = -np.inf
    check_drawn(z, 300, *each, u, hidden=hidden)
    check_drawn(z, 300, *each, u, dtype="bf16")


@pytest.mark.parametrize("top_p", [0.3, 0.5, 0.55, 0.999])
@pytest.mark.parametrize("u", [0.0, 0.49, 1 - 1e-9])
def test_of_equal_tokens_the_first_stay(top_p, u):
    z = np.array([[1.0, 2.0, 1.0, 2.0, 2.0, 0.0] * 20])
    for dtype in ("float32", "bf16"):
        check_drawn(z, 120, 1.0, 0, top_p, 0.0, u, dtype)
        check_drawn(z - 1.5, 120, 1.0, 61, top_p, 0.0, u, dtype)        # of either sign


def test_what_is_drawn_has_its_probability():
    """Of 300 rows with the same logits and all u in turn, each token has its share."""
    z = np.log(np.array([[0.5, 0.2, 0.0001, 0.2999]])).repeat(300, 0)
    (tokens, _), _ = drawn(z, 4, 1.0, 0, 1.0, 0.0, (np.arange(300) + 0.5) / 300)
    np.testing.assert_array_equal(np.bincount(tokens, minlength=4), [150, 60, 0, 90])
