"""llama.py: what changed since GPT-2, forward and backward by hand.

Llama 2 and 3, SmolLM 2, Mistral, Qwen 2 and Qwen 3 are GPT-2 with five changes. Each stands here
with its derivative below it; everything else is gpt.py's and is imported.

    layer norm        -> RMSNorm             no mean is subtracted, nothing is added
    learned positions -> rotary positions    queries and keys are turned by an angle that grows
                                             with the position, in every block
    heads             -> grouped heads       several query heads share one key and one value head
    GELU              -> SwiGLU              the MLP has a second matrix, which lets units through
    one head matrix   -> one or two          the output head may have a matrix of its own
    biases            -> none                but Qwen 2's at q, k and v

Qwen 3 also brings each head's query and key to length sqrt(HS) before it turns them.

A parameter has the name that gpt.py has for the same part. docs/llama.md has the two models side by
side. This file is the definition; model/fast.py computes the same faster, and tests hold the two
equal.

    python -m model.llama       check every derivative

Sources: Zhang & Sennrich 2019 (RMSNorm); Su et al. 2021 (rotary positions); Ainslie et al. 2023
(grouped heads); Shazeer 2020 (SwiGLU); Touvron et al. 2023 (Llama); Llama team 2024 (Llama 3);
Qwen team 2025 (Qwen 3).
"""

import argparse
import math
from dataclasses import dataclass, fields

import numpy as np

import gpt
from gpt import attention_backward, attention_forward, block_params, join_heads, split_heads
from run import command

# The letters of gpt.py, and two more:
#   NKV  heads of keys, and as many of values       HS need not be C / NH, and F need not be 4 C


@dataclass(frozen=True)
class RopeScaling:
    """How Llama 3 stretches slow rotations, so that a model trained on short texts reads long ones.

    original_n_positions is the context of the training before it.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_n_positions: int


@dataclass(frozen=True)
class Config:
    """The sizes of a model, and which of the family's options it has."""

    vocab_size: int         # V
    n_positions: int        # the most positions that a sequence can have
    n_embd: int             # C
    n_layer: int            # L
    n_head: int             # NH
    n_kv_head: int          # NKV
    head_size: int          # HS
    n_hidden: int           # F
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False      # Qwen 2
    o_bias: bool = False
    qk_norm: bool = False       # Qwen 3
    tied: bool = True           # whether the embedding is the output head too

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" or field.type is int:
                if type(value) is not int or value < 1:
                    raise ValueError(
                        f"config: {field.name} = {value!r}, expected an integer of at least 1")
        if self.n_head % self.n_kv_head:
            raise ValueError(
                f"config: n_head {self.n_head} is no multiple of n_kv_head {self.n_kv_head}")
        if self.head_size % 2:
            raise ValueError(f"config: head_size {self.head_size} is odd; rotary positions turn "
                             "pairs of numbers")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not 0.0 < value < math.inf:
                raise ValueError(f"config: {name} = {value}, expected a finite number above 0")

    @property
    def n_params(self):
        """How many numbers the model learns."""
        return sum(math.prod(shape) for shape in param_shapes(self).values())


PRESETS = {  #                 vocabulary, context, width, blocks, heads, kv heads, HS, F
    "llama-demo": Config(1024, 256, 128, 3, 4, 2, 32, 416),     # as many parameters as "demo"
    "smollm2-135m": Config(49152, 8192, 576, 30, 9, 3, 64, 1536, rope_theta=1e5),
    "qwen3-0.6b": Config(151936, 40960, 1024, 28, 16, 8, 128, 3072, 1e-6, 1e6, qk_norm=True),
    "llama-3.2-1b": Config(128256, 131072, 2048, 16, 32, 8, 64, 8192, 1e-5, 5e5,
                           RopeScaling(32.0, 1.0, 4.0, 8192)),
    "llama-3.1-8b": Config(128256, 131072, 4096, 32, 32, 8, 128, 14336, 1e-5, 5e5,
                           RopeScaling(8.0, 1.0, 4.0, 8192), tied=False),
}


