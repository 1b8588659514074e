"""vocabularies.py: the files that tokenizers come in, read and written.

    NAME.tiktoken               base64 of a token's bytes and its rank, a line a token; no pattern, no special tokens
    tokenizer.json              Hugging Face's: everything, of the families of GPT-2, Llama 3 and Qwen 2
    vocab.json, merges.txt      GPT-2's own: ids, and the pairs in the order of merging

All three say the same in different words: tiktoken asks for the rank of joint bytes, the others for the rank of a pair. What is read is
a Vocabulary, and a file whose ids would come out differently is refused by name. find() knows where tiktoken keeps the files it
has fetched; nothing here uses the network.

Sources: tiktoken (openai_public.py, load.py), Hugging Face tokenizers, GPT-2's encoder.py.
"""

import base64
import hashlib
import json
import numbers
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import regex

from runs import whole_file
from pieces import PATTERNS, check_pattern

ID_LIMIT = 2**22        # ids are below this: a wrong one would make lists of gigabytes


class Vocabulary(NamedTuple):
    """ranks {bytes: id}; pattern; special_tokens {name: id}; normalize None or "NFC"."""
    ranks: dict
    pattern: str = None
    special_tokens: dict = {}
    normalize: str = None


class Published(NamedTuple):
    """What OpenAI publishes of an encoding beside its ranks, and of those the file and its SHA-256."""
    file: str
    pattern: str
    special_tokens: dict
    sha256: str

    @property
    def url(self):
        return f"https://openaipublic.blob.core.windows.net/encodings/{self.file}.tiktoken"


FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
HARMONY = {f"<|reserved_{i}|>": i for i in (200000, 200001, 200004, *range(200009, 200012), *range(200013, 201088)) if i != 200018} | {
    "<|startoftext|>": 199998, "<|endoftext|>": 199999, "<|return|>": 200002, "<|constrain|>": 200003, "<|channel|>": 200005, "<|start|>": 200006,
    "<|end|>": 200007, "<|message|>": 200008, "<|call|>": 200012, "<|endofprompt|>": 200018}        # tiktoken calls the last <|reserved_200018|> too
HASHES = {"r50k_base": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
          "p50k_base": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
          "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
          "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"}
