"""gpu_speed.py: kernels/ and the model on a GPU beside PyTorch on the same GPU.

    python tests/peers/gpu_speed.py step                one part; gpu_run.py runs all of them
    python tests/peers/gpu_speed.py step --tiny         small sizes, also without a GPU

Below each line of text, a line of JSON holds what was measured.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

import gpu_timing as timing
from gpu_timing import WHERE, cp, forget, median_s, peak, say, torch     # before numpy and kernels
import gpu_table
import golden
import gpt
import kernels
import numpy as np
from chat import options, packing
from model import adamw, device, device_training, device_tuning, families, planning
from run import command
import train

if torch:
    import torch_gpt


# ------------------------------------------------------------------------------------ pre-training


def gradients():
    """One step of a small model: PyTorch's loss and gradients in float32 from the same weights."""
    if not torch:
        say("no PyTorch with CUDA here: gradients are not compared with its own")
        return
    cfg = gpt.Config(1000, 200, 256, 3, 4)
    params = gpt.init(cfg, 0)
    for p in params.values():
        p += 0.05 * np.random.default_rng(1).standard_normal(p.shape).astype(np.float32)
    tokens, targets = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, 5, 133))
    model = torch_gpt.GPT(cfg.vocab_size, cfg.n_positions, cfg.n_embd, cfg.n_layer, cfg.n_head)
    model = model.to(WHERE)
    theirs = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in params.items():
            array = np.ascontiguousarray(golden.ours(name, torch.as_tensor(p)))
            theirs[golden.theirs(name)].copy_(torch.as_tensor(array))
    loss = model(torch.as_tensor(tokens, device=WHERE), torch.as_tensor(targets, device=WHERE))
    loss.backward()
    for bf16 in (False, True):
        got, grads = device.loss_and_grads(device.upload(params, cfg, bf16), cfg, tokens, targets)
        worst = 0.0
        for name, g in grads.items():
            want = golden.ours(name, theirs[golden.theirs(name)].grad.cpu())
            error = np.linalg.norm(cp.asnumpy(g)[:len(want)] - want) / np.linalg.norm(want)
            worst = max(worst, float(error))
        say(f"a step beside PyTorch's in float32, ours in {'bf16' if bf16 else 'float32'}: loss "
            f"{got:.6f} and {loss.item():.6f}, gradients differ by at most {worst:.1e}",
            row=f"gradients, {'bf16' if bf16 else 'float32'}", worst=worst)
        assert worst < (0.1 if bf16 else 1e-3) and abs(got - loss.item()) < (0.05 if bf16 else 1e-4)


def our_training(cfg, batch, steps):
    """(tokens a second, loss) of our training step."""
    params, T = families.of(cfg).init(cfg, 0), cfg.n_positions
    work = device_training.Training(params, train.AdamW(params), cfg, batch)
    tokens, targets = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, batch, T))
    weights, losses = np.full((batch, T), 1.0 / (batch * T)), []

    def step():
        work.clear()
        work.add(tokens, targets, weights)
        losses.append(work.update(6e-4, 1.0)[0])            # waits for the GPU

    return batch * T / median_s(step, steps), losses[-1]


def torch_training(cfg, batch, steps):
    """(tokens a second, loss) of PyTorch's, compiled."""
    torch.manual_seed(0)
    torch._dynamo.reset()           # or it compiles the next batch size for sizes of every kind
    torch.set_float32_matmul_precision("high")
    V, T = device.Layout(cfg).shapes["wte.weight"][0], cfg.n_positions
    model = torch_gpt.GPT(V, T, cfg.n_embd, cfg.n_layer, cfg.n_head).to(WHERE)
    optimizer = torch_gpt.adamw(model, 6e-4, (0.9, 0.95), 0.1)
    compiled = torch.compile(model, dynamic=False)
    tokens, targets = torch.randint(cfg.vocab_size, (2, batch, T), device=WHERE)
    losses = []

    def step():
        with torch.autocast(WHERE, torch.bfloat16):
            loss = compiled(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())

    return batch * T / median_s(step, steps), losses[-1]


def training_table(whose, work, cfg, batches):
    """A step for several micro-batches."""
    timing.measure_peaks()
    flops = planning.flops_per_token(cfg, cfg.n_positions)
    title = f"{cfg.n_params / 1e6:.0f}M, T {cfg.n_positions}, bf16: step"
    say(f"{title:28} {'tokens/s':>10} {'MFU of the peak measured here':>30} {'loss':>8}")
    for batch in batches:
        forget()
        title = f"{whose}, {batch} rows"
        try:
            rate, loss = work(cfg, batch, timing.sizes.steps)
        except Exception as error:      # memory, most likely
            say(f"{title:28} failed: {str(error)[:100]}", row=title, failed=str(error))
            continue
        mfu = rate * flops / peak["matrix"]
        say(f"{title:28} {rate:10,.0f} {mfu:30.1%} {loss:8.4f}",
            row=title, tokens_s=rate, mfu=mfu, loss=loss)


