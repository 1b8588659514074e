"""vocabularies.py: the files that tokenizers come in, read and written.

    NAME.tiktoken               base64 of a token's bytes and its rank, a line a token; no pattern, no special tokens
    tokenizer.json              Hugging Face's: everything
    tokenizer_config.json       beside it: which tokens begin, end and pad a text, and how a chat is written
    vocab.json, merges.txt      GPT-2's own: ids, and the pairs in the order of merging

All three say the same in different words: tiktoken asks for the rank of joint bytes, the others for the rank of a pair. What is read is
a Vocabulary, and a file whose ids would come out differently is refused by name. find() knows where tiktoken keeps the files it
has fetched; nothing here uses the network.

Sources: tiktoken (openai_public.py, load.py), Hugging Face tokenizers, GPT-2's encoder.py.
"""

import base64
import hashlib
import itertools
import json
import numbers
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import regex

from run import disk
from run.disk import distinct
from tokens.pieces import (BEHAVIORS, BYTE_TO_CHARACTER, CHARACTER_TO_BYTE, GPT2_BYTES, LOWERCASE, PATTERNS, SPACED, SPELLED, UNICODE_FORMS, Prepend, Replace,
                           Split, Strip, check_pattern, finder, from_oniguruma)
from run.disk import whole_file

ID_LIMIT = 2**22        # ids are below this: a wrong one would make lists of gigabytes


class Flags(NamedTuple):
    """How an added token is found in a text: in the text as it is, or normalized, as the text then is too; with the white space
    before (lstrip) and behind (rstrip); only as a whole word."""
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class Vocabulary(NamedTuple):
    """ranks {bytes: id}; pattern, or steps of a cut (pieces.Split); special_tokens {name: id}; normalize as pieces.normalized takes it;
    words {name: id}, added and not special, so found in every text; flags {name: Flags}, of added tokens that have any."""
    ranks: dict
    pattern: str | tuple = None
    special_tokens: dict = {}
    normalize: str | tuple = None
    words: dict = {}
    flags: dict = {}


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

def check_ids(ids):
    for i in ids:
        if not isinstance(i, numbers.Integral) or isinstance(i, bool) or not 0 <= i < ID_LIMIT:
            raise ValueError(f"id {repr(i)[:60]} is no whole number from 0 to {ID_LIMIT - 1}")


def cannot_be_read(path, error):
    reason = error if isinstance(error, ValueError) else repr(error)
    return ValueError(f"{path}: cannot be read with equal ids: {str(reason)[:400]}")


# ---- tokenizer_config.json -------------------------------------------------------------------------------------------

# How sample.render writes a conversation, in Jinja. transformers and llama.cpp read special tokens out of the text that it gives, so a
# text with the name of one in it, which render takes as a text, is an error here.
CHAT_NAMES = ("<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|tool_start|>", "<|tool_end|>", "<|output_start|>", "<|output_end|>")
CHAT_TEMPLATE = (
    "{% macro said(text) %}{% for name in ['<|endoftext|>', '" + "', '".join(CHAT_NAMES) + "'] %}{% if name in text %}"
    "{{ raise_exception('a message has the name of the special token ' + name) }}{% endif %}{% endfor %}{{ text }}{% endmacro %}"
    "{% for m in messages %}{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('the role of a message is system, user or assistant') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}<|im_sep|>{% if m['content'] is string %}{{ said(m['content']) }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ said(part['text']) }}"
    "{% elif part['type'] == 'tool' %}<|tool_start|>{{ said(part['text']) }}<|tool_end|>"
    "{% elif part['type'] == 'output' %}<|output_start|>{{ said(part['text']) }}<|output_end|>"
    "{% else %}{{ raise_exception('the type of a part is text, tool or output') }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}")


def is_for_chats(special_tokens):
    return all(name in special_tokens for name in CHAT_NAMES)


