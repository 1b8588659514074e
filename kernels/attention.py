"""attention.py: attention on a GPU: of whole rows, forward and back, and of decoding.

A row may hold several texts side by side, none of which sees another: texts_of() says where they
begin and end, and attention.cu draws it.
"""

import numpy as np

from kernels.checks import apart, check, check_each, cp, limits, real
from kernels.launching import (
    MOST_HEAD_SIZE, TILE, ceil_div, lanes_of, launch, or_empty, packed, say_once, scratch,
)

# ---------------------------------------------------------------------------------- attention.cu

# How many tiles of rows a block has, and how the kernel's name ends: two tiles and no ending where
# nothing is said. The second of two kernels is slower and needs less shared memory.
TILES = {
    ("attention_backward_q", 128): ((2, ""), (1, "_small")),
    ("attention_backward_kv", 128): ((1, ""),),
}


def texts_of(segments):
    """What attention needs to know of rows of several texts, made on the host: (B,1+2T) int32.

    segments (B,T) int: which text each position belongs to. 0 is the beginning that all texts of
    the row share, as in operations.segments_hidden. ValueError where a text lies in two pieces.
    """
    B, T = segments.shape
    row = np.arange(T)
    is_first = np.ones((B, T), bool)
    is_first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    latest = np.where(is_first, row, 0)
    begin = np.maximum.accumulate(latest, 1)
    is_last = np.ones((B, T), bool)
    is_last[:, :-1] = is_first[:, 1:]
    backwards = np.where(is_last, row + 1, T)[:, ::-1]
    end = np.minimum.accumulate(backwards, 1)[:, ::-1]
    for r in range(B):
        names = segments[r][is_first[r]]
        if len(np.unique(names)) < len(names) or 0 in names[1:]:
            raise ValueError(f"segments: row {r} has a text in two pieces, or a shared beginning "
                             "that does not begin it; on a GPU a text lies in one piece")
    is_shared = segments == 0
    end[is_shared] = T                                      # all that follow see it
    shared = is_shared.sum(1, keepdims=True)
    return np.concatenate([shared, begin, end], 1).astype(np.int32)


def _defines_of(NH, NKV, texts):
    """What all kernels of attention.cu are compiled for together: heads, and one text a row or
    several."""
    return grouped(NH, NKV) + (() if texts is None else ("-DTEXTS=1",))


def _launch_attention(name, shape, dtype, args, own, texts, floats=0):
    """Tensor cores for bfloat16 and heads of 32, 64 or 128, if the GPU's shared memory is enough.
    Else the plain kernel.

    shape: (B, T, NH, NKV, HS). A block keeps one or two tiles of its rows of so many arrays (own),
    four tiles that pass by, and so many floats. texts: None, or texts_of() as a CuPy array.
    """
    B, T, NH, NKV, HS = shape
    heads = NKV if name.endswith("kv") else NH
    scale, defines = HS**-0.5, _defines_of(NH, NKV, texts)
    if texts is not None:
        check("texts", texts, (B, 1 + 2 * T), np.int32)
    args = *args, texts
    if dtype == np.uint16 and HS in (32, 64, 128):
        for tiles, ending in TILES.get((name, HS), ((2, ""),)):
            shared = (tiles * own + 4) * TILE * HS * 2 + 4 * floats
            if shared <= limits().shared_bytes:
                grid = ceil_div(T, tiles * TILE), heads, B
                kernel = f"{name}_{HS}{ending}"
                launch(
                    "attention.cu", kernel, dtype, grid, 128,
                    *args, T, NH, scale, shared=shared, defines=defines,
                )
                return
        say_once(
            f"kernels: {name} without tensor cores, which is slow: heads of {HS} take {shared} "
            f"bytes of shared memory, this GPU has {limits().shared_bytes}"
        )
    grid = ceil_div(T, 4), heads, B
    launch(
        "attention.cu", f"{name}_v1", dtype, grid, 128,
        *args, T, NH, HS, scale, defines=defines,
    )


def grouped(NH, NKV):
    """The define that says how many query heads share a head of keys; () where each has its own."""
    return () if NH == NKV else (f"-DGROUP={NH // NKV}",)


def _attention_shape(qkv, n_head, n_kv_head):
    """(B, T, NH, NKV, HS) of qkv (B,T,(NH+2NKV)*HS), if the kernels can do it."""
    B, T, columns = qkv.shape
    NKV = n_kv_head or n_head
    n_heads = n_head + 2 * NKV
    HS, rest = divmod(columns, n_heads)
    if rest or HS > MOST_HEAD_SIZE or n_head % NKV:
        raise ValueError(
            f"qkv: {columns} columns for {n_head} heads, {NKV} of keys and {NKV} of values; "
            f"expected a multiple of {n_heads}, heads of {MOST_HEAD_SIZE} at most, and as many "
            "query heads for each head of keys")
    return B, T, n_head, NKV, HS


