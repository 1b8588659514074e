"""ablation.py: which of the changes from GPT-2 to Llama buys what.

A block is composed of the forward and backward functions of gpt.py and model/llama.py, by five
options. All options of one family together are that family's model, which tests/test_ablation.py
holds against its definition. The options:

    positions   learned: a table is added to the embedding; rotary: queries and keys are turned
    norm        layer: LayerNorm; rms: RMSNorm
    biases      whether linear layers have them
    mlp         gelu: two matrices; swiglu: three
    n_group     how many heads of queries share one head of keys and values

Each variant has as many parameters as GPT-2, because the width of its MLP takes what an option
leaves over. All variants of a seed read the same batches of a finished run's tokens, begin with the
same numbers in every matrix that they share, and learn by the demo's recipe (Muon and AdamW).

    python tests/ablation.py --run out/demo --steps 400 --seeds 0 1 2

Each training that ends adds a line to OUT/results.jsonl. The same command later goes on from there.
"""

import argparse
import json
import math
import sys
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model import cores, corpus, evaluate, llama, muon  # noqa: E402  before numpy
import bpe  # noqa: E402
import gpt  # noqa: E402
import numpy as np  # noqa: E402
from run import command, disk  # noqa: E402
import train  # noqa: E402


@dataclass(frozen=True)
class Config:
    """The sizes of a model and its options, under the names of gpt.Config and llama.Config."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_hidden: int
    positions: str = "learned"
    norm: str = "layer"
    biases: bool = True
    mlp: str = "gelu"
    n_group: int = 1
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: None = None

    @property
    def head_size(self):
        """HS"""
        return self.n_embd // self.n_head

    @property
    def n_kv_head(self):
        """NKV"""
        return self.n_head // self.n_group

    @property
    def n_params(self):
        """How many numbers the model learns."""
        return sum(math.prod(shape) for shape in param_shapes(self).values())


LLAMA = {"positions": "rotary", "norm": "rms", "biases": False, "mlp": "swiglu", "n_group": 2}
VARIANTS = {        # from GPT-2 on by one change each, and from Llama back by one change each
    "GPT-2": {},
    "GPT-2 with rotary positions": {"positions": "rotary"},
    "GPT-2 with RMSNorm": {"norm": "rms"},
    "GPT-2 without biases": {"biases": False},
    "GPT-2 with SwiGLU": {"mlp": "swiglu"},
    "GPT-2 with groups of 2 heads": {"n_group": 2},
    "GPT-2 with groups of 4 heads": {"n_group": 4},
    "Llama": LLAMA,
    "Llama with learned positions": {**LLAMA, "positions": "learned"},
    "Llama with LayerNorm": {**LLAMA, "norm": "layer"},
    "Llama with biases": {**LLAMA, "biases": True},
    "Llama with GELU": {**LLAMA, "mlp": "gelu"},
    "Llama without groups": {**LLAMA, "n_group": 1},
    "Llama with groups of 4 heads": {**LLAMA, "n_group": 4},
}


def param_shapes(cfg):
    """{name: shape} of every parameter, with the names of model/llama.py."""
    C, F, keys = cfg.n_embd, cfg.n_hidden, cfg.n_kv_head * cfg.head_size
    layers = {
        "ln_1": (C,),
        "attn.q": (C, C),
        "attn.k": (C, keys),
        "attn.v": (C, keys),
        "attn.o": (C, C),
        "ln_2": (C,),
        "mlp.gate": (C, F),
        "mlp.up": (C, F),
        "mlp.down": (F, C),
    }
    if cfg.mlp == "gelu":
        del layers["mlp.gate"]
    parts = {}
    for i in range(cfg.n_layer):
        parts.update({f"h.{i}.{name}": shape for name, shape in layers.items()})
    parts["ln_f"] = (C,)
    shapes = {"wte.weight": (cfg.vocab_size, C)}
    if cfg.positions == "learned":
        shapes["wpe.weight"] = (cfg.n_positions, C)
    for name, shape in parts.items():
        shapes[f"{name}.weight"] = shape
        if cfg.norm == "layer" if "ln_" in name else cfg.biases:
            shapes[f"{name}.bias"] = shape[-1:]
    return shapes


def variants(base):
    """{name: Config} of all variants: gpt.Config base, and all others with as many parameters.

    The MLP's width is the multiple of 4 that comes closest.
    """
    configs = {}
    for name, options in VARIANTS.items():
        cfg = Config(*vars(base).values(), n_hidden=0, **options)
        of_a_unit = replace(cfg, n_hidden=1).n_params - cfg.n_params
        width = 4 * round((base.n_params - cfg.n_params) / of_a_unit / 4)
        configs[name] = replace(cfg, n_hidden=width)
    return configs


def init(cfg, seed, dtype=np.float32):
    """Fresh parameters as gpt.init has them, but each drawn from a stream of its own name."""
    params = {}
    for name, shape in param_shapes(cfg).items():
        to_stream = name.endswith(("attn.o.weight", "mlp.down.weight"))
        std = 0.02 / (2 * cfg.n_layer) ** 0.5 if to_stream else 0.02
        if name.endswith("bias"):
            params[name] = np.zeros(shape, dtype)
        elif "ln_" in name:
            params[name] = np.ones(shape, dtype)
        else:
            rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
            params[name] = (std * rng.standard_normal(shape)).astype(dtype)
    return params


# ------------------------------------------------------------------------------------------ block


def norm_forward(x, p, name, cfg):
    """(B,T,C) -> (B,T,C), cache"""
    if cfg.norm == "rms":
        return llama.rmsnorm_forward(x, p[f"{name}.weight"], cfg.norm_eps)
    return gpt.layernorm_forward(x, p[f"{name}.weight"], p[f"{name}.bias"], cfg.norm_eps)


def norm_backward(dy, cache, name, cfg, grads):
    """(B,T,C) -> dx. Like all below, it writes the gradients of its parameters into grads."""
    if cfg.norm == "rms":
        dx, grads[f"{name}.weight"] = llama.rmsnorm_backward(dy, cache)
    else:
        dx, grads[f"{name}.weight"], grads[f"{name}.bias"] = gpt.layernorm_backward(dy, cache)
    return dx


def mlp_forward(x, p, cfg):
    """(B,T,C) -> (B,T,C), cache"""
    if cfg.mlp == "swiglu":
        return llama.mlp_forward(x, p)
    h, gelu = gpt.gelu_forward(llama.linear_forward(x, p, "mlp.up"))
    return llama.linear_forward(h, p, "mlp.down"), (x, gelu, h)


def mlp_backward(dy, cache, p, cfg, grads):
    """(B,T,C) -> dx"""
    if cfg.mlp == "swiglu":
        return llama.mlp_backward(dy, cache, p, grads)
    x, gelu, h = cache
    dh = llama.linear_backward(dy, h, p, "mlp.down", grads)
    return llama.linear_backward(gpt.gelu_backward(dh, gelu), x, p, "mlp.up", grads)


def attention_forward(x, p, cfg, turn, visible):
    """(B,T,C) -> (B,T,C), cache. turn: cos and sin of rotary positions, or None."""
    q = gpt.split_heads(llama.linear_forward(x, p, "attn.q"), cfg.n_head)
    k = gpt.split_heads(llama.linear_forward(x, p, "attn.k"), cfg.n_kv_head)
    v = gpt.split_heads(llama.linear_forward(x, p, "attn.v"), cfg.n_kv_head)
    if turn:
        q, k = llama.rotary_forward(q, *turn), llama.rotary_forward(k, *turn)
    k, v = llama.grouped_forward(k, cfg.n_group), llama.grouped_forward(v, cfg.n_group)
    o, attention = gpt.attention_forward(q, k, v, visible)
    o = gpt.join_heads(o)
    return llama.linear_forward(o, p, "attn.o"), (x, attention, o)


def attention_backward(dy, cache, p, cfg, turn, grads):
    """(B,T,C) -> dx"""
    x, attention, o = cache
    do = llama.linear_backward(dy, o, p, "attn.o", grads)
    dq, dk, dv = gpt.attention_backward(gpt.split_heads(do, cfg.n_head), attention)
    dk, dv = llama.grouped_backward(dk, cfg.n_group), llama.grouped_backward(dv, cfg.n_group)
    if turn:
        dq, dk = llama.rotary_backward(dq, *turn), llama.rotary_backward(dk, *turn)
    dx = np.zeros_like(x)
    for name, d in (("attn.q", dq), ("attn.k", dk), ("attn.v", dv)):    # forward used x 3 times
        dx += llama.linear_backward(gpt.join_heads(d), x, p, name, grads)
    return dx


# ------------------------------------------------------------------------------------------ model


def trunk_forward(params, cfg, tokens):
    """All of the model but its head: (B,T) int -> (B,T,C), cache"""
    T = tokens.shape[1]
    x, turn = params["wte.weight"][tokens], None
    if cfg.positions == "learned":
        x = x + params["wpe.weight"][:T]
    else:
        turn = llama.turns_of(cfg, np.arange(T)[None], x.dtype)
    visible, blocks = np.tri(T, dtype=bool), []
    for i in range(cfg.n_layer):
        p = gpt.block_params(params, i)
        n, ln_1 = norm_forward(x, p, "ln_1", cfg)
        a, attention = attention_forward(n, p, cfg, turn, visible)
        x = x + a                               # x = x + attention(norm(x))
        n, ln_2 = norm_forward(x, p, "ln_2", cfg)
        m, mlp = mlp_forward(n, p, cfg)
        x = x + m                               # x = x + mlp(norm(x))
        blocks.append((ln_1, attention, ln_2, mlp))
    y, ln_f = norm_forward(x, params, "ln_f", cfg)
    return y, (tokens, turn, blocks, ln_f)


def trunk_backward(dy, cache, params, cfg):
    """(B,T,C) -> {name: gradient}; of wte it has the gradient as an embedding only."""
    tokens, turn, blocks, ln_f = cache
    grads = {}
    dx = norm_backward(dy, ln_f, "ln_f", cfg, grads)
    for i in reversed(range(cfg.n_layer)):
        ln_1, attention, ln_2, mlp = blocks[i]
        p, of_block = gpt.block_params(params, i), {}
        # forward was: x = x + mlp(norm(x))
        dn = mlp_backward(dx, mlp, p, cfg, of_block)
        dx = dx + norm_backward(dn, ln_2, "ln_2", cfg, of_block)
        # forward was: x = x + attention(norm(x))
        dn = attention_backward(dx, attention, p, cfg, turn, of_block)
        dx = dx + norm_backward(dn, ln_1, "ln_1", cfg, of_block)
        grads.update({f"h.{i}.{name}": grad for name, grad in of_block.items()})
    grads["wte.weight"] = np.zeros_like(params["wte.weight"])
    np.add.at(grads["wte.weight"], tokens, dx)
    if cfg.positions == "learned":
        grads["wpe.weight"] = np.zeros_like(params["wpe.weight"])
        grads["wpe.weight"][:tokens.shape[1]] = dx.sum(0)
    return grads


def loss_and_grads(params, cfg, tokens, targets, weights):
    """gpt.loss_and_grads of a variant: sum(weights * nll) in nats, {name: gradient}"""
    wte = params["wte.weight"]
    weights = weights.astype(wte.dtype)
    y, cache = trunk_forward(params, cfg, tokens)
    nll, cache_of_nll = gpt.cross_entropy_forward(y @ wte.T, targets)
    loss = float((weights * nll).sum())
    dlogits = gpt.cross_entropy_backward(weights, cache_of_nll)
    # forward was: logits = y wte^T
    grads = trunk_backward(dlogits @ wte, cache, params, cfg)
    grads["wte.weight"] += dlogits.reshape(-1, cfg.vocab_size).T @ y.reshape(-1, cfg.n_embd)
    return loss, grads


# ------------------------------------------------------------------------------------- experiment


class Trainer:
    """One variant in training. It is what train.add_gradients calls `work`."""

    def __init__(self, cfg, recipe, shards, seed):
        self.cfg, self.recipe, self.sum = cfg, recipe, {}
        self.params = init(cfg, seed)
        self.optimizer = muon.optimizer(self.params, recipe)
        self.windows = train.Windows(shards, cfg.n_positions, seed)

    def clear(self):
        """Begin a sum of gradients."""
        self.sum = {}

    def add(self, tokens, targets, weights):
        """Add the gradients of a micro-batch; returns its weighted loss."""
        loss, grads = loss_and_grads(self.params, self.cfg, tokens, targets, weights)
        for name, grad in grads.items():
            self.sum[name] = self.sum.get(name, 0) + grad
        return loss

    def step(self, step):
        """Take one step. The arrays of a micro-batch of 2 rows fit in a core's cache."""
        batch = self.recipe.batch
        rows = self.windows.rows(step * batch, batch)
        loss = train.add_gradients(self, rows, micro_batch=2)
        train.update(self.optimizer, self.sum, loss, step, self.recipe)

    def validate(self, shards, tokenizer):
        """(nats a token, bits a byte) on text that it has not read."""
        rows, nll = evaluate.validation_rows(shards, self.cfg.n_positions), []
        for row in rows:
            y, _ = trunk_forward(self.params, self.cfg, row[None, :-1])
            logits = y @ self.params["wte.weight"].T
            nll.append(gpt.cross_entropy_forward(logits, row[None, 1:])[0][0])
        nll = np.array(nll, np.float64)
        return float(nll.mean()), evaluate.bits_per_byte(nll, rows[:, 1:], tokenizer)