def roles(special_tokens, end=None):
    """{"bos" | "eos" | "pad": name or None} of the tokens that begin, end and pad a text. end: the one behind which a model has no more to
    say; by default that of a chat, if the vocabulary is for chats.

    What pads is neither the end nor any other token that models learn: transformers' collators take padding out of what is learned, and
    its classifiers read the state of the last token that is none. Chats have no <|endoftext|>; documents and replies have no <|output_end|>
    to be learned.
    """
    if end is None:
        end = "<|im_end|>" if is_for_chats(special_tokens) else "<|endoftext|>"
    pad = next((name for name in ("<|endoftext|>", "<|output_end|>") if name in special_tokens and name != end), None)
    found = {"bos": "<|endoftext|>", "eos": end, "pad": pad}
    return {role: name if name in special_tokens else None for role, name in found.items()}


def config_file(vocabulary, end=None, gpt2=False):
    """tokenizer_config.json. It names the class that takes tokenizer.json as it is; without it transformers takes the one of the model's
    type, which cuts text by GPT-2's pattern. gpt2: for GPT-2's own files, which do not say themselves what is a special token."""
    content = {"tokenizer_class": "GPT2Tokenizer" if gpt2 else "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if gpt2:
        content["added_tokens_decoder"] = {str(i): {"content": name, **Flags()._asdict(), "special": True} for name, i in vocabulary.special_tokens.items()}
    content |= {f"{role}_token": name for role, name in roles(vocabulary.special_tokens, end).items() if name}
    if is_for_chats(vocabulary.special_tokens) and content.get("eos_token") == "<|im_end|>":
        content["chat_template"] = CHAT_TEMPLATE
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8")


# ---- vocab.json and merges.txt ---------------------------------------------------------------------------------------

# Classes of transformers that cut text as GPT-2 does; a folder that names another one needs its tokenizer.json.
GPT2_CLASSES = {f"{family}Tokenizer{kind}" for family in ("GPT2", "Roberta", "Bart", "Longformer", "PreTrained") for kind in ("", "Fast")}
IN_BRACKETS = regex.compile(r"<.+>|\[.+\]", regex.S)     # how special tokens are named


def added_beside(path):
    """({name: id}, {name: special or not}, {name: Flags}, add_prefix_space) of added_tokens.json and tokenizer_config.json beside a vocab.json."""
    files = [path.with_name(name) for name in ("added_tokens.json", "tokenizer_config.json")]
    ids, config = (disk.read_json(file) if file.is_file() else {} for file in files)
    cut_by = config.get("tokenizer_class") or "GPT2Tokenizer"
    if cut_by not in GPT2_CLASSES:
        raise ValueError(f"{files[1].name} names the class {str(cut_by)[:60]!r}, which may cut text otherwise than GPT-2; it takes a tokenizer.json")
    ids, special, flags = dict(ids), {}, {}
    for i, token in config.get("added_tokens_decoder", {}).items():
        name = token["content"]
        if ids.setdefault(name, int(i)) != int(i):
            raise ValueError(f"{shown(name)} has the id {ids[name]} in {files[0].name} and {i} in {files[1].name}")
        special[name], flags[name] = token.get("special", False), Flags(*(token.get(key, False) for key in Flags._fields))
    return ids, special, flags, config.get("add_prefix_space", False)


def read_gpt2(path, merge):
    """GPT-2's vocab.json (or encoder.json) and, beside it, merges.txt (or vocab.bpe) -> Vocabulary.

    Tokens that no merge makes are special ones if their names stand in brackets; others have to be in added_tokens.json or
    tokenizer_config.json, which transformers writes beside these.
    """
    beside = [path.with_name(name) for name in ("merges.txt", "vocab.bpe")]
    merges_file = next((p for p in beside if p.is_file()), None)
    if merges_file is None:
        raise FileNotFoundError(f"{beside[0]}: no such file, and {path.name} is of no use without it")
    try:
        vocab = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=distinct)
        added, is_special, flags, spaced = added_beside(path)
        check_ids(itertools.chain(vocab.values(), added.values()))
        merges, known = [], Words()
        for n, line in enumerate(merges_file.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip() or n == 1 and line.startswith("#version"):
                continue
            pair = tuple([known[word] for word in line.split()])
            if len(pair) != 2:
                raise ValueError(f"{merges_file.name}:{n}: {line[:60]!r} is no pair")
            merges.append(pair)
        made = {left + right for left, right in merges}
        added |= {word: i for word, i in vocab.items() if word not in added and IN_BRACKETS.fullmatch(word) and not is_made(word, made)}
        for word, i in added.items():
            if vocab.get(word, i) != i:
                raise ValueError(f"{shown(word)} has the ids {i} and {vocab[word]}")
        ranks = {known[word]: i for word, i in vocab.items() if word not in added or is_made(word, made)}
        missing = [left + right for left, right in merges if left + right not in ranks]
        if missing:
            raise ValueError(
                f"{merges_file.name} makes {shown(missing[0])}, which {path.name} lacks")
        check_merges(ranks, merges, False, merge)
        special = {word: i for word, i in added.items() if is_special.get(word, bool(IN_BRACKETS.fullmatch(word)))}
        words = {word: i for word, i in added.items() if word not in special}
        pattern = (SPACED, Split(PATTERNS["gpt2"])) if spaced else PATTERNS["gpt2"]
        return Vocabulary(ranks, pattern, special, None, words, {word: f for word, f in in_effect(flags, None, added).items() if word in added})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise cannot_be_read(path, error) from None


def is_made(word, made):                # whether a word spells a single byte or what merges make
    try:
        token = to_bytes(word)
    except ValueError:
        return False
    return len(token) == 1 or token in made


def is_piece_too(name, vocabulary):
    """Whether a piece of text may be spelled as the added token is named, although the token is not found there. tokenizers would take
    the piece for the token, if vocab has it and merges are ignored."""
    try:
        text = to_bytes(name).decode("utf-8")
    except ValueError:
        return False
    if text == name and not vocabulary.normalize and name not in vocabulary.flags:
        return False
    return len(finder(vocabulary.pattern)(text)) < 2


def in_effect(flags, normalize, added):
    """Without those that change nothing: where no text is normalised, names are all alike if they all are to be, or none."""
    if not normalize and len({flags.get(name, Flags()).normalized for name in added}) < 2:
        flags = {name: f._replace(normalized=False) for name, f in flags.items()}
    return {name: f for name, f in flags.items() if any(f)}


def write_gpt2(path, vocabulary, merge, end=None):
    """path, vocab.json, and beside it merges.txt and tokenizer_config.json."""
    if vocabulary.pattern != PATTERNS["gpt2"] or vocabulary.normalize or vocabulary.words or vocabulary.flags:
        raise ValueError(f"{path}: GPT-2's files hold no pattern and no added words, and this vocabulary's are not GPT-2's; save as tokenizer.json")
    vocab = {to_characters(token): i for token, i in vocabulary.ranks.items()} | vocabulary.special_tokens
    lines = ["#version: 0.2", *(f"{to_characters(a)} {to_characters(b)}" for a, b in own_merges(vocabulary.ranks, merge).values())]
    write(path.with_name("tokenizer_config.json"), config_file(vocabulary, end, gpt2=True))
    write(path, json.dumps(dict(sorted(vocab.items(), key=lambda item: item[1])), ensure_ascii=False).encode())
    write(path.with_name("merges.txt"), ("\n".join(lines) + "\n").encode())


# ---- tokenizer.json --------------------------------------------------------------------------------------------------

# What a tokenizer.json must say for its ids to be ours; a key that is not there reads as the first. truncation and padding are not in it:
# they are what somebody asked for last, and transformers sets them at every call.
JSON_MODEL = {"type": ["BPE"], "dropout": [None, 0], "unk_token": [None],
              "continuing_subword_prefix": [None, ""], "end_of_word_suffix": [None, ""],
              "fuse_unk": [False, True], "byte_fallback": [False], "ignore_merges": [False, True]}
JSON_ADDED = {"single_word": [False, True], "lstrip": [False, True], "rstrip": [False, True],
              "normalized": [False, True], "special": [True, False]}
JSON_BYTE_LEVEL = {"type": ["ByteLevel"], "add_prefix_space": [False, True],
                   "trim_offsets": [True, False]}
JSON_SPLIT = {"type": ["Split"], "behavior": list(BEHAVIORS), "invert": [False, True]}
ALL_ELSE = regex.compile(r"(?<!\(\?<?[=!])\[\\s\\S\]")       # a [\s\S] in a pattern, which then matches everything
# What is put around a text when asked for, such as Llama 3's <|begin_of_text|>, is not asked for here.
JSON_AROUND = {"ByteLevel", "TemplateProcessing", "Sequence", "RobertaProcessing", "BertProcessing"}
# Punctuation of tokenizers, whose table is of Unicode 8 (measured over all characters with tokenizers 0.23.3), and its words.
PUNCTUATION = ("(?![\u061d\u09fd-\u0a76\u0c77-\u0c84\u1b4e\u1b4f\u1b7d-\u1b7f\u2e43-\u2e63\U00010d6e-\U00010f89\U000113d4-\U0001145d\U00011660-\U000116b9"
               "\U0001183b-\U00011fff\U00012ff1\U00012ff2\U00016d6d-\U00016fe2\U0001e5ff-\U0001e95f])[\\p{P}$+<=>^`|~\u166d\U000111c9]")
IN_WORDS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}" + "\u200c\u200d"


