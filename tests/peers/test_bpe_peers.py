"""bpe.py beside tiktoken, tokenizers and rustbpe: the same ids, the same merges, and how fast.

    python -m pytest tests/peers/test_bpe_peers.py
    python tests/peers/test_bpe_peers.py          the speed table: a job a line, all of it in this run
"""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")      # one thread each, so ratios compare
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import bpe
import vocabularies
from bpe import PATTERNS, Tokenizer

DATA = Path(os.environ.get("LONGHAND_DATA", ROOT.parent / "shared" / "data"))
ENCODINGS = ["r50k_base", "cl100k_base", "o200k_base"]


def data_file(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name}: set LONGHAND_DATA to a folder that has it")
    return path


def english(n_characters):
    with open(data_file("english.txt"), encoding="utf-8", newline="") as file:
        return file.read(n_characters)


def languages(n_characters):
    return [path.read_bytes().decode("utf-8")[:n_characters]
            for path in sorted(data_file("udhr").glob("*.txt"))]


def random_texts(n, seed):
    """Texts over all planes, of characters that this Python's Unicode already knows.

    The engines' tables are of different years; on newer characters than these they may differ.
    """
    rng = np.random.default_rng(seed)
    known = [c for c in map(chr, range(0x110000))
             if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    common = list("   \n\n\r\tab cdestrmlvABS''0123456789.,!?/-\u00a0\u2028éßſ中한👍\u0301")
    texts = []
    for _ in range(n):
        pools = [common, known] if rng.random() < 0.7 else [common]
        texts.append("".join(pool[rng.integers(len(pool))] for _ in range(rng.integers(1, 60))
                             for pool in [pools[rng.integers(len(pools))]]))
    return texts


def tiktoken_encoding(name, tokenizer):
    """tiktoken's encoding of that name, its own pattern and specials, on our copy of the ranks."""
    tiktoken = pytest.importorskip("tiktoken")
    public = pytest.importorskip("tiktoken_ext.openai_public")
    original = public.load_tiktoken_bpe
    public.load_tiktoken_bpe = lambda *args, **kwargs: tokenizer.ranks      # never the network
    try:
        arguments = public.ENCODING_CONSTRUCTORS[name]()
    finally:
        public.load_tiktoken_bpe = original
    return tiktoken.Encoding(**arguments)


@pytest.fixture(scope="module", params=ENCODINGS)
def pair(request):
    tokenizer = Tokenizer.load(data_file(f"{request.param}.tiktoken"))
    return tokenizer, tiktoken_encoding(request.param, tokenizer)


# ---- tiktoken ------------------------------------------------------------------------------------

def test_ids_equal_tiktoken(pair):
    ours, theirs = pair
    assert ours.n_vocab == theirs.n_vocab and ours.eot_token == theirs.eot_token
    assert ours.special_tokens == theirs._special_tokens
    for text in [english(1_000_000), *languages(3000), *random_texts(3000, seed=1),
                 "a" * 20_000, "^" * 20_000, " " * 3000 + "x", "\ud83d\udc4d \ud83d"]:
        ids = ours.encode_ordinary(text)
        assert ids == theirs.encode_ordinary(text), text[:80]
        assert ours.decode_bytes(ids) == theirs.decode_bytes(ids)
    assert ours.decode([ids[0]]) == theirs.decode([ids[0]])


def test_special_tokens_equal_tiktoken(pair):
    ours, theirs = pair
    names = list(ours.special_tokens)
    rng = np.random.default_rng(2)
    outcomes = set()
    for _ in range(500):
        words = names + ["<|", "hello", " ", "|>", "<|endoftext", "end", "|", "\n"]
        text = "".join(rng.choice(words, rng.integers(0, 7)))
        subsets = [set(), "all", set(rng.choice(names, 2).tolist()), {"no such name"}]
        arguments = {"allowed_special": subsets[rng.integers(4)]}
        if rng.random() < 0.7:
            arguments["disallowed_special"] = ["all", (), {names[0]}, {"end"}][rng.integers(4)]
        results = []
        for tokenizer in (ours, theirs):
            try:
                results.append(tokenizer.encode(text, **arguments))
            except ValueError:
                results.append("ValueError")
        assert results[0] == results[1], (text, arguments)
        outcomes.add(results[0] == "ValueError")
    assert outcomes == {True, False}


def test_our_vocabulary_in_tiktoken():
    tiktoken = pytest.importorskip("tiktoken")
    ours = Tokenizer.train([english(500_000)], 1500)
    theirs = tiktoken.Encoding("ours", pat_str=ours.pattern, mergeable_ranks=ours.ranks,
                               special_tokens=ours.special_tokens, explicit_n_vocab=ours.n_vocab)
    for text in [english(1_000_000), *languages(1000), *random_texts(1000, seed=3)]:
        assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)


