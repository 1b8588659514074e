"""checks.py: what the functions of a model accept.

NumPy computes with nearly anything: it stretches a shape that does not fit, takes -1 for the last
row of a table, and True for a mask. What it would do then is not what the caller meant. So each
function checks its arguments where it is entered, and names the argument that is wrong.
"""

import math

import numpy as np

from model import bfloat16, families, lora


def check_array(name, x):
    """TypeError unless x is a plain NumPy array.

    A list or a tensor of another library is none, nor are NumPy's matrix and masked array, whose
    operators mean other things.
    """
    if type(x) not in (np.ndarray, np.memmap):
        kind = f"{type(x).__module__}.{type(x).__qualname__}"
        raise TypeError(f"{name}: a {kind}, expected a NumPy array")


def check_shape(name, a, shape):
    """ValueError where an array has another shape."""
    if a.shape != shape:
        raise ValueError(f"{name}: shape {a.shape}, expected {shape}")


def check_integers(name, a):
    """TypeError unless a is an array of integers; True and False are none."""
    check_array(name, a)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{name}: {a.dtype} numbers, expected integers")


def check_ids(name, ids, n, of):
    """ValueError unless ids are integers from 0 to n - 1."""
    check_integers(name, ids)
    unsigned = ids.view(ids.dtype.str.replace("i", "u"))    # there -1 is the largest number
    if ids.size and np.maximum.reduce(unsigned, None) >= n:
        bad = ids[(ids < 0) | (ids >= n)].ravel()[0]
        raise ValueError(f"{name}: id {bad} is outside {of} of {n}")


def check_positive(name, x):
    """ValueError unless x is a finite number above 0."""
    if not (x > 0.0 and math.isfinite(x)):
        raise ValueError(f"{name}: {x}, expected a finite number above 0")


# ------------------------------------------------------------------------------------- whole calls


def check_tokens(cfg, tokens, name="tokens"):
    """gpt.check_tokens, and TypeError unless they are integers in a NumPy array."""
    check_array(name, tokens)
    if tokens.ndim != 2 or not tokens.size:
        raise ValueError(
            f"{name}: shape {tokens.shape}, expected (batch, positions), one of each at least")
    if tokens.shape[1] > cfg.n_positions:
        raise ValueError(
            f"{name}: {tokens.shape[1]} positions, the model's context is {cfg.n_positions}")
    check_ids(name, tokens, cfg.vocab_size, "the model's vocabulary")


def check_targets(cfg, tokens, targets):
    """Ids of the vocabulary, or -1, in the shape of tokens."""
    check_array("targets", targets)
    check_tokens(cfg, np.where(targets == -1, 0, targets), "targets")
    check_shape("targets", targets, tokens.shape)


def check_texts(cfg, tokens, positions, segments):
    """positions and segments of rows of several texts, where they are given."""
    if positions is not None:
        check_ids("positions", positions, cfg.n_positions, "the model's context")
        check_shape("positions", positions, tokens.shape)
    if segments is not None:
        check_integers("segments", segments)
        check_shape("segments", segments, tokens.shape)


def token_weights(targets, weights, dtype):
    """(B*T,) weights: as given, or those of the mean, and 0 where a target is ignored."""
    counted = targets != -1
    if weights is None:
        if not counted.any():
            raise ValueError("every target is ignored (-1): the mean of nothing is not zero")
        weights = counted / counted.sum()
    check_array("weights", weights)
    if weights.dtype.kind not in "fiub":
        raise TypeError(f"weights: {weights.dtype} numbers, expected real numbers")
    if weights.shape != targets.shape:
        raise ValueError(f"weights have shape {weights.shape}, targets {targets.shape}")
    if not np.isfinite(weights).all():
        raise ValueError("weights: not all are finite; one that is not spreads to every gradient")
    return np.where(counted, weights, 0.0).astype(dtype).ravel()


