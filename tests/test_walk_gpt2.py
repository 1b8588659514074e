"""model/walk_gpt2.py: what a block keeps. tests/test_walk.py has its gradients."""

import gpt
from model import families, walk, walk_gpt2, walk_llama


def test_both_ways_have_the_same_functions():
    for room in (walk_gpt2, walk_llama):
        for name in ("block_shapes", "shared_shapes", "rotary_table", "embed", "attend_forward",
                     "rowwise_forward", "rowwise_backward", "attend_backward", "OF_EACH_ROW"):
            assert hasattr(room, name), (room.__name__, name)


def test_a_gpt_goes_this_way_and_has_no_rotary_positions():
    for cfg in gpt.PRESETS.values():
        assert walk.way_of(cfg) is walk_gpt2
        assert walk_gpt2.rotary_table(cfg, 8, "float32") is None


def test_every_row_of_a_block_belongs_to_a_sequence():
    """parallel ranks and arenas divide the first axis by sequences."""
    cfg = gpt.PRESETS["demo"]
    for name, shape in walk_gpt2.block_shapes(cfg, 3, 8).items():
        assert shape[0] % 3 == 0, name
    assert set(walk_gpt2.OF_EACH_ROW) - {"t"} <= set(walk_gpt2.block_shapes(cfg, 3, 8))
    assert families.kv_heads(cfg) == (4, 32)
