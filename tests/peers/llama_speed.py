"""How fast models of the Llama family train and write here, beside transformers, in one run.

    python tests/peers/llama_speed.py [train] [decode]      (default: both)

The shape is SmolLM2-135M's, the weights are random, all numbers are float32. Both sides run in
processes of their own, in turns, and the medians are compared. Ratios above 1 mean that we are
faster. transformers computes attention by PyTorch's scaled_dot_product_attention, steps are those
of its model, torch's fused AdamW and clip_grad_norm_; compiled too where that works.
"""

import argparse
import json
import resource
import sys
import time
from dataclasses import replace

from gpt_speed import (
    HERE, PROMPT, ROOT, THREADS, bandwidth, middle, run, write_here, write_there,
)

BATCH, CONTEXT = 2, 512                                 # of training
NEW = 64                                                # tokens that are written


def shape(context):
    """SmolLM2-135M's Config."""
    sys.path.insert(0, str(ROOT))
    from model import cores, llama      # noqa: F401  cores before numpy
    return replace(llama.PRESETS["smollm2-135m"], n_positions=context)


def torch_model(context):
    """The same in transformers."""
    import torch
    import transformers
    torch.set_num_threads(THREADS)
    cfg = shape(context)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=cfg.vocab_size, hidden_size=cfg.n_embd, intermediate_size=cfg.n_hidden,
        num_hidden_layers=cfg.n_layer, num_attention_heads=cfg.n_head,
        num_key_value_heads=cfg.n_kv_head, max_position_embeddings=context,
        rms_norm_eps=cfg.norm_eps, rope_theta=cfg.rope_theta, tie_word_embeddings=True))


def train_theirs(seconds, compiled):
    """Median tokens a second of full steps in PyTorch."""
    import torch
    model = torch_model(CONTEXT)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    forward = torch.compile(model) if compiled else model
    tokens = torch.randint(49152, (BATCH, CONTEXT + 1))
    times, beginning = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - beginning < seconds:
        t0 = time.perf_counter()
        logits = forward(tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - t0)
    times = sorted(times[2:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    speed = BATCH * CONTEXT / times[len(times) // 2]
    print(json.dumps({"tokens_per_s": speed, "peak_rss_mb": peak}))


def training(rounds, seconds):
    """Print tokens a second of both."""
    ours, eager, compiled = [], [], []
    for _ in range(rounds):
        ours.append(run("-m", "model.bench", "smollm2"))
        eager.append(run(HERE / "llama_speed.py", "--side", "train", "--seconds", seconds))
        compiled.append(
            run(HERE / "llama_speed.py", "--side", "compiled", "--seconds", seconds))
    best = max(middle(rows) for rows in (eager, compiled) if rows[0])
    print(f"training steps, tokens a second, {THREADS} threads, B {BATCH}, T {CONTEXT}:  "
          f"longhand {middle(ours):,.0f}, eager {middle(eager):,.0f}, "
          f"compiled {middle(compiled):,.0f}: ratio {middle(ours) / best:.2f}; "
          f"peak MB {middle(ours, 'peak_rss_mb'):,}, {middle(eager, 'peak_rss_mb'):,}", flush=True)


def decode_ours(rows):
    """Print tokens a second of greedy writing here."""
    cfg = shape(PROMPT + NEW)
    from model import llama
    write_here(llama, cfg, rows, NEW)


def decode_theirs(rows):
    """The same in PyTorch."""
    write_there(torch_model(PROMPT + NEW).eval(), rows, NEW)


def decoding(rounds):
    """Print tokens a second of both, and the limit that reading all weights sets."""
    limit = bandwidth() / (4 * shape(8).n_params)
    for rows in (1, 32):
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(run(HERE / "llama_speed.py", "--side", "ours", "--rows", rows))
            theirs.append(run(HERE / "llama_speed.py", "--side", "theirs", "--rows", rows))
        line = (f"writing, {rows} rows, prompts of {PROMPT}, {NEW} new, tokens a second:  "
                f"longhand {middle(ours):.1f}, transformers {middle(theirs):.1f}: "
                f"ratio {middle(ours) / middle(theirs):.2f}")
        if rows == 1:
            line += f"; {middle(ours) / limit:.0%} of {limit:.0f}, reading all weights once a token"
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("works", nargs="*", choices=["train", "decode", []])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--side", choices=["train", "compiled", "ours", "theirs"])
    args = parser.parse_args()
    if args.side in ("train", "compiled"):
        train_theirs(args.seconds, args.side == "compiled")
    elif args.side:
        {"ours": decode_ours, "theirs": decode_theirs}[args.side](args.rows)
    else:
        works = args.works or ["train", "decode"]
        if "train" in works:
            training(args.rounds, args.seconds)
        if "decode" in works:
            decoding(args.rounds)


if __name__ == "__main__":
    main()
