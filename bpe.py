"""Byte-level BPE: text to tokens and back.

A language model reads and writes numbers, the ids of tokens. A tokenizer turns text into them:

    pattern             a regular expression that cuts text into pieces, mostly words
    ranks               {byte string: id}, the tokens, in the order in which they were learned
    special tokens      {name: id}, such as <|endoftext|>; they do not come from text

To train, start from the 256 bytes and keep merging the most frequent pair of neighbours in a large
corpus: each merge makes one token, whose id is the next rank. To encode a piece, start from its
single bytes and keep merging the two neighbours whose joint bytes have the lowest rank. Suppose
that training made these tokens, in this order: se, he, ␣t, ␣the. They have the ids 256 to 259.

    text        "see the sea"
    pieces      "see"      " the"       " sea"          no token crosses these cuts
    bytes       s e e      ␣ t h e      ␣ s e a
    tokens      se e       ␣the         ␣ se a          "the" is merged to he, then ␣t, then ␣the
    ids         256 101    259          32 256 97

Why bytes? The 256 bytes spell every text of every script, so every text has tokens. If training
began from characters, those that it never met would all become one "unknown" token, and be lost.

How large a vocabulary? A larger one makes fewer tokens of a text, so a model reads and writes the
text in fewer steps. But each id costs a row of the model's embedding (GPT-2's 50,257 rows of 768
numbers are 38.6 of its 124 million parameters), and a rare token is met too seldom to be learned.
So small models take small vocabularies: the demo has 1,024 ids, GPT-4 has 100,277.

The plain functions below say all this: merge, train, encode, decode. They run without any other
file. The methods Tokenizer.train, .encode and .decode give the same ids, but take other arguments,
those of tiktoken where it has the method. They hand the work to the rooms in tokens/, which are
fast and read other people's files.

    python bpe.py                           checks this file; trains on three sentences
    python bpe.py train --run out/demo      docs/*.jsonl.gz -> tokenizer.tiktoken, tokenizer.json
    python bpe.py encode --run out/demo     docs/*.jsonl.gz -> tokens/{train,val}_*.bin
    python bpe.py encode --task 0/2 --run out/demo      one of two machines (tokens/by_tasks.py)
    python bpe.py show "hello world" --steps --run out/demo     with the tokenizer that train made

Left out: tokenizers that are not byte-level BPE. `load` refuses them by name.

Sources: Sennrich et al. 2016 (arXiv 1508.07909) for BPE; GPT-2 (Radford et al. 2019) for bytes and
pattern; tiktoken for the meaning of the methods; minbpe, rustbpe and Hugging Face's tokenizers for
the order of merges. tests/peers/test_bpe_peers.py compares with all of these.
"""

import codecs
import itertools
import os
import sys
import time
from collections import Counter
from functools import cached_property
from pathlib import Path

import regex                # like re, but knows Unicode's classes: \p{L} is a letter of any script

# ---- merging: one piece into tokens --------------------------------------------------------------

def merge(ranks, piece, steps=None):
    """A piece (bytes) -> the list of tokens (bytes) that BPE makes of it.

    Again and again, merge the two neighbours whose joint bytes have the lowest rank, of equals the
    leftmost, until no two neighbours make a token. With the ranks {b"ab": 256, b"abc": 257}:

        x a b c a b   ->   x ab c a b   ->   x ab c ab   ->   x abc ab

    The lowest rank comes first because encoding repeats what training did, in the same order.
    steps: a list that gets (rank, parts) after each merge, for `show --steps`.
    """
    parts = [piece[i:i + 1] for i in range(len(piece))]
    while True:
        found = []
        for i in range(len(parts) - 1):
            joint = parts[i] + parts[i + 1]
            if joint in ranks:
                found.append((ranks[joint], i))
        if not found:
            return parts
        rank, i = min(found)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
        if steps is not None:
            steps.append((rank, list(parts)))


# ---- training: a corpus into tokens --------------------------------------------------------------

