"""model/llama.py beside transformers: the same files, logits, gradients and greedy texts.

Models of every family and option, small and at random: heads in groups of several sizes, heads of
another size than C / NH, tied and untied, each type of rotary positions that is computed here.
"""

import json

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import gpt
from model import bfloat16, fast, folders, llama, llama_folders

ENGINES = [llama, fast]
SIZES = dict(
    vocab_size=211, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
    num_attention_heads=8, max_position_embeddings=512, eos_token_id=None, bos_token_id=None)
THETA = {"rope_type": "default", "rope_theta": 500_000.0}
LLAMA_3 = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
MODELS = {
    "llama, a key head each": ("llama", dict(num_key_value_heads=8)),
    "llama, two share": ("llama", dict(num_key_value_heads=4, rope_parameters=THETA)),
    "llama, eight share, scaled": ("llama", dict(
        num_attention_heads=16, num_key_value_heads=2, head_dim=8, rope_parameters=LLAMA_3)),
    "llama, one key head, tied": ("llama", dict(
        num_key_value_heads=1, tie_word_embeddings=True, rms_norm_eps=1e-5)),
    "llama, wide heads, biases": ("llama", dict(
        num_key_value_heads=2, head_dim=24, attention_bias=True)),
    "mistral": ("mistral", dict(num_key_value_heads=2, sliding_window=None)),
    "mistral, narrow heads": ("mistral", dict(
        num_key_value_heads=4, head_dim=4, sliding_window=512, rope_parameters=THETA)),
    "qwen2": ("qwen2", dict(num_key_value_heads=2, rope_parameters=THETA)),
    "qwen2, tied": ("qwen2", dict(
        num_key_value_heads=8, tie_word_embeddings=True, rope_parameters=LLAMA_3)),
    "qwen3": ("qwen3", dict(num_key_value_heads=4, head_dim=16, tie_word_embeddings=True)),
    "qwen3, biases": ("qwen3", dict(
        num_key_value_heads=1, head_dim=8, attention_bias=True, rope_parameters=LLAMA_3)),
}


def make(name, **changes):
    """A model of transformers at random, its biases and norms away from 0 and 1."""
    kind, options = MODELS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind, **{**SIZES, **options, **changes}))
    with torch.no_grad():
        for p in model.parameters():
            p += (0.1 if p.ndim == 2 else 0.3) * torch.randn_like(p)
    model.generation_config.eos_token_id = None         # a greedy text must not end
    return model.eval()


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture(params=ENGINES, ids=[engine.__name__ for engine in ENGINES])
def engine(request):
    return request.param


@pytest.fixture
def both(name, tmp_path):
    """(transformers' model, our params, our Config), through the files that it saves."""
    model = make(name)
    model.save_pretrained(tmp_path)
    return model, *gpt.load(tmp_path)


def tokens_of(cfg, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, cfg.vocab_size, shape)


def their_logits(model, tokens, **more):
    with torch.no_grad():
        return model(torch.tensor(tokens), **more).logits.numpy()


