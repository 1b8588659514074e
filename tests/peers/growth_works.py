"""growth_works.py: what growth.py measures, ours and the peers'.

Each function prepares a work of size n and returns it: a function without arguments. The processor
time of the work is measured, and the memory of its process. Both sides have one core.
"""

import dataclasses
import http.client
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DATA = Path(os.environ.get("LONGHAND_DATA", ROOT.parent / "shared" / "data"))
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from model import cores  # noqa: E402, F401   before NumPy
import numpy as np  # noqa: E402

SHAPE = 512, 128, 4, 4          # vocabulary, channels, blocks, heads of the models of one step
ROW = 128                       # tokens of a row
NEW_TOKENS = 32                 # that each row writes
REPLY = 200                     # tokens, of the server


def english(n=-1):
    """The first n characters of real English."""
    with open(DATA / "english.txt", encoding="utf-8") as file:
        return file.read(n)


# ------------------------------------------------------------------------------------------- pages


def write_crawl(folder, n):
    """Write WARC files with the first n pages of an embedded web."""
    from web import toyweb

    web, rng = toyweb.pages(0, max(n, 100))[:n], toyweb.stream(0, "crawl")
    for begin in range(0, n, toyweb.PAGES_A_FILE):
        some = web[begin:begin + toyweb.PAGES_A_FILE]
        name = f"{begin:06}.warc.gz"
        (folder / name).write_bytes(toyweb.warc_file(name, some, begin, 0, rng))


def crawl_of(n):
    """(folder, its WARC files), written by another process, for that takes memory.

    Keep the folder: it deletes itself when it is forgotten.
    """
    folder = tempfile.TemporaryDirectory()
    fork = multiprocessing.get_context("fork")
    writer = fork.Process(target=write_crawl, args=(Path(folder.name), n))
    writer.start()
    writer.join()
    return folder, sorted(Path(folder.name).glob("*.warc.gz"))


def pages_ours(n):
    import data

    folder, files = crawl_of(n)
    return lambda: data.run(files, Path(tempfile.mkdtemp(dir=folder.name)), workers=1)


def pages_theirs(n):
    """trafilatura, then datatrove's filters one after the other, as far as they keep the text."""
    import trafilatura
    from datatrove.data import Document
    from datatrove.pipeline import filters
    from web import warc

    folder, files = crawl_of(n)
    rules = [filters.GopherRepetitionFilter(), filters.GopherQualityFilter(),
             filters.C4QualityFilter(filter_no_terminal_punct=False),
             filters.FineWebQualityFilter()]

    def keep(text):
        doc = Document(text=text, id="")
        return all(rule.filter(doc) is True for rule in rules)

    def work():
        for path in files:
            for record in warc.read_warc(path):
                if record.type == "response":
                    text = trafilatura.extract(record.body, include_comments=False,
                                               favor_precision=True)
                    if text:
                        keep(text)

    keep("Load the words of English. " * 20)
    work.folder = folder
    return work


# ------------------------------------------------------------------------------------------ tokens


def tiktoken_encoding():
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe
    from tokens.patterns import PATTERNS

    ranks = load_tiktoken_bpe(str(DATA / "cl100k_base.tiktoken"))
    return tiktoken.Encoding("cl100k", pat_str=PATTERNS["cl100k"], mergeable_ranks=ranks,
                             special_tokens={})


def encoding():
    import bpe

    return bpe.Tokenizer.load(DATA / "cl100k_base.tiktoken")


def prepared(text, tokenizer):
    """Encoding of a text by a tokenizer that has its tables: it has encoded another text before."""
    tokenizer.encode_ordinary((DATA / "tinyshakespeare.txt").read_text(encoding="utf-8")[:20_000])
    return lambda: tokenizer.encode_ordinary(text)


def letters(n):
    """n letters by lot: a single piece."""
    return (np.random.default_rng(0).integers(0, 26, n, np.uint8) + 97).tobytes().decode()


def ids(n):
    """n tokens by lot."""
    return np.random.default_rng(0).integers(0, 100_000, n)


