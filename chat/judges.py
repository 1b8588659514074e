"""judges.py: a reward model reads a conversation and says in a number how good its last reply is.

It is a model whose head is not the vocabulary but one vector: the reward is the product of that
vector, "score.weight", and the hidden state at the last token. align.py reward trains it. Its
folder opens in transformers as a classifier with one label, such as GPT2ForSequenceClassification.
"""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from model import fast                  # before numpy
import numpy as np

import bpe
import gpt
import sample
from chat import lessons
from model import checkpoint, folders, lora, ranks
from run import disk


class Judge(NamedTuple):
    """A reward model. bias is added to rewards, so that replies people like have 0 on average."""

    params: dict                # those of the model, and "score.weight" (C,), on the host
    cfg: gpt.Config             # or llama.Config
    tokenizer: bpe.Tokenizer
    bias: float
    engine: ModuleType = fast   # or model.device, where params lie on the GPU


def load(folder, place=None):
    """The Judge in a folder that align.py reward wrote. place: where it judges (places.Place)."""
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        mend = "python align.py reward"
        raise FileNotFoundError(f"{folder}: no finished reward model; make it with: {mend}")
    params, cfg, tokenizer = sample.load_model(folder)
    tensors, _ = checkpoint.load_safetensors(path)
    vector = tensors.get("score.weight")
    if vector is None or vector.size != cfg.n_embd:
        raise ValueError(f"{path}: has no score.weight of {cfg.n_embd} numbers, "
                         "so it is no reward model")
    params["score.weight"] = np.array(vector, np.float32).reshape(-1)
    config = disk.read_json(Path(folder) / "config.json")
    judge = Judge(params, cfg, tokenizer, float(config.get("reward_bias", 0.0)))
    return place.judge(judge) if place else judge


def check_fit(folder, judge, model, tasks, max_tokens):
    """ValueError unless the judge in a folder can read all that a model may reply to the tasks."""
    _, cfg, tokenizer = model
    if judge.cfg.vocab_size != cfg.vocab_size:
        raise ValueError(f"{folder}: knows {judge.cfg.vocab_size} tokens, the model that writes "
                         f"{cfg.vocab_size}: they do not read the same ids")
    question = max(len(lessons.prompt_of(task, tokenizer)) for task in tasks)
    longest = min(question + max_tokens, cfg.n_positions)
    if judge.cfg.n_positions < longest:
        raise ValueError(f"{folder}: reads {judge.cfg.n_positions} tokens, and a question with its "
                         f"reply may have {longest}; give a smaller --max-tokens")


def bias_for(params, cfg, tokenizer, compared, place):
    """The bias that gives the best replies of some comparisons a reward of 0 on average.

    place: where they are judged.
    """
    judge = place.judge(Judge(params, cfg, tokenizer, 0.0))
    best = [rows[int(scores.argmax())][0] for rows, scores in compared[:500]]
    return -float(score(judge, best).mean())


def save(folder, params, cfg, bias):
    """Write a reward model beside the config.json of its trunk, as transformers reads it.

    An adapter beside params is merged into them.
    """
    path = Path(folder) / "config.json"
    config = disk.read_json(path)
    writer, = config["architectures"]       # such as GPT2LMHeadModel or LlamaForCausalLM
    family = re.match("(.*?)(LMHeadModel|For)", writer)[1]
    config |= {
        "architectures": [f"{family}ForSequenceClassification"],
        "num_labels": 1,
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        "reward_bias": bias,
    }
    disk.write_text(path, json.dumps(config, indent=2) + "\n")
    whole = lora.merged(params) if lora.SCALE in params else params
    tensors = folders.in_files(whole, cfg)
    vector = tensors.pop("score.weight")
    if family == "GPT2":
        tensors = {f"transformer.{name}": p for name, p in tensors.items()}
    tensors["score.weight"] = vector[None]
    checkpoint.save_safetensors(Path(folder) / "model.safetensors", tensors, {"format": "pt"})


def padded(rows):
    """Rows of ids -> tokens (n,T), and the position (n,) of the last token of each row."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for r, ids in enumerate(rows):
        tokens[r, :len(ids)] = ids
    return tokens, np.array([len(ids) - 1 for ids in rows])


def raw_rewards(params, cfg, rows, engine=fast):
    """Rewards (n,) of rows of ids, without a bias."""
    return engine.last_hidden(params, cfg, *padded(rows)) @ params["score.weight"]


def score(judge, rows, batch=64):
    """Rewards (n,) of conversations, lists of ids that end with a reply."""
    found = []
    for i in range(0, len(rows), batch):
        found.append(raw_rewards(judge.params, judge.cfg, rows[i:i + batch], judge.engine))
    return np.concatenate(found) + judge.bias


def add_gradient(learner, rows, loss_of):
    """Add the gradient of a loss of n rows' rewards to a learner's. Returns what loss_of gave.

    loss_of(rewards) -> (loss, its derivative by each reward (n,), ...)
    Each rank computes its share of the rows. The loss compares the rewards of all.
    """
    gradients, here = learner.gradients, ranks.here()
    own = here.own_slice(len(rows))
    if own.start == own.stop:
        gradients.add(np.empty((0, 1)), None, None)
        return loss_of(np.concatenate(here.all_objects([])))
    tokens, last = padded(rows[own])
    found = []

    def head(h, vector):                        # h (n,C): the last hidden states
        rewards = (h @ vector).astype(np.float64)
        found.append(loss_of(np.concatenate(here.all_objects(rewards.tolist()))))
        loss, dr = found[0][0], found[0][1][own].astype(h.dtype)
        # forward was: rewards = h @ vector
        return loss, dr[:, None] * vector, dr @ h

    gradients.add_last(tokens, last, head)
    return found[0]