def param_shapes(cfg):
    """{name: shape} of every parameter. A weight is (in, out): x @ w."""
    C, F, HS = cfg.n_embd, cfg.n_hidden, cfg.head_size
    queries, keys = cfg.n_head * HS, cfg.n_kv_head * HS
    layers = {
        "ln_1.weight": (C,),
        "attn.q.weight": (C, queries),
        "attn.k.weight": (C, keys),
        "attn.v.weight": (C, keys),
        "attn.q.bias": (queries,),
        "attn.k.bias": (keys,),
        "attn.v.bias": (keys,),
        "attn.q_norm.weight": (HS,),
        "attn.k_norm.weight": (HS,),
        "attn.o.weight": (queries, C),
        "attn.o.bias": (C,),
        "ln_2.weight": (C,),
        "mlp.gate.weight": (C, F),
        "mlp.up.weight": (C, F),
        "mlp.down.weight": (F, C),
    }
    absent = []
    if not cfg.qkv_bias:
        absent += ["attn.q.bias", "attn.k.bias", "attn.v.bias"]
    if not cfg.qk_norm:
        absent += ["attn.q_norm.weight", "attn.k_norm.weight"]
    if not cfg.o_bias:
        absent += ["attn.o.bias"]
    shapes = {"wte.weight": (cfg.vocab_size, C)}
    for i in range(cfg.n_layer):
        for name, shape in layers.items():
            if name not in absent:
                shapes[f"h.{i}.{name}"] = shape
    shapes["ln_f.weight"] = (C,)
    if not cfg.tied:
        shapes["lm_head.weight"] = (cfg.vocab_size, C)
    return shapes


def init(cfg, seed, dtype=np.float32):
    """Fresh parameters {name: array}, drawn as gpt.init draws them."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, shape in param_shapes(cfg).items():
        to_stream = name.endswith(("attn.o.weight", "mlp.down.weight"))
        std = 0.02 / (2 * cfg.n_layer) ** 0.5 if to_stream else 0.02
        if name.endswith("bias"):
            params[name] = np.zeros(shape, dtype)
        elif len(shape) == 1:           # a norm
            params[name] = np.ones(shape, dtype)
        else:
            drawn = rng.standard_normal(shape, np.float32)
            drawn *= np.float32(std)
            params[name] = drawn.astype(dtype, copy=False)
    return params


# ------------------------------------------------------------------------------------- operations


def rmsnorm_forward(x, w, eps):
    """Divide each row by the root of its mean square, then scale by w.

    x (...,C), w (C,) -> y (...,C), cache. A layer norm would subtract the mean first.
    """
    mean_square = (x * x).mean(-1, keepdims=True)
    rrms = 1.0 / np.sqrt(mean_square + eps)     # (...,1): one over the root mean square
    n = x * rrms
    return n * w, (n, rrms, w)


def rmsnorm_backward(dy, cache):
    """(...,C) -> dx (...,C), dw (C,)

    Were rrms a constant, dx would be rrms * dn. But stretching x changes nothing in n (but for
    eps), so the component of dn along n, mean(dn * n) n, is taken away. It is the layer norm's
    derivative without the component along the vector of ones.
    """
    n, rrms, w = cache
    # forward was: y = n * w
    dw = (dy * n).reshape(-1, len(w)).sum(0)
    dn = dy * w
    # forward was: n = x * rrms(x)
    along_n = (dn * n).mean(-1, keepdims=True)
    dx = rrms * (dn - n * along_n)
    return dx, dw


def rotary_frequencies(cfg):
    """(HS/2,) float32: by how many radians a position turns each pair of channels.

    Pair i turns by theta^(-2i/HS): the first by one radian a position, the last hardly at all.
    Scaling leaves pairs alone that turn fully within the context of the training, slows down by
    `factor` those that did not even turn once, and goes smoothly from one to the other.
    """
    exponents = np.arange(0, cfg.head_size, 2, dtype=np.float32) / np.float32(cfg.head_size)
    f = 1.0 / (cfg.rope_theta ** exponents.astype(np.float64)).astype(np.float32)
    s = cfg.rope_scaling
    if s is None:
        return f
    # Reciprocals are rounded as PyTorch rounds them, with which the family was trained.
    wavelengths = 1.0 / f * (2 * np.pi)                                 # in positions
    turns = 1.0 / wavelengths * s.original_n_positions                  # within that context
    keep = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    keep = np.clip(keep, 0.0, 1.0)
    return (1.0 - keep) * f / s.factor + keep * f


def rotary_tables(cfg, positions, dtype):
    """cos and sin of the angles at some positions: (...) int -> (...,HS/2) twice.

    Angles are float32 whatever the model is: with these the family was trained, and at position
    10,000 better ones differ by 0.0006.
    """
    angles = positions[..., None].astype(np.float32) * rotary_frequencies(cfg)
    angles = angles.astype(np.float64)
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def rotary_forward(x, cos, sin):
    """Turn each pair of channels (i, i + HS/2) of each head by the angle of its position.

    x (B,heads,T,HS); cos, sin (B,1,T,HS/2) -> (B,heads,T,HS)
    A query at position s and a key at position t, turned by s and t angles, have a product that
    depends on s - t alone: attention sees distances, wherever the text stands.
    """
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rotary_backward(dy, cos, sin):
    """(B,heads,T,HS) -> dx. The transpose of a rotation is the rotation back."""
    return rotary_forward(dy, cos, -sin)


def grouped_forward(k, n_group):
    """Give each of n_group neighbouring query heads the same keys: (B,NKV,S,HS) -> (B,NH,S,HS)"""
    return np.repeat(k, n_group, axis=1)


def grouped_backward(dk, n_group):
    """What served n_group heads receives the sum of their derivatives: -> (B,NKV,S,HS)"""
    B, NH, S, HS = dk.shape
    return dk.reshape(B, NH // n_group, n_group, S, HS).sum(2)


def swiglu_forward(gate, up):
    """h = silu(gate) * up with silu(a) = a sigmoid(a): (B,T,F) twice -> (B,T,F), cache"""
    sigmoid = 1.0 / (1.0 + np.exp(-gate))
    return gate * sigmoid * up, (gate, up, sigmoid)


def swiglu_backward(dh, cache):
    """(B,T,F) -> dgate, dup"""
    gate, up, sigmoid = cache
    # forward was: h = silu(gate) * up, a product
    dup = dh * gate * sigmoid
    dsilu = dh * up
    # forward was: silu = gate * sigmoid(gate), and sigmoid' = sigmoid (1 - sigmoid)
    dgate = dsilu * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    return dgate, dup


def linear_forward(x, p, name):
    """x @ the layer's weight, plus its bias where it has one: (B,T,in) -> (B,T,out)"""
    y = x @ p[f"{name}.weight"]
    if f"{name}.bias" in p:
        y = y + p[f"{name}.bias"]
    return y


