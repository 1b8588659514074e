"""huggingface.py: the files of Hugging Face and GPT-2 that hold a byte-level BPE tokenizer.

    tokenizer.json              everything but the next
    tokenizer_config.json       which tokens begin, end and pad a text, and how a chat is written
    vocab.json, merges.txt      GPT-2's own: ids, and the pairs in the order of merging

tiktoken asks for the rank of joint bytes, these files ask for the rank of a pair. The two are not
always the same function, so reading checks it: a file is read with equal ids, or refused by name.

Sources: Hugging Face's tokenizers and transformers; GPT-2's encoder.py.
"""

import itertools
import json
import operator

import regex

import bpe
from run import disk
from run.disk import distinct
from tokens.added import (LOWERCASE, UNICODE_FORMS, Flags, LeaveOut, Prepend, Replace, Strip,
                          steps_of)
from tokens.encoder import merge
from tokens.patterns import (BEHAVIORS, BYTE_TO_CHARACTER, PATTERNS, SPACED, SPELLED, Split,
                             check_pattern, finder, from_oniguruma, shown, to_bytes, to_characters)
from tokens.ranks import ID_LIMIT, Vocabulary, check_ids, is_made


def load(make, path):
    """make(*Vocabulary) of a tokenizer.json or vocab.json, for example bpe.Tokenizer of it.

    ValueError naming the file and what in it would change ids, or what is not as expected.
    """
    read = read_gpt2 if path.name in ("vocab.json", "encoder.json") else read_json
    try:
        return make(*read(path))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error if isinstance(error, ValueError) else repr(error)
        raise ValueError(f"{path}: cannot be read with equal ids: {str(reason)[:400]}") from None


# ---- merges --------------------------------------------------------------------------------------

def all_merges(ranks):
    """Yields all (left, right) whose joint bytes are a token, sorted by the ranks of all three.

    The tokens a, aa, aaa ... of a file of a megabyte have more pairs than memory should hold.
    """
    lengths = {len(token) for token in ranks}
    for token in sorted(ranks, key=ranks.get):
        found, n = [], len(token)       # a run in the corpus makes tokens of 100,000 bytes and more
        for i in range(1, n):
            if i in lengths and n - i in lengths:
                left, right = token[:i], token[i:]
                if left in ranks and right in ranks:
                    found.append((ranks[left], ranks[right], left, right))
        for pair in sorted(found):
            yield pair[2:]


def own_merges(ranks):
    """Yields (token, parts) for tokens of several bytes: what lower ranks make of it."""
    for token, rank in ranks.items():
        if len(token) > 1:
            yield token, tuple(merge(ranks, token, rank))


def check_merges(ranks, merges, ignore_merges):
    """ValueError unless merging by this list is the same function as merging by joint bytes.

    It is the same in two cases. Either the list is the full one, which we write ourselves. Or its
    products come in order of rank, and each token, merged by the ranks below its own, ends as two
    parts that the list joins; the other entries of the list are then never used.
    """
    both = itertools.zip_longest(merges, all_merges(ranks))
    if ignore_merges and all(itertools.starmap(operator.eq, both)):
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
    for token, parts in own_merges(ranks):
        if parts not in listed:
            raise ValueError(f"token {shown(token)} is not what its merges make of it")


# ---- tokenizer_config.json -----------------------------------------------------------------------

# How sample.render writes a conversation, in Jinja. transformers and llama.cpp find special tokens
# in the text that comes out. sample.render takes the name of one in a message as ordinary text; a
# template cannot, so it raises an error.
CHAT_TEMPLATE = (
    "{% macro said(text) %}"
    "{% for name in ['" + "', '".join(bpe.SPECIAL_TOKENS) + "'] %}"
    "{% if name in text %}"
    "{{ raise_exception('a message has the name of the special token ' + name) }}"
    "{% endif %}{% endfor %}{{ text }}{% endmacro %}"
    "{% for m in messages %}{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('the role of a message is system, user or assistant') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}<|im_sep|>"
    "{% if m['content'] is string %}{{ said(m['content']) }}"
    "{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ said(part['text']) }}"
    "{% elif part['type'] == 'tool' %}<|tool_start|>{{ said(part['text']) }}<|tool_end|>"
    "{% elif part['type'] == 'output' %}<|output_start|>{{ said(part['text']) }}<|output_end|>"
    "{% else %}{{ raise_exception('the type of a part is text, tool or output') }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}")


