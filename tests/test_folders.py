"""model/folders.py: models in Hugging Face folders and in llm.c's files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from model import checkpoint, fast, folders
import gpt
import train

RNG = np.random.default_rng(0)


def test_save_then_load(tmp_path):
    cfg = gpt.Config(19, 8, 12, 2, 3)
    params = gpt.init(cfg, 3)
    gpt.save(tmp_path / "m", params, cfg)
    again, cfg2 = gpt.load(tmp_path / "m")
    assert cfg2 == cfg and list(again) == list(params)
    for k in params:
        np.testing.assert_array_equal(again[k], params[k])
    again["wte.weight"][0] = 1.0  # a copy, not the file
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_load_accepts_prefixed_names_and_mask_buffers(tmp_path):
    cfg = gpt.Config(19, 8, 12, 1, 3)
    params = gpt.init(cfg, 3)
    folders.save_config(tmp_path, cfg)
    tensors = {f"transformer.{k}": p for k, p in params.items()}
    tensors["transformer.h.0.attn.bias"] = np.ones((1, 1, 8, 8), np.float32)
    tensors["lm_head.weight"] = params["wte.weight"]
    checkpoint.save_safetensors(tmp_path / "model.safetensors", tensors)
    again, _ = gpt.load(tmp_path)
    assert set(again) == set(params)
    np.testing.assert_array_equal(again["h.0.mlp.c_fc.weight"], params["h.0.mlp.c_fc.weight"])


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize(
    "names", [["wte.weight"], ["lm_head.weight"], ["wte.weight", "lm_head.weight"]]
)
def test_tied_weights_by_either_name(tmp_path, prefix, names):
    """As save_model of safetensors writes them, which takes one of the names, and as those write
    them who write both."""
    cfg = gpt.Config(19, 8, 12, 1, 3)
    params = gpt.init(cfg, 3)
    folders.save_config(tmp_path, cfg)
    config = json.loads((tmp_path / "config.json").read_text())
    rest = {prefix + k: p for k, p in params.items() if k != "wte.weight"}
    matrix = {prefix * (name != "lm_head.weight") + name: params["wte.weight"] for name in names}
    checkpoint.save_safetensors(
        tmp_path / "model.safetensors",
        {**rest, **matrix},
        {"transformer.wte.weight": "lm_head.weight"},
    )
    for tie in (True, False):
        (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tie}))
        if not tie and names == [
            "wte.weight"
        ]:  # transformers would begin with a head of random numbers
            with pytest.raises(
                ValueError,
                match="has no tensor lm_head.weight, although tie_word_embeddings is false",
            ):
                gpt.load(tmp_path)
            continue
        again, _ = gpt.load(tmp_path)
        assert set(again) == set(params) and all(
            np.array_equal(again[k], params[k]) for k in params
        )


def test_weights_that_the_config_does_not_have(tmp_path):
    cfg = gpt.Config(19, 8, 12, 2, 3)
    params = gpt.init(cfg, 3)
    gpt.save(tmp_path, params, cfg)
    for more, message in (
        ({"lm_head.weight": params["wte.weight"] + 1}, "lm_head.weight is not wte.weight"),
        ({"lm_head.weight": params["wte.weight"][:-1]}, "lm_head.weight is not wte.weight"),
        (
            {"transformer.wte.weight": params["wte.weight"]},
            "with and without transformer. before the same name",
        ),
        (
            {"h.2.ln_1.weight": params["h.1.ln_1.weight"]},
            "has a tensor h.2.ln_1.weight, which is in none of config.json's 2 layers",
        ),
        (
            {"h.0.crossattention.c_attn.weight": np.ones((2, 2), np.float32)},
            "h.0.crossattention.c_attn.weight, which is in none",
        ),
    ):
        checkpoint.save_safetensors(tmp_path / "model.safetensors", {**params, **more})
        with pytest.raises(ValueError, match=message):
            gpt.load(tmp_path)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    cfg = gpt.Config(19, 8, 12, 1, 3)
    params = gpt.init(cfg, 3)
    gpt.save(tmp_path / "m", params, cfg)
    params["h.0.ln_1.bias"][2] = np.nan
    with pytest.raises(ValueError, match="not saved, h.0.ln_1.bias and 0 other"):
        gpt.save(tmp_path / "n", params, cfg)
    assert not (tmp_path / "n").exists()
    checkpoint.save_safetensors(tmp_path / "m/model.safetensors", params)
    with pytest.raises(
        ValueError, match="model.safetensors: h.0.ln_1.bias holds numbers that are not finite"
    ):
        gpt.load(tmp_path / "m")


def llmc_bytes(params, cfg, version, padded):
    """What llm.c's train_gpt2.py writes: 256 words, then each tensor for all layers, matrices as
    (out, in)."""
    header = np.zeros(256, "<i4")
    header[:8] = (
        20240326,
        version,
        cfg.n_positions,
        cfg.vocab_size,
        cfg.n_layer,
        cfg.n_head,
        cfg.n_embd,
        padded,
    )
    names = [
        "ln_1.weight",
        "ln_1.bias",
        "attn.c_attn.weight",
        "attn.c_attn.bias",
        "attn.c_proj.weight",
        "attn.c_proj.bias",
        "ln_2.weight",
        "ln_2.bias",
        "mlp.c_fc.weight",
        "mlp.c_fc.bias",
        "mlp.c_proj.weight",
        "mlp.c_proj.bias",
    ]
    body = [
        params["wte.weight"],
        np.zeros((padded - cfg.vocab_size, cfg.n_embd), np.float32),
        params["wpe.weight"],
    ]
    body += [params[f"h.{i}.{n}"].T for n in names for i in range(cfg.n_layer)] + [
        params["ln_f.weight"],
        params["ln_f.bias"],
    ]
    flat = np.concatenate([a.ravel() for a in body]).astype("<f4")
    return (
        header.tobytes()
        + (flat if version == 3 else (flat.view("<u4") >> 16).astype("<u2")).tobytes()
    )


@pytest.mark.parametrize("version", [3, 5])
def test_a_model_of_llmc(tmp_path, version):
    cfg, path = gpt.Config(19, 8, 12, 2, 3), tmp_path / "m.bin"
    params = {
        k: p + 0.1 * RNG.standard_normal(p.shape, np.float32) for k, p in gpt.init(cfg, 3).items()
    }
    raw = llmc_bytes(params, cfg, version, 32)
    path.write_bytes(raw)
    again, same = gpt.load(path)
    assert same == cfg and list(again) == list(params)
    for k, p in params.items():
        if version == 3:
            np.testing.assert_array_equal(again[k], p)
        else:  # bfloat16 keeps 8 bits
            np.testing.assert_allclose(again[k], p, rtol=2**-7)
        assert (
            again[k].flags.c_contiguous
            and again[k].flags.writeable
            and again[k].dtype == np.float32
        )
    nan = raw[:1024] + b"\xff" * 4 + raw[1028:]
    for bad, message in (
        (raw[:-4], "truncated, or another format"),
        (nan, "wte.weight holds numbers that are not finite"),
        (raw[:900], "not an llm.c model"),
        (b"\0" + raw[1:], "not an llm.c model"),
        (raw[:4] + b"\1\0\0\0" + raw[8:], "version 1, expected 3"),
        (raw[:28] + b"\1\0\0\0" + raw[32:], "impossible sizes"),
    ):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=message):
            gpt.load(path)


@pytest.mark.skipif(
    "LLMC_GPT2" not in os.environ,
    reason="LLMC_GPT2: the folder with llm.c's gpt2_124M.bin and gpt2_124M_debug_state.bin",
)
def test_ten_losses_of_llmc():
    """Its own test of its CPU code: ten AdamW steps on one batch, from OpenAI's weights."""
    folder = Path(os.environ["LLMC_GPT2"])
    params, cfg = gpt.load(folder / "gpt2_124M.bin")
    words = np.fromfile(folder / "gpt2_124M_debug_state.bin", "<i4", 256 + 2 * 4 * 64)
    assert words[:4].tolist() == [20240327, 2, 4, 64]
    tokens, targets = words[256:].reshape(2, 4, 64).astype(np.int64)
    optimizer, losses = train.AdamW(params, 0.9, 0.999, 1e-8, weight_decay=0.01), []
    for _ in range(10):
        loss, grads = fast.loss_and_grads(params, cfg, tokens, targets)
        optimizer.step(grads, 1e-4)
        losses.append(loss)
    want = [
        5.270007,
        4.059707,
        3.375123,
        2.800783,
        2.315382,
        1.849029,
        1.394656,
        0.999147,
        0.624080,
        0.376511,
    ]
    np.testing.assert_allclose(losses, want, atol=1e-2)