def relative(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# -------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("theta", [1e4, 1e5, 5e5, 1e6])
@pytest.mark.parametrize("head_size", [16, 64, 80, 128])
@pytest.mark.parametrize("scaling", [None, (8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192)])
def test_rotary_tables(theta, head_size, scaling):
    """An angle a pair, most to the last bit: torch's powers are not always the nearest ones."""
    rope = {"rope_type": "default", "rope_theta": theta}
    if scaling:
        names = llama_folders.FACTORS + (llama_folders.BEFORE,)
        rope = {"rope_type": "llama3", "rope_theta": theta, **dict(zip(names, scaling))}
    config = transformers.LlamaConfig(**{
        **SIZES, "head_dim": head_size, "max_position_embeddings": 131072, "rope_parameters": rope})
    theirs = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    cfg = llama_folders.config_of(config.to_dict())
    ours, frequencies = llama.rotary_frequencies(cfg), theirs.inv_freq.numpy()
    np.testing.assert_array_max_ulp(ours, frequencies, 2)
    assert (ours != frequencies).sum() <= 1 + len(ours) // 10
    # of the same angles the same cosines and sines
    angles = np.arange(0, 20_000, 7, dtype=np.float32)[:, None] * frequencies
    for of_numpy, of_torch in ((np.cos, torch.cos), (np.sin, torch.sin)):
        want = of_torch(torch.tensor(angles)).numpy()
        found = of_numpy(angles.astype(np.float64)).astype(np.float32)
        assert np.abs(found - want).max() < 1e-7


def test_logits(both, engine):
    model, params, cfg = both
    tokens = tokens_of(cfg, 3, 70)
    ours, _ = engine.forward(params, cfg, tokens)
    assert relative(ours, their_logits(model, tokens)) < 1e-5


def in_float64(model, cfg, monkeypatch):
    """transformers' model in float64 throughout: its norms and angles stay in float32 there."""
    def norm(self, x):
        mean_square = x.pow(2).mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(mean_square + self.variance_epsilon)

    def rotary(self, x, position_ids):
        tables = llama.rotary_tables(cfg, position_ids.numpy(), np.float64)
        return tuple(torch.tensor(table).repeat(1, 1, 2) for table in tables)

    for module in model.modules():
        kind = type(module)
        if kind.__name__.endswith("RMSNorm"):
            monkeypatch.setattr(kind, "forward", norm)
        if kind.__name__.endswith("RotaryEmbedding"):
            monkeypatch.setattr(kind, "forward", rotary)
    return model.double()


def test_gradients(both, engine, monkeypatch):
    model, params, cfg = both
    model = in_float64(model, cfg, monkeypatch)
    params = {name: p.astype(np.float64) for name, p in params.items()}
    tokens, targets = tokens_of(cfg, 2, 3, 40)
    loss, grads = engine.loss_and_grads(params, cfg, tokens, targets)
    logits = model(torch.tensor(tokens)).logits
    theirs = torch.nn.functional.cross_entropy(
        logits.reshape(-1, cfg.vocab_size), torch.tensor(targets).reshape(-1))
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-12)
    named = {name: p.grad.numpy() for name, p in model.named_parameters()}
    assert named.keys() == {llama_folders.file_name(name) for name in grads}
    for name, grad in grads.items():
        want = named[llama_folders.file_name(name)]
        want = want.T if llama_folders.is_transposed(name) else want
        assert relative(grad, want) < 1e-8, name


# ---------------------------------------------------------------------------------- greedy texts


def read(engine, params, cfg, prompts, room):
    """A cache with prompts of several lengths in it, and the logits after each: (B,V)."""
    cache, last = engine.Cache(cfg, len(prompts), room), []
    for b, prompt in enumerate(prompts):
        of_row = engine.Cache(cfg, 1, room)
        for begin in range(0, len(prompt), 512):        # a part at a time: less memory
            part = np.array([prompt[begin:begin + 512]])
            logits = engine.decode(params, cfg, part, of_row)
        cache.k[:, b], cache.v[:, b] = of_row.k[:, 0], of_row.v[:, 0]
        cache.length[b] = of_row.length[0]
        last.append(logits[0, -1])
    return cache, np.array(last)


def greedy(engine, params, cfg, cache, logits, n):
    """(B,n): the n tokens that follow what is in a cache, all rows together."""
    texts = []
    for _ in range(n):
        texts.append(logits.argmax(-1))
        logits = engine.decode(params, cfg, texts[-1][:, None], cache)[:, -1]
    return np.array(texts).T