def roles(special_tokens, end=None):
    """{"bos" | "eos" | "pad": name or None}: the tokens that begin, end and pad a text.

    end: the token behind which a model has no more to say. By default it is the end of a message,
    if the vocabulary is for chats.

    Padding must be neither the end nor any token that models learn: transformers' collators take it
    out of what is learned, and its classifiers read the state of the last token that is no padding.
    Chats have no <|endoftext|>; documents and replies have no <|output_end|> to be learned.
    """
    if end is None:
        end = "<|im_end|>" if is_for_chats(special_tokens) else "<|endoftext|>"
    pads = [name for name in ("<|endoftext|>", "<|output_end|>") if name != end]
    pad = next((name for name in pads if name in special_tokens), None)
    found = {"bos": "<|endoftext|>", "eos": end, "pad": pad}
    return {role: name if name in special_tokens else None for role, name in found.items()}


def is_for_chats(special_tokens):
    """Whether a vocabulary has the tokens that chats are written with."""
    return special_tokens.keys() >= set(bpe.SPECIAL_TOKENS[1:])


def config_file(vocabulary, end=None, gpt2=False):
    """The contents of tokenizer_config.json.

    It names the class that takes tokenizer.json as it is. Without it transformers takes the class
    of the model's type, which cuts text by GPT-2's pattern. gpt2: for GPT-2's own files, which do
    not say themselves what is a special token.
    """
    special_tokens = vocabulary.special_tokens
    content = {
        "tokenizer_class": "GPT2Tokenizer" if gpt2 else "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if gpt2:
        content["added_tokens_decoder"] = {
            str(i): {"content": name, **Flags()._asdict(), "special": True}
            for name, i in special_tokens.items()}
    for role, name in roles(special_tokens, end).items():
        if name:
            content[f"{role}_token"] = name
    if is_for_chats(special_tokens) and content.get("eos_token") == "<|im_end|>":
        content["chat_template"] = CHAT_TEMPLATE
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8")


# ---- what both kinds of files say ----------------------------------------------------------------

class Spelling(dict):
    """word -> to_bytes(word), worked out once for each word."""

    def __missing__(self, word):
        self[word] = to_bytes(word)
        return self[word]


def vocabulary_from(vocab, merges, added, pattern, normalize=None, ignore_merges=False):
    """Vocabulary. vocab: {word: id}; merges: [[left, right]] of words; added: {name: its JSON}."""
    check_ids([*vocab.values(), *(token["id"] for token in added.values())])
    spelling = Spelling()
    merges = [tuple([spelling[word] for word in pair]) for pair in merges]
    made = set()
    if vocab.keys() & added:            # as in GPT-2's, whose special tokens no bytes make
        made = {b"".join(pair) for pair in merges}
    ranks = {}
    for word, i in vocab.items():
        if word not in added or is_made(word, made):
            ranks[spelling[word]] = i
    check_merges(ranks, merges, ignore_merges)
    special, words, flags = {}, {}, {}
    for name, token in added.items():
        (special if token["special"] else words)[name] = token["id"]
        flags[name] = Flags(*(token.get(key, False) for key in Flags._fields))
    if not normalize and len({f.normalized for f in flags.values()}) < 2:       # without effect
        flags = {name: f._replace(normalized=False) for name, f in flags.items()}
    flags = {name: f for name, f in flags.items() if any(f)}
    found = Vocabulary(ranks, pattern, special, normalize, words, flags)
    for name in added if ignore_merges else ():
        if name in vocab and not is_made(name, made) and is_piece_too(name, found):
            raise ValueError(f"{shown(name)} is an added token, and with ignore_merges also a "
                             f"piece that no merges make: is not supported")
    return found


def is_piece_too(name, vocabulary):
    """Whether the name of an added token may also be the spelling of an ordinary piece of text.

    tokenizers would take the piece for the token, if vocab has it and merges are ignored.
    """
    try:
        text = to_bytes(name).decode("utf-8")
    except ValueError:
        return False
    if text == name and not vocabulary.normalize and name not in vocabulary.flags:
        return False
    return len(finder(vocabulary.pattern)(text)) < 2


# ---- vocab.json and merges.txt -------------------------------------------------------------------

# Classes of transformers that cut text as GPT-2 does. A folder that names another one needs its
# tokenizer.json.
GPT2_CLASSES = {f"{family}Tokenizer{kind}" for kind in ("", "Fast")
                for family in ("GPT2", "Roberta", "Bart", "Longformer", "PreTrained")}
IN_BRACKETS = regex.compile(r"<.+>|\[.+\]", regex.S)     # how special tokens are named


def added_beside(path):
    """What added_tokens.json and tokenizer_config.json beside a vocab.json say.

    -> {name: its JSON}, add_prefix_space
    """
    added_file = path.with_name("added_tokens.json")
    config_file = path.with_name("tokenizer_config.json")
    ids = disk.read_json(added_file) if added_file.is_file() else {}
    config = disk.read_json(config_file) if config_file.is_file() else {}
    cut_by = config.get("tokenizer_class") or "GPT2Tokenizer"
    if cut_by not in GPT2_CLASSES:
        raise ValueError(f"{config_file.name} names the class {str(cut_by)[:60]!r}, which may cut "
                         f"text otherwise than GPT-2; it takes a tokenizer.json")
    added = {name: {"id": i, "special": is_special(name)} for name, i in ids.items()}
    for i, token in config.get("added_tokens_decoder", {}).items():
        name = token["content"]
        if ids.get(name, int(i)) != int(i):
            raise ValueError(f"{shown(name)} has the id {ids[name]} in {added_file.name} and {i} "
                             f"in {config_file.name}")
        added[name] = {"special": False, **token, "id": int(i)}
    return added, config.get("add_prefix_space", False)


def is_special(name):
    """Whether a token is special, where no file says so: then its name stands in brackets."""
    return bool(IN_BRACKETS.fullmatch(name))


def read_gpt2(path):
    """GPT-2's vocab.json (or encoder.json) and beside it merges.txt (or vocab.bpe) -> Vocabulary.

    Tokens that no merge makes are special if their names stand in brackets. Others have to be in
    added_tokens.json or tokenizer_config.json, which transformers writes beside these.
    """
    merges_file = path.with_name("vocab.bpe")
    if not merges_file.is_file():
        merges_file = path.with_name("merges.txt")
    merges = read_merges(merges_file)
    vocab = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=distinct)
    added, spaced = added_beside(path)
    made = {left + right for left, right in merges}
    for word, i in vocab.items():
        if is_special(word) and word not in made:
            added.setdefault(word, {"id": i, "special": True})
    for word, token in added.items():
        if vocab.get(word, token["id"]) != token["id"]:
            raise ValueError(f"{shown(word)} has the ids {token['id']} and {vocab[word]}")
    pattern = (SPACED, Split(PATTERNS["gpt2"])) if spaced else PATTERNS["gpt2"]
    return vocabulary_from(vocab, merges, added, pattern)


