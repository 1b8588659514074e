"""transformers, imported where it cannot take our folder kernels for the package of that name, which it asks for its version."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
paths = sys.path[:]
sys.path[:] = [path for path in paths if Path(path).resolve() != ROOT]
try:
    import transformers  # noqa: F401
    from transformers import GPT2LMHeadModel  # noqa: F401   it looks around when a model is loaded first
finally:
    sys.path[:] = paths