def check_params(params, cfg, check_kind=check_array):
    """The tensors of cfg, all of one dtype.

    Tables may have more rows, which pad them. Other tensors may lie beside the model's. Matrices
    that are read only may be bfloat16.Arrays, which count as float32.
    check_kind: what refuses arrays that do not lie where the engine computes.
    """
    wte = params["wte.weight"]
    for name, shape in families.shapes(cfg).items():
        p = params.get(name)
        if p is None:
            raise ValueError(
                f"parameters: no tensor {name}, which a model of {cfg.n_layer} layers has")
        if type(p) is not bfloat16.Array:
            check_kind(name, p)
        is_table = name in ("wte.weight", "wpe.weight", "lm_head.weight")
        is_padded = is_table and p.shape[1:] == shape[1:] and len(p) > shape[0]
        if p.shape != shape and not is_padded:
            raise ValueError(f"parameters: {name} has shape {p.shape}, the config says {shape}")
        if p.dtype != wte.dtype:
            raise ValueError(f"parameters: {name} is {p.dtype}, wte.weight {wte.dtype}")
    if f"h.{cfg.n_layer}.ln_1.weight" in params:
        raise ValueError(f"parameters: more layers than the config's {cfg.n_layer}")
    if lora.SCALE in params:
        lora.check(params, cfg)


def learned_names(params, cfg):
    """The names of what has gradients: the parameters of cfg, or the adapter beside them."""
    return lora.learned(params) if lora.SCALE in params else families.shapes(cfg)


def check_learned(params, names):
    """ValueError where a tensor that is to learn is in bfloat16."""
    for name in names:
        if type(params[name]) is bfloat16.Array:
            raise ValueError(f"parameters: {name} is in bfloat16, which does not learn; load the "
                             "model in float32, or put an adapter beside it")


def check_grads(params, cfg, grads):
    """Places for the gradients of all that learns, each an array of its own."""
    names = learned_names(params, cfg)
    check_learned(params, names)
    for name in names:
        p, g = params[name], grads.get(name)
        if g is None:
            raise ValueError(f"grads: no array for {name}")
        if type(g) is not np.ndarray:
            raise TypeError(f"grads: {name} is a {type(g).__name__}, expected a NumPy array")
        if g.shape != p.shape or g.dtype != p.dtype:
            raise ValueError(
                f"grads: {name} is {g.dtype} {g.shape}, the parameter {p.dtype} {p.shape}")
        if np.may_share_memory(g, p) and np.shares_memory(g, p):
            raise ValueError(f"grads: {name} shares memory with the parameter")
    if len({id(grads[name]) for name in names}) < len(names):
        raise ValueError("grads: one array serves two parameters")


def new_positions(cfg, params, tokens, cache, n_new):
    """(B,) int: how many of each row's tokens count, for a cache that has room for them."""
    check_tokens(cfg, tokens)
    (B, T), wte = tokens.shape, params["wte.weight"]
    n_new = np.full(B, T) if n_new is None else np.asarray(n_new)
    if n_new.shape != (B,) or n_new.dtype.kind not in "iu":
        raise ValueError(
            f"n_new: {n_new.dtype} {n_new.shape}, expected an integer for each of {B} rows")
    if int(n_new.min()) < 1 or int(n_new.max()) > T:
        raise ValueError(f"n_new = {n_new.tolist()[:8]}: expected 1 to {T} for each row")
    here = isinstance(cache.k, np.ndarray), isinstance(wte, (np.ndarray, bfloat16.Array))
    if cache.k.dtype != wte.dtype or here[0] != here[1]:
        raise ValueError(
            f"a {cache.k.dtype} cache for {wte.dtype} parameters, in memory of the same machine: "
            f"{here[0] == here[1]}; make it with Cache(..., like=parameters['wte.weight'])")
    L, rows, heads, room, width = getattr(cache, "shape", cache.k.shape)
    fits = (L, rows, heads, width) == (cfg.n_layer, B, *families.kv_heads(cfg))
    if not fits or f"h.{L}.ln_1.weight" in params:
        raise ValueError(f"a cache of {rows} rows, {L} layers and {heads} heads of {width} "
                         f"for {B} rows and {cfg}")
    longest = int((cache.length + n_new).max())
    if longest > room or int(cache.length.min()) < 0:
        raise ValueError(f"{longest} positions do not fit the cache of {room}; "
                         f"the model's context is {cfg.n_positions}")
    return n_new
