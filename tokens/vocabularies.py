"""vocabularies.py: vocabularies by name or file: what OpenAI has published; save and load.

    tokenizer.json              Hugging Face's, which holds everything (tokens/huggingface.py)
    vocab.json, merges.txt      GPT-2's own, ids and merges (the same)
    NAME.tiktoken               ranks only (tokens/ranks.py); the rest is in a .json beside it, or
                                is published for the name

Nothing here uses the network: the published files are found where tiktoken keeps them.

Source: tiktoken (openai_public.py, load.py).
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from run.disk import whole_file
from tokens import huggingface, ranks
from tokens.patterns import PATTERNS
from tokens.ranks import Vocabulary


class Published(NamedTuple):
    """An encoding as OpenAI has published it: the file of its ranks, and what stands in no file."""
    file: str
    pattern: str
    special_tokens: dict


SHA256 = {                              # of the files
    "r50k_base": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    "p50k_base": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}
FIM = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"
GPT2_END, CL100K_END = {"<|endoftext|>": 50256}, {"<|endoftext|>": 100257}
O200K_END = {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}
HARMONY = O200K_END | {
    "<|startoftext|>": 199998,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
}                                       # tiktoken calls 200018 <|reserved_200018|> too
HARMONY |= {f"<|reserved_{i}|>": i for i in range(200000, 201088) if i not in HARMONY.values()}
PUBLISHED = {
    "gpt2": Published("r50k_base", PATTERNS["gpt2"], GPT2_END),
    "r50k_base": Published("r50k_base", PATTERNS["gpt2"], GPT2_END),
    "p50k_base": Published("p50k_base", PATTERNS["gpt2"], GPT2_END),
    "p50k_edit": Published("p50k_base", PATTERNS["gpt2"],
                           GPT2_END | dict(zip(FIM, range(50281, 50284)))),
    "cl100k_base": Published("cl100k_base", PATTERNS["cl100k"],
                             CL100K_END | dict(zip(FIM, range(100258, 100261)))
                             | {"<|endofprompt|>": 100276}),
    "o200k_base": Published("o200k_base", PATTERNS["o200k"], O200K_END),
    "o200k_harmony": Published("o200k_base", PATTERNS["o200k"], HARMONY),
}


def url_of(file):
    """Where a published file is."""
    return f"https://openaipublic.blob.core.windows.net/encodings/{file}.tiktoken"


def find(name, folder=None):
    """The file of a published encoding, under its own name or as tiktoken stores it.

    folder: where to look; by default where tiktoken stores what it has fetched.
    """
    file = PUBLISHED[name].file
    url, sha256 = url_of(file), SHA256[file]
    folder = (folder or os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
              or Path(tempfile.gettempdir(), "data-gym-cache"))
    for stored_as in (f"{file}.tiktoken", hashlib.sha1(url.encode()).hexdigest()):
        path = Path(folder, stored_as)
        if path.is_file():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != sha256:
                raise ValueError(f"{path}: its SHA-256 is {found}, not {sha256}: fetch {url} again")
            return path
    raise FileNotFoundError(f"{folder}: no {file}.tiktoken; fetch {url} (SHA-256 {sha256}) "
                            f"and name its folder with --ranks")


# ---- save and load -------------------------------------------------------------------------------

def save(tokenizer, path, end=None):
    """Write NAME.tiktoken, vocab.json with its merges.txt, or another NAME.json.

    Beside tokenizer.json and vocab.json comes a tokenizer_config.json for transformers. end: the
    token behind which a model has no more to say (see huggingface.roles).
    """
    if path.suffix not in (".tiktoken", ".json"):
        raise ValueError(f"{path}: a tokenizer's name ends in .tiktoken or .json")
    if path.suffix == ".tiktoken":
        files = {path.name: ranks.ranks_file(tokenizer.ranks)}
    elif path.name == "vocab.json":
        files = huggingface.gpt2_files(tokenizer, path, end)
    else:
        content, files = huggingface.json_file(tokenizer, path), {}
        if path.name == "tokenizer.json":
            files["tokenizer_config.json"] = huggingface.config_file(tokenizer, end)
        files[path.name] = content
    for name, content in files.items():
        with whole_file(path.with_name(name)) as file:
            file.write(content)


def load(make, path, pattern=None, special_tokens=None, folder=None):
    """make(*Vocabulary) of a file, of the tokenizer in a folder, or of a published encoding's name.

    make: bpe.Tokenizer. For .tiktoken, pattern and special tokens are the arguments if given; else
    those of the .json of the same stem beside it, which must have the same ranks; else those that
    OpenAI publishes for a file of that name. ValueError if there is no pattern by then.
    """
    name, known = str(path), None
    if name in PUBLISHED and not path.is_file():
        file, known = find(name, folder), Vocabulary(None, *PUBLISHED[name][1:])
    else:
        file = tokenizer_file(path)
    if file.suffix == ".json":
        if pattern is not None or special_tokens is not None:
            raise ValueError(f"{file}: brings its own pattern and special tokens; pass neither")
        tokenizer = huggingface.load(make, file)
    else:
        tokenizer = make(*read_tiktoken(file, known, pattern, special_tokens))
    tokenizer.name = path.stem if path.stem in PUBLISHED else name
    return tokenizer


def tokenizer_file(path):
    """The file itself, or the tokenizer in a folder."""
    if path.is_dir():
        names = ("tokenizer.json", "vocab.json", "tokenizer.tiktoken")
        path = next((path / name for name in names if (path / name).is_file()), path / names[-1])
    if path.is_file():
        return path
    raise FileNotFoundError(f"{path}: no tokenizer; make it with: python bpe.py train --run "
                            f"{path.parent}; published encodings are {', '.join(PUBLISHED)}")


def read_tiktoken(path, known, pattern, special_tokens):
    """A .tiktoken file -> Vocabulary. known: the published one, if the file was found for its name.
    """
    found, beside = ranks.read_ranks(path), path.with_suffix(".json")
    if known is None:
        known = Vocabulary(found)
        if path.stem in PUBLISHED:
            known = Vocabulary(found, *PUBLISHED[path.stem][1:])
        if None in (pattern, special_tokens) and beside.is_file():
            known = huggingface.load(Vocabulary, beside)
            if known.ranks != found:
                raise ValueError(f"{path}: has other ranks than {beside.name} beside it; make both "
                                 f"again with: python bpe.py train --run {path.parent}")
    pattern = known.pattern if pattern is None else pattern
    if pattern is None:
        raise ValueError(f"{path}: holds no pattern, and there is no {beside.name} beside it; "
                         f"pass pattern= (any regular expression, or {', '.join(PATTERNS)}) "
                         f"and special_tokens={{name: id}}")
    special_tokens = known.special_tokens if special_tokens is None else special_tokens
    return known._replace(ranks=found, pattern=pattern, special_tokens=special_tokens)
