"""ablation.py: which of the changes from GPT-2 to Llama buys what.

A block is composed of the forward and backward functions of gpt.py and model/llama.py, by options:

    positions   learned: a table is added to the embedding; rotary: queries and keys are turned
    norm        layer: LayerNorm; rms: RMSNorm
    biases      whether linear layers have them
    mlp         gelu: two matrices; swiglu: three
    n_kv_head   heads of keys and values: as many as of queries, or one for a group of these

Each variant has as many parameters as GPT-2: the width of its MLP takes what an option leaves over.
All variants of a seed read the same batches of a finished run, begin with the same numbers where
they have the same matrices, and learn by the demo's recipe.

    python tests/ablation.py --run out/demo --steps 400 --seeds 0 1 2

Each training that ends adds a line to OUT/results.jsonl, and the same command goes on from there.
"""

import argparse
import json
import math
import signal
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
class Config(llama.Config):
    """The sizes of llama.Config, and the options; n_kv_head is one of them."""

    positions: str = "learned"
    norm: str = "layer"
    biases: bool = True
    mlp: str = "gelu"

    @property
    def n_params(self):
        """How many numbers the model learns."""
        return sum(math.prod(shape) for shape in param_shapes(self).values())


LLAMA = {"positions": "rotary", "norm": "rms", "biases": False, "mlp": "swiglu", "n_kv_head": 2}
VARIANTS = {        # from GPT-2 on by one change each, and from Llama back by one change each
    "GPT-2": {},
    "GPT-2 with rotary positions": {"positions": "rotary"},
    "GPT-2 with RMSNorm": {"norm": "rms"},
    "GPT-2 without biases": {"biases": False},
    "GPT-2 with SwiGLU": {"mlp": "swiglu"},
    "GPT-2 with groups of 2 heads": {"n_kv_head": 2},
    "GPT-2 with groups of 4 heads": {"n_kv_head": 1},
    "Llama": LLAMA,
    "Llama with learned positions": {**LLAMA, "positions": "learned"},
    "Llama with LayerNorm": {**LLAMA, "norm": "layer"},
    "Llama with biases": {**LLAMA, "biases": True},
    "Llama with GELU": {**LLAMA, "mlp": "gelu"},
    "Llama without groups": {**LLAMA, "n_kv_head": 4},
    "Llama with groups of 4 heads": {**LLAMA, "n_kv_head": 1},
}