@pytest.mark.parametrize(
    "key, value",
    [
        ("model_type", "gptj"),
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_weights", False),
        ("scale_attn_by_inverse_layer_idx", True),
        ("n_inner", 40),
    ],
)
def test_a_config_of_other_arithmetic_is_refused(tmp_path, key, value):
    folders.save_config(tmp_path, gpt.Config(19, 8, 12, 1, 3))
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=f"config.json: {key} is {value!r}"):
        folders.load_config(tmp_path)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        gpt.load(tmp_path)
    cfg = gpt.Config(19, 8, 12, 1, 3)
    gpt.save(tmp_path, gpt.init(cfg, 0), gpt.Config(19, 8, 12, 1, 3))
    folders.save_config(tmp_path, gpt.Config(20, 8, 12, 1, 3))
    with pytest.raises(
        ValueError, match=r"wte.weight has shape \(19, 12\), config.json says \(20, 12\)"
    ):
        gpt.load(tmp_path)
    folders.save_config(tmp_path, gpt.Config(19, 8, 12, 2, 3))
    with pytest.raises(ValueError, match="has no tensor h.1.ln_1.weight"):
        gpt.load(tmp_path)
    folders.save_config(tmp_path, gpt.Config(19, 8, 12, 10**9, 3))
    with pytest.raises(
        ValueError, match="16 tensors are too few for config.json's 1000000000 layers"
    ):
        gpt.load(tmp_path)
    (tmp_path / "config.json").write_text(
        '{"n_embd": null, "vocab_size": 19, "n_positions": 8, "n_layer": 1, "n_head": 3}'
    )
    with pytest.raises(ValueError, match="config.json: config: n_embd = None"):
        gpt.load(tmp_path)


