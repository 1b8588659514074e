"""The same GPT-2 in PyTorch, written as lean as PyTorch allows: train.py is measured beside it.

    python tests/peers/torch_gpt.py char --mode eager|compile|bf16
    python tests/peers/torch_gpt.py shakespeare --text tinyshakespeare.txt

Prints the line of JSON that `python -m model.bench` prints: full training steps (forward, backward,
clipping, AdamW) on random tokens. Fused attention, fused AdamW, no dropout, as many threads as the
process may use.
"""

import argparse
import json
import math
import os
import resource
import time

import torch
import torch.nn.functional as F
from torch import nn

# vocabulary, batch, context, width, layers, heads: those of model/bench.py
SETTINGS = {
    "char": (65, 12, 64, 128, 4, 4),
    "small": (512, 16, 128, 128, 4, 4),
    "baby": (65, 16, 256, 384, 6, 6),
    "gpt2": (50304, 2, 512, 768, 12, 12),
}


class Block(nn.Module):
    def __init__(self, C, NH):
        super().__init__()
        self.NH = NH
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.fc, self.fc_proj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x):
        B, T, C = x.shape
        qkv = self.c_attn(self.ln_1(x)).split(C, dim=2)
        q, k, v = (y.view(B, T, self.NH, -1).transpose(1, 2) for y in qkv)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(o.transpose(1, 2).reshape(B, T, C))
        return x + self.fc_proj(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, V, T, C, L, NH):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(T, C)
        self.blocks = nn.ModuleList(Block(C, NH) for _ in range(L))
        self.ln_f = nn.LayerNorm(C)
        for name, p in self.named_parameters():
            if p.ndim >= 2:
                nn.init.normal_(p, std=0.02 / (2 * L) ** 0.5 if "proj" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens, targets=None):
        x = self.wte(tokens) + self.wpe.weight[:tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def adamw(model, lr, betas, weight_decay):
    groups = [{"params": [], "weight_decay": 0.0}, {"params": [], "weight_decay": weight_decay}]
    for p in model.parameters():
        groups[p.ndim >= 2]["params"].append(p)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def stepper(model, optimizer, mode, clip=1.0):
    """A function (tokens, targets) -> loss that takes one training step."""
    loss_of = torch.compile(model) if mode == "compile" else model

    def step(tokens, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
            loss = loss_of(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss.item()

    return step


def bench(setting, mode, seconds=10.0):
    """{name: value} of the median step, out of steps for about so many seconds after a warm-up.

    Where bfloat16 is emulated a step can take a minute; then there are fewer than three.
    """
    V, B, T, C, L, NH = SETTINGS[setting]
    torch.manual_seed(0)
    model = GPT(V, T, C, L, NH)
    step = stepper(model, adamw(model, 6e-4, (0.9, 0.95), 0.1), mode)
    tokens, targets = torch.randint(V, (2, B, T))
    for _ in range(2):
        step(tokens, targets)
    times, begun, gone = [], time.perf_counter(), 0.0
    while gone < seconds or len(times) < 3 and gone < 6 * seconds:
        t0 = time.perf_counter()
        step(tokens, targets)
        times.append(time.perf_counter() - t0)
        gone = time.perf_counter() - begun
    dt = sorted(times)[len(times) // 2]
    return {
        "bench": setting,
        "mode": mode,
        "tokens_per_s": round(B * T / dt, 1),
        "ms_per_step": round(1e3 * dt, 2),
        "steps": len(times),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def shakespeare(path, target=1.88, lr=1e-3, steps=2000, warmup=100, seed=0):
    """nanoGPT's run for a CPU: the seconds of its steps, its losses on the whole last tenth.

    Validation is not part of the seconds. reached: the first step after which the loss was at most
    the target, of those after which it was measured, and the seconds until then; None for never.
    """
    text = open(path, encoding="utf-8", newline="").read()
    chars = {char: i for i, char in enumerate(sorted(set(text)))}
    data = torch.tensor([chars[char] for char in text])
    _, B, T, C, L, NH = SETTINGS["char"]
    train, val = data[:int(0.9 * len(data))], data[int(0.9 * len(data)):]
    torch.manual_seed(seed)
    model = GPT(len(chars), T, C, L, NH)
    optimizer = adamw(model, lr, (0.9, 0.99), 0.1)
    step = stepper(model, optimizer, "eager")

    def evaluate():
        rows = torch.stack([val[i:i + T + 1] for i in range(0, len(val) - T, T)])
        with torch.no_grad():
            losses = [(model(r[:, :-1], r[:, 1:]).item(), len(r)) for r in rows.split(32)]
        return sum(x * n for x, n in losses) / sum(n for _, n in losses)

    seconds, reached = 0.0, None
    for i in range(steps):
        beginning = time.perf_counter()
        progress = max(0.0, (i - warmup) / (steps - warmup))
        rate = lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
        if i < warmup:
            rate = lr * (i + 1) / warmup
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(train) - T, (B,))
        rows = torch.stack([train[s:s + T + 1] for s in starts])
        step(rows[:, :-1], rows[:, 1:])
        seconds += time.perf_counter() - beginning
        if (i + 1) % 100 == 0:
            loss = evaluate()
            if loss <= target and not reached:
                reached = {"step": i + 1, "seconds": seconds}
    return {"seconds": seconds, "steps": steps, "val_loss_nats": loss, "reached": reached}


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("setting", choices=[*SETTINGS, "shakespeare"])
    p.add_argument("--mode", default="eager", choices=("eager", "compile", "bf16"))
    p.add_argument("--seconds", type=float, default=10.0)
    p.add_argument("--text", help="for shakespeare")
    args = p.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if args.setting == "shakespeare":
        found = shakespeare(args.text)
    else:
        found = bench(args.setting, args.mode, args.seconds)
    print(json.dumps(found), flush=True)