def encode_ours(n):
    return prepared(english(n), encoding())


def encode_theirs(n):
    return prepared(english(n), tiktoken_encoding())


def piece_ours(n):
    return prepared(letters(n), encoding())


def piece_theirs(n):
    return prepared(letters(n), tiktoken_encoding())


def decode_ours(n):
    tokenizer, tokens = encoding(), ids(n).tolist()
    return lambda: tokenizer.decode(tokens)


def decode_theirs(n):
    tokenizer, tokens = tiktoken_encoding(), ids(n).tolist()
    return lambda: tokenizer.decode(tokens)


def trained_ours(text, vocab_size):
    import bpe

    return lambda: bpe.Tokenizer.train([text], vocab_size, "gpt4", ())


def trained_theirs(text, vocab_size):
    import rustbpe
    from tokens.patterns import PATTERNS

    tokenizer = rustbpe.Tokenizer()
    return lambda: tokenizer.train_from_iterator(iter([text]), vocab_size,
                                                 pattern=PATTERNS["gpt4"])


def corpus_ours(n):
    return trained_ours(english(n), 4096)


def corpus_theirs(n):
    return trained_theirs(english(n), 4096)


def vocabulary_ours(n):
    return trained_ours(english(), n)


def vocabulary_theirs(n):
    return trained_theirs(english(), n)


# ------------------------------------------------------------------------------- steps of the model


def ours(T, seed=0):
    """(params, cfg) of our model with T positions."""
    import gpt

    V, C, L, NH = SHAPE
    cfg = gpt.Config(V, T, C, L, NH)
    return gpt.init(cfg, seed), cfg


def tokens(B, T):
    """(B,T) tokens by lot."""
    return np.random.default_rng(0).integers(0, SHAPE[0], (B, T))


def torch_model(T):
    import torch
    import torch_gpt

    torch.set_num_threads(1)
    V, C, L, NH = SHAPE
    return torch_gpt.GPT(V, T, C, L, NH)


def forward_ours(n):
    from model import fast

    params, cfg = ours(n)
    rows = tokens(1, n + 1)
    return lambda: fast.token_losses(params, cfg, rows[:, :-1], rows[:, 1:])


def forward_theirs(n):
    import torch

    model, rows = torch_model(n), torch.from_numpy(tokens(1, n + 1))

    def work():
        with torch.no_grad():
            return model(rows[:, :-1], rows[:, 1:])

    return work


def step_ours(rows):
    """A full training step of rows (B,T+1), as many at once as train.py would take."""
    from model import adamw, parallel, planning
    import train

    params, cfg = ours(rows.shape[1] - 1)
    recipe = dataclasses.replace(train.PRESETS["gpt2"], model=cfg, batch=len(rows))
    optimizer, work = adamw.AdamW(params), parallel.Gradients(params, cfg)
    at_once, _, _ = planning.fit_batch(cfg, len(rows), planning.available_bytes())

    def step():
        loss = train.add_gradients(work, rows, at_once)
        train.update(optimizer, work.sum, loss, 0, recipe)

    return step


def step_theirs(rows):
    import torch
    import torch_gpt

    model = torch_model(rows.shape[1] - 1)
    step = torch_gpt.stepper(model, torch_gpt.adamw(model, 6e-4, (0.9, 0.95), 0.1), "eager")
    rows = torch.from_numpy(rows)
    return lambda: step(rows[:, :-1], rows[:, 1:])


def training_ours(n):
    return step_ours(tokens(1, n + 1))


def training_theirs(n):
    return step_theirs(tokens(1, n + 1))


def batch_ours(n):
    return step_ours(tokens(n, ROW + 1))


def batch_theirs(n):
    return step_theirs(tokens(n, ROW + 1))


# ----------------------------------------------------------------------------------------- writing


def transformers_model(T):
    import torch
    import transformers

    torch.set_num_threads(1)
    V, C, L, NH = SHAPE
    config = transformers.GPT2Config(vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=NH,
                                     bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config).eval()


