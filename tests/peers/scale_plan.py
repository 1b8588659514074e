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
# Common Crawl of CC-MAIN-2024-51: 2.64 billion pages, 394 TiB unpacked, 90,000 files of 1 GB.
# Penedo et al. 2024 (FineWeb): 96 crawls; 15e12 tokens of GPT-2 stay, about 4.4 bytes each.

PAGES, CRAWL_BYTES = 2.64e9, 394 * 2 ** 40
CRAWLS = 96
BYTES_LEFT = 15e12 / CRAWLS * 4.4       # of text, of one crawl
SIGNED = 0.2                            # assumed: so many of the pages reach MinHash

# -------------------------------------------------------------------------------------- measured

PAGE_BYTES = 81_085             # unpacked, of those that were measured
MS_A_PAGE = {                   # processor time of data.py's phases; the first goes by bytes
    "pages": 4.84 * CRAWL_BYTES / PAGES / PAGE_BYTES,
    "pairs": 0.01,
    "clusters": 0.01,           # task 0 alone
    "rest": 0.13,
    "shards": 0.08,
    "publish": 0.02,            # task 0 alone
}
PAIR_BYTES, CLUSTER_BYTES = 33, 14      # of memory, a signed document
AT_ONCE, BANDS = 2 ** 27, 14            # documents of a part of a band; web/matching.py
DISK_BYTES = 175                        # of keys and names, a signed document
UNIT_BYTES = 2_160                      # of disk, a page, until the work is done
MB_A_S = {"count words": 27.0, "encode": 18.0}      # bpe.py, a core

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
    """Core hours and dollars of one crawl, and of 96."""
    seconds = {name: PAGES * ms / 1000 for name, ms in MS_A_PAGE.items()}
    seconds |= {name: BYTES_LEFT / 1e6 / speed for name, speed in MB_A_S.items()}
    seconds["together"] = sum(seconds.values())
    row("phase", "one crawl, core hours", "dollars", "96 crawls, core hours")
    row(*["---"] * 4)
    for name, s in seconds.items():
        hours = s / HOUR_S
        row(name, f"{hours:,.0f}", f"{hours * CORE_DOLLARS:,.0f}", f"{CRAWLS * hours:,.0f}")


def memory_table():
    """What near-duplicates of one crawl take, by the number of tasks."""
    documents = PAGES * SIGNED
    row("tasks", "pairs: GB of memory each", "clusters: GB, task 0", "TB of disk in all")
    row(*["---"] * 4)
    disk = (documents * DISK_BYTES + PAGES * UNIT_BYTES) / 1e12
    for n in (1, 2, 14, 100, 1_000):
        # of each band
        parts = max(min(n, BANDS), -(-documents // AT_ONCE), -(-n // BANDS))
        row(f"{n:,}", f"{documents / parts * PAIR_BYTES / 1e9:,.1f}",
            f"{documents * CLUSTER_BYTES / 1e9:,.1f}", f"{disk:,.1f}")


def train_table():
    """Training: each column is a model."""
    columns = [of_model(m) for m in MODELS]
    row("", *(m.name for m in MODELS))
    row(*["---"] * (1 + len(MODELS)))
    for name in columns[0]:
        row(name, *(column[name] for column in columns))


def of_model(m):
    """{what: how much} of training a model, as text."""
    computing = m.flops_a_token * m.batch / m.cards / (MFU * H100_FLOPS)
    sent = (m.cards - 1) / m.cards * m.params * (4 + 2)     # float32 gradients, bfloat16 weights
    sending = sent / m.link
    steps = m.tokens / m.batch
    hours = steps * (computing + sending) / HOUR_S
    memory = m.params * (2 + 4 + 12 / m.cards)              # weights, gradients; master and means
    return {
        "cards": f"{m.cards:,}",
        "steps": f"{steps:,.0f}",
        "computing, s a step": f"{computing:.3f}",
        "sent by a card, GB a step": f"{sent / 1e9:.2f}",
        "sending, s a step": f"{sending:.3f}",
        "in all, hours": f"{hours:,.1f}",
        "card hours": f"{hours * m.cards:,.0f}",
        "dollars": f"{hours * m.cards * CARD_DOLLARS:,.0f}",
        "weights, gradients, means, GB a card": f"{memory / 1e9:.1f}",
        "reported": m.reported,
    }


if __name__ == "__main__":
    for table in (crawl_table, memory_table, train_table):
        print(f"\n{table.__doc__}\n")
        table()
