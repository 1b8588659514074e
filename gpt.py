"""gpt.py: GPT-2, forward and backward by hand.

The whole model is in this file. Each operation stands directly above its derivative: embedding,
layer norm, linear layer, GELU, attention. Then come the block, the model, its loss and gradients,
and the cache that makes writing cheap. There is no autograd: each backward repeats the forward
line above the derivative of that line.

The model is GPT-2 exactly: learned positions, a layer norm before each sublayer, the tanh form of
GELU, and one matrix for both the token embedding and the output head. Parameters have the names and
shapes of Hugging Face's GPT-2, so their checkpoints load here and ours load there.

This file is the definition. model/fast.py has its functions made fast for NumPy, model/device.py
for a GPU; tests hold all three equal. Dropout is left out, as in the published recipes for small
models. float32 in, float32 out; float64 in, float64 out, which is how derivatives are checked.

    python gpt.py       check every derivative, then learn a sentence and write it

Sources: Radford et al. 2019 (GPT-2); Vaswani et al. 2017 (attention); Ba et al. 2016 (layer norm);
Hendrycks & Gimpel 2016 (GELU); Dao et al. 2022 (attention's backward from the log-sum-exp).
"""

import argparse
import math
import sys
from dataclasses import dataclass

import numpy as np

# The letters of all shapes:
#   B  sequences in a batch     T  positions of a sequence      S  positions that can be attended to
#   V  tokens in the vocabulary L  blocks, one upon the other   C  channels: the width of the model
#   NH attention heads          HS channels of a head           C = NH * HS
#   F  channels inside the MLP, 4 * C
# dx is the derivative of the loss by x and has the shape of x.


@dataclass(frozen=True)
class Config:
    """The sizes of a model, under the names of Hugging Face's config.json."""

    vocab_size: int     # V
    n_positions: int    # the context: the most positions that a sequence can have
    n_embd: int         # C
    n_layer: int        # L
    n_head: int         # NH

    def __post_init__(self):
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"config: {name} = {value!r}, expected an integer of at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"config: n_embd {self.n_embd} is no multiple of n_head {self.n_head}")

    @property
    def n_params(self):
        """How many numbers the model learns."""
        return sum(math.prod(shape) for shape in param_shapes(self).values())


PRESETS = {  #          vocabulary, context, width, blocks, heads
    "demo": Config(1024, 256, 128, 3, 4),
    "shakespeare": Config(65, 64, 128, 4, 4),           # nanoGPT's setting for a CPU
    "baby": Config(65, 256, 384, 6, 6),                 # nanoGPT's setting for a GPU
    "gpt2": Config(50257, 1024, 768, 12, 12),           # 124 million parameters
    "gpt2-medium": Config(50257, 1024, 1024, 24, 16),   # 355 million
    "gpt2-large": Config(50257, 1024, 1280, 36, 20),    # 774 million
    "gpt2-xl": Config(50257, 1024, 1600, 48, 25),       # 1,558 million
}


def param_shapes(cfg):
    """{name: shape} of every parameter, in Hugging Face's order. A weight is (in, out): x @ w."""
    C, F = cfg.n_embd, 4 * cfg.n_embd
    layers = {
        "ln_1": (C,),
        "attn.c_attn": (C, 3 * C),      # queries, keys and values side by side
        "attn.c_proj": (C, C),
        "ln_2": (C,),
        "mlp.c_fc": (C, F),
        "mlp.c_proj": (F, C),
    }
    shapes = {"wte.weight": (cfg.vocab_size, C), "wpe.weight": (cfg.n_positions, C)}
    for i in range(cfg.n_layer):
        for name, shape in layers.items():
            shapes[f"h.{i}.{name}.weight"] = shape
            shapes[f"h.{i}.{name}.bias"] = shape[-1:]
    return {**shapes, "ln_f.weight": (C,), "ln_f.bias": (C,)}