def test_tiktoken_reads_our_ranks(tmp_path):
    load = pytest.importorskip("tiktoken.load")
    ours = Tokenizer.train([english(100_000)], 600)
    ours.save(tmp_path / "tokenizer.tiktoken")
    data = (tmp_path / "tokenizer.tiktoken").read_bytes()
    original, load.read_file_cached = load.read_file_cached, lambda *args, **kwargs: data
    try:
        assert load.load_tiktoken_bpe("tokenizer.tiktoken") == ours.ranks
    finally:
        load.read_file_cached = original


# ---- tokenizers ----------------------------------------------------------------------------------

def same_ids(ours, theirs, texts):
    for text in texts:
        assert ours.encode(text, allowed_special="all") == \
            theirs.encode(text, add_special_tokens=False).ids, text[:80]


@pytest.mark.parametrize("name", PATTERNS)
def test_our_json_in_tokenizers(tmp_path, name):
    tokenizers = pytest.importorskip("tokenizers")
    text = english(300_000)
    if name == "characters":
        ours = Tokenizer.characters(text)
    else:
        ours = Tokenizer.train([text], 1500, name)
    ours.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [text, "a<|im_start|>b<|endoftext|> c<|im_end|>", "a" * 5000]
    if name == "characters":
        texts = [text]
    else:
        assert theirs.get_vocab_size() == ours.n_vocab == 1500
        texts += languages(1000) + random_texts(1000, seed=4)
        assert theirs.decode(ours.encode("one two\n é 中")) == "one two\n é 中"
    same_ids(ours, theirs, texts)


@pytest.mark.parametrize("name", ENCODINGS)
def test_published_json_in_tokenizers(tmp_path, name):
    tokenizers = pytest.importorskip("tokenizers")
    ours = Tokenizer.load(data_file(f"{name}.tiktoken"))
    ours.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    same_ids(ours, theirs, [english(300_000), *languages(1000), *random_texts(500, seed=5)])
    for special, i in ours.special_tokens.items():
        assert theirs.token_to_id(special) == i