def read_merges(path):
    """merges.txt -> [[left, right]], words."""
    merges = []
    for n, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip() or n == 1 and line.startswith("#version"):
            continue
        merges.append(line.split())
        if len(merges[-1]) != 2:
            raise ValueError(f"{path.name}:{n}: {line[:60]!r} is no pair")
    return merges


def gpt2_files(vocabulary, path, end=None):
    """{name: contents} of vocab.json, merges.txt and tokenizer_config.json."""
    is_plain = not (vocabulary.normalize or vocabulary.words or vocabulary.flags)
    if vocabulary.pattern != PATTERNS["gpt2"] or not is_plain:
        raise ValueError(f"{path}: GPT-2's files hold no pattern and no added words, and this "
                         f"vocabulary's are not GPT-2's; save as tokenizer.json")
    vocab = {to_characters(token): i for token, i in vocabulary.ranks.items()}
    vocab |= vocabulary.special_tokens
    vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    lines = ["#version: 0.2"]
    in_order = dict(sorted(vocabulary.ranks.items(), key=lambda item: item[1]))
    for token, parts in own_merges(in_order):
        if len(parts) != 2:
            raise ValueError(f"token {shown(token)} ends as {len(parts)} parts and not as two, "
                             f"so pairs cannot make it; save as .tiktoken or tokenizer.json")
        lines.append(" ".join(map(to_characters, parts)))
    return {
        "tokenizer_config.json": config_file(vocabulary, end, gpt2=True),
        path.name: json.dumps(vocab, ensure_ascii=False).encode(),
        "merges.txt": ("\n".join(lines) + "\n").encode(),
    }