def block_params(params, i):
    """The parameters of block i without "h.i." before their names. No array is copied."""
    block, prefix = {}, f"h.{i}."
    for name, p in params.items():
        if name.startswith(prefix):
            block[name.removeprefix(prefix)] = p
    return block


def init(cfg, seed, dtype=np.float32):
    """Fresh parameters {name: array}. The first loss of such a model is close to ln(V).

    Weights have deviation 0.02, and 0.02 / sqrt(2L) in the 2L projections that add to the residual
    stream, so that it does not grow with depth. Biases are 0, norms 1.
    """
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in param_shapes(cfg).items():
        std = 0.02 / (2 * cfg.n_layer) ** 0.5 if "c_proj" in name else 0.02
        if name.endswith("bias"):
            params[name] = np.zeros(shape, dtype)
        elif "ln_" in name:
            params[name] = np.ones(shape, dtype)
        else:
            drawn = rng.standard_normal(shape, np.float32)
            drawn *= np.float32(std)
            params[name] = drawn.astype(dtype, copy=False)
    return params


# ------------------------------------------------------------------------------------- operations
# An operation's forward returns (result, cache): the cache is what its backward needs. Block and
# model name such a cache after its operation. A backward returns the arguments' derivatives.


def embedding_forward(tokens, positions, wte, wpe):
    """Each token's row of wte plus its position's row of wpe: (B,T), (B,T) -> (B,T,C)"""
    return wte[tokens] + wpe[positions]


def embedding_backward(dx, tokens, positions, wte, wpe):
    """dx (B,T,C) -> dwte, dwpe: a row gets the sum of dx over all places that looked it up."""
    dwte, dwpe = np.zeros_like(wte), np.zeros_like(wpe)
    np.add.at(dwte, tokens, dx)         # dwte[tokens] += dx would count a repeated token once
    np.add.at(dwpe, positions, dx)
    return dwte, dwpe


def layernorm_forward(x, w, b, eps=1e-5):
    """Bring each row to mean 0 and variance 1, then scale by w and shift by b.

    x (B,T,C), w and b (C,) -> y (B,T,C), cache
    """
    d = x - x.mean(-1, keepdims=True)
    variance = (d * d).mean(-1, keepdims=True)      # divided by C, not by C - 1
    rstd = 1.0 / np.sqrt(variance + eps)            # (B,T,1): one over the standard deviation
    n = d * rstd                                    # the normalised row
    return n * w + b, (n, rstd, w)


def layernorm_backward(dy, cache):
    """(B,T,C) -> dx (B,T,C), dw (C,), db (C,)

    Were mean and rstd constants, dx would be rstd * dn. But two movements of x change nothing in n:
    adding a number to the whole row, for its mean is subtracted, and stretching the row about its
    mean, for it is divided by its deviation (but for eps). So two components of dn are taken away:
    mean(dn) along the vector of ones, and mean(dn * n) n along n, whose length is sqrt(C).
    """
    n, rstd, w = cache
    # forward was: y = n * w + b
    dw = (dy * n).sum((0, 1))
    db = dy.sum((0, 1))
    dn = dy * w
    # forward was: n = (x - mean(x)) * rstd(x)
    along_ones = dn.mean(-1, keepdims=True)
    along_n = (dn * n).mean(-1, keepdims=True)
    dx = rstd * (dn - along_ones - n * along_n)
    return dx, dw, db


def linear_forward(x, w, b):
    """y = x w + b: (B,T,C), (C,F), (F,) -> (B,T,F), cache"""
    return x @ w + b, (x, w)


def linear_backward(dy, cache):
    """The derivatives of y = x w + b: (B,T,F) -> dx (B,T,C), dw (C,F), db (F,)"""
    x, w = cache
    rows = x.reshape(-1, x.shape[-1])       # (B*T,C): every position of every sequence is a row
    drows = dy.reshape(-1, dy.shape[-1])    # (B*T,F)
    # forward was: y = x w + b, and w and b served every row
    dx = dy @ w.T
    dw = rows.T @ drows
    db = drows.sum(0)
    return dx, dw, db