def usual(table):
    return {key: values[0] for key, values in table.items()}


def require(part, table):
    """ValueError naming what is in a part of the file and not in the table."""
    for key, values in table.items():
        found = part.get(key, values[0])
        if found not in values or type(found) is int and type(values[0]) is bool:
            raise ValueError(f"{part.get('content', '')} {key} {found!r} is not supported")


def json_file(vocabulary, path):
    """tokenizer.json, for which Hugging Face's tokenizers gives the same ids.

    tiktoken asks for the rank of joint bytes, tokenizers for the rank of a pair, so every way of
    cutting a token in two tokens is listed as a merge. ignore_merges: a piece that is a token as a
    whole is that token. The added tokens stand in vocab too, which fixes their ids.
    """
    ranks, specials, words = vocabulary.ranks, vocabulary.special_tokens, vocabulary.words
    added, vocab = specials | words, {to_characters(token): i for token, i in ranks.items()}
    for name, i in added.items():
        if vocab.get(name, i) != i:
            raise ValueError(f"{path}: a special token's name is how tokenizer.json spells a token")
    # A name that is a piece, too, must not stand in vocab: tokenizers counts the ids on behind it, from that one on.
    first = min((i for name, i in added.items() if is_piece_too(name, vocabulary)), default=ID_LIMIT)
    vocab |= {name: i for name, i in added.items() if i < first}
    vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    content = {"version": "1.0", "truncation": None, "padding": None, "normalizer": json_normalizer(vocabulary.normalize),
               "added_tokens": [{"id": i, "content": name, **usual(JSON_ADDED), **vocabulary.flags.get(name, Flags())._asdict(), "special": name in specials}
                                for name, i in sorted(added.items(), key=lambda item: item[1])],
               "pre_tokenizer": json_cut(vocabulary.pattern),
               "post_processor": None, "decoder": usual(JSON_BYTE_LEVEL) | {"use_regex": False},
               "model": {**usual(JSON_MODEL), "ignore_merges": True, "vocab": vocab,
                         "merges": [f"{to_characters(left)} {to_characters(right)}"
                                    for left, right in all_merges(ranks)]}}
    read_added(content["added_tokens"], vocab)
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8")


