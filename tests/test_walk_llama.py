"""model/walk_llama.py: tables and layouts. tests/test_fast_llama.py has the gradients."""

import numpy as np
import pytest

from model import llama, walk_llama
from test_llama import random_params
from test_walk import check_wanted_rows


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
    check_wanted_rows(cfg, random_params(cfg), recompute)