GELU_K, GELU_C = (2.0 / np.pi) ** 0.5, 0.044715


def gelu_forward(x):
    """y = x (1 + tanh(k (x + c x^3))) / 2, as GPT-2 was trained: (B,T,F) -> (B,T,F), cache"""
    t = np.tanh(GELU_K * (x + GELU_C * x * x * x))
    y = 0.5 * x * (1.0 + t)
    return y, (x, t)


def gelu_backward(dy, cache):
    """dx = dy * dy/dx for y = x (1 + t) / 2, t = tanh(k (x + c x^3)): (B,T,F) -> (B,T,F)"""
    x, t = cache
    # forward was: t = tanh(k (x + c x^3)), and tanh' = 1 - tanh^2
    dt_dx = (1.0 - t * t) * GELU_K * (1.0 + 3.0 * GELU_C * x * x)
    # forward was: y = x (1 + t) / 2, a product of two functions of x
    dy_dx = 0.5 * (1.0 + t) + 0.5 * x * dt_dx
    return dy * dy_dx


def attention_scores(q, k, visible):
    """s_ij = q_i . k_j / sqrt(HS), and -inf where query i must not look at key j: (B,NH,T,S)

    A product of HS random numbers has a deviation of sqrt(HS); divided by it, scores start near 1.
    """
    scale = float(q.shape[-1]) ** -0.5
    s = scale * (q @ k.swapaxes(-1, -2))
    return np.where(visible, s, -np.inf)


def attention_forward(q, k, v, visible):
    """o_i = sum_j p_ij v_j with p_i = softmax_j(s_ij): each query's mean of the values it looks at.

    q (B,NH,T,HS); k, v (B,NH,S,HS); visible (...,T,S) bool -> o, (q, k, v, visible, o, lse)
    p has S numbers for each query. It is not kept until the backward: lse (B,NH,T,1), the logarithm
    of each softmax's sum, is enough to make it again, p_ij = exp(s_ij - lse_i).
    """
    s = attention_scores(q, k, visible)
    largest = s.max(-1, keepdims=True)              # subtracted so that exp cannot overflow
    total = np.exp(s - largest).sum(-1, keepdims=True)
    lse = largest + np.log(total)
    p = np.exp(s - lse)                             # each row sums to 1
    o = p @ v
    return o, (q, k, v, visible, o, lse)


def attention_backward(do, cache):
    """Derivatives of o = p v, p = exp(s - lse), s = q k^T / sqrt(HS): (B,NH,T,HS) -> dq, dk, dv"""
    q, k, v, visible, o, lse = cache
    s = attention_scores(q, k, visible)
    p = np.exp(s - lse)
    # forward was: o = p v
    dv = p.swapaxes(-1, -2) @ do
    dp = do @ v.swapaxes(-1, -2)
    # forward was: p = softmax(s), whose derivative is ds_ij = p_ij (dp_ij - sum_j p_ij dp_ij).
    # Since dp_ij = do_i . v_j, that sum is do_i . (sum_j p_ij v_j) = do_i . o_i: no pass over keys.
    ds = p * (dp - (do * o).sum(-1, keepdims=True))
    # forward was: s = scale q k^T
    scale = float(q.shape[-1]) ** -0.5
    dq = scale * (ds @ k)
    dk = scale * (ds.swapaxes(-1, -2) @ q)
    return dq, dk, dv


