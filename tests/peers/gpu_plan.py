"""gpu_plan.py: how fast model/device.py can be on a GPU, on paper.

    python tests/peers/gpu_plan.py              prints the tables of docs/gpu.md

Each kernel of a step is counted: its matrix products, the bytes that it has to read and write, and
how many blocks it has. The counts come from the way through the model itself (model/walk.py), with
a Counter in the place of the kernels, and with arrays that have a shape and no memory. Then

    seconds of a kernel = the largest of    operations / (share of the peak * peak)
                                            bytes / (share of the bandwidth * bandwidth)
                                            instructions / those its processors begin a second
                                            LAUNCH_S

and a step is the sum. Instructions count where tokens are drawn, since there they take longest. The
limit of a step has all shares 1, and launches and drawing cost nothing.

Peaks and bandwidths are those of NVIDIA's data sheets. The shares are assumed; each has its reason.
What is not counted: that a product with few rows may leave most of a GPU idle, and the host.
tests/test_gpu_plan.py holds the counts against the launches of a real step.
"""

import argparse
import functools
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "cuda")]

from model import device, device_training, device_tuning  # noqa: E402  before numpy
import numpy as np  # noqa: E402
import gpt  # noqa: E402
from model import families, llama, lora, pages, planning, walk  # noqa: E402
from model.layout import Layout  # noqa: E402

# ------------------------------------------------------------------------------------------ cards


class Card(NamedTuple):
    """A GPU, by its data sheet. flops: dense bfloat16 products, a second, summed in float32."""

    name: str
    flops: float
    bandwidth: float            # bytes a second
    memory: float               # bytes
    processors: int             # streaming multiprocessors
    clock: float                # ticks a second
    doubles: int                # operations in double precision of a processor, a tick
    products: float             # assumed: the share of the peak that large products reach
    attention: float            # the same of attention


# Products: cublasLt reaches 650 of an H100's 989 TFLOP/s. A whole step of llm.c reaches 56 % of an
# A100's peak and 70 % of an RTX 4090's (REPORTED below), so its products must reach more: 0.8.
# Attention: FlashAttention 2, with mma.sync as ours, reaches 19 % of an H100's peak, forward and
# backward, at 1,024 tokens and heads of 64. mma.sync itself reaches 63 % of that peak, but all of
# the peak of older cards, so the same kernel is assumed to reach 0.19 / 0.63 there.
OF_HOPPER = {"products": 0.66, "attention": 0.19}
OF_OTHERS = {"products": 0.80, "attention": 0.30}
# Copies reach 4.0 of an H200's 4.8 TB/s.
BANDWIDTH = 0.83
LAUNCH_S = 2e-6                 # assumed: from one small kernel of a recorded graph to the next
INSTRUCTIONS = 128              # of all threads, that a processor begins in a tick

CARDS = [
    Card("H200", 989e12, 4.8e12, 141e9, 132, 1.83e9, 64, **OF_HOPPER),
    Card("A100", 312e12, 2.039e12, 80e9, 108, 1.41e9, 32, **OF_OTHERS),
    Card("RTX 4090", 165.2e12, 1.008e12, 24e9, 128, 2.52e9, 2, **OF_OTHERS),
]
H100 = Card("H100", 989e12, 3.35e12, 80e9, 132, 1.83e9, 64, **OF_HOPPER)
SMALL = CARDS[2]._replace(name="small card", memory=8e9)
# Instructions for a logit of a row from which a token is drawn, and those of them in double
# precision. kernel_counts.py counts them for each of the two bytes of a logit.
DRAWING = {"at temperature 1": (184, 13), "top-p": (941, 67)}
# llm.c's tokens a second of one GPU that trains the same 124 million parameters at T 1024.
REPORTED = {"H100": "468,000 (of eight)", "A100": "218,000 (of eight)", "RTX 4090": "144,000"}

# --------------------------------------------------------------------------------- what is counted