PUBLISHED = {name: Published(file, PATTERNS[pattern], specials, HASHES[file]) for name, file, pattern, specials in (
    ("gpt2", "r50k_base", "gpt2", {"<|endoftext|>": 50256}),
    ("r50k_base", "r50k_base", "gpt2", {"<|endoftext|>": 50256}),
    ("p50k_base", "p50k_base", "gpt2", {"<|endoftext|>": 50256}),
    ("p50k_edit", "p50k_base", "gpt2", {"<|endoftext|>": 50256} | {name: 50281 + i for i, name in enumerate(FIM)}),
    ("cl100k_base", "cl100k_base", "cl100k", {"<|endoftext|>": 100257} | {name: 100258 + i for i, name in enumerate(FIM)} | {"<|endofprompt|>": 100276}),
    ("o200k_base", "o200k_base", "o200k", {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
    ("o200k_harmony", "o200k_base", "o200k", HARMONY))}
# Names of models, or how they begin, and their encoding.
MODELS = {name: encoding for encoding, names in {
    "o200k_harmony": "gpt-oss-", "o200k_base": "gpt-4o chatgpt-4o- gpt-4.1 gpt-4.5- gpt-5 o1 o3 o4-mini",
    "p50k_edit": "text-davinci-edit-001 code-davinci-edit-001",
    "p50k_base": "text-davinci-003 text-davinci-002 code-davinci-002 code-davinci-001 code-cushman-002 code-cushman-001 davinci-codex cushman-codex",
    "cl100k_base": "gpt-4 gpt-3.5-turbo gpt-3.5 gpt-35-turbo davinci-002 babbage-002 text-embedding-ada-002 text-embedding-3-small text-embedding-3-large",
    "r50k_base": "text-davinci-001 text-curie-001 text-babbage-001 text-ada-001 davinci curie babbage ada", "gpt2": "gpt2 gpt-2"}.items() for name in names.split()}

# GPT-2's printable alphabet, in which the .json files spell tokens: a byte whose Latin-1 character
# is printable and no space keeps that character; the other 68 become U+0100, U+0101 ... in order.
_kept = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
_moved = [b for b in range(256) if b not in _kept]
BYTE_TO_CHARACTER = {b: chr(b) for b in _kept} | {b: chr(256 + i) for i, b in enumerate(_moved)}
CHARACTER_TO_BYTE = {b: "\uffff" for b in _moved} | {ord(c): chr(b) for b, c in BYTE_TO_CHARACTER.items()}
GPT2_BYTES = bytes(_kept + _moved)      # the order of the single bytes in OpenAI's and Hugging Face's vocabularies


def to_characters(token):               # b" caf\xc3\xa9" -> "ĠcafÃ©", see BYTE_TO_CHARACTER
    return token.decode("latin-1").translate(BYTE_TO_CHARACTER)


def to_bytes(word):
    try:
        return word.translate(CHARACTER_TO_BYTE).encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"token {shown(word)} is not byte-level") from None


def shown(token):                       # for an error message: hostile tokens have a megabyte
    return repr(token[:60]) + "..." * (len(token) > 60)


class Words(dict):                      # to_bytes, once for each word
    def __missing__(self, word):
        self[word] = to_bytes(word)
        return self[word]


def write(path, data):
    with whole_file(Path(path)) as file:
        file.write(data)


# ---- by name ---------------------------------------------------------------------------------------------------------

def encoding_of(model):
    """gpt-4o-2024-08-06 -> o200k_base. KeyError for a model that is not known."""
    if model in MODELS:
        return MODELS[model]
    for name in sorted(MODELS, key=len, reverse=True):
        if model.startswith(name if name.endswith("-") else name + "-"):
            return MODELS[name]
    raise KeyError(f"no encoding is known for the model {model!r}; name one of {', '.join(PUBLISHED)}")


def find(name, folder=None):
    """The file of a published encoding: in a folder, under its name or as tiktoken stores it; without one, where tiktoken stores them."""
    published = PUBLISHED[name]
    places = [folder] if folder else [os.environ[key] for key in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if os.environ.get(key)][:1] or [
        os.path.join(tempfile.gettempdir(), "data-gym-cache")]
    for place in places:
        for file in (f"{published.file}.tiktoken", hashlib.sha1(published.url.encode()).hexdigest()):
            path = Path(place, file)
            if path.is_file():
                found = hashlib.sha256(path.read_bytes()).hexdigest()
                if found != published.sha256:
                    raise ValueError(f"{path}: its SHA-256 is {found}, not {published.sha256}: fetch {published.url} again")
                return path
    raise FileNotFoundError(f"{', '.join(map(str, places))}: no {published.file}.tiktoken; fetch {published.url} "
                            f"(SHA-256 {published.sha256}) and name its folder with --ranks")


# ---- .tiktoken -------------------------------------------------------------------------------------------------------

def read_ranks(path):
    """.tiktoken -> {bytes: rank}; ValueError with file and line for a broken or doubled one."""
    ranks, line_of = {}, {}
    for n, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            token = base64.b64decode(token, validate=True)
            if not token or not rank.removeprefix(b"-").isdigit():
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}:{n}: not base64 and a rank: {line[:60]!r}") from None
        rank = int(rank) if len(rank) < 12 else -1
        if not 0 <= rank < ID_LIMIT:
            spelled = line.split()[1][:20].decode()
            raise ValueError(f"{path}:{n}: rank {spelled} is not 0 to {ID_LIMIT - 1}")
        if token in ranks or rank in line_of:
            first = line_of[ranks.get(token, rank)]
            raise ValueError(
                f"{path}:{n}: token {shown(token)} or rank {rank} is on line {first} too")
        ranks[token], line_of[rank] = rank, n
    if not ranks:
        raise ValueError(f"{path}: no ranks in it")
    return ranks