def split_heads(x, n_head):
    """Cut the channels into heads: (B,T,n_head*HS) -> (B,n_head,T,HS)"""
    B, T, C = x.shape
    x = x.reshape(B, T, n_head, C // n_head)
    return x.swapaxes(1, 2)


def join_heads(x):
    """Lay the heads side by side again: (B,NH,T,HS) -> (B,T,NH*HS)"""
    B, NH, T, HS = x.shape
    return x.swapaxes(1, 2).reshape(B, T, NH * HS)


def cross_entropy_forward(logits, targets):
    """-log softmax(logits)[target] in nats: (B,T,V), (B,T) int -> (B,T), cache"""
    z = logits - logits.max(-1, keepdims=True)
    total = np.exp(z).sum(-1, keepdims=True)
    log_p = z - np.log(total)
    nll = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    return nll, (log_p, targets)


def cross_entropy_backward(weights, cache):
    """The derivative of sum(weights * nll) by the logits, with nll as above: (B,T) -> (B,T,V)"""
    log_p, targets = cache
    # forward was: nll = -log softmax(z)[target], so d nll / dz = softmax(z) - onehot(target)
    dz = np.exp(log_p)
    target_p = np.take_along_axis(dz, targets[..., None], -1)
    np.put_along_axis(dz, targets[..., None], target_p - 1.0, -1)
    return weights[..., None] * dz


# ------------------------------------------------------------------------------------------ block

def mlp_forward(x, p):
    """y = gelu(x w_fc + b_fc) w_proj + b_proj: (B,T,C) -> (B,T,C), cache"""
    h, fc = linear_forward(x, p["mlp.c_fc.weight"], p["mlp.c_fc.bias"])         # (B,T,F)
    u, gelu = gelu_forward(h)
    y, proj = linear_forward(u, p["mlp.c_proj.weight"], p["mlp.c_proj.bias"])
    return y, (fc, gelu, proj)


def mlp_backward(dy, cache, grads):
    """(B,T,C) -> dx (B,T,C). Writes the gradients of its parameters into grads."""
    fc, gelu, proj = cache
    du, grads["mlp.c_proj.weight"], grads["mlp.c_proj.bias"] = linear_backward(dy, proj)
    dh = gelu_backward(du, gelu)
    dx, grads["mlp.c_fc.weight"], grads["mlp.c_fc.bias"] = linear_backward(dh, fc)
    return dx


def self_attention_forward(x, p, n_head, attend):
    """x (B,T,C) -> y (B,T,C), cache. attend(q, k, v) is the attention itself, cached or not."""
    qkv, c_attn = linear_forward(x, p["attn.c_attn.weight"], p["attn.c_attn.bias"])
    heads = split_heads(qkv, 3 * n_head)    # NH heads of queries, NH of keys, NH of values
    q, k, v = np.split(heads, 3, axis=1)
    o, attention = attend(q, k, v)
    y, proj = linear_forward(join_heads(o), p["attn.c_proj.weight"], p["attn.c_proj.bias"])
    return y, (c_attn, attention, proj)


def self_attention_backward(dy, cache, n_head, grads):
    """(B,T,C) -> dx (B,T,C). Writes the gradients of its parameters into grads."""
    c_attn, attention, proj = cache
    do, grads["attn.c_proj.weight"], grads["attn.c_proj.bias"] = linear_backward(dy, proj)
    dq, dk, dv = attention_backward(split_heads(do, n_head), attention)
    dqkv = join_heads(np.concatenate([dq, dk, dv], axis=1))
    dx, grads["attn.c_attn.weight"], grads["attn.c_attn.bias"] = linear_backward(dqkv, c_attn)
    return dx


def block_forward(x, p, n_head, attend):
    """Add attention's result to the residual stream, then the MLP's: x (B,T,C) -> (B,T,C), cache"""
    n, ln_1 = layernorm_forward(x, p["ln_1.weight"], p["ln_1.bias"])
    a, attention = self_attention_forward(n, p, n_head, attend)
    x = x + a                               # x = x + attention(norm(x))
    n, ln_2 = layernorm_forward(x, p["ln_2.weight"], p["ln_2.bias"])
    m, mlp = mlp_forward(n, p)
    x = x + m                               # x = x + mlp(norm(x))
    return x, (ln_1, attention, ln_2, mlp)


def block_backward(dx, cache, n_head):
    """(B,T,C) -> dx, {name: gradient}. x + f(norm(x)) uses x twice: dx is a sum of two."""
    ln_1, attention, ln_2, mlp = cache
    grads = {}
    # forward was: x = x + mlp(norm(x))
    dn = mlp_backward(dx, mlp, grads)
    dnorm, grads["ln_2.weight"], grads["ln_2.bias"] = layernorm_backward(dn, ln_2)
    dx = dx + dnorm
    # forward was: x = x + attention(norm(x))
    dn = self_attention_backward(dx, attention, n_head, grads)
    dnorm, grads["ln_1.weight"], grads["ln_1.bias"] = layernorm_backward(dn, ln_1)
    dx = dx + dnorm
    return dx, grads


# ------------------------------------------------------------------------------------------ model

def check_tokens(cfg, tokens, name="tokens"):
    """ValueError unless tokens are (B,T) ids of the vocabulary that fit the context."""
    T, V = cfg.n_positions, cfg.vocab_size
    if tokens.ndim != 2 or tokens.size == 0 or tokens.shape[1] > T:
        raise ValueError(f"{name}: shape {tokens.shape}, expected (batch, 1 to {T} positions)")
    lowest, highest = tokens.min(), tokens.max()
    if lowest < 0 or highest >= V:
        raise ValueError(f"{name}: ids {lowest} to {highest}, the vocabulary has 0 to {V - 1}")


def trunk_forward(params, cfg, tokens):
    """All of the model but its head: (B,T) int -> the last hidden states y (B,T,C), cache"""
    check_tokens(cfg, tokens)
    T = tokens.shape[1]
    positions = np.broadcast_to(np.arange(T), tokens.shape)
    visible = np.tri(T, dtype=bool)     # a query sees its own position and all earlier ones

    def attend(q, k, v):
        return attention_forward(q, k, v, visible)

    x = embedding_forward(tokens, positions, params["wte.weight"], params["wpe.weight"])
    blocks = []
    for i in range(cfg.n_layer):
        x, cache = block_forward(x, block_params(params, i), cfg.n_head, attend)
        blocks.append(cache)
    y, ln_f = layernorm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
    return y, (tokens, positions, blocks, ln_f)


def trunk_backward(dy, cache, params, cfg):
    """From the derivative at the last hidden states (B,T,C) to {name: gradient} of every parameter.

    Of wte it has the gradient as an embedding only; the head adds its own.
    """
    tokens, positions, blocks, ln_f = cache
    grads = {}
    dx, grads["ln_f.weight"], grads["ln_f.bias"] = layernorm_backward(dy, ln_f)
    for i in reversed(range(cfg.n_layer)):
        dx, of_block = block_backward(dx, blocks[i], cfg.n_head)
        for name, grad in of_block.items():
            grads[f"h.{i}.{name}"] = grad
    grads["wte.weight"], grads["wpe.weight"] = embedding_backward(
        dx, tokens, positions, params["wte.weight"], params["wpe.weight"]
    )
    return grads


def forward(params, cfg, tokens):
    """Logits of the next token at every position: (B,T) int -> (B,T,V), cache"""
    y, cache = trunk_forward(params, cfg, tokens)
    return y @ params["wte.weight"].T, cache


def token_losses(params, cfg, tokens, targets, temperature=1.0):
    """-log probability of each target in nats; a target of -1 gives 0: (B,T), (B,T) -> (B,T)"""
    check_tokens(cfg, np.maximum(targets, 0), "targets")
    logits, _ = forward(params, cfg, tokens)
    nll, _ = cross_entropy_forward(logits / temperature, np.maximum(targets, 0))
    return np.where(targets == -1, 0.0, nll)


def loss_and_grads(params, cfg, tokens, targets, weights=None, temperature=1.0):
    """The loss sum(weights * nll) in nats, and its gradient for every parameter.

    tokens, targets (B,T) int; a target of -1 is ignored. weights (B,T) float: how much each token
    counts, which is all that a training objective says. Pre-training gives every token the same,
    fine-tuning gives 0 to what the user wrote, a policy gradient an advantage of either sign.
    None stands for the mean over the targets that are not ignored; ValueError if all are.
    Returns (float, {name: array}).
    """
    counted = targets != -1
    if targets.shape != tokens.shape:
        raise ValueError(f"targets: shape {targets.shape}, expected {tokens.shape}")
    if weights is None:
        if not counted.any():
            raise ValueError("every target is ignored (-1): the mean of nothing is not zero")
        weights = counted / counted.sum()
    wte = params["wte.weight"]
    weights = np.where(counted, weights, 0.0).astype(wte.dtype)
    targets = np.maximum(targets, 0)                    # the weight of an ignored target is 0
    check_tokens(cfg, targets, "targets")

    y, cache = trunk_forward(params, cfg, tokens)                   # (B,T,C)
    logits = y @ wte.T / temperature                                # (B,T,V)
    nll, cache_of_nll = cross_entropy_forward(logits, targets)
    loss = float((weights * nll).sum())

    dlogits = cross_entropy_backward(weights, cache_of_nll) / temperature
    # forward was: logits = y wte^T / temperature
    dy = dlogits @ wte
    dwte = dlogits.reshape(-1, cfg.vocab_size).T @ y.reshape(-1, cfg.n_embd)
    grads = trunk_backward(dy, cache, params, cfg)
    grads["wte.weight"] += dwte     # wte is head and embedding: its two gradients meet here
    return loss, grads


# ---------------------------------------------------------------------------------------- writing

class Cache:
    """Keys and values of the positions that the model has read already.

    A new token needs the keys and values of all earlier ones, and these never change. With a cache,
    a new token runs through the model alone. Without, all t tokens up to it run again, and a text
    of T tokens costs T (T + 1) / 2 runs. (Looking at t keys grows with t either way.)

    k, v (L,B,NH,S,HS) in the dtype of `like`. length (B,): positions in use. Rows may differ: a
    caller who shortens one goes back in its text.
    """

    def __init__(self, cfg, batch, n_positions=None, like=None):
        S = cfg.n_positions if n_positions is None else n_positions
        if not 1 <= S <= cfg.n_positions:
            raise ValueError(f"cache of {S} positions, the model's context is {cfg.n_positions}")
        dtype = np.float32 if like is None else like.dtype
        shape = (cfg.n_layer, batch, cfg.n_head, S, cfg.n_embd // cfg.n_head)
        self.k = np.zeros(shape, dtype)
        self.v = np.zeros(shape, dtype)
        self.length = np.zeros(batch, np.int64)


def decode(params, cfg, tokens, cache):
    """Read new tokens and return the logits of the token after each: (B,T) int -> (B,T,V)

    Row b continues the text of row b of the cache. The new positions are added to the cache.
    """
    check_tokens(cfg, tokens)
    B, T = tokens.shape
    S = cache.k.shape[3]
    positions = cache.length[:, None] + np.arange(T)                    # (B,T)
    if positions.max() >= S:
        raise ValueError(f"{positions.max() + 1} positions do not fit the cache of {S}")
    visible = np.arange(S) <= positions[:, None, :, None]               # (B,1,T,S): key <= query
    rows = np.arange(B)[:, None]                                        # (B,1)
    x = embedding_forward(tokens, positions, params["wte.weight"], params["wpe.weight"])
    for i in range(cfg.n_layer):

        def attend(q, k, v, i=i):                                       # the i of this block
            cache.k[i, rows, :, positions] = k.swapaxes(1, 2)           # both sides (B,T,NH,HS)
            cache.v[i, rows, :, positions] = v.swapaxes(1, 2)
            return attention_forward(q, cache.k[i], cache.v[i], visible)

        x, _ = block_forward(x, block_params(params, i), cfg.n_head, attend)
    y, _ = layernorm_forward(x, params["ln_f.weight"], params["ln_f.bias"])
    cache.length += T
    return y @ params["wte.weight"].T


# ------------------------------------------------------------------------------------------ files

def load(folder, writable=True, dtype="float32"):
    """(params, cfg) of a Hugging Face folder or a model file of llm.c (model/folders.py)."""
    from model import folders
    return folders.load(folder, writable, dtype)


def save(folder, params, cfg):
    """Write a Hugging Face folder (model/folders.py)."""
    from model import folders
    folders.save(folder, params, cfg)


# -------------------------------------------------------------------------------- python gpt.py

def check_gradients(tolerance=1e-7):
    """Print each tensor's derivative along a random direction, by hand and by differences.

    Every entry takes part in a random direction, so one wrong entry shows. The error is relative to
    the gradient's length; rounding leaves about 1e-9. Returns the names that are wrong.
    """
    cfg = Config(vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2)
    rng = np.random.default_rng(0)
    params = init(cfg, 0, np.float64)
    for p in params.values():           # away from the start, where many gradients are 0
        p += 0.1 * rng.standard_normal(p.shape)
    tokens, targets = rng.integers(0, cfg.vocab_size, (2, 3, 6))
    weights = rng.standard_normal((3, 6))

    def step():
        return loss_and_grads(params, cfg, tokens, targets, weights, temperature=0.7)

    def slope(p, direction, h=1e-5):
        start = p.copy()
        p[...] = start + h * direction
        ahead, _ = step()
        p[...] = start - h * direction
        behind, _ = step()
        p[...] = start
        return (ahead - behind) / (2 * h)

    _, grads = step()
    wrong = []
    print(f"{'derivative of the loss by':26} {'by hand':>12} {'measured':>12} {'error':>9}")
    for name, p in params.items():
        direction = rng.standard_normal(p.shape)
        by_hand = (grads[name] * direction).sum()
        measured = slope(p, direction)
        length = np.sqrt((grads[name] ** 2).sum())
        error = abs(by_hand - measured) / length
        print(f"{name:26} {by_hand:+12.8f} {measured:+12.8f} {error:9.1e}")
        if grads[name].shape != p.shape or not error < tolerance:   # NaN is wrong too
            wrong.append(name)

    cache = Cache(cfg, 3, like=params["wte.weight"])
    logits, _ = forward(params, cfg, tokens)
    first = decode(params, cfg, tokens[:, :2], cache)
    rest = decode(params, cfg, tokens[:, 2:], cache)
    if not np.allclose(np.concatenate([first, rest], 1), logits, atol=1e-12):
        wrong.append("decode, which differs from forward")
    return wrong


SENTENCE = "The cat sat on the mat, and the hat sat on the cat."


def learn_sentence(steps=300, lr=0.1):
    """Train a small model on one sentence by gradient descent, and let it write what it learned."""
    letters = sorted(set(SENTENCE))
    ids = np.array([[letters.index(letter) for letter in SENTENCE]])
    cfg = Config(len(letters), n_positions=64, n_embd=32, n_layer=2, n_head=4)
    params = init(cfg, seed=0)
    for step in range(steps + 1):
        loss, grads = loss_and_grads(params, cfg, ids[:, :-1], ids[:, 1:])
        if step % 50 == 0:
            print(f"step {step:3}: {loss:.4f} nats a letter")
        for name, p in params.items():
            p -= lr * grads[name]

    cache = Cache(cfg, 1)
    written = [ids[0, 0]]
    while len(written) < len(SENTENCE):
        logits = decode(params, cfg, np.array([written[-1:]]), cache)
        written.append(logits[0, -1].argmax())
    print(f"It was given {SENTENCE[0]!r} and writes: {''.join(letters[i] for i in written)}")


def main(argv=None):
    """Returns the exit status: 1 if a derivative is wrong."""
    argparse.ArgumentParser(description="Check all derivatives; learn a sentence.").parse_args(argv)
    wrong = check_gradients()
    if wrong:
        print(f"\nWRONG: {', '.join(wrong)}")
        return 1
    print("\nAll derivatives agree. Now the model learns a sentence.\n")
    learn_sentence()
    return 0


if __name__ == "__main__":
    sys.exit(main())