def may_be_token(token):
    """Whether training may make this token (bytes). Here it may make any.

    A rule about tokens belongs here and nowhere else. For no token of more than 16 bytes, return
    len(token) <= 16. Both `train` and the fast trainer of `python bpe.py train` call this function.
    What training never makes has no rank, so `merge` never makes it either.
    """
    return True


def train(piece_counts, n_tokens, rule=None):
    """{piece (bytes): how often it occurs} -> [token (bytes), ...]: the n-th token has the id n.

    The first 256 tokens are the single bytes. Then each merge joins the pair of neighbours with the
    highest count and adds one token. There are fewer than n_tokens if no pair is left.
    rule: may_be_token, or another function of that kind.

    Ties: of pairs with equal counts we take the smallest (left id, right id). rustbpe has the same
    rule; so has Hugging Face, which numbers the single bytes in another order. minbpe takes the
    pair that comes first in the corpus.

    This loop is quadratic. Each merge counts every pair of the corpus again, so n merges on a
    corpus of n bytes take about n * n steps: twice the corpus and twice the merges take four times
    as long. 12 MB of English are 70,000 different pieces of 570,000 bytes in all. For 32,000 merges
    this loop looks at about 10^10 pairs, which takes an hour. tokens/trainer.py takes seconds,
    because it counts the corpus only once. It keeps for each pair the count and the places where
    the pair stands. A merge visits only these places, and counts only the new pairs around them. A
    heap gives the next best pair.
    """
    rule = rule or may_be_token
    tokens = [bytes([b]) for b in range(256)]
    words = [(list(piece), count) for piece, count in piece_counts.items()]     # a byte is its id
    while len(tokens) < n_tokens:
        pairs = Counter()
        for ids, count in words:
            for left, right in zip(ids, ids[1:]):
                pairs[left, right] += count     # "aaa" counts twice, though only one can merge
        allowed = [pair for pair in pairs if rule(tokens[pair[0]] + tokens[pair[1]])]
        if not allowed:
            break
        best = min(allowed, key=lambda pair: (-pairs[pair], pair))    # most frequent, then smallest
        for ids, _ in words:
            replace_pair(ids, best, len(tokens))
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return tokens


def replace_pair(ids, pair, new):
    """Write the id `new` for each (left, right) in a list, in place, from the left: aaa -> Xa."""
    i = 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            ids[i:i + 2] = [new]
        i += 1


# ---- the pattern: where no token can cross -------------------------------------------------------

# Without a pattern, "dog." "dog!" and "dog?" would each become a token, and so would whole phrases.
# The pattern cuts a text into pieces before any counting or merging. No merge crosses a cut, so the
# pattern decides what can be a token at all. The first alternative that matches counts.
# This pattern cuts between every digit and every letter, so no token has both. A rule against such
# tokens in may_be_token changes nothing here; try it on train({b"a1b2": 5, b"ab12": 3}, 262).
#
# A word takes the space before it along. So a text needs almost no tokens for its spaces. But
# " hello" and "hello" are different bytes and hence different tokens with different ids: the model
# must learn from data that they mean the same. It meets "hello" at the start of a line or behind a
# bracket, " hello" inside a sentence. Of two spaces the first is a piece of its own.
#
# ?+ and ++ match like ? and +, but never give back a character so that the rest can match. That
# saves time, and here it changes no match.
PATTERN = "|".join([
    r"'(?i:[sdmt]|ll|ve|re)",               # the end of it's, I'd, I'm, don't, we'll, we've, we're
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",           # letters; before them one space or one other mark
    r"\p{N}",                               # one digit: a small model adds column by column
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",          # punctuation; the space before, the newlines behind
    r"\s*[\r\n]",                           # white space up to the end of a line
    r"\s+(?!\S)",                           # other white space, but not the last one before a word
    r"\s+",
])
# It is GPT-4's pattern as rustbpe and minbpe write it, but GPT-4 takes up to three digits together.
# tokens/patterns.py calls this one "digits", and has others.