# ---- tokenizer.json: writing ---------------------------------------------------------------------

# What a tokenizer.json must say for its ids to be ours. A key that is missing reads as the first of
# the values. truncation and padding are not in it: they are what somebody asked for last, and
# transformers sets them at every call.
JSON_MODEL = {
    "type": ["BPE"],
    "dropout": [None, 0],
    "unk_token": [None],
    "continuing_subword_prefix": [None, ""],
    "end_of_word_suffix": [None, ""],
    "fuse_unk": [False, True],
    "byte_fallback": [False],
    "ignore_merges": [False, True],
}
JSON_ADDED = {
    "single_word": [False, True],
    "lstrip": [False, True],
    "rstrip": [False, True],
    "normalized": [False, True],
    "special": [True, False],
}
JSON_BYTE_LEVEL = {
    "type": ["ByteLevel"],
    "add_prefix_space": [False, True],
    "trim_offsets": [True, False],
}
JSON_SPLIT = {"type": ["Split"], "behavior": list(BEHAVIORS), "invert": [False, True]}
# What is put around a text when asked for, such as Llama 3's <|begin_of_text|>, is not asked for.
JSON_AROUND = {"ByteLevel", "TemplateProcessing", "Sequence", "RobertaProcessing", "BertProcessing"}


def usual(table):
    """The first value of each key in a table."""
    return {key: values[0] for key, values in table.items()}


def require(part, table):
    """ValueError that names a value in a part of the file which the table does not allow."""
    for key, values in table.items():
        found = part.get(key, values[0])
        if found not in values or type(found) is int and type(values[0]) is bool:
            raise ValueError(f"{part.get('content', '')} {key} {found!r} is not supported")


def json_file(vocabulary, path):
    """The contents of a tokenizer.json for which Hugging Face's tokenizers gives the same ids.

    tiktoken asks for the rank of joint bytes, tokenizers for the rank of a pair. So every way to
    cut a token into two tokens is listed as a merge. ignore_merges: a piece that is a token as a
    whole is that token. The added tokens stand in vocab too, which fixes their ids.
    """
    added = vocabulary.special_tokens | vocabulary.words
    vocab = {to_characters(token): i for token, i in vocabulary.ranks.items()}
    for name, i in added.items():
        if vocab.get(name, i) != i:
            raise ValueError(f"{path}: a special token's name is how tokenizer.json spells a token")
    # A name that is a piece too must not stand in vocab. tokenizers then numbers the added tokens
    # from that one on by itself, so none of those behind it may stand there either.
    first = min((i for name, i in added.items() if is_piece_too(name, vocabulary)),
                default=ID_LIMIT)
    vocab |= {name: i for name, i in added.items() if i < first}
    vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    added_tokens = []
    for name, i in sorted(added.items(), key=lambda item: item[1]):
        flags = usual(JSON_ADDED) | vocabulary.flags.get(name, Flags())._asdict()
        flags["special"] = name in vocabulary.special_tokens
        added_tokens.append({"id": i, "content": name, **flags})
    merges = [" ".join(map(to_characters, pair)) for pair in all_merges(vocabulary.ranks)]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "normalizer": json_normalizer(vocabulary.normalize),
        "added_tokens": added_tokens,
        "pre_tokenizer": json_cut(vocabulary.pattern),
        "post_processor": None,
        "decoder": usual(JSON_BYTE_LEVEL) | {"use_regex": False},
        "model": usual(JSON_MODEL) | {"ignore_merges": True, "vocab": vocab, "merges": merges},
    }
    read_added(added_tokens, vocab)                         # ValueError if it would not come back
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf-8")