def variants(base):
    """{name: Config} of all variants of gpt.Config base, which has 4 heads.

    The width of the MLP is the multiple of 4 that comes closest to as many parameters.
    """
    sizes = {**vars(base), "n_kv_head": base.n_head, "head_size": base.n_embd // base.n_head}
    configs = {}
    for name, options in VARIANTS.items():
        narrow, wider = (Config(**{**sizes, **options, "n_hidden": F}) for F in (4, 8))
        steps = (base.n_params - narrow.n_params) / (wider.n_params - narrow.n_params)
        configs[name] = replace(narrow, n_hidden=4 + 4 * round(steps))
    return configs


def param_shapes(cfg):
    """{name: shape} of every parameter, with the names of model/llama.py."""
    shapes = {}
    for name, shape in llama.param_shapes(cfg).items():
        if "gate" in name and cfg.mlp == "gelu":
            continue
        shapes[name] = shape
        is_norm = "ln_" in name
        is_linear = name.startswith("h.") and not is_norm
        if is_norm and cfg.norm == "layer" or is_linear and cfg.biases:
            shapes[name.replace("weight", "bias")] = shape[-1:]
    if cfg.positions == "learned":
        shapes["wpe.weight"] = (cfg.n_positions, cfg.n_embd)
    return shapes


def init(cfg, seed, dtype=np.float32):
    """Fresh parameters as gpt.init has them, but each drawn from a stream of its own name."""
    params = {}
    for name, shape in param_shapes(cfg).items():
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        to_stream = name.endswith(("attn.o.weight", "mlp.down.weight"))
        std = 0.02 / (2 * cfg.n_layer) ** 0.5 if to_stream else 0.02
        if len(shape) == 2:
            params[name] = (std * rng.standard_normal(shape)).astype(dtype)
        else:
            params[name] = np.full(shape, "ln_" in name and name.endswith("weight"), dtype)
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
    heads, n_group = [], cfg.n_head // cfg.n_kv_head
    for name, n_head in (("q", cfg.n_head), ("k", cfg.n_kv_head), ("v", cfg.n_kv_head)):
        heads.append(gpt.split_heads(llama.linear_forward(x, p, f"attn.{name}"), n_head))
    q, k, v = heads
    if turn:
        q, k = llama.rotary_forward(q, *turn), llama.rotary_forward(k, *turn)
    k, v = llama.grouped_forward(k, n_group), llama.grouped_forward(v, n_group)
    o, attention = gpt.attention_forward(q, k, v, visible)
    o = gpt.join_heads(o)
    return llama.linear_forward(o, p, "attn.o"), (x, attention, o)


def attention_backward(dy, cache, p, cfg, turn, grads):
    """(B,T,C) -> dx"""
    x, attention, o = cache
    n_group = cfg.n_head // cfg.n_kv_head
    do = llama.linear_backward(dy, o, p, "attn.o", grads)
    dq, dk, dv = gpt.attention_backward(gpt.split_heads(do, cfg.n_head), attention)
    dk, dv = llama.grouped_backward(dk, n_group), llama.grouped_backward(dv, n_group)
    if turn:
        dq, dk = llama.rotary_backward(dq, *turn), llama.rotary_backward(dk, *turn)
    dx = 0.0
    for name, d in zip("qkv", (dq, dk, dv)):                # forward used x three times
        dx = dx + llama.linear_backward(gpt.join_heads(d), x, p, f"attn.{name}", grads)
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


def token_losses(params, cfg, tokens, targets, arena=None):
    """The nats of each target, for evaluate.validation_loss: (B,T), (B,T) -> (B,T)"""
    y, _ = trunk_forward(params, cfg, tokens)
    return gpt.cross_entropy_forward(y @ params["wte.weight"].T, targets)[0]


def batch_gradients(params, cfg, rows):
    """The mean loss of rows (B,T+1) in nats, and its gradient.

    It takes 2 rows at once, whose arrays fit in a core's cache.
    """
    loss, sums = 0.0, dict.fromkeys(params, 0.0)
    weights = np.full((2, cfg.n_positions), 1.0 / rows[:, 1:].size)
    for two in np.split(rows, len(rows) // 2):
        nats, grads = loss_and_grads(params, cfg, two[:, :-1], two[:, 1:], weights)
        loss += nats
        sums = {name: sums[name] + grads[name] for name in params}
    return loss, sums


def measure(cfg, recipe, seed, tokenizer, shards, val_shards):
    """Train a variant. Returns {name: value} of the loss in the end and of its fastest step."""
    params = init(cfg, seed)
    optimizer = muon.optimizer(params, recipe)
    windows = train.Windows(shards, cfg.n_positions, seed)
    fastest = math.inf
    for step in range(recipe.steps):
        begun = time.process_time()         # of this process alone: the machine may be busy
        rows = windows.rows(step * recipe.batch, recipe.batch)
        loss, grads = batch_gradients(params, cfg, rows)
        train.update(optimizer, grads, loss, step, recipe)
        fastest = min(fastest, time.process_time() - begun)
    engine = sys.modules[__name__]          # whose token_losses is called
    nats, bits = evaluate.validation_loss(params, cfg, tokenizer, val_shards, 2, engine=engine)
    return {"nats": nats, "bits_per_byte": bits, "step_ms": round(1000 * fastest, 1)}


def mean(values, form):
    """The mean, and the standard deviation if there are several values."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return format(np.mean(values), form) + spread


def table(configs, results):
    """The results {(name, seed): row} in Markdown. A difference is between two runs of a seed."""
    lines = ["| model | F | parameters | cache bytes a token | nats a token | bits a byte "
             "| nats beside its kind | ms a step |", "| --- " * 8 + "|"]
    for name, cfg in configs.items():
        kind = name.split()[0]
        seeds = [seed for other, seed in results if other == name and (kind, seed) in results]
        rows = [results[name, seed] for seed in seeds]
        more = [results[name, seed]["nats"] - results[kind, seed]["nats"] for seed in seeds]
        cells = [
            name,
            f"{cfg.n_hidden}",
            f"{cfg.n_params:,}",
            f"{2 * 4 * cfg.n_layer * cfg.n_kv_head * cfg.head_size:,}",     # float32
            mean([row["nats"] for row in rows], ".4f"),
            mean([row["bits_per_byte"] for row in rows], ".4f"),
            "" if name == kind else mean(more, "+.4f"),
            f"{min(row['step_ms'] for row in rows):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
    return p.parse_args(argv)


def main(argv=None):
    """Train what is not in the results yet, and print the table."""
    args = parse_args(argv)
    tokenizer = bpe.Tokenizer.load(args.run / "tokenizer.json")
    shards = corpus.load_run(args.run, tokenizer)
    recipe = train.PRESETS["demo"]
    warmup = math.ceil(recipe.warmup * args.steps / recipe.steps)
    recipe = replace(recipe, steps=args.steps, warmup=warmup)
    configs = variants(replace(recipe.model, vocab_size=tokenizer.n_vocab))

    def work(job):
        name, seed = job
        found = measure(configs[name], recipe, seed, tokenizer, *shards)
        return {"variant": name, "seed": seed, "steps": args.steps, **found}

    path = args.out / "results.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    kept = [row for _, row in disk.read_jsonl(path)] if path.exists() else []
    results = {(row["variant"], row["seed"]): row for row in kept if row["steps"] == args.steps}
    jobs = [(name, seed) for seed in args.seeds for name in configs]
    cores.N_THREADS = 1                         # a training has a core for itself
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))     # so that the processes end too
    with cores.processes(args.jobs, work) as in_order:
        for row in in_order([job for job in jobs if job not in results]):
            results[row["variant"], row["seed"]] = row
            with path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(row) + "\n")
            print(json.dumps(row), file=sys.stderr)
    print(table(configs, {job: results[job] for job in jobs}))
    return 0


if __name__ == "__main__":
    command.run(main)