class Kernel(NamedTuple):
    """One launch. kind: products, attention, draw, update, or rest."""

    name: str
    kind: str
    flops: float
    bytes: float
    blocks: float               # of threads, where so few that they leave processors idle
    instructions: float         # where there are so many that they take longest
    doubles: float              # those of them in double precision

    def seconds(self, card, is_limit=False):
        """The time it takes."""
        if is_limit:
            return max(self.flops / card.flops, self.bytes / card.bandwidth)
        share = card.attention if self.kind == "attention" else card.products
        busy = min(self.blocks, card.processors)
        bandwidth = BANDWIDTH * card.bandwidth * busy / card.processors
        ticks = max(self.instructions / INSTRUCTIONS, self.doubles / card.doubles) / busy
        return max(
            self.flops / (share * card.flops), self.bytes / bandwidth, ticks / card.clock, LAUNCH_S)


class Array:
    """An array that has a shape and no memory. What is written into it is counted."""

    def __init__(self, counter, shape, itemsize):
        self.counter, self.shape, self.itemsize = counter, tuple(shape), itemsize

    @property
    def nbytes(self):
        return self.itemsize * math.prod(self.shape)

    def __len__(self):
        return self.shape[0]

    def _like(self, a):
        return Array(self.counter, a.shape, self.itemsize)

    def __getitem__(self, key):
        return self._like(np.broadcast_to(np.int8(0), self.shape)[key])

    def reshape(self, *shape):
        return self._like(np.broadcast_to(np.int8(0), self.shape).reshape(*shape))

    def __setitem__(self, key, value):
        moved = value.nbytes if isinstance(value, Array) else 0
        self.counter.add("copy", self[key].nbytes + moved)


def read(*arrays):
    """The bytes of arrays, None being nothing."""
    return sum(a.nbytes for a in arrays if a is not None)