# ---- encoding, decoding, special tokens ----------------------------------------------------------

# The special tokens of a vocabulary that is trained here. Their ids follow behind the ranks.
SPECIAL_TOKENS = (
    "<|endoftext|>",                        # begins each document
    "<|im_start|>",                         # begins a message of a chat, then comes the role
    "<|im_sep|>",                           # between the role and the text
    "<|im_end|>",                           # ends a message: the model has no more to say
    "<|tool_start|>", "<|tool_end|>",       # around a call of a tool
    "<|output_start|>", "<|output_end|>",   # around what the tool answered
)


def encode(text, ranks, special_tokens=None):
    """Text -> list of ids. special_tokens: {name: id} of those to find in this text, mostly none.

    Special tokens steer the model: <|im_end|> ends a message. So text alone must never become one.
    By default no name is looked for. Whoever types <|im_end|> gets the ordinary tokens of these ten
    characters. The id of <|im_end|> itself comes from a program, in one of two ways: it adds the id
    to the list, as sample.py does around each message, or it passes special_tokens for a text that
    it wrote itself. (Tokenizer.encode is stricter: a name that is not allowed is an error, unless
    the caller says that it is ordinary text.)
    """
    ids = []
    if not special_tokens:
        for piece in regex.findall(PATTERN, text):
            ids += [ranks[token] for token in merge(ranks, piece.encode("utf-8"))]
        return ids
    names = sorted(special_tokens, key=len, reverse=True)       # the longest name first
    any_name = "|".join(map(regex.escape, names))
    for part in regex.split(f"({any_name})", text):             # the () keep the names in the list
        if part in special_tokens:
            ids.append(special_tokens[part])
        else:
            ids += encode(part, ranks)                          # ordinary text between the names
    return ids


def decode(ids, token_bytes):
    """List of ids -> text. token_bytes[id] is the bytes of a token.

    A token may be a part of a character, as é is two bytes. Bytes that are not UTF-8 become U+FFFD.
    """
    return b"".join(token_bytes[i] for i in ids).decode("utf-8", errors="replace")


# ---- the coloured view ---------------------------------------------------------------------------

COLOURS = (153, 223, 194, 217, 189, 229)    # backgrounds, of the 256 colours of a terminal


def segments(ids, token_bytes):
    """[(text, ids)]: a token each, or the several tokens that only together are characters."""
    found, some, text = [], [], ""
    decoder = codecs.getincrementaldecoder("utf-8")()       # it keeps the bytes of half a character
    for n, i in enumerate(ids):
        some.append(i)
        try:
            text += decoder.decode(token_bytes[i])
        except UnicodeDecodeError:              # not UTF-8, whatever follows
            rest = some + ids[n + 1:]
            return found + [(decode(rest, token_bytes), rest)]
        kept, _ = decoder.getstate()            # the bytes, and flags
        if not kept:                            # no character is unfinished
            found.append((text, some))
            some, text = [], ""
    if some:
        found.append((decode(some, token_bytes), some))
    return found


def show_text(ids, token_bytes, printable=str, file=None, folded=str):
    """Print the tokens of a text, each on a background of its own, and below them their ids.

    Ids that only together make a character are joined by +. Without colours, | separates tokens.
    printable: a function that makes the text of strangers harmless for the terminal. folded: one
    that breaks a line where the terminal ends.
    """
    found = segments(ids, token_bytes)
    texts = [printable(text).replace("\n", "\\n\n") for text, _ in found]
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if sys.stdout.isatty() and not plain:
        colours = itertools.cycle(COLOURS)
        line = "".join(f"\x1b[30;48;5;{next(colours)}m{text}\x1b[0m" for text in texts)
    else:
        line = "|".join(texts)
    print(line, file=file)
    print(folded(" ".join("+".join(map(str, some)) for _, some in found)))