def json_cut(pattern):
    """The pre_tokenizer of a pattern or of steps."""
    steps, found = list(pattern) if isinstance(pattern, tuple) else [Split(pattern)], []
    if SPELLED not in steps:
        steps.append(SPELLED)
    while steps:
        step = steps.pop(0)
        if isinstance(step, Split):
            if from_oniguruma(step.pattern) != step.pattern:
                raise ValueError(f"pattern {step.pattern[:80]!r} means something else in tokenizer.json; it would be: {from_oniguruma(step.pattern)[:200]}")
            found.append(usual(JSON_SPLIT) | {"behavior": step.behavior, "invert": step.invert, "pattern": {"Regex": step.pattern}})
            continue
        byte_level = usual(JSON_BYTE_LEVEL) | {"add_prefix_space": step == SPACED, "use_regex": step == SPACED and steps[0] == Split(PATTERNS["gpt2"])}
        if step == SPACED:
            del steps[:1 + byte_level["use_regex"]]         # its pattern, and the spelling
        found.append(byte_level)
    return {"type": "Sequence", "pretokenizers": found}


def json_normalizer(normalize):
    def one(step):
        if isinstance(step, Replace):
            return {"type": "Replace", "pattern": {"Regex": step.pattern}, "content": step.content}
        if isinstance(step, Prepend):
            return {"type": "Prepend", "prepend": step.content}
        if isinstance(step, Strip):
            return {"type": "Strip", "strip_left": step.left, "strip_right": step.right}
        return {"type": step}

    if type(normalize) is tuple:
        return {"type": "Sequence", "normalizers": list(map(one, normalize))}
    return normalize and one(normalize)