def ranks_file(ranks):
    """One line a token, in rank order: base64 of its bytes, a space, its rank."""
    return b"".join(b"%s %d\n" % (base64.b64encode(token), i)
                    for token, i in sorted(ranks.items(), key=lambda item: item[1]))


# ---- merges ----------------------------------------------------------------------------------------------------------

def merges_of(ranks):
    """Yields a list for each token, in the order of ranks: all (left, right) whose joint bytes it is.

    A list is sorted by the ranks of left and right. One token at a time, because the tokens a, aa,
    aaa, ... of a megabyte of file have more pairs than memory should hold.
    """
    lengths = {len(token) for token in ranks}
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        found, n = [], len(token)       # a run in the corpus makes tokens of 100,000 bytes and more
        for i in range(1, n):
            if i in lengths and n - i in lengths:
                left, right = token[:i], token[i:]
                if left in ranks and right in ranks:
                    found.append((ranks[left], ranks[right], left, right))
        yield [(left, right) for *_, left, right in sorted(found)]


def all_merges(ranks):
    """All (left, right) whose joint bytes are a token, by the ranks of that, of left, of right."""
    return [pair for merges in merges_of(ranks) for pair in merges]


def are_all_merges(merges, ranks):      # merges == all_merges(ranks), without making the list
    at = 0
    for found in merges_of(ranks):
        if merges[at:at + len(found)] != found:
            return False
        at += len(found)
    return at == len(merges)


def own_merges(ranks, merge):
    """{token: the two tokens it ends as when merged by the ranks below its own}; ValueError for one that ends as more."""
    found = {}
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = merge(ranks, token, rank)
            if len(parts) != 2:
                raise ValueError(f"token {shown(token)} ends as {len(parts)} parts and not as two, so pairs cannot make it; save as .tiktoken or "
                                 f"tokenizer.json")
            found[token] = tuple(parts)
    return found


def check_merges(ranks, merges, ignore_merges, merge):
    """ValueError unless merging by this list is the same function as merging by joint bytes.

    It is when the products come in order of rank and each token, merged by the ranks below its own,
    ends as two parts that the list joins: other entries then never come up. And it is when the list
    is the full one that we write ourselves.
    """
    if ignore_merges and are_all_merges(merges, ranks):
        return
    for pair in merges:
        known = len(pair) == 2 and pair[0] in ranks and pair[1] in ranks
        if not known or pair[0] + pair[1] not in ranks:
            words = " ".join(map(shown, pair[:3]))
            raise ValueError(f"the merge {words} is not of two tokens that make a third")
    products = [ranks[left + right] for left, right in merges]
    if products != sorted(products):
        raise ValueError("its merges are not in the order of their ids")
    listed = set(merges)
    for token, rank in ranks.items():
        if len(token) > 1 and tuple(merge(ranks, token, rank)) not in listed:
            raise ValueError(f"token {shown(token)} is not what its merges make of it")


# ---- what all .json files have in common ---------------------------------------------------------

