"""golden.json is what golden.py makes of today's PyTorch, but for rounding."""

import json

import golden
import pytest

torch = pytest.importorskip("torch")


def numbers(value, path=""):
    """{where: number} of nested dicts and lists."""
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        found = {}
        for key, inner in pairs:
            found.update(numbers(inner, f"{path}/{key}"))
        return found
    return {path: value}


def test_golden_is_what_pytorch_makes():
    before = torch.get_default_dtype()
    try:
        made = numbers(golden.make())
    finally:
        torch.set_default_dtype(before)                 # make() takes float64
    kept = numbers(json.loads(golden.PATH.read_text(encoding="utf-8")))
    del made["/made by"], kept["/made by"]
    assert made.keys() == kept.keys()
    # A product with a direction may come near 0: its rounding is that of the tensor's length.
    assert made == pytest.approx(kept, rel=1e-13, abs=1e-12)