def linear_backward(dy, x, p, name, grads):
    """(B,T,out) -> dx (B,T,in). Writes the gradients of its parameters into grads."""
    dx, dw, db = gpt.linear_backward(dy, (x, p[f"{name}.weight"]))
    grads[f"{name}.weight"] = dw
    if f"{name}.bias" in p:
        grads[f"{name}.bias"] = db
    return dx


# ------------------------------------------------------------------------------------------ block


def mlp_forward(x, p):
    """y = (silu(x w_gate) * (x w_up)) w_down: (B,T,C) -> (B,T,C), cache"""
    gate = linear_forward(x, p, "mlp.gate")     # (B,T,F)
    up = linear_forward(x, p, "mlp.up")
    h, swiglu = swiglu_forward(gate, up)
    y = linear_forward(h, p, "mlp.down")
    return y, (x, swiglu, h)


def mlp_backward(dy, cache, p, grads):
    """(B,T,C) -> dx (B,T,C). Writes the gradients of its parameters into grads."""
    x, swiglu, h = cache
    dh = linear_backward(dy, h, p, "mlp.down", grads)
    dgate, dup = swiglu_backward(dh, swiglu)
    # forward used x twice, so dx is a sum of two
    return (
        linear_backward(dgate, x, p, "mlp.gate", grads)
        + linear_backward(dup, x, p, "mlp.up", grads)
    )


def heads_forward(x, p, name, n_head, turn, cfg):
    """Queries or keys: project, norm each head where the model does, and turn by the position.

    x (B,T,C), name "attn.q" or "attn.k", turn (cos, sin) -> (B,n_head,T,HS), cache
    """
    q = split_heads(linear_forward(x, p, name), n_head)
    norm = None
    if cfg.qk_norm:
        q, norm = rmsnorm_forward(q, p[f"{name}_norm.weight"], cfg.norm_eps)
    return rotary_forward(q, *turn), norm