def pattern_of(part):                   # {"Regex": ...} or {"String": ...} -> a pattern of ours
    (kind, pattern), = part.items()
    if kind not in ("Regex", "String"):
        raise ValueError(f"a pattern of the kind {kind!r} is not supported")
    found = from_oniguruma(pattern) if kind == "Regex" else regex.escape(pattern)
    check_pattern(found)
    if regex.fullmatch(found, ""):
        raise ValueError(f"pattern {pattern[:80]!r} matches the empty text")
    return found


def read_cut(pre):
    """A pre_tokenizer -> the steps of a cut, or its one pattern if that matches everything."""
    def steps_of(part):
        kind = part["type"]
        if kind == "Sequence":
            return [step for inner in part["pretokenizers"] for step in steps_of(inner)]
        if kind == "ByteLevel":
            require(part, JSON_BYTE_LEVEL | {"use_regex": [True, False]})
            return [SPACED] * part.get("add_prefix_space", False) + [Split(PATTERNS["gpt2"])] * part.get("use_regex", True) + [SPELLED]
        if kind == "Split":
            require(part, JSON_SPLIT)
            return [Split(pattern_of(part["pattern"]), part.get("behavior", "Isolated"), part.get("invert", False))]
        if kind == "Digits":
            require(part, {"individual_digits": [False, True]})
            return [Split(r"\p{N}" if part.get("individual_digits") else r"\p{N}+")]
        if kind == "Punctuation":
            require(part, {"behavior": BEHAVIORS})
            return [Split(PUNCTUATION, part.get("behavior", "Isolated"))]
        if kind == "WhitespaceSplit":
            return [Split(r"\s", "Removed")]
        if kind == "BertPreTokenizer":
            return [Split(r"\s", "Removed"), Split(PUNCTUATION)]
        if kind == "Whitespace":
            return [Split(rf"[{IN_WORDS}]+|[^{IN_WORDS}\s]+", "Removed", True)]
        if kind == "CharDelimiterSplit":
            return [Split(pattern_of({"String": part["delimiter"]}), "Removed")]
        raise ValueError(f"pre_tokenizer {kind!r} is not supported")

    if pre is None:
        raise ValueError("pre_tokenizer null is not supported: this is no byte-level BPE, but one of characters, such as SentencePiece's")
    steps = steps_of(pre)
    if steps.count(SPELLED) != 1:
        raise ValueError(f"a pre_tokenizer with {steps.count(SPELLED)} times ByteLevel is not supported: byte-level BPE has it once")
    steps = tuple(steps[:-1] if steps[-1] == SPELLED else steps)
    # What a pattern does not match tiktoken drops, but tokenizers keeps as pieces of their own: steps do too.
    if len(steps) == 1 and isinstance(steps[0], Split):
        pattern = steps[0].pattern
        if steps[0] == Split(pattern) and (pattern in PATTERNS.values() or ALL_ELSE.search(pattern)):
            return pattern
    return steps