def prompt_ours(n):
    from model import fast

    params, cfg = ours(n)
    prompt = tokens(1, n)
    return lambda: fast.decode(params, cfg, prompt, fast.Cache(cfg, 1, n), only_last=True)


def prompt_theirs(n):
    import torch

    model, prompt = transformers_model(n), torch.from_numpy(tokens(1, n))

    def work():
        with torch.no_grad():
            return model(prompt, use_cache=True, logits_to_keep=1)

    return work


def token_ours(n):
    """100 times one more token behind n."""
    from model import fast

    params, cfg = ours(n + 1)
    cache = fast.Cache(cfg, 1, n + 1)
    for a in (cache.k, cache.v):
        a[...] = np.random.default_rng(0).standard_normal(a.shape, np.float32)

    def work():
        for _ in range(100):
            cache.length[:] = n
            fast.decode(params, cfg, tokens(1, 1), cache, only_last=True)

    return work


def token_theirs(n):
    import torch
    import transformers

    V, C, L, NH = SHAPE
    model, cache = transformers_model(n + 1), transformers.DynamicCache()
    for i in range(L):
        cache.update(*torch.randn(2, 1, NH, n, C // NH), i)
    one = torch.from_numpy(tokens(1, 1))

    def work():
        with torch.no_grad():
            for _ in range(100):
                model(one, past_key_values=cache, use_cache=True)
                cache.crop(-1)

    return work


def rows_ours(n):
    """n replies of NEW_TOKENS tokens to different prompts."""
    import bpe
    from chat import generate

    params, cfg = ours(ROW)
    tokenizer = bpe.Tokenizer.train([english(300_000)], SHAPE[0])
    prompts = tokens(n, 16).tolist()
    return lambda: generate.generate(params, cfg, tokenizer, prompts, max_new_tokens=NEW_TOKENS,
                                     stop=frozenset(), tools=False, seed=1)


def rows_theirs(n):
    import torch

    model, prompts = transformers_model(ROW), torch.from_numpy(tokens(n, 16))
    return lambda: model.generate(prompts, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                                  do_sample=True, top_k=0, pad_token_id=0,
                                  attention_mask=torch.ones_like(prompts))


# ----------------------------------------------------------------------------------------- serving


def served_model(folder):
    """Save an untrained model of the demo's shape."""
    import bpe
    import gpt

    cfg = gpt.PRESETS["demo"]
    tokenizer = bpe.Tokenizer.train([english(1_000_000)], cfg.vocab_size)
    gpt.save(folder, gpt.init(cfg, 0), cfg)
    tokenizer.save(folder / "tokenizer.json", "<|im_end|>")


def reply(port, i):
    """A reply to one client. Where the queue is full, the client asks again, ever more rarely."""
    body = {"messages": [{"role": "user", "content": f"What does animal {i} eat?"}], "seed": i,
            "temperature": 1, "max_tokens": REPLY}
    for waited in itertools.count():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status == 200:
            return json.loads(text)
        if answer.status != 429:
            raise RuntimeError(f"{answer.status} {text[:200]}")
        time.sleep(0.5 * 2 ** min(waited, 5))


def server_used(process):
    """{"seconds", "mb"} of a running server's processes: processor time, peak memory."""
    import malformed

    used = {"seconds": 0.0, "mb": 0.0}
    for pid in malformed.family(process):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])           # in user mode, in the kernel
        used["seconds"] += ticks / os.sysconf("SC_CLK_TCK")
        peak = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]
        used["mb"] += int(peak) / 1024
    return used


def clients_ours(n):
    """n clients ask at once; what the server uses meanwhile counts, and not the clients."""
    import malformed

    def work():
        with tempfile.TemporaryDirectory() as folder:
            served_model(Path(folder))
            with malformed.served("--model", folder, stderr=subprocess.DEVNULL) as (process, port):
                reply(port, 0)
                before = server_used(process)
                threads = [threading.Thread(target=reply, args=(port, i)) for i in range(n)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                after = server_used(process)
        seconds = after["seconds"] - before["seconds"]
        return {"seconds": seconds, "before_mb": before["mb"], "mb": after["mb"]}

    return work