def show_steps(ranks, piece, folded=lambda line, indent: line):
    """Print how a piece (bytes) is merged: its bytes, then a line for each merge."""
    steps = []
    merge(ranks, piece, steps)
    bytes_alone = [piece[i:i + 1] for i in range(len(piece))]
    for rank, parts in [(None, bytes_alone), *steps]:
        texts = [part.decode("utf-8", "backslashreplace") for part in parts]
        shown = " ".join(text.replace(" ", "␣").replace("\n", "\\n") for text in texts)
        name = "bytes" if rank is None else f"rank {rank}"
        print(folded(f"    {name:>12}  {shown}", 18 * " "))


# ---- what this file does on its own --------------------------------------------------------------

SAMPLE = """\
The old lamp stands low on the shore. Slow ships see the lamp, and the low ships see it too.
When the lamp is low, the keeper lights a new one: newer and wider and brighter than the old.
In 1912 the shore had 12 lamps, in 1921 it had 21, and the lowest lamp was the oldest.
"""
TEXTS = (SAMPLE, "", " ", "lamp", " lamp", "two  spaces ", "1a2b", "\r\n\n x", "don't", "naïve",
         "안녕", "👩\u200d🚀", "<|im_end|>")


def checks(tokens, ranks):
    """Yields (what must be true of the definitions, whether it is), for tokens of SAMPLE."""
    few = {b"ab": 256, b"abc": 257}
    yield "the lowest rank is merged first", merge(few, b"xabcab") == [b"x", b"abc", b"ab"]
    yield "training merges the most frequent pair", (
        train({b"aaabdaaabac": 1, b"xy": 9}, 260)[256:] == [b"xy", b"aa", b"ab", b"aaab"])
    yield "of equal pairs the smallest is merged", train({b"ddcc": 1}, 257)[256:] == [b"cc"]
    short = train({b"aaaa": 1}, 300, lambda token: len(token) < 3)
    yield "training obeys a rule about tokens", short[256:] == [b"aa"]
    yield "may_be_token allows the tokens of the sample", tokens[-1] == b" bright"
    yield "every token is encoded as itself", all(merge(ranks, t) == [t] for t in tokens)
    lost = [text for text in TEXTS if decode(encode(text, ranks), tokens) != text]
    yield f"{len(TEXTS)} texts come back from their ids", not lost
    end = {"<|im_end|>": len(tokens)}
    typed, allowed = encode("low<|im_end|>", ranks), encode("low<|im_end|>", ranks, end)
    yield "a typed name is ordinary text", len(tokens) not in typed
    yield "an allowed name is one id", allowed == [*encode("low", ranks), len(tokens)]


def check_and_show(args=None):
    """Train on SAMPLE, check the definitions and show tokens; returns the exit code."""
    tokens = train(Counter(piece.encode("utf-8") for piece in regex.findall(PATTERN, SAMPLE)), 330)
    ranks = {token: i for i, token in enumerate(tokens)}
    faults = 0
    for what, is_true in checks(tokens, ranks):
        print(f"{'ok' if is_true else 'WRONG':8}{what}")
        faults += not is_true
    print(f"\n{len(tokens) - 256} merges learned from {len(SAMPLE)} characters, the first of them:")
    print(" ".join(f"{token.decode()!r}" for token in tokens[256:272]))
    print("\nA text, its tokens and their ids. A word with a space before it is another token:")
    text = "lamp lamps: a lowly lamp in 1912"
    show_text(encode(text, ranks), tokens)
    print("\nHow 'lamp' and ' lowest' are merged:")
    show_steps(ranks, b"lamp")
    show_steps(ranks, b" lowest")
    return 1 if faults else 0


# ---- the tokenizer that people use ---------------------------------------------------------------

