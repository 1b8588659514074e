"""families.py: which definition a model has: gpt.py, or model/llama.py.

Both offer Config, PRESETS, param_shapes, init, forward, token_losses, loss_and_grads, Cache and
decode. Who does not know which family a model is of asks here.
"""

import functools

import gpt
from model import llama


def of(cfg):
    """The module of a config's class."""
    return llama if isinstance(cfg, llama.Config) else gpt


@functools.lru_cache(maxsize=16)
def shapes(cfg):
    """param_shapes of a config, remembered: it is asked for at every token that is written."""
    return of(cfg).param_shapes(cfg)


def kv_heads(cfg):
    """(how many heads the keys have, channels of a head)."""
    if of(cfg) is llama:
        return cfg.n_kv_head, cfg.head_size
    return cfg.n_head, cfg.n_embd // cfg.n_head


def head_name(cfg):
    """The name of the matrix that makes logits."""
    is_tied = of(cfg) is gpt or cfg.tied
    return "wte.weight" if is_tied else "lm_head.weight"