def json_cut(pattern):
    """The pre_tokenizer of a pattern or of steps."""
    steps, found = list(pattern) if isinstance(pattern, tuple) else [Split(pattern)], []
    if SPELLED not in steps:
        steps.append(SPELLED)
    while steps:
        step = steps.pop(0)
        if isinstance(step, Split):
            translated = from_oniguruma(step.pattern)
            if translated != step.pattern:
                raise ValueError(f"pattern {step.pattern[:80]!r} means something else in "
                                 f"tokenizer.json; it would be: {translated[:200]}")
            found.append({"type": "Split", "behavior": step.behavior, "invert": step.invert,
                          "pattern": {"Regex": step.pattern}})
            continue
        byte_level = usual(JSON_BYTE_LEVEL) | {"add_prefix_space": False, "use_regex": False}
        if step == SPACED:              # with it come its pattern and the spelling, in one part
            uses_regex = steps[0] == Split(PATTERNS["gpt2"])
            byte_level |= {"add_prefix_space": True, "use_regex": uses_regex}
            del steps[:1 + uses_regex]
        found.append(byte_level)
    return {"type": "Sequence", "pretokenizers": found}


def json_normalizer(step):
    """The normalizer of None, a step or a tuple of steps. LeaveOut follows from vocab."""
    if step is None or isinstance(step, LeaveOut):
        return None
    if isinstance(step, str):
        return {"type": step}
    if type(step) is tuple:
        found = list(filter(None, map(json_normalizer, step)))
        return {"type": "Sequence", "normalizers": found} if found else None
    part = {"type": type(step).__name__, **step._asdict()}
    if "pattern" in part:
        part["pattern"] = {"Regex": part["pattern"]}
    return part


# ---- tokenizer.json: reading ---------------------------------------------------------------------

ALL_ELSE = regex.compile(r"(?<!\(\?<?[=!])\[\\s\\S\]")      # a [\s\S] in a pattern: it matches all
# The punctuation of tokenizers, whose table is of Unicode 8 (measured over all characters with
# tokenizers 0.23.3): the newer characters are taken out. And the characters of its words.
NEWER = ("\u061d\u09fd-\u0a76\u0c77-\u0c84\u1b4e\u1b4f\u1b7d-\u1b7f\u2e43-\u2e63"
         "\U00010d6e-\U00010f89\U000113d4-\U0001145d\U00011660-\U000116b9\U0001183b-\U00011fff"
         "\U00012ff1\U00012ff2\U00016d6d-\U00016fe2\U0001e5ff-\U0001e95f")
PUNCTUATION = f"(?![{NEWER}])[\\p{{P}}$+<=>^`|~\u166d\U000111c9]"
IN_WORDS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}" + "\u200c\u200d"


# What these pre_tokenizers do, as steps.
CUTS = {
    "WhitespaceSplit": [Split(r"\s", "Removed")],
    "BertPreTokenizer": [Split(r"\s", "Removed"), Split(PUNCTUATION)],
    "Whitespace": [Split(rf"[{IN_WORDS}]+|[^{IN_WORDS}\s]+", "Removed", True)],
}
NORMALIZERS = {step.__name__: step for step in (Replace, Prepend, Strip)}


def read_json(path):
    """tokenizer.json -> Vocabulary with the same ids, or ValueError naming what this cannot do.

    It reads byte-level BPE, the steps that read_normalizer and read_cut know, and added tokens.
    Anything else would change ids.
    """
    content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=distinct)
    model = content["model"]
    require({"type": model.get("type") or "BPE"}, {"type": ["BPE"]})
    vocab = model["vocab"]
    rest = dict(model)
    if all(character in vocab for character in BYTE_TO_CHARACTER.values()):
        rest |= {"unk_token": None, "byte_fallback": False}     # with all bytes, none is unknown
    if rest.get("byte_fallback"):
        raise ValueError("it is SentencePiece's (byte_fallback), as Llama 2's: its tokens are made "
                         "of characters, and only byte-level BPE is read here")
    pattern = read_cut(content["pre_tokenizer"])
    normalize = read_normalizer(content.get("normalizer"))
    lacking = "".join(chr(b) for b in range(256) if BYTE_TO_CHARACTER[b] not in vocab)
    if lacking and pattern != PATTERNS["characters"]:           # there an unknown one is an error
        normalize = (*steps_of(normalize), LeaveOut(lacking))
    require(rest | {"type": "BPE"}, JSON_MODEL)
    if not isinstance(model["merges"], list):
        raise ValueError(f"merges is {str(model['merges'])[:60]!r}, expected a list")
    around = content.get("post_processor") or {"type": "ByteLevel"}
    for step in (around, *around.get("processors", ())):
        if step["type"] not in JSON_AROUND:
            raise ValueError(f"post_processor {step['type']!r} is not supported")
    listed = model["merges"]
    if str(listed[:1]).startswith("['#version"):
        listed = listed[1:]
    merges = (pair.split(" ") if isinstance(pair, str) else pair for pair in listed)
    added = read_added(content.get("added_tokens", []), vocab)
    ignore_merges = model.get("ignore_merges", False)
    return vocabulary_from(vocab, merges, added, pattern, normalize, ignore_merges)