class Tokenizer:
    """train, encode and decode as above, made fast by the rooms in tokens/.

    ranks               {bytes: id}, in the order of merging
    pattern             a name such as "digits" (patterns.PATTERNS), or a regular expression
    special_tokens      {name: id}

    Vocabularies of other projects may need more. It is explained in the rooms:

    pattern             a tuple of steps; each cuts the pieces of the step before (patterns.Split)
    normalize           changes of a text before it is cut, such as lower case (added.normalized)
    words               {name: id}, tokens like special ones, but found in every text (added.Added)
    flags               {name: Flags}, how a name is found, such as with the space before it

    token_bytes[id] is the bytes of a token; of a special token its name. n_vocab is the largest id
    plus one. Some ids below it may belong to no token: token_bytes has b"" there, and `holes` lists
    them. Methods have tiktoken's names and meaning; the rarer ones are in tokens/tiktoken.py.
    """

    name = None         # the encoding's, or the file it came from
    chats = None        # how its model writes chats, where chat/formats.py has been told
    tools = None        # {name: tool} that only its model may call, where sample.py found some

    def __init__(self, ranks, pattern, special_tokens, normalize=None, words=(), flags=()):
        from tokens.added import Added
        from tokens.decoder import Decoder
        from tokens.encoder import Encoder
        from tokens.patterns import PATTERNS
        from tokens.ranks import check

        self.ranks, self.special_tokens = dict(ranks), dict(special_tokens)
        self.normalize, self.words, self.flags = normalize, dict(words), dict(flags)
        self.pattern = PATTERNS.get(pattern, pattern) if isinstance(pattern, str) else pattern
        self.bytes_of = check(self)                         # {id: bytes}
        self.n_vocab = max(self.bytes_of) + 1
        self.token_bytes = [self.bytes_of.get(i, b"") for i in range(self.n_vocab)]
        # Added searches a text for the names of special tokens. The text between them goes to the
        # Encoder, which cuts it and merges the pieces. The Decoder turns ids into bytes.
        self.added = Added(self.special_tokens, self.words, self.flags, self.normalize)
        self.encoder = Encoder(self.ranks, self.pattern)
        self.decoder = Decoder(self.bytes_of, self.token_bytes)

    def __repr__(self):
        return f"<Tokenizer {self.name!r}, {self.n_vocab:,} tokens>"

    def __reduce__(self):               # to pickle it: without what the encoder remembers
        arguments = (self.ranks, self.pattern, self.special_tokens,
                     self.normalize, self.words, self.flags)
        return type(self), arguments, {"name": self.name}

    def encode(self, text, allowed_special=frozenset(), disallowed_special="all"):
        """Text to a list of ids. Special tokens are found only where they are allowed.

        allowed_special: a set of names, or "all". disallowed_special: a set of texts, or "all", the
        special tokens that are not allowed. A text with one of these is a ValueError, so nobody
        overlooks that a user typed it. A special token in neither set is read as ordinary text.
        """
        return self.encode_to_numpy(text, allowed_special=allowed_special,
                                    disallowed_special=disallowed_special).tolist()

    def encode_to_numpy(self, text, *, allowed_special=frozenset(), disallowed_special="all"):
        """encode to an array, (n,) uint32."""
        return self.added.encode(self, [text], n_threads=1, allowed_special=allowed_special,
                                 disallowed_special=disallowed_special)[0]

    def encode_ordinary(self, text):
        """Text to a list of ids; the names of special tokens are text like any other.

        Lone surrogates, which UTF-8 cannot hold, become U+FFFD. ValueError if the vocabulary lacks
        a character. What the pattern does not match is dropped, as in tiktoken.
        """
        return self.encode_to_numpy(text, disallowed_special=()).tolist()

    def encode_many(self, texts, *, num_threads=None):
        """encode_ordinary of each text, to arrays. num_threads: None means one a core."""
        return self.added.encode(self, list(texts), num_threads, allowed_special=(),
                                 disallowed_special=())

    def decode(self, ids, errors="replace"):
        """Ids to text. errors: as in bytes.decode, since a token may end inside a character."""
        return self.decode_bytes(ids).decode("utf-8", errors=errors)

    def decode_bytes(self, ids):
        """Ids to the exact bytes; KeyError, worded as tiktoken's, for an id that means nothing."""
        return self.decoder.decode(ids)

    @property
    def eot_token(self):
        """The id of <|endoftext|>."""
        return self.special_tokens["<|endoftext|>"]

    @cached_property
    def holes(self):
        """The ids below n_vocab that mean nothing, (n,) int64, for a sampler to rule out."""
        from tokens import ranks
        return ranks.holes(self)

    @cached_property
    def fingerprint(self):
        """16 hexadecimal digits that tell this vocabulary from others."""
        from tokens import ranks
        return ranks.fingerprint(self)

    @classmethod
    def train(cls, texts, vocab_size, pattern="digits", special_tokens=SPECIAL_TOKENS,
              ties="rustbpe", min_frequency=1, workers=1):
        """Learn vocab_size ids in all: 256 bytes, merges, then the special tokens.

        texts: an iterable of str, or {piece: count} as for `train` above. Memory grows with the
        number of different pieces only. pattern: "digits" is PATTERN. ties, min_frequency: see
        trainer.train. The vocabulary is smaller if no pair is left.
        """
        from tokens import trainer
        untrained = cls({bytes([b]): b for b in range(256)}, pattern, {})   # checks the pattern
        tokens = trainer.learn(texts, untrained.pattern, vocab_size, len(special_tokens),
                               ties, min_frequency, workers)
        return cls({token: i for i, token in enumerate(tokens)}, pattern,
                   {name: len(tokens) + i for i, name in enumerate(special_tokens)})

    @classmethod
    def characters(cls, text):
        """One token a character, in code-point order, no specials: nanoGPT's shakespeare_char."""
        from tokens.added import well_formed
        found = sorted(set(well_formed(text)))
        return cls({c.encode("utf-8"): i for i, c in enumerate(found)}, "characters", {})

    def save(self, path, end=None):
        """Write NAME.tiktoken, vocab.json or another NAME.json: see vocabularies.save."""
        from tokens import vocabularies
        vocabularies.save(self, Path(path), end)

    @classmethod
    def load(cls, path, pattern=None, special_tokens=None, folder=None):
        """Read such a file, or a published encoding such as cl100k_base: see vocabularies.load."""
        from tokens import vocabularies
        return vocabularies.load(cls, Path(path), pattern, special_tokens, folder)


