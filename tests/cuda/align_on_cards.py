"""align.py on ranks that have a GPU each: see card_programs.py, which plays GPUs and NCCL.

    python tests/cuda/align_on_cards.py sft --device cuda --ranks 2
"""

import card_programs  # noqa: F401  before align

import align  # noqa: E402
from run import command  # noqa: E402

if __name__ == "__main__":
    command.run(align.main)