def pattern_of(part):
    """{"Regex": ...} or {"String": ...} -> a pattern for `regex`."""
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
    if pre is None:
        raise ValueError("pre_tokenizer null is not supported: this is no byte-level BPE, but one "
                         "of characters, such as SentencePiece's")
    steps = steps_of_cut(pre)
    if steps.count(SPELLED) != 1:
        raise ValueError(f"a pre_tokenizer with {steps.count(SPELLED)} times ByteLevel is not "
                         f"supported: byte-level BPE has it once")
    steps = tuple(steps[:-1] if steps[-1] == SPELLED else steps)
    # What a pattern does not match, tiktoken drops; tokenizers keeps it as pieces, and so do steps.
    if len(steps) == 1 and isinstance(steps[0], Split):
        pattern = steps[0].pattern
        matches_all = pattern in PATTERNS.values() or ALL_ELSE.search(pattern)
        if steps[0] == Split(pattern) and matches_all:
            return pattern
    return steps


def steps_of_cut(part):
    """A pre_tokenizer -> a list of steps."""
    kind = part["type"]
    if kind == "Sequence":
        return [step for inner in part["pretokenizers"] for step in steps_of_cut(inner)]
    if kind == "ByteLevel":
        require(part, JSON_BYTE_LEVEL | {"use_regex": [True, False]})
        spaced = [SPACED] if part.get("add_prefix_space", False) else []
        split = [Split(PATTERNS["gpt2"])] if part.get("use_regex", True) else []
        return [*spaced, *split, SPELLED]
    if kind == "Split":
        require(part, JSON_SPLIT)
        return [Split(pattern_of(part["pattern"]), part.get("behavior", "Isolated"),
                      part.get("invert", False))]
    if kind == "Digits":
        require(part, {"individual_digits": [False, True]})
        return [Split(r"\p{N}" if part.get("individual_digits") else r"\p{N}+")]
    if kind == "Punctuation":
        require(part, {"behavior": BEHAVIORS})
        return [Split(PUNCTUATION, part.get("behavior", "Isolated"))]
    if kind in CUTS:
        return CUTS[kind]
    if kind == "CharDelimiterSplit":
        return [Split(pattern_of({"String": part["delimiter"]}), "Removed")]
    raise ValueError(f"pre_tokenizer {kind!r} is not supported")


def read_normalizer(part):
    """A normalizer -> None, a step or a tuple of steps, for added.normalized."""
    steps = steps_of_normalizer(part) if part is not None else []
    if len(steps) == 1 and isinstance(steps[0], str):
        return steps[0]
    return tuple(steps) or None


def steps_of_normalizer(part):
    """A normalizer -> a list of steps."""
    rest = dict(part)
    kind = rest.pop("type", None)
    if kind == "Sequence":
        return [step for inner in part["normalizers"] for step in steps_of_normalizer(inner)]
    if kind in (*UNICODE_FORMS, LOWERCASE):
        return [kind]
    if kind not in NORMALIZERS:
        raise ValueError(f"normalizer {str(part)[:80]} is not supported")
    if "pattern" in rest:
        rest["pattern"] = pattern_of(rest["pattern"])
    return [NORMALIZERS[kind](**rest)]


def read_added(tokens, vocab):
    """added_tokens -> {name: its JSON}.

    Where vocab lacks a name, tokenizers gives it the next free id and ignores the one in the file.
    """
    if not isinstance(tokens, list):
        raise ValueError(f"added_tokens is {str(tokens)[:60]!r}, expected a list")
    for token in tokens:
        require(token, JSON_ADDED)
    added = distinct([(token["content"], {"special": True, **token}) for token in tokens])
    following = len(vocab)
    for name, token in added.items():
        given = vocab.get(name, following)
        if given != token["id"]:
            why = "" if name in vocab else " (the next one that is free, which tokenizers gives it)"
            raise ValueError(f"{shown(name)} has the ids {token['id']} and {given}{why}")
        following = max(following, given + 1)
    return added