def heads_backward(dq, norm, x, p, name, turn, grads):
    """(B,n_head,T,HS) -> dx (B,T,C). Writes the gradients of its parameters into grads."""
    dq = rotary_backward(dq, *turn)
    if norm is not None:
        dq, grads[f"{name}_norm.weight"] = rmsnorm_backward(dq, norm)
    return linear_backward(join_heads(dq), x, p, name, grads)


def self_attention_forward(x, p, cfg, turn, attend):
    """x (B,T,C) -> y (B,T,C), cache. attend(q, k, v) is the attention itself, cached or not."""
    q, q_norm = heads_forward(x, p, "attn.q", cfg.n_head, turn, cfg)
    k, k_norm = heads_forward(x, p, "attn.k", cfg.n_kv_head, turn, cfg)
    v = split_heads(linear_forward(x, p, "attn.v"), cfg.n_kv_head)
    o, attention = attend(q, k, v)
    o = join_heads(o)
    y = linear_forward(o, p, "attn.o")
    return y, (x, attention, o, q_norm, k_norm)


def self_attention_backward(dy, cache, p, cfg, turn, grads):
    """(B,T,C) -> dx (B,T,C). Writes the gradients of its parameters into grads."""
    x, attention, o, q_norm, k_norm = cache
    do = linear_backward(dy, o, p, "attn.o", grads)
    dq, dk, dv = attention_backward(split_heads(do, cfg.n_head), attention)
    n_group = cfg.n_head // cfg.n_kv_head
    dk, dv = grouped_backward(dk, n_group), grouped_backward(dv, n_group)
    # forward used x three times
    return (
        heads_backward(dq, q_norm, x, p, "attn.q", turn, grads)
        + heads_backward(dk, k_norm, x, p, "attn.k", turn, grads)
        + linear_backward(join_heads(dv), x, p, "attn.v", grads)
    )


def block_forward(x, p, cfg, turn, attend):
    """gpt.block_forward with the family's norm, attention and MLP: x (B,T,C) -> (B,T,C), cache"""
    n, ln_1 = rmsnorm_forward(x, p["ln_1.weight"], cfg.norm_eps)
    a, attention = self_attention_forward(n, p, cfg, turn, attend)
    x = x + a                               # x = x + attention(norm(x))
    n, ln_2 = rmsnorm_forward(x, p["ln_2.weight"], cfg.norm_eps)
    m, mlp = mlp_forward(n, p)
    x = x + m                               # x = x + mlp(norm(x))
    return x, (ln_1, attention, ln_2, mlp)


def block_backward(dx, cache, p, cfg, turn):
    """(B,T,C) -> dx, {name: gradient}"""
    ln_1, attention, ln_2, mlp = cache
    grads = {}
    # forward was: x = x + mlp(norm(x))
    dn = mlp_backward(dx, mlp, p, grads)
    dnorm, grads["ln_2.weight"] = rmsnorm_backward(dn, ln_2)
    dx = dx + dnorm
    # forward was: x = x + attention(norm(x))
    dn = self_attention_backward(dx, attention, p, cfg, turn, grads)
    dnorm, grads["ln_1.weight"] = rmsnorm_backward(dn, ln_1)
    dx = dx + dnorm
    return dx, grads


# ------------------------------------------------------------------------------------------ model


def turns_of(cfg, positions, dtype):
    """cos and sin for every head: (B,T) int -> (B,1,T,HS/2) twice"""
    cos, sin = rotary_tables(cfg, positions, dtype)
    return cos[:, None], sin[:, None]


def head_matrix(params):
    """(V,C): the output head's own matrix, or the embedding's where they are one."""
    return params.get("lm_head.weight", params["wte.weight"])