def speeds(configs, recipe, shards, rounds):
    """{name: milliseconds of processor time that a step takes}: the best of so many, in turns."""
    trainers = {name: Trainer(cfg, recipe, shards, 0) for name, cfg in configs.items()}
    best = dict.fromkeys(configs, math.inf)
    for step in range(rounds):
        for name, trainer in trainers.items():
            begun = time.process_time()
            trainer.step(step)
            best[name] = min(best[name], 1000 * (time.process_time() - begun))
    return best


def mean(values, form):
    """The mean, and the standard deviation if there are several values."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return format(np.mean(values), form) + spread


def table(configs, results, speed):
    """The results in Markdown. A difference is between two models of the same seed."""
    columns = ["model", "F", "parameters", "cache bytes a token", "nats a token", "bits a byte",
               "nats beside its kind", "ms a step"]
    lines = [columns, ["---"] * len(columns)]
    nats, bits = ({} for _ in range(2))
    for row in results:
        nats.setdefault(row["variant"], {})[row["seed"]] = row["nats"]
        bits.setdefault(row["variant"], {})[row["seed"]] = row["bits_per_byte"]
    for name, of_seed in nats.items():
        cfg, kind = configs[name], name.split()[0]
        more = [value - nats[kind][seed] for seed, value in of_seed.items()]
        cache = 2 * 4 * cfg.n_layer * cfg.n_kv_head * cfg.head_size         # float32
        lines.append([name, f"{cfg.n_hidden}", f"{cfg.n_params:,}", f"{cache:,}",
                      mean(list(of_seed.values()), ".4f"), mean(list(bits[name].values()), ".4f"),
                      "" if name == kind else mean(more, "+.4f"), f"{speed[name]:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parse_args(argv=None):
    """The options of the command."""
    p = argparse.ArgumentParser(description="Which change from GPT-2 to Llama buys what?")
    p.add_argument("--run", type=Path, default=ROOT / "out" / "demo", metavar="DIR",
                   help="whose tokens are read (default: out/demo)")
    p.add_argument("--out", type=Path, default=ROOT / "out" / "ablation", metavar="DIR",
                   help="where results.jsonl is kept (default: out/ablation)")
    p.add_argument("--steps", type=int, default=train.PRESETS["demo"].steps, metavar="N",
                   help="of every training (default: %(default)s)")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    p.add_argument("--jobs", type=int, default=2, metavar="N",
                   help="trainings at once, one core each (default: %(default)s)")
    p.add_argument("--rounds", type=int, default=10, metavar="N",
                   help="steps of each variant that measure speed (default: %(default)s)")
    return p.parse_args(argv)


def main(argv=None):
    """Train what is not in the results yet, and print the table."""
    args = parse_args(argv)
    tokenizer = bpe.Tokenizer.load(args.run / "tokenizer.json")
    shards, val_shards = corpus.load_run(args.run, tokenizer)
    recipe = train.PRESETS["demo"]
    warmup = math.ceil(recipe.warmup * args.steps / recipe.steps)
    recipe = replace(recipe, steps=args.steps, warmup=warmup)
    configs = variants(replace(recipe.model, vocab_size=tokenizer.n_vocab))

    def measured(job):
        name, seed = job
        trainer = Trainer(configs[name], recipe, shards, seed)
        for step in range(args.steps):
            trainer.step(step)
        nats, bits = trainer.validate(val_shards, tokenizer)
        return {"variant": name, "seed": seed, "steps": args.steps, "nats": nats,
                "bits_per_byte": bits}

    jobs = [(name, seed) for seed in args.seeds for name in configs]
    path = args.out / "results.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    kept = [row for _, row in disk.read_jsonl(path)] if path.exists() else []
    results = {(row["variant"], row["seed"]): row for row in kept if row["steps"] == args.steps}
    cores.N_THREADS = 1                         # a training has a core for itself
    with cores.processes(args.jobs, measured) as in_order:
        for row in in_order([job for job in jobs if job not in results]):
            results[row["variant"], row["seed"]] = row
            with path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")
            print(json.dumps(row), file=sys.stderr)
    speed = speeds(configs, recipe, shards, args.rounds)
    print(table(configs, [results[job] for job in jobs], speed))
    return 0


if __name__ == "__main__":
    command.run(main)