# ---- commands ------------------------------------------------------------------------------------

def vocabulary_of(args, name):
    """The tokenizer of this name or file, by default the run's."""
    if name:
        return Tokenizer.load(name, folder=args.ranks)
    return Tokenizer.load(args.run / "tokenizer.tiktoken")


def train_command(args):
    """RUN/docs -> RUN/tokenizer.tiktoken and RUN/tokenizer.json."""
    from run import runs
    from tokens import by_tasks, shards
    files = shards.input_files(args.run, args.input)

    def learn(counts):
        return Tokenizer.train(counts, args.vocab_size, args.pattern, ties=args.ties,
                               min_frequency=args.min_frequency)

    tokenizer = by_tasks.train_run(learn, files, args)
    if not tokenizer:                       # of several tasks only one merges
        return
    longest = sorted(tokenizer.ranks, key=len)[-1].decode("utf-8", errors="replace")
    longest = longest[:40] + "..." * (len(longest) > 40)
    print(f"the longest token is {longest!r}")
    read, made = f"{len(files)} file(s) of documents", f"{tokenizer.n_vocab:,} tokens"
    print(runs.row("bpe", read, made))


def encode_command(args):
    """RUN/docs -> the shards in RUN/tokens."""
    from run import runs
    from tokens import by_tasks, shards
    files, tokenizer = shards.input_files(args.run, args.input), vocabulary_of(args, args.vocab)
    start = time.perf_counter()
    counts = by_tasks.encode_run(files, tokenizer, args)
    if not counts:                          # of several tasks only one publishes
        return
    seconds = time.perf_counter() - start
    train, val, mb = counts["train tokens"], counts["val tokens"], counts["bytes"] / 1e6
    read = f"{counts['train documents'] + counts['val documents']:,} documents, {mb:.1f} MB"
    print(f"{train:,} tokens for training, {val:,} for validation\n"
          f"{counts['bytes'] / (train + val):.3f} bytes a token, {mb / seconds:.1f} MB/s")
    print(runs.row("tokens", read, f"{train + val:,} tokens"))