def read_normalizer(part):
    """A normalizer -> None, a step or a tuple of steps, for pieces.normalized."""
    def steps_of(part):
        kind = part.get("type")
        if kind == "Sequence":
            return [step for inner in part["normalizers"] for step in steps_of(inner)]
        if kind in (*UNICODE_FORMS, LOWERCASE):
            return [kind]
        if kind == "Replace":
            return [Replace(pattern_of(part["pattern"]), part["content"])]
        if kind == "Prepend":
            return [Prepend(part["prepend"])]
        if kind == "Strip":
            return [Strip(part["strip_left"], part["strip_right"])]
        raise ValueError(f"normalizer {str(part)[:80]} is not supported")

    steps = [] if part is None else steps_of(part)
    return tuple(steps) if len(steps) > 1 or steps and isinstance(steps[0], tuple) else steps[0] if steps else None


def read_added(tokens, vocab):
    """added_tokens -> ({name: id}, {name: whether special}, {name: Flags}). Where vocab has no name, tokenizers gives it the next free id
    and does not look at the one in the file."""
    if not isinstance(tokens, list):
        raise ValueError(f"added_tokens is {str(tokens)[:60]!r}, expected a list")
    for token in tokens:
        require(token, JSON_ADDED)
    ids = distinct([(token["content"], token["id"]) for token in tokens])
    check_ids([*ids.values(), *vocab.values()])
    following = len(vocab)
    for name, i in ids.items():
        given = vocab.get(name, following)
        if given != i:
            raise ValueError(f"{shown(name)} has the ids {i} and {given}" + " (the next one that is free, which tokenizers gives it)" * (name not in vocab))
        following = max(following, given + 1)
    special = {token["content"]: token.get("special", True) for token in tokens}
    return ids, special, {token["content"]: Flags(*(token.get(key, False) for key in Flags._fields)) for token in tokens}


def read_json(path, merge):
    """tokenizer.json -> Vocabulary with the same ids, or ValueError naming what this cannot do.

    Read: byte-level BPE, the steps that read_normalizer and read_cut know, and added tokens. All else would change ids.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=distinct)
        model = content["model"]
        require({"type": model.get("type") or "BPE"}, {"type": ["BPE"]})
        pattern, normalize = read_cut(content["pre_tokenizer"]), read_normalizer(content.get("normalizer"))
        vocab = model["vocab"]
        check_ids(vocab.values())
        # With all bytes there, nothing is unknown.
        all_bytes = all(character in vocab for character in BYTE_TO_CHARACTER.values())
        require({key: value for key, value in model.items() if not (all_bytes and key in ("unk_token", "byte_fallback")) and key != "type"}, JSON_MODEL)
        if not isinstance(model["merges"], list):
            raise ValueError(f"merges is {str(model['merges'])[:60]!r}, expected a list")
        around = content.get("post_processor") or {"type": "ByteLevel"}
        for step in (around, *around.get("processors", ())):
            if step["type"] not in JSON_AROUND:
                raise ValueError(f"post_processor {step['type']!r} is not supported")
        added, is_special, flags = read_added(content.get("added_tokens", []), vocab)
        known, merges = Words(), []
        for n, pair in enumerate(model["merges"]):
            if n == 0 and isinstance(pair, str) and pair.startswith("#version"):
                continue
            words = pair.split(" ") if isinstance(pair, str) else pair
            merges.append(tuple([known[word] for word in words]))
        # GPT-2 lists its special tokens in vocab too, where they are no tokens that bytes make.
        made = {pair[0] + pair[1] for pair in merges if len(pair) == 2} if any(name in vocab for name in added) else set()
        ranks = {known[word]: i for word, i in vocab.items() if word not in added or is_made(word, made)}
        check_merges(ranks, merges, model.get("ignore_merges", False), merge)
        special = {name: i for name, i in added.items() if is_special[name]}
        words = {name: i for name, i in added.items() if not is_special[name]}
        found = Vocabulary(ranks, pattern, special, normalize, words, in_effect(flags, normalize, added))
        for name in added if model.get("ignore_merges") else ():
            if name in vocab and not is_made(name, made) and is_piece_too(name, found):
                raise ValueError(f"{shown(name)} is an added token, and with ignore_merges also a piece that no merges make: is not supported")
        return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise cannot_be_read(path, error) from None