def their_greedy(model, prompts, n):
    """The same by transformers: prompts padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt):] = torch.tensor(prompt)
        mask[row, longest - len(prompt):] = 1
    with torch.no_grad():
        written = model.generate(ids, attention_mask=mask, max_new_tokens=n, do_sample=False,
                                 pad_token_id=0)
    return written[:, longest:].numpy()


def test_greedy_texts(both, engine):
    """200 tokens after prompts of several lengths, in one batch: ragged on the left there, on the
    right here."""
    model, params, cfg = both
    prompts = [tokens_of(cfg, n, seed=n).tolist() for n in (3, 19, 8)]
    cache, logits = read(engine, params, cfg, prompts, 19 + 200)
    ours = greedy(engine, params, cfg, cache, logits, 200)
    np.testing.assert_array_equal(ours, their_greedy(model, prompts, 200))
    assert len(set(ours[0])) > 5                        # no text that stands still


def test_a_batch_ragged_on_the_right(both, engine):
    """A row that is padded has the logits it has alone, up to the padding."""
    model, params, cfg = both
    rows, lengths = tokens_of(cfg, 3, 30), [30, 7, 19]
    mask = np.arange(30) < np.array(lengths)[:, None]
    theirs = their_logits(model, rows, attention_mask=torch.tensor(mask.astype(np.int64)))
    ours, _ = engine.forward(params, cfg, rows)
    assert relative(ours[mask], theirs[mask]) < 1e-5


def test_ten_thousand_positions(tmp_path, engine):
    """With Llama 3's scaling, whose slow frequencies show only far from the beginning."""
    rope = {**LLAMA_3, "original_max_position_embeddings": 8192}
    model = make("llama, two share", num_hidden_layers=2, max_position_embeddings=16384,
                 rope_parameters=rope)
    model.save_pretrained(tmp_path)
    params, cfg = gpt.load(tmp_path)
    assert cfg.rope_scaling.original_n_positions == 8192
    prompt = tokens_of(cfg, 9_900).tolist()
    cache, logits = read(engine, params, cfg, [prompt], 9_900 + 200)
    with torch.no_grad():
        theirs = model(torch.tensor([prompt]), logits_to_keep=1).logits[0].numpy()
    assert relative(logits, theirs) < 1e-5
    ours = greedy(engine, params, cfg, cache, logits, 200)
    np.testing.assert_array_equal(ours, their_greedy(model, [prompt], 200))


# ---------------------------------------------------------------------------------------- the files


def test_transformers_opens_ours(both, tmp_path):
    """A folder that we write: the same model, with the same logits."""
    model, params, cfg = both
    (tmp_path / "ours").mkdir()
    roles = {"bos_token_id": 1, "eos_token_id": [2, 7], "pad_token_id": 0}
    (tmp_path / "ours/generation_config.json").write_text(json.dumps(roles))
    gpt.save(tmp_path / "ours", params, cfg)
    again, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert again.config.eos_token_id == again.generation_config.eos_token_id == [2, 7]
    kind = "llama" if model.config.model_type == "mistral" else model.config.model_type
    assert again.config.model_type == kind
    tokens = tokens_of(cfg, 2, 60)
    np.testing.assert_array_equal(their_logits(again, tokens), their_logits(model, tokens))


@pytest.mark.parametrize("dtype, narrow", [
    (torch.bfloat16, lambda p: np.asarray(bfloat16.narrow(p))),
    (torch.float16, lambda p: p.astype(np.float16).astype(np.float32))])
def test_halves_and_several_files(both, tmp_path, dtype, narrow):
    """As models are published: in half precision, in files of a limited size."""
    model, params, cfg = both
    model.to(dtype).save_pretrained(tmp_path / "half", max_shard_size="60KB")
    assert (tmp_path / "half/model.safetensors.index.json").exists()
    for writable in (True, False):
        again, same = gpt.load(tmp_path / "half", writable)
        assert same == cfg
        for name, p in params.items():
            np.testing.assert_array_equal(again[name], narrow(p), err_msg=name)


def test_matrices_that_stay_in_bfloat16(both, tmp_path, engine):
    """Here weights are widened in each product, there once."""
    model, _, cfg = both
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    params, _ = folders.load(tmp_path / "half", writable=False, dtype="bfloat16")
    assert isinstance(params["h.0.mlp.up.weight"], bfloat16.Array)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)
    tokens = tokens_of(cfg, 2, 20)
    theirs = their_logits(model, tokens)
    ours = engine.decode(params, cfg, tokens, engine.Cache(cfg, 2))
    assert relative(ours, theirs) < 1e-5


def test_both_agree_on_which_heads_are_tied(tmp_path):
    """A head beside the embedding, where the config says that they are one."""
    model = make("llama, two share")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    params, cfg = gpt.load(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = tokens_of(cfg, 1, 20)
    ours, _ = llama.forward(params, cfg, tokens)
    assert not cfg.tied and relative(ours, their_logits(theirs, tokens)) < 1e-5
