"""families.py: which definition a model has: gpt.py, or model/llama.py.

Both offer Config, PRESETS, param_shapes, init, forward, token_losses, loss_and_grads, Cache and
decode. Who does not know which family a model is of asks here.
"""

import gpt
from model import llama


def of(cfg):
    """The module of a config's class."""
    return llama if isinstance(cfg, llama.Config) else gpt