def trunk_forward(params, cfg, tokens):
    """All of the model but its head: (B,T) int -> the last hidden states y (B,T,C), cache"""
    gpt.check_tokens(cfg, tokens)
    T = tokens.shape[1]
    x = params["wte.weight"][tokens]
    turn = turns_of(cfg, np.arange(T)[None], x.dtype)
    visible = np.tri(T, dtype=bool)
    n_group = cfg.n_head // cfg.n_kv_head

    def attend(q, k, v):
        k, v = grouped_forward(k, n_group), grouped_forward(v, n_group)
        return attention_forward(q, k, v, visible)

    blocks = []
    for i in range(cfg.n_layer):
        x, cache = block_forward(x, block_params(params, i), cfg, turn, attend)
        blocks.append(cache)
    y, ln_f = rmsnorm_forward(x, params["ln_f.weight"], cfg.norm_eps)
    return y, (tokens, turn, blocks, ln_f)


def trunk_backward(dy, cache, params, cfg):
    """From the derivative at the last hidden states (B,T,C) to {name: gradient}.

    The head adds its own to these, or to wte's, which is here the gradient as an embedding only.
    """
    tokens, turn, blocks, ln_f = cache
    grads = {}
    dx, grads["ln_f.weight"] = rmsnorm_backward(dy, ln_f)
    for i in reversed(range(cfg.n_layer)):
        dx, of_block = block_backward(dx, blocks[i], block_params(params, i), cfg, turn)
        for name, grad in of_block.items():
            grads[f"h.{i}.{name}"] = grad
    grads["wte.weight"] = np.zeros_like(params["wte.weight"])
    np.add.at(grads["wte.weight"], tokens, dx)
    return grads


def forward(params, cfg, tokens):
    """Logits of the next token at every position: (B,T) int -> (B,T,V), cache"""
    y, cache = trunk_forward(params, cfg, tokens)
    return y @ head_matrix(params).T, cache


def token_losses(params, cfg, tokens, targets, temperature=1.0):
    """gpt.token_losses: (B,T), (B,T) -> (B,T)"""
    gpt.check_tokens(cfg, np.maximum(targets, 0), "targets")
    logits, _ = forward(params, cfg, tokens)
    nll, _ = gpt.cross_entropy_forward(logits / temperature, np.maximum(targets, 0))
    return np.where(targets == -1, 0.0, nll)


def loss_and_grads(params, cfg, tokens, targets, weights=None, temperature=1.0):
    """gpt.loss_and_grads: sum(weights * nll) in nats, and its gradient for every parameter."""
    counted = targets != -1
    if weights is None:
        if not counted.any():
            raise ValueError("every target is ignored (-1): the mean of nothing is not zero")
        weights = counted / counted.sum()
    head = head_matrix(params)
    weights = np.where(counted, weights, 0.0).astype(head.dtype)
    targets = np.maximum(targets, 0)                    # the weight of an ignored target is 0
    gpt.check_tokens(cfg, targets, "targets")

    y, cache = trunk_forward(params, cfg, tokens)                   # (B,T,C)
    logits = y @ head.T / temperature                               # (B,T,V)
    nll, cache_of_nll = gpt.cross_entropy_forward(logits, targets)
    loss = float((weights * nll).sum())

    dlogits = gpt.cross_entropy_backward(weights, cache_of_nll) / temperature
    # forward was: logits = y head^T / temperature
    dy = dlogits @ head
    dhead = dlogits.reshape(-1, cfg.vocab_size).T @ y.reshape(-1, cfg.n_embd)
    grads = trunk_backward(dy, cache, params, cfg)
    if cfg.tied:
        grads["wte.weight"] += dhead    # wte is head and embedding: its two gradients meet here
    else:
        grads["lm_head.weight"] = dhead
    return loss, grads


# ---------------------------------------------------------------------------------------- writing


class Cache(gpt.Cache):
    """gpt.Cache with one row of keys for a whole group of query heads: k, v (L,B,NKV,S,HS).

    Keys are kept as they are when they have been turned.
    """

    def __init__(self, cfg, batch, n_positions=None, like=None):
        S = cfg.n_positions if n_positions is None else n_positions
        if not 1 <= S <= cfg.n_positions:
            raise ValueError(f"cache of {S} positions, the model's context is {cfg.n_positions}")
        dtype = np.float32 if like is None else like.dtype
        shape = (cfg.n_layer, batch, cfg.n_kv_head, S, cfg.head_size)
        self.k = np.zeros(shape, dtype)
        self.v = np.zeros(shape, dtype)
        self.length = np.zeros(batch, np.int64)


