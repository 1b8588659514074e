"""chat/patching.py: nothing changed is gpt.py's forward; off is zero; a patch carries the cause."""

import numpy as np
import pytest

import gpt
from chat import patching
from model import families, llama
from test_llama import random_params

GPT2 = gpt.Config(11, 7, 12, 3, 3)
CONFIGS = {"GPT-2": GPT2, **llama.EXAMPLES}
IDS, OTHER = [1, 2, 3, 4, 5], [7, 2, 9, 4, 0]


def model(name):
    """(params, cfg) in float64, with no parameter at zero."""
    cfg = CONFIGS[name]
    if cfg is not GPT2:
        return random_params(cfg), cfg
    params, rng = gpt.init(cfg, 0, np.float64), np.random.default_rng(3)
    for p in params.values():
        p += 0.3 * rng.standard_normal(p.shape)
    return params, cfg


def plain(params, cfg, ids):
    """The definition's logits (T,V)."""
    return families.of(cfg).forward(params, cfg, np.array([ids]))[0][0]


def changed(params, cfg, other=None, ids=IDS, **change):
    return patching.changed(params, cfg, ids, patching.change_of(cfg, **change), other)


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_change_it_is_the_definition(name):
    params, cfg = model(name)
    np.testing.assert_array_equal(changed(params, cfg), plain(params, cfg, IDS))
    rows = np.array([IDS, OTHER])
    both = patching.forward(params, cfg, rows, lambda _, written: written)
    np.testing.assert_allclose(both, families.of(cfg).forward(params, cfg, rows)[0], atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_off_is_as_if_its_weights_were_zero(name):
    """A head's rows of the output matrix, all of an MLP's last one with its bias."""
    params, cfg = model(name)
    is_gpt = families.of(cfg) is gpt
    out, down = ("attn.c_proj", "mlp.c_proj") if is_gpt else ("attn.o", "mlp.down")
    size = cfg.n_embd // cfg.n_head if is_gpt else cfg.head_size
    for layer in range(cfg.n_layer):
        for head in range(cfg.n_head):
            without = {name: p.copy() for name, p in params.items()}
            without[f"h.{layer}.{out}.weight"][head * size:(head + 1) * size] = 0
            got = changed(params, cfg, off=[f"{layer + 1}.{head + 1}"])
            np.testing.assert_allclose(got, plain(without, cfg, IDS), atol=1e-12)
            assert np.abs(got - plain(params, cfg, IDS)).max() > 1e-3
        without = {name: p.copy() for name, p in params.items()}
        for kind in ("weight", "bias"):
            if f"h.{layer}.{down}.{kind}" in params:
                without[f"h.{layer}.{down}.{kind}"][...] = 0
        got = changed(params, cfg, off=[f"mlp{layer + 1}"])
        np.testing.assert_allclose(got, plain(without, cfg, IDS), atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_all_behind_a_layer_patched_is_the_other_text(name):
    """The rest of the model knows nothing but the stream, so it must say exactly the same."""
    params, cfg = model(name)
    for layer in range(1, cfg.n_layer + 1):
        got = changed(params, cfg, OTHER, patch=[f"layer{layer}"])
        np.testing.assert_array_equal(got, plain(params, cfg, OTHER))


@pytest.mark.parametrize("name", CONFIGS)
def test_patches_from_the_text_itself_change_nothing(name):
    params, cfg = model(name)
    parts = [part for layer in "12" for part in (f"{layer}.1", f"mlp{layer}", f"layer{layer}")]
    np.testing.assert_array_equal(
        changed(params, cfg, IDS, patch=parts), plain(params, cfg, IDS)
    )


def test_a_patch_is_what_the_part_wrote_for_the_other_text():
    """The stream behind layer 1 moves by the difference of the two outputs of the head."""
    params, cfg = model("GPT-2")
    head, layer = patching.part_of("1.2", cfg), patching.part_of("layer1", cfg)
    here = patching.written_by(params, cfg, IDS, [head, layer])
    there = patching.written_by(params, cfg, OTHER, [head])
    size = cfg.n_embd // cfg.n_head
    rows = params["h.0.attn.c_proj.weight"][size:2 * size]
    streams = {}

    def edit(part, written):
        if part == head:
            return there[head][None]
        if part.kind == "mlp" and part.layer == 0:
            return np.zeros_like(written)
        streams[part] = written[0]
        return written

    patching.forward(params, cfg, np.array([IDS]), edit)
    moved = streams[layer]
    patching.forward(params, cfg, np.array([IDS]), lambda part, written: (
        edit(part, written) if part != head else written))
    np.testing.assert_allclose(
        moved - streams[layer], (there[head] - here[head]) @ rows, atol=1e-12)


def test_one_place():
    """Patched at one place only: nothing moves before it, and at the last layer nothing behind."""
    params, cfg = model("GPT-2")
    own, other = plain(params, cfg, IDS), plain(params, cfg, OTHER)
    got = changed(params, cfg, OTHER, patch=["layer1"], places=[2])
    np.testing.assert_array_equal(got[:2], own[:2])
    assert (np.abs(got[2:] - own[2:]).max(-1) > 1e-3).all()
    got = changed(params, cfg, OTHER, patch=["layer3"], places=[2])
    np.testing.assert_array_equal(got[[0, 1, 3, 4]], own[[0, 1, 3, 4]])
    np.testing.assert_array_equal(got[2], other[2])


def test_parameters_and_texts_stay():
    params, cfg = model("GPT-2")
    before = {name: p.copy() for name, p in params.items()}
    changed(params, cfg, OTHER, off=["1.1", "mlp2"], patch=["2.2", "layer1"])
    for name, p in params.items():
        np.testing.assert_array_equal(p, before[name])


@pytest.mark.parametrize("name", ["0.1", "4.1", "1.4", "1.0", "mlp0", "mlp4", "layer4", "1", "mlp",
                                  "head1", "1.1 ", "-1.1", "\u0661.1", "1." + "9" * 5000])
def test_no_such_part(name):
    with pytest.raises(ValueError, match="1.1 to 3.3, mlp1 to mlp3"):
        patching.part_of(name, GPT2)


def test_names():
    for name in ("1.1", "3.3", "mlp2", "layer3"):
        assert patching.part_of(name, GPT2).name == name


def test_changes_that_cannot_be():
    params, cfg = model("GPT-2")
    with pytest.raises(ValueError, match="patched, and not switched off"):
        patching.change_of(cfg, off=["layer1"])
    with pytest.raises(ValueError, match="choose one"):
        patching.change_of(cfg, off=["1.1"], patch=["1.1"])
    for other, theirs in ((None, "none"), (OTHER[:-1], "4")):
        with pytest.raises(ValueError, match=f"5 tokens and the other one {theirs}"):
            changed(params, cfg, other, patch=["1.1"])
    with pytest.raises(ValueError, match="positions"):
        changed(params, cfg, ids=[1] * 8)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_place_alone(name):
    """Row t is what a patch at place t alone gives."""
    params, cfg = model(name)
    for layer in range(cfg.n_layer):
        got = patching.last_logits(params, cfg, IDS, OTHER, layer)
        for t in range(len(IDS)):
            want = changed(params, cfg, OTHER, patch=[f"layer{layer + 1}"], places=[t])
            np.testing.assert_allclose(got[t], want[-1], atol=1e-12)
    with pytest.raises(ValueError, match="as many"):
        patching.last_logits(params, cfg, IDS, OTHER[:-1], 0)