def attention_forward(qkv, n_head, out=None, hidden=None, n_kv_head=None):
    """(B,T,(NH+2NKV)*HS) -> (B,T,NH*HS), cache

    qkv: queries | keys | values. n_kv_head: NKV, where it is not NH. hidden: texts_of() as a CuPy
    array, where a row has several texts; in its place operations.py has the scores to be hidden.
    """
    shape = _attention_shape(qkv, n_head, n_kv_head)
    dtype = real("qkv", qkv)
    B, T, NH, NKV, HS = shape
    o, lse = out or (cp.empty((B, T, NH * HS), dtype), cp.empty((B, NH, T, 1), np.float32))
    check("qkv", qkv, qkv.shape, dtype, packed(HS, dtype))
    check("o", o, (B, T, NH * HS), dtype, packed(HS, dtype))
    check("lse", lse, (B, NH, T, 1), np.float32)
    apart({"o": o, "lse": lse}, {"qkv": qkv, "texts": hidden})
    _launch_attention("attention_forward", shape, dtype, (qkv, o, lse), 1, hidden)
    return o, (qkv, o, lse)


def attention_backward(do, cache, n_head, out=None, hidden=None, n_kv_head=None):
    """(B,T,NH*HS) -> dqkv (B,T,(NH+2NKV)*HS). hidden: as for attention_forward.

    out cannot take the place of qkv, which other blocks read to the end.
    """
    qkv, o, lse = cache
    shape = _attention_shape(qkv, n_head, n_kv_head)
    dtype = real("qkv", qkv)
    B, T, NH, NKV, HS = shape
    dqkv = or_empty(out, qkv.shape, dtype)
    check_each({"qkv": qkv, "dqkv": dqkv}, qkv.shape, dtype, packed(HS, dtype))
    check_each({"o": o, "do": do}, (B, T, NH * HS), dtype, packed(HS, dtype))
    check("lse", lse, (B, NH, T, 1), np.float32)
    apart({"dqkv": dqkv}, {"qkv": qkv, "o": o, "do": do, "lse": lse, "texts": hidden})
    D = scratch((B, NH, T))
    grid = ceil_div(T, 128 // lanes_of(HS, dtype)), NH, B
    launch(
        "attention.cu", "attention_backward_rows", dtype, grid, 128,
        o, do, D, T, NH, HS, defines=_defines_of(NH, NKV, hidden),
    )
    args = qkv, do, lse, D, dqkv
    _launch_attention("attention_backward_q", shape, dtype, args, 2, hidden)
    _launch_attention("attention_backward_kv", shape, dtype, args, 2, hidden, floats=4 * TILE)
    return dqkv


# ------------------------------------------------------------------------------------- decode.cu

MOST_HEADS = 8          # query heads that a block of decode_attention has at once: registers


def decode_attention(qkv, k_cache, v_cache, length, n_new, out=None, pages=None):
    """Attention of T new positions a row to all before: (B,T,(NH+2NKV)*HS) -> (B,T,NH*HS)

    The keys and values of the first n_new (B,) of them go into the caches (B,NKV,S,HS) behind the
    first length (B,), where they must fit. pages (B,most) int32: which pages of caches
    (pages,NKV,PAGE,HS) a row has, in place of a row of its own.
    """
    _, NKV, S, HS = k_cache.shape
    B, T, columns = qkv.shape
    n_rows, most = B, 0
    if pages is not None:
        n_rows, most = len(k_cache), pages.shape[1]
    NH = columns // HS - 2 * NKV
    dtype = real("qkv", qkv)
    if HS > MOST_HEAD_SIZE or NH < 1 or NH % NKV:
        raise ValueError(
            f"qkv: {columns} columns for a cache of {NKV} heads of {HS}; expected heads of "
            f"{MOST_HEAD_SIZE} at most, and as many query heads for each of the cache")
    o = or_empty(out, (B, T, NH * HS), dtype)
    check("qkv", qkv, (B, T, (NH + 2 * NKV) * HS), dtype, packed(HS, dtype))
    caches = {"k_cache": k_cache, "v_cache": v_cache}
    check_each(caches, (n_rows, NKV, S, HS), dtype, packed(HS, dtype))
    check("o", o, (B, T, NH * HS), dtype, packed(HS, dtype))
    check_each({"length": length, "n_new": n_new}, (B,), np.int32)
    check_each({"pages": pages}, (B, most), np.int32)
    apart({"o": o, **caches}, {"qkv": qkv, "length": length, "n_new": n_new, "pages": pages})
    arrays = qkv, k_cache, v_cache, length, n_new, pages, most
    for_a_head = 4 * (256 // lanes_of(HS, dtype)) * (HS + 2)
    most_heads = min(MOST_HEADS, max(1, limits().shared_bytes // for_a_head))
    heads = max(n for n in range(1, most_heads + 1) if NH // NKV % n == 0)
    defines = grouped(NH, NKV)
    if pages is not None:
        defines += (f"-DPAGE={S}",)
    if heads > 1:
        defines += (f"-DHEADS={heads}",)
    defines += packed(HS, dtype)        # of both: so they are compiled together
    launch(
        "decode.cu", "cache_append", dtype, ceil_div(B * T * NKV * HS, 256), 256,
        *arrays, B, T, NKV, S, HS, defines=defines,
    )
    launch(
        "decode.cu", "decode_attention", dtype, (NH // heads, T, B), 256,
        *arrays, o, T, NH, S, HS, HS**-0.5, shared=heads * for_a_head, defines=defines,
    )
    return o