class Counter:
    """Has the operations of kernels/, and counts what they would do."""

    def __init__(self):
        self.kernels = []

    def add(self, name, n_bytes, kind="rest", flops=0, blocks=math.inf, arithmetic=(0, 0)):
        self.kernels.append(Kernel(name, kind, flops, n_bytes, blocks, *arithmetic))

    def matmul(self, x, w, out, x_t=False, w_t=False, add=False):
        """out = x w, of which either may be transposed; with add it is read too."""
        n_in = x.shape[0] if x_t else x.shape[1]
        flops = 2 * math.prod(out.shape) * n_in
        self.add("product", read(x, w, out) + read(out) * add, "products", flops)
        return out

    # ---- by rows

    def layernorm_forward(self, x, w, b, out, plus=None):
        self.add("norm", read(x, *out, plus) + (read(x) if plus is not None else 0))

    def rmsnorm_forward(self, x, w, eps, out, plus=None):
        self.layernorm_forward(x, w, None, out, plus)

    def layernorm_backward(self, dy, cache, plus, out, add):
        n, rstd, _ = cache
        self.add("norm backward", read(dy, n, rstd, plus, out[0]))
        if out[1] is not None:
            self.add("column sums", read(*out[1:]))

    def rmsnorm_backward(self, dy, cache, plus, out, add):
        self.layernorm_backward(dy, cache, plus, out, add)

    def gelu_forward(self, h, out):
        self.add("GELU", read(h, *out))
        return out

    def gelu_backward(self, du, h, out):
        self.add("GELU backward", read(du, h, out))
        return out

    def swiglu_forward(self, h, out):
        self.add("SwiGLU", read(h, out))
        return out

    def swiglu_backward(self, du, h, out):
        self.add("SwiGLU backward", read(du, h, out))
        return out

    def add_to(self, x, more):
        self.add("sum", read(x, x, more))

    def rotary_forward(self, qkv, positions, table, n_turned):
        turned = n_turned * table.shape[1] / qkv.shape[1]
        self.add("rotary", 2 * turned * read(qkv))

    rotary_backward = rotary_forward

    def embedding_forward(self, tokens, positions, wte, wpe, out):
        self.add("embedding", 2 * read(out) + (read(out) if wpe is not None else 0))

    # ---- layers

    def linear_forward(self, x, w, b, out):
        return self.matmul(x, w, out)               # cublasLt adds the bias

    def linear_backward(self, dy, x, w, out, add):
        dx, dw, db = out
        if dw is not None:
            self.matmul(x, dy, dw, x_t=True, add=add)
        if db is not None:
            self.add("bias backward", read(dy))
            self.add("column sums", read(db))
        self.matmul(dy, w, dx, w_t=True)

    def _low(self, x, A):
        return Array(self, (len(x), A.shape[1]), x.itemsize)

    def lora_forward(self, x, A, B, scale, y):
        low = self.matmul(x, A, self._low(x, A))
        self.matmul(low, B, y, add=True)

    def lora_backward(self, dy, x, A, B, scale, out, add):
        dA, dB = out
        low = self.matmul(x, A, self._low(x, A))
        self.matmul(low, dy, dB, x_t=True, add=add)
        dlow = self.matmul(dy, B, self._low(x, A), w_t=True)
        self.matmul(x, dlow, dA, x_t=True, add=add)
        return dlow

    def add_product(self, x, w, y, w_t=False):
        self.matmul(x, w, y, w_t=w_t, add=True)

    # ---- attention: of T keys a query sees half

    def attention_forward(self, qkv, n_head, out, hidden, n_kv_head):
        o, lse = out
        self.add("attention", read(qkv, o, lse), "attention", 2 * self._product(qkv, n_head, o))

    def attention_backward(self, do, cache, n_head, out, hidden, n_kv_head):
        """The gradient of queries takes three products, those of keys and values four."""
        qkv, o, lse = cache
        one = self._product(qkv, n_head, o)
        self.add("attention backward, rows", read(o, do))
        self.add("attention backward, queries", read(qkv, do, lse, o), "attention", 3 * one)
        self.add("attention backward, keys", read(qkv, do, lse, out), "attention", 4 * one)

    def _product(self, qkv, n_head, o):
        """The operations of one product of attention, such as of queries with keys."""
        B, T, columns = o.shape
        return B * n_head * T * T * (columns // n_head)


# ------------------------------------------------------------------------------------------- steps


def arrays_of(counter, shapes, bf16=True):
    """{name: Array} of shapes, with the number formats of the GPU."""
    kinds = device.other_kinds(shapes)
    found = {}
    for name, shape in shapes.items():
        itemsize = np.dtype(kinds.get(name, np.uint16 if bf16 else np.float32)).itemsize
        found[name] = Array(counter, shape, itemsize)
    return found


def weights_of(counter, cfg, rank=None):
    """({name: Array} of a model and an adapter of that rank, {name: Array} of what learns)."""
    params = arrays_of(counter, Layout(cfg).shapes)
    learned = device_tuning.planned_shapes(cfg, rank)
    if rank is None:
        learned = Layout(cfg).shapes
    else:
        params.update(arrays_of(counter, learned))
        params[lora.SCALE] = np.array(1.0)
    return params, {name: Array(counter, shape, 4) for name, shape in learned.items()}


def training_step(cfg, rows, T, times=1, rank=None, recompute=False):
    """[Kernel] of a step: `times` batches of rows of T tokens, and one update."""
    counter = Counter()
    params, grads = weights_of(counter, cfg, rank)
    batch_of(counter, params, grads, cfg, rows, T, False, recompute)
    if times > 1:
        first, counter.kernels = counter.kernels, []
        batch_of(counter, params, grads, cfg, rows, T, True, recompute)
        counter.kernels = first + (times - 1) * counter.kernels
    n = sum(math.prod(g.shape) for g in grads.values())
    counter.add("norm of the gradients", 4 * n, "update")
    counter.add("its sum", 0, "update")
    # reads gradients, master copy and two means; writes the last three and the weights
    counter.add("AdamW", (4 + 2 * 12 + 2) * n, "update")
    return counter.kernels


def batch_of(counter, params, grads, cfg, rows, T, add, recompute):
    """Forward and backward of a batch, as of device.Step."""
    shapes = device.step_shapes(cfg, rows, T, True, recompute)
    a, N = arrays_of(counter, shapes), rows * T
    table = Array(counter, (T, families.kv_heads(cfg)[1]), 4)
    trunk = walk.Trunk(counter, params, cfg, a, None, table=table)
    trunk.forward(None, None)
    head = families.head_name(cfg)
    for begin in range(0, N, len(a["logits"])):
        y = a["y"][begin : begin + len(a["logits"])]
        z = a["logits"][: len(y)]
        counter.matmul(y, params[head], z, w_t=True)
        counter.add("cross entropy", 2 * read(z))       # a row's second reading is from its cache
        if head in grads:
            counter.matmul(z, y, grads[head], x_t=True, add=add or begin > 0)
        counter.matmul(z, params[head], y)
    counter.add("sum of the losses", 0)
    trunk.backward(grads, add)
    if head in grads:
        if head != "wte.weight" and not add:
            grads["wte.weight"][...] = 0.0
        of_tokens = min(N, cfg.vocab_size) * 4 * cfg.n_embd
        counter.add("embedding backward", read(a["x"]) + 2 * of_tokens)
        if "wpe.weight" in grads:
            counter.add("position backward", read(a["x"], grads["wpe.weight"]))


def decoding_step(cfg, rows, S, drawing="at temperature 1"):
    """[Kernel] of one new token for each row, behind S others. drawing: of DRAWING."""
    counter = Counter()
    params, _ = weights_of(counter, cfg)
    shapes = walk.trunk_shapes(cfg, rows, 1, want_grads=False)
    shapes["y_last"] = (rows, cfg.n_embd)
    shapes["logits"] = (rows, len(params["wte.weight"]))
    a = arrays_of(counter, shapes)
    n_kv, HS = families.kv_heads(cfg)

    def attend(i, qkv, o):
        counter.add("append to the cache", 2 * rows * 2 * n_kv * HS * 2)
        n_read = rows * S * 2 * n_kv * HS * 2
        blocks = rows * n_kv                            # one for each row and head of keys
        counter.add("attention", n_read + read(qkv, o), "attention", blocks=blocks)

    table = Array(counter, (S, HS), 4)
    trunk = walk.Trunk(counter, params, cfg, a, None, table=table)
    trunk.forward(None, None, attend)
    counter.add("last rows", 2 * read(a["y_last"]))
    counter.matmul(a["y_last"], params[families.head_name(cfg)], a["logits"], w_t=True)
    arithmetic = [math.prod(a["logits"].shape) * n for n in DRAWING[drawing]]
    counter.add("draw", 2 * read(a["logits"]), "draw", blocks=rows, arithmetic=arithmetic)
    return counter.kernels


# ------------------------------------------------------------------------------------------- plans


class Plan(NamedTuple):
    """A step on a card: its rows at once, its kernels, its tokens and the memory that it takes."""

    rows: int
    kernels: list
    tokens: int
    memory: float
    recompute: bool = False

    def seconds(self, card, is_limit=False):
        """The time of the step."""
        return sum(kernel.seconds(card, is_limit) for kernel in self.kernels)

    def shares(self, card):
        """{what: the share of the time that it takes}"""
        found, total = {}, self.seconds(card)
        for kernel in self.kernels:
            seconds = kernel.seconds(card)
            kind = "launches" if seconds == LAUNCH_S else kernel.kind
            found[kind] = found.get(kind, 0.0) + seconds / total
        return found


def pre_training(cfg, T, tokens, card):
    """A step of train.py: so many tokens, in as many rows at once as fit. None if none fits."""
    cfg, gpu = replace(cfg, n_positions=T), SimpleNamespace(bf16=True)
    try:
        rows, again, plan = planning.fit_batch(cfg, tokens // T, 0.9 * card.memory, gpu=gpu)
    except ValueError:
        return None
    rows = 1 << rows.bit_length() - 1                       # which divides the tokens
    times = tokens // T // rows
    plan = device_training.memory_plan(cfg, rows, again)
    kernels = training_step(cfg, rows, T, times, recompute=again)
    return Plan(rows, kernels, tokens, sum(plan.values()), again)


def fine_tuning(cfg, T, n_rows, card, rank=None):
    """A step of align.py sft: n_rows of T tokens, as device_tuning.Tuning takes them."""
    fixed = device_tuning.stage_plan(cfg, 1, T, rank=rank)
    weights = sum(fixed[what] for what in ("parameters", "gradients", "AdamW", "frozen model"))
    budget = device.SHARE * (0.95 * card.memory - weights)
    for again in (False, True):
        plan = device_tuning.stage_plan(cfg, 1, T, rank=rank, recompute=again)
        a_row = plan["activations"] + plan["logits"]
        rows = min(n_rows, max(1, device.ROW_TOKENS // T), int(budget // a_row))
        if rows > 0:
            break
    else:
        return None
    rows = 1 << rows.bit_length() - 1
    plan = device_tuning.stage_plan(cfg, rows, T, rank=rank, recompute=again)
    kernels = training_step(cfg, rows, T, n_rows // rows, rank, again)
    return Plan(rows, kernels, n_rows * T, sum(plan.values()), again)


def decoding(cfg, rows, S, card, drawing="at temperature 1"):
    """One token for each of some rows, with keys and values of S tokens in pages."""
    n_pages = rows * -(-S // pages.PAGE)
    memory = 2 * Layout(cfg).size + n_pages * pages.bytes_a_page(cfg, np.uint16)
    if memory > 0.95 * card.memory:
        return None
    return Plan(rows, decoding_step(cfg, rows, S, drawing), rows, memory)


GPT2, SMOLLM = gpt.PRESETS["gpt2"], llama.PRESETS["smollm2-135m"]
LLAMA = llama.PRESETS["llama-3.1-8b"]
RANK = 16
WORKS = {
    "GPT-2 124M, pre-training": lambda card: pre_training(GPT2, 1024, 524_288, card),
    "GPT-2 124M, fine-tuning": lambda card: fine_tuning(GPT2, 1024, 32, card),
    "GPT-2 124M, writing 1 row": lambda card: decoding(GPT2, 1, 512, card),
    "GPT-2 124M, writing 64 rows": lambda card: decoding(GPT2, 64, 512, card),
    "GPT-2 124M, the same with top-p": lambda card: decoding(GPT2, 64, 512, card, "top-p"),
    "SmolLM2-135M, pre-training": lambda card: pre_training(SMOLLM, 2048, 524_288, card),
    "SmolLM2-135M, fine-tuning": lambda card: fine_tuning(SMOLLM, 1024, 32, card),
    "SmolLM2-135M, writing 1 row": lambda card: decoding(SMOLLM, 1, 512, card),
    "SmolLM2-135M, writing 64 rows": lambda card: decoding(SMOLLM, 64, 512, card),
    "Llama 3.1 8B, pre-training": lambda card: pre_training(LLAMA, 1024, 524_288, card),
    "Llama 3.1 8B, fine-tuning, LoRA": lambda card: fine_tuning(LLAMA, 1024, 16, card, RANK),
    "Llama 3.1 8B, writing 1 row": lambda card: decoding(LLAMA, 1, 512, card),
    "Llama 3.1 8B, writing 64 rows": lambda card: decoding(LLAMA, 64, 512, card),
}


@functools.lru_cache(maxsize=None)
def plan_of(name, card):
    """The Plan of a work on a card; None where it does not fit."""
    return WORKS[name](card)


KINDS = ("products", "attention", "draw", "rest", "update", "launches")


def row(*cells):
    """Print a line of a table."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def speed_table():
    """Tokens a second: as planned, and in brackets the limit by the data sheet."""
    row("", *(card.name for card in CARDS))
    row("---", *["---:"] * len(CARDS))
    for name in WORKS:
        cells = []
        for card in CARDS:
            plan = plan_of(name, card)
            if plan is None:
                cells.append("does not fit")
                continue
            speeds = [plan.tokens / plan.seconds(card, is_limit) for is_limit in (False, True)]
            planned, limit = (f"{speed:,.{0 if speed >= 100 else 1}f}" for speed in speeds)
            cells.append(f"{planned} ({limit})")
        row(name, *cells)


def time_table(card=CARDS[0]):
    """One step on an H200: where the time goes."""
    row("", "ms", "launches counted", *(f"{kind}, %" for kind in KINDS))
    row("---", *["---:"] * (2 + len(KINDS)))
    for name in WORKS:
        plan = plan_of(name, card)
        if plan:
            shares = plan.shares(card)
            row(name, f"{1e3 * plan.seconds(card):,.2f}", f"{len(plan.kernels):,}",
                *(f"{100 * shares.get(kind, 0.0):.0f}" for kind in KINDS))


def memory_table():
    """Gigabytes, and rows at once; * where activations are computed again."""
    cards = [*CARDS, SMALL]
    row("", *(f"{card.name}, {card.memory / 1e9:.0f} GB" for card in cards))
    row("---", *["---:"] * len(cards))
    for name in WORKS:
        cells = []
        for card in cards:
            plan = plan_of(name, card)
            again = "*" if plan and plan.recompute else ""
            cells.append(f"{plan.memory / 1e9:.1f}, {plan.rows}{again}" if plan else "does not fit")
        row(name, *cells)


def rl_table():
    """Gigabytes of a step of RL with a leash and a reward model: 256 replies of 256 tokens to 16
    questions of 256, learned 16 rows of 512 at a time."""
    parts = {
        "learns": ("parameters", "gradients", "AdamW"),
        "frozen model": ("frozen model",),
        "reference, judge": ("other models",),
        "the step": ("activations", "logits", "scratch"),
    }
    row("", *parts, "pages", "in plain rows", "together")
    row("---", *["---:"] * (3 + len(parts)))
    for name, cfg, rank in (
        ("GPT-2 124M", GPT2, None),
        ("SmolLM2-135M", SMOLLM, None),
        ("Llama 3.1 8B, LoRA", LLAMA, RANK),
    ):
        n_others = 2 if rank is None else 1         # beside an adapter the model is the reference
        plan = device_tuning.stage_plan(cfg, 16, 512, rank=rank, n_others=n_others)
        found = [sum(plan[what] for what in names) for names in parts.values()]
        a_page = pages.bytes_a_page(cfg, np.uint16)
        of_pages = a_page * pages.pages_of_replies(16, 16, 256, 256)
        plain = a_page * 256 * 512 // pages.PAGE
        # Replies are written and learned in turn: the larger of both is needed beside the models.
        together = sum(found[:3]) + max(found[3], of_pages)
        row(name, *(f"{n / 1e9:.1f}" for n in (*found, of_pages, plain, together)))


def check_table():
    """Where others have measured: GPT-2 124M at T 1024, tokens a second of a card."""
    row("", "planned", "llm.c")
    row("---", "---:", "---:")
    for card in (H100, *CARDS[1:]):
        plan = plan_of("GPT-2 124M, pre-training", card)
        row(card.name, f"{plan.tokens / plan.seconds(card):,.0f}", REPORTED[card.name])


def connect():
    """Let model/device.py have kernels to ask for sizes: the CPU's where there is no GPU."""
    try:
        import cupy  # noqa: F401
    except ImportError:
        import cupy_cpu
        sys.modules["cupy"] = cupy_cpu
    device.connect("bf16")


def main(argv=None):
    """Print all tables."""
    description = "How fast model/device.py can be on a GPU, on paper."
    argparse.ArgumentParser(description=description).parse_args(argv)
    connect()
    for table in (speed_table, time_table, memory_table, rl_table, check_table):
        print(f"\n{' '.join(table.__doc__.split())}\n")
        table()


if __name__ == "__main__":
    main()
