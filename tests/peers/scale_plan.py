"""scale_plan.py: from 3,000 pages to 15 trillion tokens, on paper.

    python tests/peers/scale_plan.py            prints the tables of docs/scale.md

Nobody here has 90,000 files of Common Crawl or 1,024 GPUs. What one core does with a page, what a
document takes and what a step of training sends can be measured on one machine; the rest is
division. Beside each result stands what others reported of the real thing.

Numbers are measured (on one core of an AMD EPYC, Zen 4; docs/scale.md has the commands), published
(with the source) or assumed (prices, and the share of its peak that a card reaches).
"""

from typing import NamedTuple

HOUR_S = 3600

# ------------------------------------------------------------------------------------- published
# Common Crawl of CC-MAIN-2024-51: 2.64 billion pages in 90,000 files of about 1 GB.
# Penedo et al. 2024 (FineWeb): 96 crawls; 15e12 tokens of GPT-2 stay, 4.4 bytes each.

FILES, PAGES, FILE_GB = 90_000, 2.64e9, 1.0
CRAWLS = 96
TOKENS = 15e12
BYTES_A_TOKEN = 4.4
SIGNED = 0.14               # of the pages reach MinHash: English, and past Gopher's rules
STAY = 0.05                 # of the pages are in FineWeb: 15e12 tokens of 96 crawls at 1,100 a page

# -------------------------------------------------------------------------------------- measured

PAGES_A_S = 170.0           # read, extract, filter: what one core does
SIGNED_A_S = 700.0          # documents signed
DROPPED_A_S = 20_000.0      # documents dropped or kept, second pass
MATCH_BYTES = 130           # of memory a document, divided over tasks
KEY_BYTES = 14 * 8          # of disk a document, and its name besides
COUNTED_MB_S, ENCODED_MB_S = 27.0, 18.0

# --------------------------------------------------------------------------------------- assumed

CORE_DOLLARS = 0.04         # an hour
CARD_DOLLARS = 3.0          # an hour of an H100
MFU = 0.38                  # llm.c's on eight H100 with 124 million parameters; ours is unmeasured
H100_FLOPS = 989e12
NVLINK, NETWORK = 450e9, 50e9       # bytes a second of a card, one way: inside a machine, between


class Model(NamedTuple):
    """A model to train, and on what."""

    name: str
    params: float
    flops_a_token: float    # 6 a parameter, and attention
    tokens: float
    batch: int              # tokens a step
    cards: int
    link: float             # bytes a second between the cards that are furthest apart
    reported: str


MODELS = [
    Model("GPT-2 124M", 124.4e6, 855e6, 10e9, 524_288, 8, NVLINK,
          "llm.c: 0.75 h, 140 ms a step"),
    Model("Llama 3 8B", 8.03e9, 6 * 8.03e9 + 12 * 32 * 4096 * 8192 / 2, 15e12, 4_194_304, 1_024,
          NETWORK, "Meta: 1.3 million hours of a card in all"),
]


def row(*cells):
    """Print a line of a table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def crawl_table():
    """Cores, disk and dollars of one crawl and of 96."""
    stages = [
        ("read, extract, filter", PAGES / PAGES_A_S),
        ("sign", PAGES * SIGNED / SIGNED_A_S),
        ("match and drop", PAGES * SIGNED / DROPPED_A_S),
        ("count words", PAGES * STAY * 1_100 * BYTES_A_TOKEN / (1e6 * COUNTED_MB_S)),
        ("encode", PAGES * STAY * 1_100 * BYTES_A_TOKEN / (1e6 * ENCODED_MB_S)),
    ]
    row("stage", "core hours, one crawl", "dollars", "96 crawls, core hours")
    row(*["---"] * 4)
    for name, seconds in [*stages, ("together", sum(seconds for _, seconds in stages))]:
        hours = seconds / HOUR_S
        row(name, f"{hours:,.0f}", f"{hours * CORE_DOLLARS:,.0f}", f"{CRAWLS * hours:,.0f}")


def memory_table():
    """What MinHash needs for one crawl, by the number of tasks."""
    documents = PAGES * SIGNED
    row("tasks", "GB of memory a task", "GB of keys on disk")
    row(*["---"] * 3)
    for n in (1, 2, 7, 14):
        row(n, f"{documents * MATCH_BYTES / n / 1e9:,.0f}", f"{documents * KEY_BYTES / 1e9:,.0f}")


def train_table():
    """Hours, dollars, bytes and memory of training."""
    row("model", "cards", "steps", "s a step, computing", "GB sent a step by a card",
        "s a step, sending", "hours", "dollars", "GB of weights, gradients, moments a card",
        "reported")
    row(*["---"] * 10)
    for m in MODELS:
        others = (m.cards - 1) / m.cards
        computing = m.flops_a_token * m.batch / m.cards / (MFU * H100_FLOPS)
        sent = others * m.params * (4 + 2)          # float32 gradients, bfloat16 weights
        sending = sent / m.link
        steps = m.tokens / m.batch
        hours = steps * (computing + sending) / HOUR_S
        memory = m.params * (2 + 4 + 12 / m.cards) / 1e9
        row(m.name, f"{m.cards:,}", f"{steps:,.0f}", f"{computing:.3f}", f"{sent / 1e9:.2f}",
            f"{sending:.3f}", f"{hours:,.1f}", f"{hours * m.cards * CARD_DOLLARS:,.0f}",
            f"{memory:.1f}", m.reported)


if __name__ == "__main__":
    for table in (crawl_table, memory_table, train_table):
        print(f"\n{table.__doc__}\n")
        table()