def decode_command(args):
    """Ids to text."""
    if not args.ids and sys.stdin is None:
        raise ValueError("stdin is closed; give the ids as arguments")
    tokenizer, ids = vocabulary_of(args, args.vocab), args.ids or sys.stdin.read().split()
    for word in ids:
        if not word.isdecimal():
            raise ValueError(f"{word[:60]!r} is no token id; ids are whole numbers")
    try:
        print(tokenizer.decode(map(int, ids)))
    except KeyError as error:
        raise ValueError(f"{tokenizer.name}: {error.args[0]}") from None


EXAMPLES = (
    (" hello  world", "a space belongs to the word behind it; of two, the first stands alone"),
    ("hello world helloworld HELLO WORLD", "with a space, without one, in capitals: other tokens"),
    ("1 12 123 1234 12345.67", "digits stand alone, or in groups of up to three from the left"),
    ("for i in range(3):\n        print(i)", "how many tokens the spaces of a program cost"),
    ("Egg. I have an Egg. egg. EGG.", "four ways to write a word"),
    ("안녕하세요 naïve", "other scripts take more tokens for the same"),
    ("🙂 👩\u200d🚀", "an emoji is several tokens, none of them a character"),
)


def show_command(args):
    """Print the tokens of a text; without a text, some that explain what tokens are."""
    from run import command
    from tokens import patterns
    tokenizers = [vocabulary_of(args, name) for name in args.vocab or [None]]
    for text, why in EXAMPLES if args.text is None else [(args.text, None)]:
        if why:
            print(f"{why}:")
        n = max(1, min(31, command.columns() - 47))         # columns for the name
        rows = [f"{'':{n}}{'characters':>12}{'bytes':>9}{'tokens':>9}{'bytes a token':>16}"]
        for tokenizer in tokenizers:
            if len(tokenizers) > 1:
                print(f"{tokenizer.name}:")
            ids = tokenizer.encode(text, allowed_special="all")
            show_text(ids, tokenizer.token_bytes, command.printable,
                      command.uncensored(sys.stdout), command.folded)
            for piece in patterns.finder(tokenizer.pattern)(text) if args.steps else ():
                print(f"  {piece!r}")
                show_steps(tokenizer.ranks, patterns.bytes_of(piece, tokenizer.pattern),
                           command.folded)
            n_bytes = len(text.encode("utf-8", "replace"))
            rows.append(f"{tokenizer.name[-n:]:{n}}{len(text):12,}{n_bytes:9,}{len(ids):9,}"
                        f"{n_bytes / max(len(ids), 1):16.2f}")
        if len(tokenizers) > 1 or not why:
            print(*rows, sep="\n")
        if why:
            print()


COMMANDS = {
    None: check_and_show,
    "train": train_command,
    "encode": encode_command,
    "decode": decode_command,
    "show": show_command,
}


def parse_args(argv=None):
    """The command line, checked: see tokens/options.py."""
    from tokens import options
    return options.parse_args(argv, f"{__doc__.splitlines()[0]} Without a command this file checks "
                              "itself, trains on three sentences and shows the tokens.")


def main(argv=None):
    """Run a command; returns the exit code."""
    from run import runs
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    if sys.stdout is None:
        raise ValueError("stdout is closed, and the results go there")
    runs.start_clock()
    if getattr(args, "slurm", None):
        from tokens import by_tasks
        print(by_tasks.slurm_script(args, argv), end="")
        return 0
    return COMMANDS[args.command](args) or 0


if __name__ == "__main__":
    try:
        from run import command
    except ModuleNotFoundError:             # this file is alone
        if sys.argv[1:]:
            sys.exit("bpe.py: commands need the folders tokens/, run/ and model/ beside this file")
        sys.exit(check_and_show())
    command.run(main, error_status=2, data=True)
