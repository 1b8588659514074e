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
    sha256: str                         # of the file

    @property
    def url(self):
        """Where the file is."""
        return f"https://openaipublic.blob.core.windows.net/encodings/{self.file}.tiktoken"


R50K = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
P50K = "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"
CL100K = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
O200K = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
END_OF_TEXT = "<|endoftext|>"
FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
HARMONY = {
    "<|startoftext|>": 199998,
    END_OF_TEXT: 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
    "<|endofprompt|>": 200018,          # tiktoken calls it <|reserved_200018|> too
}
HARMONY |= {f"<|reserved_{i}|>": i for i in range(200000, 201088) if i not in HARMONY.values()}
PUBLISHED = {
    "gpt2": Published("r50k_base", PATTERNS["gpt2"], {END_OF_TEXT: 50256}, R50K),
    "r50k_base": Published("r50k_base", PATTERNS["gpt2"], {END_OF_TEXT: 50256}, R50K),
    "p50k_base": Published("p50k_base", PATTERNS["gpt2"], {END_OF_TEXT: 50256}, P50K),
    "p50k_edit": Published(
        "p50k_base", PATTERNS["gpt2"],
        {END_OF_TEXT: 50256, **dict(zip(FIM, range(50281, 50284)))}, P50K),
    "cl100k_base": Published(
        "cl100k_base", PATTERNS["cl100k"],
        {END_OF_TEXT: 100257, **dict(zip(FIM, range(100258, 100261))), "<|endofprompt|>": 100276},
        CL100K),
    "o200k_base": Published(
        "o200k_base", PATTERNS["o200k"],
        {END_OF_TEXT: 199999, "<|endofprompt|>": 200018}, O200K),
    "o200k_harmony": Published("o200k_base", PATTERNS["o200k"], HARMONY, O200K),
}


def find(name, folder=None):
    """The file of a published encoding, under its own name or as tiktoken stores it.

    folder: where to look; by default where tiktoken stores what it has fetched.
    """
    published = PUBLISHED[name]
    if not folder:
        folders = [os.environ.get(key) for key in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")]
        folders.append(os.path.join(tempfile.gettempdir(), "data-gym-cache"))
        folder = next(filter(None, folders))
    stored_as = hashlib.sha1(published.url.encode()).hexdigest()
    for file in (f"{published.file}.tiktoken", stored_as):
        path = Path(folder, file)
        if path.is_file():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != published.sha256:
                raise ValueError(f"{path}: its SHA-256 is {found}, not {published.sha256}: "
                                 f"fetch {published.url} again")
            return path
    raise FileNotFoundError(f"{folder}: no {published.file}.tiktoken; fetch {published.url} "
                            f"(SHA-256 {published.sha256}) and name its folder with --ranks")


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
        content = huggingface.json_file(tokenizer, path)
        files = {}
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
    name = str(path)
    if name in PUBLISHED and not path.is_file():
        published = PUBLISHED[name]
        special = published.special_tokens if special_tokens is None else special_tokens
        found = ranks.read_ranks(find(name, folder))
        tokenizer = make(found, pattern or published.pattern, special)
    else:
        found = tokenizer_file(path)
        if found.suffix == ".json":
            tokenizer = load_json(make, found, pattern, special_tokens)
        else:
            published = PUBLISHED.get(found.stem)
            tokenizer = make(*read_tiktoken(found, published, pattern, special_tokens))
    tokenizer.name = path.stem if path.stem in PUBLISHED else name
    return tokenizer


def tokenizer_file(path):
    """The file itself, or the tokenizer in a folder."""
    if path.is_dir():
        names = ("tokenizer.json", "vocab.json", "tokenizer.tiktoken")
        path = next((path / name for name in names if (path / name).is_file()), path / names[-1])
    if path.is_file():
        return path
    if len(path.parts) == 1 and not path.suffix:            # perhaps meant as a name
        raise FileNotFoundError(f"{path}: no tokenizer is here under this name; published "
                                f"encodings are {', '.join(PUBLISHED)}")
    raise FileNotFoundError(f"{path}: no tokenizer; make it with: "
                            f"python bpe.py train --run {path.parent}")


def load_json(make, path, pattern, special_tokens):
    """A tokenizer.json or vocab.json."""
    if pattern is not None or special_tokens is not None:
        raise ValueError(f"{path}: brings its own pattern and special tokens; pass neither")
    if path.name in ("vocab.json", "encoder.json"):
        vocabulary = huggingface.read_gpt2(path)
    else:
        vocabulary = huggingface.read_json(path)
    try:
        return make(*vocabulary)
    except ValueError as error:
        raise huggingface.cannot_be_read(path, error) from None


def read_tiktoken(path, published, pattern, special_tokens):
    """A .tiktoken file -> Vocabulary. published: what is known for its name, or None."""
    found, beside = ranks.read_ranks(path), path.with_suffix(".json")
    known = Vocabulary(found)
    if published:
        known = Vocabulary(found, published.pattern, published.special_tokens)
    if None in (pattern, special_tokens) and beside.is_file():
        known = huggingface.read_json(beside)
        if known.ranks != found:
            raise ValueError(f"{path}: has other ranks than {beside.name} beside it; make both "
                             f"again with: python bpe.py train --run {path.parent}")
    if pattern is not None:
        known = known._replace(pattern=pattern)
    if special_tokens is not None:
        known = known._replace(special_tokens=special_tokens)
    if known.pattern is None:
        raise ValueError(f"{path}: holds no pattern, and there is no {beside.name} beside it; "
                         f"pass pattern= (any regular expression, or {', '.join(PATTERNS)}) "
                         f"and special_tokens={{name: id}}")
    return known._replace(ranks=found)