def step():
    """Our training step."""
    training_table("ours", our_training, timing.sizes.cfg, timing.sizes.batches)


def pytorch():
    """PyTorch's. It compiles anew for each number of rows: the most likely first."""
    if torch:
        training_table("PyTorch", torch_training, timing.sizes.cfg, timing.sizes.batches)
    else:
        say("no PyTorch with CUDA here to compare with")


# ------------------------------------------------------------------------------------------ decode


def our_tokens(cfg, rows, new):
    """Tokens a second of all rows together, drawn on the GPU."""
    params = device.upload(families.of(cfg).init(cfg, 0), cfg)
    prompt = min(100, cfg.n_positions // 2)
    cache = device.Cache(cfg, rows, min(cfg.n_positions, prompt + new), params["wte.weight"])
    device.decode(params, cfg, np.zeros((rows, prompt), np.int64), cache, only_last=True)
    state = {"token": np.zeros((rows, 1), np.int64)}
    each = np.array([0.8, 50, 0.95, 0, 0.5])        # temperature, top-k, top-p, min-p and u

    def one_more():
        settings = np.repeat(each[:, None], rows, 1)
        drawn, _ = device.decode_and_draw(
            params, cfg, state["token"], cache, settings, cfg.vocab_size)
        state["token"] = drawn[:, None].astype(np.int64)

    return rows / median_s(one_more, new, min(5, new - 1))


def their_tokens(model, rows, new):
    """Tokens a second of all rows of a model of transformers, eager, with its cache."""
    model.to(WHERE, torch.bfloat16).eval()
    state = {}
    with torch.no_grad():
        state["out"] = model(torch.zeros(rows, 100, dtype=torch.long, device=WHERE), use_cache=True)

        def one_more():
            token = state["out"].logits[:, -1:].argmax(-1)
            state["out"] = model(token, past_key_values=state["out"].past_key_values,
                                 use_cache=True)
            token.cpu()

        return rows / median_s(one_more, new, 5)


def transformers_model(cfg):
    """transformers' model of that shape with random weights, or None without transformers."""
    try:
        import transformers as t
    except ImportError:
        return None
    if isinstance(cfg, gpt.Config):
        return t.GPT2LMHeadModel(t.GPT2Config())
    return t.LlamaForCausalLM(t.LlamaConfig(
        vocab_size=cfg.vocab_size, hidden_size=cfg.n_embd, intermediate_size=cfg.n_hidden,
        num_hidden_layers=cfg.n_layer, num_attention_heads=cfg.n_head,
        num_key_value_heads=cfg.n_kv_head, max_position_embeddings=cfg.n_positions,
        tie_word_embeddings=True))


def decode_table(cfg):
    """Tokens a second of one row and of 64, ours first."""
    timing.measure_peaks()
    new, found = timing.sizes.new_tokens, {}
    name = f"{cfg.n_params / 1e6:.0f}M decode"
    for rows in (1, 64) if timing.ON_GPU else (1, 3):
        found[rows] = ours = our_tokens(cfg, rows, new)
        of_floor = 2 * cfg.n_params * ours / rows / peak["bandwidth"]
        say(f"{name}, {rows} rows: ours {ours:,.0f} tokens/s, {of_floor:.0%} of what reading the "
            "weights allows", row=f"{name}, {rows} rows", tokens_s=ours, of_floor=of_floor)
        forget()
    model = transformers_model(cfg) if torch else None
    if model is None:
        say("no transformers with CUDA here to compare with")
        return
    for rows, ours in found.items():
        theirs = their_tokens(model, rows, new // 2)
        say(f"{name}, {rows} rows: transformers {theirs:,.0f} tokens/s; ratio {ours / theirs:.2f}",
            row=f"{name}, {rows} rows, transformers", tokens_s=theirs)
        forget()


def decode():
    """GPT-2 writes."""
    decode_table(timing.sizes.cfg)


def llama():
    """SmolLM2-135M's shape learns and writes."""
    cfg = timing.sizes.llama
    training_table("ours", our_training, cfg, timing.sizes.batches[:2])
    decode_table(cfg)


# ----------------------------------------------------------------------------------- post-training


def texts(cfg, n):
    """n conversations of random tokens [(tokens, targets, weights)], of unequal lengths."""
    rng, found = np.random.default_rng(0), []
    T = cfg.n_positions
    for length in rng.integers(T // 20 + 1, T // 2, n):
        tokens, targets = rng.integers(0, cfg.vocab_size, (2, length))
        found.append((tokens, targets, np.full(length, 1.0 / length)))
    return found


def sft():
    """A step of fine-tuning on packed rows, counted in tokens that are no padding."""
    cfg = timing.sizes.cfg
    rows = texts(cfg, 64 if timing.ON_GPU else 4)
    batch = packing.stack(packing.fill(rows, cfg.n_positions))
    params = families.of(cfg).init(cfg, 0)
    work = device_tuning.Tuning(params, adamw.AdamW(params), cfg)
    n_tokens = sum(len(tokens) for tokens, _, _ in rows)

    def step():
        work.clear()
        work.add(*batch)
        work.update(1e-4, 1.0)

    rate = n_tokens / median_s(step, timing.sizes.steps)
    say(f"SFT, {len(rows)} conversations in {len(batch[0])} rows: {rate:,.0f} tokens/s",
        row="SFT", tokens_s=rate)
    forget()
    model = transformers_model(cfg) if torch else None
    if model is not None:
        rate = n_tokens / median_s(torch_sft(model, rows), timing.sizes.steps)
        say(f"SFT, transformers on padded rows: {rate:,.0f} tokens/s",
            row="SFT, transformers", tokens_s=rate)


def torch_sft(model, rows):
    """A step of transformers on padded rows, in bfloat16 by autocast."""
    model.to(WHERE).train()
    longest = max(len(tokens) for tokens, _, _ in rows)
    ids = np.stack([np.pad(tokens, (0, longest - len(tokens))) for tokens, _, _ in rows])
    seen = np.stack([np.arange(longest) < len(tokens) for tokens, _, _ in rows])
    ids, seen = (torch.as_tensor(a, device=WHERE) for a in (ids, seen))
    labels = ids.masked_fill(~seen, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        with torch.autocast(WHERE, torch.bfloat16):
            loss = model(ids, attention_mask=seen.long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def rl_run(folder):
    """(align_speed, tasks): a run folder with an untrained model."""
    import align_speed
    if not timing.ON_GPU:
        align_speed.PROMPTS, align_speed.GROUP, align_speed.LONGEST = 1, 2, 3
        align_speed.STEPS = 2
    return align_speed, align_speed.make_run(folder)


def rl():
    """A step of reinforcement learning: replies drawn on the GPU, then the update."""
    with tempfile.TemporaryDirectory() as folder:
        speed, _ = rl_run(Path(folder))
        speed.options.RL = dataclasses.replace(options.RL, device="cuda")
        seconds, _, length = speed.ours(Path(folder))
    say(f"RL, {speed.PROMPTS} x {speed.GROUP} replies of {length:.0f} tokens: "
        f"{statistics.median(seconds):.3f} s a step",
        row="RL", step_s=statistics.median(seconds), reply_tokens=length)


def tuning():
    """Fine-tuning, then reinforcement learning."""
    sft()
    forget()
    rl()


def trl():
    """The same step of reinforcement learning by TRL."""
    try:
        import trl      # noqa: F401
    except ImportError:
        say("no TRL here to compare with")
        return
    if not torch:
        say("no PyTorch with CUDA here for TRL")
        return
    with tempfile.TemporaryDirectory() as folder:
        speed, tasks = rl_run(Path(folder))
        (seconds,), _, length = speed.theirs(Path(folder), tasks, on_gpu=True)
    say(f"RL, TRL, replies of {length:.0f} tokens: {seconds:.3f} s a step",
        row="RL, TRL", step_s=seconds, reply_tokens=length)


def build():
    """Compile what the other parts launch, in parts that take one row."""
    cfg = timing.sizes.cfg
    our_training(cfg, 1, 1)
    our_tokens(cfg, 1, 2)
    our_training(timing.sizes.llama, 1, 1)
    our_tokens(timing.sizes.llama, 1, 2)
    say("the kernels of training and writing are compiled")


PARTS = {"build": build, "gradients": gradients, "step": step, "pytorch": pytorch,
         "kernels": gpu_table.table, "decode": decode, "llama": llama, "tuning": tuning, "trl": trl}


def main():
    """Measure a part."""
    p = argparse.ArgumentParser(description="Time the kernels and the model beside PyTorch.")
    p.add_argument("part", choices=PARTS, help="what to measure")
    p.add_argument("--tiny", action="store_true",
                   help="small sizes, also on the CPU that plays a GPU: to see that it runs")
    args = p.parse_args()
    if args.tiny:
        timing.sizes = timing.TINY
    elif not timing.ON_GPU:
        raise ValueError("no GPU here that CuPy can use; --tiny runs on the CPU that plays one")
    gpu = device.connect()
    versions = f"CuPy {cp.__version__}" if timing.ON_GPU else "no CuPy"
    if torch:
        versions += f", PyTorch {torch.__version__}"
    cublaslt = "in use" if kernels.cublas.cublaslt() else "not to be had"
    say(f"{gpu.name}; {time.strftime('%Y-%m-%d')}; {versions}, cublasLt {cublaslt}",
        row="machine", gpu=gpu.name, versions=versions)
    PARTS[args.part]()


if __name__ == "__main__":
    command.run(main)