def test_weights_in_several_files(tmp_path):
    cfg = gpt.Config(19, 8, 12, 2, 3)
    params = gpt.init(cfg, 0)
    folders.save_config(tmp_path, cfg)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(FileNotFoundError, match="pytorch_model.bin is PyTorch's own format"):
        gpt.load(tmp_path)
    names, where = list(params), {}
    for i in range(2):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        checkpoint.save_safetensors(
            tmp_path / file, {f"transformer.{k}": params[k] for k in names[i::2]}
        )
        where.update({f"transformer.{k}": file for k in names[i::2]})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    again, same = gpt.load(tmp_path)
    assert same == cfg and all(np.array_equal(again[k], params[k]) for k in params)
    for other, message in (
        ({"transformer.more": file}, "'transformer.more' is not in both"),
        ({f"transformer.{names[1]}": "model-00001-of-00002.safetensors"}, "is not in both"),
    ):
        index.write_text(json.dumps({"weight_map": {**where, **other}}))
        with pytest.raises(ValueError, match=message):
            gpt.load(tmp_path)
    index.write_text(json.dumps({"weight_map": where}))
    (tmp_path / file).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=f"{file}: no such file, but model.safetensors.index.json says that it holds .* "
        "of the 28 tensors",
    ):
        gpt.load(tmp_path)
    index.write_text(json.dumps({"weight_map": {"wte.weight": "../m.safetensors"}}))
    with pytest.raises(ValueError, match="index.json: expected a weight_map"):
        gpt.load(tmp_path)
