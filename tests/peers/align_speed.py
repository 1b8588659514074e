"""align_speed.py: how long a step of reinforcement learning takes, beside TRL's GRPOTrainer.

    python tests/peers/align_speed.py [RUN]

A step is 256 replies of up to 48 tokens and the update, of a model with 0.8 million parameters.
Both sides have the same weights, prompts and cores. Processor seconds are those of all processes
and threads: they say which side has less to do, also on a machine that does other things. The
first measurement takes the run's sft model, if it is there, and its own tasks: replies are short or
long. The second takes an untrained model, nearly all of whose replies are as long as they may be.
Fine-tuning is measured beside pre-training.
"""

import argparse
import dataclasses
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import align
import bpe
import gpt
import sample
from chat import chats, options
from web import toypages, toyweb, toyworld
import train

PROMPTS, GROUP, LONGEST, STEPS = 16, 16, 48, 4


def copy_run(source, run):
    """The trained model, its tasks, and a single conversation to go on learning beside them."""
    shutil.copytree(source / "sft", run / "sft", ignore=shutil.ignore_patterns("trainer*", "log*"))
    tasks = chats.tasks(source / "tasks" / "wheel_train.jsonl")
    small_files(run, tasks)
    return tasks[:PROMPTS * STEPS]


def small_files(run, tasks):
    """The tasks, and one conversation."""
    chat = [{"messages": [{"role": "user", "content": "Hello."},
                          {"role": "assistant", "content": "Hello!"}]}]
    for name, rows in (("tasks/wheel_train", tasks), ("tasks/wheel_test", tasks[:1]),
                       ("chat/train", chat)):
        toyweb.write_jsonl(run / f"{name}.jsonl", rows)


def make_run(run):
    """A run folder with an untrained model of the demo's shape."""
    documents = [toypages.story_text(toyworld.stream(0, "speed", i)) for i in range(400)]
    tok = bpe.Tokenizer.train([" ".join(text) for _, text in documents], 1024)
    cfg = gpt.Config(tok.n_vocab, 256, 128, 3, 4)
    gpt.save(run / "sft", gpt.init(cfg, 0), cfg)
    tok.save(run / "sft" / "tokenizer.json")
    tasks = []
    for i in range(PROMPTS * STEPS):
        thrown = toyworld.throws(toyworld.stream(0, "t", i))
        tasks.append({"question": toyworld.wheel_question(thrown), "answer": "one"})
    small_files(run, tasks)
    return tasks


def log_of(folder):
    """The rows of a stage's log."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def processor_s():
    """Processor seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def ours(run):
    """(seconds of each step, processor seconds of a step, mean length of a reply)."""
    recipe = dataclasses.replace(options.RL, steps=STEPS, prompts=PROMPTS, group=GROUP,
                                 max_tokens=LONGEST, batch=1, save_every=100)
    # Rewards by lot: in no group are all of them equal, so no group is left out.
    before = processor_s()
    align.rl(run, recipe, "random")
    used = (processor_s() - before) / STEPS
    log = log_of(run / "rl_random")
    return [x["dt_s"] for x in log], used, sum(x["length"] for x in log) / len(log)


def theirs(run, tasks, on_gpu=False):
    """The same of TRL."""
    import transformers
    import datasets
    import torch
    import trl

    torch.set_num_threads(2)
    tok = transformers.PreTrainedTokenizerFast(tokenizer_file=str(run / "sft" / "tokenizer.json"),
                                               pad_token="<|endoftext|>", eos_token="<|im_end|>")
    model = transformers.GPT2LMHeadModel.from_pretrained(
        run / "sft", attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    model.generation_config.eos_token_id = tok.eos_token_id
    model.generation_config.pad_token_id = tok.pad_token_id
    ours, rows, lengths = bpe.Tokenizer.load(run / "sft" / "tokenizer.json"), [], []
    for task in tasks:
        prompt = sample.render_prompt([{"role": "user", "content": task["question"]}], ours)
        rows.append({"prompt": ours.decode(prompt)})

    def reward(completion_ids, **_):
        lengths.extend(map(len, completion_ids))
        return [float(i % 2) for i in range(len(completion_ids))]

    args = trl.GRPOConfig(output_dir=str(run / "trl"), report_to=[], use_cpu=not on_gpu,
                          bf16=on_gpu,
                          per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
                          max_completion_length=LONGEST, max_steps=STEPS, learning_rate=1e-4,
                          temperature=1.0, save_strategy="no", logging_steps=1000, beta=0.0,
                          gradient_checkpointing=False, disable_tqdm=True)
    trainer = trl.GRPOTrainer(model=model, reward_funcs=[reward], args=args, processing_class=tok,
                              train_dataset=datasets.Dataset.from_list(rows))
    started, before = time.perf_counter(), processor_s()
    trainer.train()
    # Generation comes before a step begins, so the whole is divided by the steps.
    seconds, used = (time.perf_counter() - started) / STEPS, (processor_s() - before) / STEPS
    return [seconds], used, sum(lengths) / len(lengths)


def compare(what, run, tasks):
    """Print the median step of both sides."""
    n = sum(p.size for p in gpt.load(run / "sft")[0].values())
    found = {"longhand": ours(run), "TRL": theirs(run, tasks)}
    print(f"\na step of RL, {PROMPTS} prompts x {GROUP} replies of up to {LONGEST} tokens, "
          f"{n:,} parameters, 2 cores, {what}")
    for name, (seconds, used, length) in found.items():
        print(f"  {name:10} {statistics.median(seconds):6.2f} s, {used:.2f} processor seconds; "
              f"replies of {length:.1f} tokens")
    ratio = statistics.median(found["TRL"][0]) / statistics.median(found["longhand"][0])
    print(f"  ratio {ratio:.1f}, of processor seconds "
          f"{found['TRL'][1] / found['longhand'][1]:.1f}", flush=True)


def fine_tuning(source, run):
    """Print tokens a second of SFT, padding not counted, beside train.py's on the same model.

    In turns, for the machine has moods.
    """
    speeds, left_out = {"sft": [], "base": []}, shutil.ignore_patterns("trainer*", "log*")
    for turn in range(3):
        here = run / str(turn)
        for part in ("tokens", "base", "chat"):
            shutil.copytree(source / part, here / part, ignore=left_out)
        align.sft(here, dataclasses.replace(options.SFT, steps=40, save_every=40))
        shutil.rmtree(here / "base")
        shutil.copy(source / "tokenizer.json", here)
        train.main(["--run", str(here), "--steps", "40"])
        speeds["sft"] += [x["tokens"] / x["dt_s"] for x in log_of(here / "sft")]
        speeds["base"] += [x["tokens_per_s"] for x in log_of(here / "base")]
    sft, base = (statistics.median(seen) for seen in speeds.values())
    print(f"\nfine-tuning the run's base model: {sft:,.0f} tokens/s; train.py on the same model "
          f"{base:,.0f}; ratio {sft / base:.2f}", flush=True)


def main():
    """Measure what the run allows, and the untrained model."""
    p = argparse.ArgumentParser(description="Time a step of RL beside TRL's.")
    p.add_argument("run", nargs="?", type=Path, default=ROOT / "out" / "demo",
                   help="run folder (default: out/demo)")
    source = p.parse_args().run
    for what in ("the run's own model and tasks", "an untrained model"):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder)
            if what == "an untrained model":
                compare(what, run, make_run(run))
            elif (source / "sft" / "model.safetensors").exists():
                compare(what, run, copy_run(source, run))
                fine_tuning(source, run / "tuned")


if __name__ == "__main__":
    main()