def distinct(pairs):
    """A JSON object; ValueError if a key stands in it twice, as only one value could be meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(key)} stands twice in one object")
    return found


def check_ids(ids):
    for i in ids:
        if not isinstance(i, numbers.Integral) or isinstance(i, bool) or not 0 <= i < ID_LIMIT:
            raise ValueError(f"id {repr(i)[:60]} is no whole number from 0 to {ID_LIMIT - 1}")


def cannot_be_read(path, error):
    reason = error if isinstance(error, ValueError) else repr(error)
    return ValueError(f"{path}: cannot be read with equal ids: {str(reason)[:400]}")


# ---- vocab.json and merges.txt ---------------------------------------------------------------------------------------

def read_gpt2(path, merge):
    """GPT-2's vocab.json (or encoder.json) and, beside it, merges.txt (or vocab.bpe) -> Vocabulary."""
    beside = [path.with_name(name) for name in ("merges.txt", "vocab.bpe")]
    merges_file = next((p for p in beside if p.is_file()), None)
    if merges_file is None:
        raise FileNotFoundError(f"{beside[0]}: no such file, and {path.name} is of no use without it")
    try:
        vocab = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=distinct)
        check_ids(vocab.values())
        merges, known = [], Words()
        for n, line in enumerate(merges_file.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip() or n == 1 and line.startswith("#version"):
                continue
            pair = tuple([known[word] for word in line.split()])
            if len(pair) != 2:
                raise ValueError(f"{merges_file.name}:{n}: {line[:60]!r} is no pair")
            merges.append(pair)
        made = {word for word in vocab if word not in ("<|endoftext|>", "<|startoftext|>")}
        ranks = {known[word]: vocab[word] for word in made}
        missing = [left + right for left, right in merges if left + right not in ranks]
        if missing:
            raise ValueError(
                f"{merges_file.name} makes {shown(missing[0])}, which {path.name} lacks")
        check_merges(ranks, merges, False, merge)
        return Vocabulary(ranks, PATTERNS["gpt2"], {word: i for word, i in vocab.items() if word not in made})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise cannot_be_read(path, error) from None


def write_gpt2(path, vocabulary, merge):
    """path, vocab.json, and beside it merges.txt."""
    if vocabulary.pattern != PATTERNS["gpt2"]:
        raise ValueError(f"{path}: GPT-2's files hold no pattern, and this vocabulary's is not GPT-2's; save as tokenizer.json")
    vocab = {to_characters(token): i for token, i in vocabulary.ranks.items()} | vocabulary.special_tokens
    lines = ["#version: 0.2", *(f"{to_characters(a)} {to_characters(b)}" for a, b in own_merges(vocabulary.ranks, merge).values())]
    write(path, json.dumps(dict(sorted(vocab.items(), key=lambda item: item[1])), ensure_ascii=False).encode())
    write(path.with_name("merges.txt"), ("\n".join(lines) + "\n").encode())


# ---- tokenizer.json --------------------------------------------------------------------------------------------------

def check_portable(pattern):
    """Refuse what Oniguruma, which runs tokenizer.json's patterns, takes for something else."""
    for construct, what in ((r"\{[\d,]+\}\+", "a possessive {m,n}+"), (r"(?<!\\)\$", "a $")):
        if regex.search(construct, pattern):
            raise ValueError(f"pattern {pattern!r} has {what}, which means something else in "
                             f"tokenizer.json; write it another way, or save as .tiktoken")


# What a tokenizer.json must say for its ids to be ours; a key that is not there reads as the first.
JSON_CONTENT = {"truncation": [None], "padding": [None], "normalizer": [None, {"type": "NFC"}]}
JSON_MODEL = {"type": ["BPE"], "dropout": [None, 0], "unk_token": [None],
              "continuing_subword_prefix": [None, ""], "end_of_word_suffix": [None, ""],
              "fuse_unk": [False, True], "byte_fallback": [False], "ignore_merges": [False, True]}
JSON_ADDED = {"single_word": [False], "lstrip": [False], "rstrip": [False],
              "normalized": [False, True], "special": [True, False]}
JSON_BYTE_LEVEL = {"type": ["ByteLevel"], "add_prefix_space": [False],
                   "trim_offsets": [True, False]}
JSON_SPLIT = {"type": ["Split"], "behavior": ["Isolated"], "invert": [False]}
ALL_ELSE = r"[\s\S]"
# What is put around a text when asked for, such as Llama 3's <|begin_of_text|>, is not asked for here.
JSON_AROUND = {"ByteLevel", "TemplateProcessing", "Sequence"}


def json_file(vocabulary, path):
    """tokenizer.json, for which Hugging Face's tokenizers gives the same ids.

    tiktoken asks for the rank of joint bytes, tokenizers for the rank of a pair, so every way of
    cutting a token in two tokens is listed as a merge. ignore_merges: a piece that is a token as a
    whole is that token. The special tokens stand in vocab too, which fixes their ids.
    """
    ranks, specials = vocabulary.ranks, vocabulary.special_tokens
    check_portable(vocabulary.pattern)
    vocab = {to_characters(token): i for token, i in ranks.items()} | specials
    if len(vocab) != len(ranks) + len(specials):
        raise ValueError(f"{path}: a special token's name is how tokenizer.json spells a token")

    def usual(table):
        return {key: values[0] for key, values in table.items()}

    byte_level = usual(JSON_BYTE_LEVEL) | {"use_regex": False}
    split = usual(JSON_SPLIT) | {"pattern": {"Regex": vocabulary.pattern}}
    vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    content = {"version": "1.0", **usual(JSON_CONTENT), "normalizer": vocabulary.normalize and {"type": vocabulary.normalize},
               "added_tokens": [{"id": i, "content": name, **usual(JSON_ADDED)}
                                for name, i in vocab.items() if name in specials],
               "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
               "post_processor": None, "decoder": byte_level,
               "model": {**usual(JSON_MODEL), "ignore_merges": True, "vocab": vocab,
                         "merges": [f"{to_characters(left)} {to_characters(right)}"
                                    for left, right in all_merges(ranks)]}}
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8")


def read_json(path, merge):
    """tokenizer.json -> Vocabulary with the same ids, or ValueError naming what this cannot do.

    Read: byte-level BPE, no normaliser or NFC, split by ByteLevel's own GPT-2 pattern or by one isolated
    regular expression, added tokens that take no white space along. All else would change ids.
    """
    def require(part, table):
        for key, values in table.items():
            if part.get(key, values[0]) not in values:
                raise ValueError(f"{part.get('content', '')} {key} {part[key]!r} is not supported")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=distinct)
        model, added, pre = content["model"], content["added_tokens"], content["pre_tokenizer"]
        steps = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
        kinds = [step["type"] for step in steps]        # GPT-2's form, or Llama-3's and ours
        if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
            raise ValueError(f"pre_tokenizer {kinds} is not supported")
        *splits, byte_level = steps
        require(content, JSON_CONTENT)
        require(model, JSON_MODEL)
        require({"use_regex": True} | byte_level, JSON_BYTE_LEVEL | {"use_regex": [not splits]})
        for key, value in (("added_tokens", added), ("merges", model["merges"])):
            if not isinstance(value, list):
                raise ValueError(f"{key} is {str(value)[:60]!r}, expected a list")
        around = content.get("post_processor") or {"type": "ByteLevel"}
        for step in (around, *around.get("processors", ())):
            if step["type"] not in JSON_AROUND:
                raise ValueError(f"post_processor {step['type']!r} is not supported")
        for token in added:
            require(token, JSON_ADDED)
        pattern = PATTERNS["gpt2"]
        for split in splits:
            require(split, JSON_SPLIT)
            pattern = split["pattern"]["Regex"]
            check_pattern(pattern)
            check_portable(pattern)
            if regex.fullmatch(pattern, ""):
                raise ValueError(f"pattern {pattern[:80]!r} matches the empty text")
            if pattern not in PATTERNS.values() and ALL_ELSE not in pattern:
                # What it does not match tiktoken drops, but tokenizers keeps as pieces of their own.
                pattern = f"{pattern}|(?:(?!{pattern}){ALL_ELSE})+"
        # GPT-2 lists its special tokens in vocab too, where they are no tokens that bytes make.
        specials = distinct([(token["content"], token["id"]) for token in added])
        check_ids([*specials.values(), *model["vocab"].values()])
        for name, i in specials.items():
            if model["vocab"].get(name, i) != i:
                raise ValueError(f"{shown(name)} has the ids {i} and {model['vocab'][name]}")
        known = Words()
        ranks = {known[word]: i for word, i in model["vocab"].items() if word not in specials}
        merges = []
        for pair in model["merges"]:
            words = pair.split(" ") if isinstance(pair, str) else pair
            merges.append(tuple([known[word] for word in words]))
        check_merges(ranks, merges, model.get("ignore_merges", False), merge)
        return Vocabulary(ranks, pattern, specials, content.get("normalizer") and "NFC")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise cannot_be_read(path, error) from None