def decode(params, cfg, tokens, cache):
    """gpt.decode: read new tokens and return the logits of the token after each."""
    gpt.check_tokens(cfg, tokens)
    B, T = tokens.shape
    S = cache.k.shape[3]
    positions = cache.length[:, None] + np.arange(T)                    # (B,T)
    if positions.max() >= S:
        raise ValueError(f"{positions.max() + 1} positions do not fit the cache of {S}")
    visible = np.arange(S) <= positions[:, None, :, None]               # (B,1,T,S): key <= query
    rows = np.arange(B)[:, None]                                        # (B,1)
    n_group = cfg.n_head // cfg.n_kv_head
    x = params["wte.weight"][tokens]
    turn = turns_of(cfg, positions, x.dtype)
    for i in range(cfg.n_layer):

        def attend(q, k, v, i=i):                                       # the i of this block
            cache.k[i, rows, :, positions] = k.swapaxes(1, 2)           # both sides (B,T,NKV,HS)
            cache.v[i, rows, :, positions] = v.swapaxes(1, 2)
            keys = grouped_forward(cache.k[i], n_group)
            values = grouped_forward(cache.v[i], n_group)
            return attention_forward(q, keys, values, visible)

        x, _ = block_forward(x, block_params(params, i), cfg, turn, attend)
    y, _ = rmsnorm_forward(x, params["ln_f.weight"], cfg.norm_eps)
    cache.length += T
    return y @ head_matrix(params).T


# -------------------------------------------------------------------------- python -m model.llama


EXAMPLES = {    # every option is in one of them
    "Llama": Config(11, 6, 8, 2, 4, 2, 4, 12, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 4)),
    "Qwen 2": Config(11, 6, 8, 2, 2, 1, 6, 10, qkv_bias=True, o_bias=True),
    "Qwen 3": Config(11, 6, 8, 2, 3, 3, 4, 14, qk_norm=True, tied=False),
}


def slope(loss, p, direction, h=1e-5):
    """The derivative of loss() by p along a direction, by centred differences."""
    start = p.copy()
    p[...] = start + h * direction
    ahead = loss()
    p[...] = start - h * direction
    behind = loss()
    p[...] = start
    return (ahead - behind) / (2 * h)


def wrong_slopes(loss, tensors, rng, tolerance):
    """The names of the tensors whose derivative by hand is not the measured one; prints both.

    tensors: {name: (array, gradient of loss())}. As gpt.check_gradients: along a random direction,
    in which every entry takes part.
    """
    wrong = []
    for name, (p, grad) in tensors.items():
        direction = rng.standard_normal(p.shape)
        by_hand = (grad * direction).sum()
        measured = slope(loss, p, direction)
        error = abs(by_hand - measured) / np.sqrt((grad ** 2).sum())
        print(f"{name:26} {by_hand:+12.8f} {error:9.1e}")
        if not error < tolerance:       # written so that NaN is wrong too
            wrong.append(name)
    return wrong


def check_gradients(cfg, tolerance=1e-7):
    """wrong_slopes() of all parameters of a fresh model."""
    rng = np.random.default_rng(0)
    params = init(cfg, 0, np.float64)
    for p in params.values():
        p += 0.1 * rng.standard_normal(p.shape)
    tokens, targets = rng.integers(0, cfg.vocab_size, (2, 3, cfg.n_positions))
    weights = rng.standard_normal(tokens.shape)

    def loss():
        return loss_and_grads(params, cfg, tokens, targets, weights, temperature=0.7)[0]

    _, grads = loss_and_grads(params, cfg, tokens, targets, weights, temperature=0.7)
    tensors = {name: (p, grads[name]) for name, p in params.items()}
    return wrong_slopes(loss, tensors, rng, tolerance)


def main(argv=None):
    """Returns the exit status: 1 if a derivative is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m model.llama", description="Check all derivatives of the Llama family.")
    parser.parse_args(argv)
    wrong = []
    for name, cfg in EXAMPLES.items():
        print(f"{name}: {cfg}\n{'derivative of the loss by':26} {'by hand':>12} {'error':>9}")
        wrong += [f"{name}'s {tensor}" for tensor in check_gradients(cfg)]
    print(f"WRONG: {', '.join(wrong)}" if wrong else "All derivatives agree.")
    return 1 if wrong else 0


if __name__ == "__main__":
    command.run(main)
