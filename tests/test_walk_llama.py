"""model/walk_llama.py: tables and layouts. tests/test_fast_llama.py has the gradients."""

import numpy as np
import pytest

from model import llama, operations, walk, walk_llama
from test_llama import random_params


def test_a_table_is_the_definition_and_as_long_as_a_power_of_two():
    cfg = llama.PRESETS["llama-3.2-1b"]
    float32 = np.dtype(np.float32)
    table = walk_llama.rotary_table(cfg, 100, float32)
    assert table.shape == (128, cfg.head_size) and table.dtype == np.float32
    cos, sin = llama.rotary_tables(cfg, np.arange(128), np.float32)
    np.testing.assert_array_equal(table, np.concatenate([cos, sin], axis=-1))
    assert walk_llama.rotary_table(cfg, 128, float32) is table
    assert walk_llama.rotary_table(cfg, 65, float32) is table
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 1.0


def test_parts_of_a_row_are_queries_keys_and_values():
    cfg = llama.EXAMPLES["Qwen 2"]
    qkv = np.arange(24).reshape(1, 24)
    q, k, v = walk_llama.parts_of(qkv, cfg)
    assert [a.shape[1] for a in (q, k, v)] == [12, 6, 6]
    assert np.concatenate([q, k, v], axis=1).tolist() == qkv.tolist()
    assert all(np.shares_memory(a, qkv) for a in (q, k, v))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", llama.EXAMPLES)
def test_rows_that_are_not_wanted(name, recompute):
    """The results and gradients of some rows are those that they have among all rows."""
    cfg = llama.EXAMPLES[name]
    params = random_params(cfg)
    B, T, C = 3, 5, cfg.n_embd
    tokens = np.arange(B * T).reshape(B, T) % cfg.vocab_size
    positions = np.tile(np.arange(T), (B, 1))
    wanted = np.array([1, 4, 5, 11])
    dy = np.zeros((B * T, C))
    dy[wanted] = np.random.default_rng(0).standard_normal((4, C))
    table = walk_llama.rotary_table(cfg, T, np.dtype(np.float64))

    def gradients(rows, some):
        """y of the wanted rows, dx of all, the gradients of the parameters."""
        arrays = {}
        for name, shape in walk.trunk_shapes(cfg, B, T, True, recompute).items():
            arrays[name] = np.full(shape, np.nan)
        trunk = walk.Trunk(operations, params, cfg, arrays, rows=rows, table=table)
        trunk.forward(tokens, positions)
        y = arrays["y"][some].copy()
        arrays["y"][some] = dy[wanted]
        if rows is None:
            arrays["y"][...] = dy
        grads = {name: np.zeros_like(p) for name, p in params.items()}
        trunk.backward(grads, False)
        return {"y": y, "x": arrays["x"], **grads}

    want, got = gradients(None, wanted), gradients(wanted, slice(4))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=1e-12, err_msg=name)