def test_json_that_tokenizers_trained(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = {"gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
              "gpt4": pre_tokenizers.Sequence(
                  [pre_tokenizers.Split(Regex(PATTERNS["gpt4"]), "isolated"), byte_level])}
    for name, pre_tokenizer in splits.items():
        theirs = tokenizers.Tokenizer(models.BPE())
        theirs.pre_tokenizer, theirs.decoder = pre_tokenizer, decoders.ByteLevel()
        theirs.train_from_iterator([english(300_000)], trainers.BpeTrainer(
            vocab_size=1000, special_tokens=["<|endoftext|>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        theirs.save(str(tmp_path / f"{name}.json"))
        ours = Tokenizer.load(tmp_path / f"{name}.json")
        assert ours.pattern == PATTERNS[name] and ours.special_tokens == {"<|endoftext|>": 0}
        same_ids(ours, theirs, [english(300_000), "x<|endoftext|>y", *languages(500)])


def test_transformers_opens_our_json(tmp_path):
    transformers = pytest.importorskip("hugging_face", exc_type=ImportError).transformers
    ours = Tokenizer.train([english(100_000)], 600)
    ours.save(tmp_path / "tokenizer.json")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs("a <|im_start|> b")["input_ids"] == ours.encode("a <|im_start|> b", "all")
    assert len(theirs) == 600


# ---- rustbpe -------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, n_characters, vocab_size", [
    ("gpt4", 2_000_000, 3000), ("digits", 300_000, 5000), ("gpt2", 300_000, 900)])
def test_merges_equal_rustbpe(name, n_characters, vocab_size):
    rustbpe = pytest.importorskip("rustbpe")
    texts = [english(n_characters), *languages(500)]
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(texts), vocab_size, pattern=PATTERNS[name])
    ours = Tokenizer.train(texts, vocab_size, name, special_tokens=())
    assert ours.ranks == {bytes(token): rank for token, rank in theirs.get_mergeable_ranks()}


# ---- speed ---------------------------------------------------------------------------------------

def median_seconds(job, repeats=3):     # CPU time: other work on the machine disturbs it less
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        job()
        seconds.append(time.process_time() - start)
    return sorted(seconds)[repeats // 2]


def table_line(what, n_bytes, ours_s, peers_s):
    """Our time and speed, then for each peer its time, and as a ratio to ours: above 1 we win."""
    line = f"{what:<34} bpe.py {ours_s:6.2f} s {n_bytes / 1e6 / ours_s:6.1f} MB/s"
    for peer, seconds in peers_s.items():
        line += f"   {peer} {seconds:6.2f} s, ratio {seconds / ours_s:.2f}"
    print(line)


def speed_table():
    import rustbpe
    import tiktoken
    import tokenizers
    from importlib.metadata import version
    from tokenizers import Regex, models, pre_tokenizers, trainers
    text = english(-1)
    n_bytes = len(text.encode())
    peers = ("tiktoken", "tokenizers", "rustbpe")
    versions = ", ".join(f"{name} {version(name)}" for name in peers)
    print(f"english.txt, {n_bytes / 1e6:.1f} MB, CPU seconds, one thread, median of 3; {versions}, "
          f"Python {sys.version.split()[0]}; ratio = peer's time / ours")

    def hugging_face():
        theirs = tokenizers.Tokenizer(models.BPE())
        theirs.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(PATTERNS["gpt4"]), "isolated"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        theirs.train_from_iterator([text], trainers.BpeTrainer(
            vocab_size=4096, show_progress=False, initial_alphabet=alphabet))

    table_line("train 4,096, gpt4 pattern", n_bytes,
               median_seconds(lambda: Tokenizer.train([text], 4096, "gpt4", ())),
               {"rustbpe": median_seconds(lambda: rustbpe.Tokenizer().train_from_iterator(
                   iter([text]), 4096, pattern=PATTERNS["gpt4"])),
                "tokenizers": median_seconds(hugging_face)})
    for name in ENCODINGS:
        tokenizer = Tokenizer.load(data_file(f"{name}.tiktoken"))
        peer = tiktoken_encoding(name, tokenizer)
        fast = tokenizers.Tokenizer.from_str(vocabularies.json_file(tokenizer, "-").decode())

        def fresh():
            Tokenizer(tokenizer.ranks, tokenizer.pattern, tokenizer.special_tokens) \
                .encode_to_numpy(text)

        start_s = median_seconds(lambda: Tokenizer(tokenizer.ranks, tokenizer.pattern,
                                                   tokenizer.special_tokens))
        cold_s = median_seconds(fresh) - start_s
        peers_s = {"tiktoken": median_seconds(lambda: peer.encode_to_numpy(text)),
                   "tokenizers": median_seconds(lambda: fast.encode(text), 1)}
        table_line(f"encode {name}, empty cache", n_bytes, cold_s, peers_s)
        tokenizer.encode_to_numpy(text)
        table_line(f"encode {name}, again", n_bytes,
                   median_seconds(lambda: tokenizer.encode_to_numpy(text)), peers_s)


if __name__ == "__main__":
    speed_table()
