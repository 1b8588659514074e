"""gpt.py and train.py beside PyTorch and transformers: the same logits, gradients, steps and files.

How fast both sides are: python tests/peers/gpt_speed.py
"""

import numpy as np
import pytest

import bpe
import gpt
import train
from model import checkpoint, fast, resume

torch = pytest.importorskip("torch")
import torch_gpt  # noqa: E402
transformers = pytest.importorskip("transformers", exc_type=ImportError)

CFG = gpt.Config(vocab_size=211, n_positions=70, n_embd=48, n_layer=3, n_head=4)


def peer(cfg, seed=0):
    """A GPT-2 made at random by transformers, without dropout."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(**vars(cfg), resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for p in model.parameters():        # away from zero biases and unit norms
            p += 0.05 * torch.randn_like(p)
    return model


def batch(cfg, B, T, seed=0):
    return np.random.default_rng(seed).integers(0, cfg.vocab_size, (2, B, T))


def peer_loss(model, tokens, targets):
    logits = model(torch.tensor(tokens)).logits
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), torch.tensor(targets).reshape(-1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("peer")
    peer(CFG).save_pretrained(path)
    return path


def test_their_folder_gives_their_logits(folder):
    params, cfg = gpt.load(folder)
    assert cfg == CFG
    tokens, _ = batch(cfg, 3, 70)
    ours = fast.forward(params, cfg, tokens)[0]
    with torch.no_grad():
        model = transformers.GPT2LMHeadModel.from_pretrained(folder)
        theirs = model(torch.tensor(tokens)).logits.numpy()
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-5


@pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-10), (np.float32, 1e-4)])
def test_every_gradient_equals_autograds(folder, dtype, tol):
    params, cfg = gpt.load(folder)
    params = {k: p.astype(dtype) for k, p in params.items()}
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    model = model.double() if dtype == np.float64 else model
    tokens, targets = batch(cfg, 4, 70)
    loss, grads = fast.loss_and_grads(params, cfg, tokens, targets)
    theirs = peer_loss(model, tokens, targets)
    theirs.backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-6)
    named = {k.removeprefix("transformer."): p.grad.numpy() for k, p in model.named_parameters()}
    assert set(named) == set(grads)
    for k, g in grads.items():
        assert np.abs(g - named[k]).max() / np.abs(named[k]).max() < tol, k


def test_ten_steps_of_adamw(folder):
    params, cfg = gpt.load(folder)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    theirs = torch_gpt.adamw(model, 1e-3, (0.9, 0.95), 0.1)
    ours = train.AdamW(params, 0.9, 0.95, 1e-8, weight_decay=0.1)
    for step in range(10):
        tokens, targets = batch(cfg, 4, 64, seed=step % 2)
        loss, grads = fast.loss_and_grads(params, cfg, tokens, targets)
        ours.step(grads, 1e-3, train.clip_scale(train.grad_norm(grads), 1.0))
        their_loss = peer_loss(model, tokens, targets)
        theirs.zero_grad()
        their_loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        theirs.step()
        assert loss == pytest.approx(their_loss.item(), abs=1e-4), step


def test_five_steps_of_muon(monkeypatch):
    """torch.optim.Muon has matrices as (out, in), and q, k and v apart. Its rounds in bfloat16 have
    two digits; without the rounding they have those of float64."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda matrix: matrix)
    rng = np.random.default_rng(0)
    shapes = {"h.0.attn.c_attn.weight": (8, 24), "h.0.attn.c_proj.weight": (8, 8),
              "h.0.mlp.c_fc.weight": (8, 32), "h.0.mlp.c_proj.weight": (32, 8)}
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}

    def apart(arrays):
        found = []
        for name, array in arrays.items():
            found += np.split(array, 3, axis=1) if "c_attn" in name else [array]
        return [torch.tensor(matrix.T.copy()) for matrix in found]

    theirs = [torch.nn.Parameter(matrix) for matrix in apart(params)]
    ours = train.Muon(params, ratio=4.0, momentum=0.9, weight_decay=0.2)
    optimizer = torch.optim.Muon(theirs, lr=0.04, momentum=0.9, weight_decay=0.2)
    for _ in range(5):
        grads = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        ours.step(grads, lr=0.01)
        for parameter, g in zip(theirs, apart(grads)):
            parameter.grad = g
        optimizer.step()
    for ours_now, their_parameter in zip(apart(params), theirs):
        torch.testing.assert_close(ours_now, their_parameter.data, rtol=1e-7, atol=1e-8)


def test_they_open_our_folder_and_write_the_same_tokens(tmp_path):
    params = gpt.init(CFG, 5)
    for p in params.values():
        p += 0.1 * np.random.default_rng(6).standard_normal(p.shape).astype(np.float32)
    gpt.save(tmp_path, params, CFG)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    prompt = [3, 1, 4, 1, 5]
    with torch.no_grad():
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=50, do_sample=False,
                                pad_token_id=0, eos_token_id=None)[0].tolist()
    cache, ids = fast.Cache(CFG, 1), list(prompt)
    logits = fast.decode(params, CFG, np.array([prompt]), cache, only_last=True)
    for _ in range(50):
        ids.append(int(logits[0].argmax()))
        logits = fast.decode(params, CFG, np.array([ids[-1:]]), cache, only_last=True)
    assert ids == theirs


def test_they_stop_where_our_tokenizer_ends_a_text(tmp_path):
    tokenizer = bpe.Tokenizer.train(["the lamp is lit. " * 9], 300)
    cfg = gpt.Config(tokenizer.n_vocab, 16, 8, 1, 2)
    params = gpt.init(cfg, 0)
    with resume.begin(tmp_path, params, train.AdamW(params), cfg, tokenizer, {}, end="<|im_end|>"):
        pass
    end = tokenizer.special_tokens["<|im_end|>"]
    params["ln_f.weight"][:] = 0            # whatever was said, now it ends
    params["ln_f.bias"][:] = params["wte.weight"][end]
    params["wte.weight"][end] *= 9
    gpt.save(tmp_path, params, cfg)
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert model.generation_config.eos_token_id == end
    assert model.generation_config.bos_token_id == tokenizer.eot_token
    with torch.no_grad():
        written = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=9, do_sample=False)
    assert written.tolist() == [[1, 2, 3, end]]


def test_safetensors_both_ways(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array([1, 2], np.int64),
              "c": np.array(True), "d": np.float16([0.5])}
    checkpoint.save_safetensors(tmp_path / "ours.safetensors", arrays, {"k": "v"})
    theirs = safetensors.load_file(tmp_path / "ours.safetensors")
    safetensors.save_file(arrays, tmp_path / "theirs.safetensors")
    ours, _ = checkpoint.load_safetensors(tmp_path / "theirs.safetensors")
    for k, a in arrays.items():
        np.testing.assert_array_equal(theirs[k], a)
        np.testing.assert_array_equal(ours[k], a)
