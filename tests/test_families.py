"""model/families.py: which definition a model has."""

import pytest

import gpt
from model import families, llama


@pytest.mark.parametrize("module", [gpt, llama])
def test_a_config_leads_to_its_definition(module):
    for cfg in module.PRESETS.values():
        assert families.of(cfg) is module


def test_both_offer_what_callers_use():
    for name in ("Config", "PRESETS", "param_shapes", "init", "block_params", "forward",
                 "token_losses", "loss_and_grads", "Cache", "decode"):
        assert hasattr(gpt, name) and hasattr(llama, name), name
