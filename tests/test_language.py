"""web/language.py: fastText's hash, features and three losses against plain loops; training; the default model."""

import math
import runpy
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from conftest import ROOT, check_grad, run_script

from web import classifier
from web import language
from web import language_training

ENGLISH = [
    "The village of Orrendale lies on the slope above the river Thessmar, where old Brannick "
    "Hollowell kept his bees until the winter of the long snow. Every morning his granddaughter "
    "Ysolde carried two pails of water up the path, past the mill of the Quennel brothers.",
    "The grey-tailed vornak (Lutrella vornakis) is a small nocturnal mammal found in the marshes of "
    "Upper Zembria. Adults weigh between two and three kilograms and feed mainly on snails and reeds.",
    "Kelvathir is a market town in the district of Oost Marren, with a population of 14,210 at the "
    "2009 census. It is known for its glass workshops and the bridge of Saint Ombra.",
    "Tom has twelve apples. He gives three apples to Priya and buys five more at the shop. He had "
    "twelve, and twelve minus three is nine. Nine plus five is fourteen. The answer is 14.",
    "ALL PASSENGERS MUST SHOW A VALID TICKET BEFORE THEY BOARD THE TRAIN.",
    "rain is expected in the north tomorrow, with strong winds along the coast.",
]
OTHERS = {
    "de": "Auf dem Markt kosten die Tomaten heute nur zwei Euro das Kilo.",
    "fr": "Coupez les oignons, faites-les revenir dans le beurre et ajoutez le bouillon.",
    "es": "Mañana lloverá en el norte y hará calor en la costa.",
    "it": "Domani pioverà al nord, ma al sud ci sarà il sole.",
    "pt": "No mercado os tomates custam hoje dois euros o quilo.",
    "nl": "Morgen regent het in het noorden, maar in het zuiden schijnt de zon.",
    "sv": "På torget kostar tomaterna bara tjugo kronor kilot i dag.",
    "pl": "Na targu pomidory kosztują dziś osiem złotych za kilogram.",
    "cs": "Cibuli nakrájejte nadrobno, osmahněte na másle a zalijte vývarem.",
    "fi": "Huomenna pohjoisessa sataa, mutta etelässä paistaa aurinko.",
    "tr": "Soğanı ince doğrayın, tereyağında kavurun ve suyu ekleyin.",
    "la": "Cras in montibus pluet, sed ad mare sol lucebit.",
    "hu": "A piacon ma kétszáz forintba kerül a paradicsom kilója.",
    "vi": "Ngày mai trời sẽ mưa ở miền bắc và nắng ở miền nam.",
    "ru": "На рынке помидоры сегодня стоят сто рублей за килограмм.",
    "el": "Αύριο θα βρέξει στα βόρεια και θα έχει ήλιο στα νότια.",
    "ja": "市場では今日トマトが一キロ三百円で売られています。",
    "zh": "今天市场上的西红柿三块钱一斤，又新鲜又便宜。",
    "ko": "오늘 시장에서 토마토는 일 킬로에 삼천 원입니다.",
    "ar": "سعر الطماطم في السوق اليوم رخيص جدا وهي طازجة.",
    "hi": "आज बाजार में टमाटर तीस रुपये किलो मिल रहे हैं।",
}
TEXTS = ["the cat", "", "the\tthé  cat\n中文 x", "a" * 50, "__label__en cat", "__label__zz cat",
         "the </s> cat", "a\0b\vc\fd\re", "nb\u00a0sp", "😀 é"]


# ---- a model file in bytes, and what fastText would say of a text, both written out plainly -------

def model_bytes(loss=classifier.SOFTMAX, dim=3, bucket=50, word_ngrams=1, quantised=False, prune=None,
                version=12, model=3, seed=0):
    """A small file, and the (emb, out) it holds as float32."""
    rng = np.random.default_rng(seed)
    words, labels = [b"</s>", b"the", "thé".encode()], [b"en", b"de", b"fr", b"mul"]
    counts, out = [9, 7, 2, 1], rng.normal(size=(4, dim)).astype("<f4")
    n_rows = len(words) + (bucket if prune is None else len(prune))
    data = struct.pack("<14i d", 793712314, version, dim, 5, 5, 1, 5, word_ngrams, loss, model,
                       bucket, 2, 4, 100, 1e-4)
    data += struct.pack("<3i2q", 7, 3, 4, 99, -1 if prune is None else len(prune))
    data += b"".join(w + b"\0" + struct.pack("<qb", 5, 0) for w in words)
    data += b"".join(b"__label__" + w + b"\0" + struct.pack("<qb", n, 1) for w, n in zip(labels, counts))
    data += b"".join(struct.pack("<2i", *pair) for pair in prune or [])
    if quantised:       # two sub-quantisers of 2 and 1 columns, and norms
        codes = rng.integers(256, size=(n_rows, 2)).astype(np.uint8)
        norm_codes = rng.integers(256, size=n_rows).astype(np.uint8)
        wide, narrow, norms = (rng.normal(size=s).astype("<f4") for s in ((256, 2), (256, 1), 256))
        data += b"\1" + struct.pack("<?2qi", True, n_rows, dim, 2 * n_rows) + codes.tobytes()
        data += struct.pack("<4i", dim, 2, 2, 1) + wide.tobytes() + narrow.tobytes()
        data += norm_codes.tobytes() + struct.pack("<4i", 1, 1, 1, 1) + norms.tobytes()
        emb = np.array([[norms[n] * v for v in (*wide[a], *narrow[b])]
                        for (a, b), n in zip(codes, norm_codes)], np.float32)
    else:
        emb = rng.normal(size=(n_rows, dim)).astype("<f4")
        data += b"\0" + struct.pack("<2q", n_rows, dim) + emb.tobytes()
    return data + b"\0" + struct.pack("<2q", 4, dim) + out.tobytes(), emb, out


def plain_hash(data):
    h = 2166136261
    for byte in data:
        h ^= byte if byte < 128 else 0xFFFFFF00 | byte
        h = h * 16777619 % 2 ** 32
    return h


def plain_rows(text, bucket, word_ngrams=1, prune=None):
    words, kept = {"</s>": 0, "the": 1, "thé": 2}, dict(prune or [])
    rows, hashes = [], []

    def push(h):
        if prune is None:
            rows.append(3 + h % bucket)
        elif h % bucket in kept:
            rows.append(3 + kept[h % bucket])

    for c in "\t\r\v\f\0\n":
        text = text.replace(c, " ")
    for token in [t for t in text.split(" ") if t] + ["</s>"]:
        if token.startswith("__label__"):
            continue
        h = plain_hash(token.encode())
        hashes.append(h if h < 2 ** 31 else h - 2 ** 32)
        if token in words:
            rows.append(words[token])
        if token == "</s>":
            break
        marked = "<" + token + ">"
        for i in range(len(marked)):
            for n in range(2, 5):
                if i + n <= len(marked):
                    push(plain_hash(marked[i:i + n].encode()))
    for i in range(len(hashes)):
        h = hashes[i] % 2 ** 64
        for j in range(i + 1, min(i + word_ngrams, len(hashes))):
            h = (h * 116049371 + hashes[j]) % 2 ** 64
            push(h)
    return rows


def plain_scores(rows, emb, out, loss):
    hidden = [sum(float(emb[r][d]) for r in rows) / len(rows) for d in range(emb.shape[1])]
    dots = [sum(float(o) * h for o, h in zip(row, hidden)) for row in out]
    sigmoid = lambda x: 1 / (1 + math.exp(-x))
    if loss == classifier.SOFTMAX:
        total = sum(math.exp(x) for x in dots)
        return [math.exp(x) / total + 1e-5 for x in dots]
    if loss != classifier.HS:         # of 512 cells over [-8, 8], the cell's lower edge
        return [(0 if x < -8 else 1 if x > 8 else sigmoid(int((x + 8) * 32) / 32 - 8)) + 1e-5 for x in dots]
    # Counts 9 7 2 1. Leaf 3 and leaf 2 make node 4 (3); node 4 and leaf 1 make node 5 (10);
    # leaf 0 is rarer than node 5, so it is picked first: node 6, the root, has leaf 0 on its left.
    f4, f5, f6 = (sigmoid(x) for x in dots[:3])
    return [1 - f6 + 1e-5,
            (f6 + 1e-5) * (f5 + 1e-5),
            (f6 + 1e-5) * (1 - f5 + 1e-5) * (f4 + 1e-5),
            (f6 + 1e-5) * (1 - f5 + 1e-5) * (1 - f4 + 1e-5)]


# ---- features ------------------------------------------------------------------------------------

def test_hash_vectors():
    for text, expected in {"the": 3020861980, "<the>": 4243648960, "</s>": 3617362777,
                           "é": 1023043777, "中": 3930512628}.items():
        assert classifier.fnv_hash(text.encode()) == expected == plain_hash(text.encode())


def test_ngram_vectors():
    hashes, n = classifier.ngram_hashes(["the".encode(), "é".encode()], 2, 4)
    assert (hashes % 2000000).tolist() == [454941, 1151151, 409726, 1059089, 861980, 60934, 1363254,
                                           816280, 458490, 36627, 806231, 1996781]
    assert n.tolist() == [9, 3]


@pytest.mark.parametrize("minn,maxn", [(1, 1), (1, 3), (2, 4), (3, 6), (5, 2), (0, 0), (9, 99)])
def test_ngrams_against_loop(minn, maxn):
    tokens = ["a", "né", "中文字", "x😀y", "longerword"]
    expected = []
    for marked in (f"<{t}>" for t in tokens):
        for i in range(len(marked)):
            for n in range(max(minn, 1), maxn + 1):
                if i + n <= len(marked) and not (n == 1 and i in (0, len(marked) - 1)):
                    expected.append(plain_hash(marked[i:i + n].encode()))
    hashes, n = classifier.ngram_hashes([t.encode() for t in tokens], minn, maxn)
    assert hashes.tolist() == expected and n.sum() == len(expected) and len(n) == len(tokens)


# ---- reading -------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    dict(), dict(loss=classifier.HS), dict(loss=classifier.NS), dict(loss=classifier.OVA),
    dict(word_ngrams=3), dict(quantised=True), dict(quantised=True, loss=classifier.HS),
    dict(quantised=True, prune=[(30, 0), (7, 2), (11, 1), (41, 3)]),
    dict(quantised=True, word_ngrams=2, prune=[(30, 0), (7, 2), (11, 1)]), dict(quantised=True, prune=[]),
], ids=str)
def test_scores_against_loop(tmp_path, options):
    data, emb, out = model_bytes(**options)
    (tmp_path / "m.bin").write_bytes(data)
    model = language.load(tmp_path / "m.bin")
    assert model.labels == ["en", "de", "fr", "mul"]
    got = model.predict_proba(TEXTS)
    assert got.shape == (len(TEXTS), 4) and got.dtype == np.float32
    for text, p in zip(TEXTS, got):
        rows = plain_rows(text, 50, options.get("word_ngrams", 1), options.get("prune"))
        expected = plain_scores(rows, emb, out, options.get("loss", classifier.SOFTMAX))
        np.testing.assert_allclose(p, expected, rtol=2e-5, err_msg=repr(text))
    labels, scores = model.predict(TEXTS)
    assert labels == [model.labels[i] for i in got.argmax(1)] and (scores == got.max(1)).all()


def test_version_11_has_no_ngrams(tmp_path):
    data, emb, out = model_bytes(version=11)
    (tmp_path / "m.bin").write_bytes(data)
    got = language.load(tmp_path / "m.bin").predict_proba(["the cat"])
    np.testing.assert_allclose(got[0], plain_scores([1, 0], emb, out, classifier.SOFTMAX), rtol=2e-5)


@pytest.mark.parametrize("small", [None, "CHUNK_CHARS", "BLOCK_BYTES", "GATHERED", "LONG_TOKEN"])
def test_the_classifier_predicts_what_the_definition_does(monkeypatch, small):
    """The plain prediction of one text beside the fast one of many, whatever the sizes of blocks."""
    model = language.load()
    texts = [*ENGLISH, *OTHERS.values(), "", "a", "<>", "a<b", "hello", "\u00e9\u00e9", "x" * 300]
    if small:
        monkeypatch.setattr(classifier, small, 40)
    labels, scores = model.predict(texts)
    for text, label, score in zip(texts, labels, scores):
        name, p = language.predict(model, text)
        assert name == label and p + 1e-5 == pytest.approx(score, rel=1e-4), text


def test_ngrams_of_a_word():
    found = "<t <th <the th the the> he he> e>"
    assert list(language.ngrams("<the>", 2, 4)) == found.split()
    hashes, _ = classifier.ngram_hashes([b"the"], 1, 4)
    one_to_four = list(language.ngrams("<the>", 1, 4))
    assert hashes.tolist() == [classifier.fnv_hash(ngram.encode()) for ngram in one_to_four]


def test_batches_do_not_matter(tmp_path, monkeypatch):
    (tmp_path / "m.bin").write_bytes(model_bytes(word_ngrams=2)[0])
    model = language.load(tmp_path / "m.bin")
    whole = model.predict_proba(TEXTS)
    monkeypatch.setattr(classifier, "CHUNK_CHARS", 8)
    np.testing.assert_allclose(model.predict_proba(iter(TEXTS)), whole, rtol=1e-5)
    assert model.predict([]) == ([], pytest.approx(np.zeros(0)))


def test_blocks_do_not_matter(tmp_path, monkeypatch):
    for word_ngrams in (1, 2):
        (tmp_path / "m.bin").write_bytes(model_bytes(word_ngrams=word_ngrams)[0])
        model = language.load(tmp_path / "m.bin")
        texts = TEXTS + [" ".join(TEXTS) + "x" * 500]
        monkeypatch.undo()
        whole = model.predict_proba(texts)
        for name in ("BLOCK_BYTES", "GATHERED"):
            for size in (1, 50):
                monkeypatch.setattr(classifier, name, size)
                np.testing.assert_allclose(model.predict_proba(texts), whole, rtol=1e-5)


def test_counting_rows_is_fetching_them(tmp_path):
    """A long text alone has its rows counted; among many short ones they are fetched."""
    for word_ngrams in (1, 2):
        (tmp_path / "m.bin").write_bytes(model_bytes(word_ngrams=word_ngrams)[0])
        model = language.load(tmp_path / "m.bin")
        text = " ".join(TEXTS).replace("</s>", "") * 3
        n_rows = len(model.token_rows(model.tokenize([text])[0])[0])
        assert len(model.emb) < n_rows < 200 * len(model.emb)
        alone, among = model.hidden([text]), model.hidden([text] + [""] * 199)
        np.testing.assert_allclose(alone[0][0], among[0][0], rtol=1e-5, atol=1e-7)
        assert alone[1][0] == among[1][0]


@pytest.mark.parametrize("minn, maxn", [(1, 1), (1, 4), (2, 4), (3, 6), (0, 0)])
def test_a_long_token_in_pieces_is_the_same_token(tmp_path, monkeypatch, minn, maxn):
    """Pieces of a few characters, cut anywhere: the same features, and but for rounding the same mean."""
    (tmp_path / "m.bin").write_bytes(model_bytes()[0])
    model = language.load(tmp_path / "m.bin")
    model.args.minn, model.args.maxn = minn, maxn
    texts = ["x" + "ab\u00e9\u6f22<>" * k + " y </s>" for k in (5, 6, 7, 20)] + [TEXTS[0], "</s>x</s>y" * 9]
    whole, n_whole = model.hidden(texts)
    monkeypatch.setattr(classifier, "LONG_TOKEN", 10)
    monkeypatch.setattr(classifier, "BLOCK_BYTES", 8 * (maxn + 1))
    taken, pieces_of = [], classifier.pieces_of
    monkeypatch.setattr(classifier, "pieces_of", lambda token, maxn: (taken.append(token), pieces_of(token, maxn))[1])
    pieces, n_pieces = model.hidden(texts)
    assert np.array_equal(n_whole, n_pieces) and len(taken) >= 4 * (maxn > 0)
    np.testing.assert_allclose(pieces, whole, rtol=1e-4, atol=1e-5)


def test_memory_of_one_long_token():
    """It took over 100 bytes a byte."""
    model, peaks = language.load(), []
    for n in (1 << 20, 1 << 21):
        tracemalloc.start()
        model.predict_proba(["x" * n])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 12 << 20


@pytest.mark.parametrize("space", [" ", ""])
def test_memory_of_one_long_text(space):
    """Gathering every row at once took 540 bytes of memory a byte of random words."""
    rng, model = np.random.default_rng(0), language.load()
    text = space.join(f"{x:015x}" for x in rng.integers(1 << 60, size=30_000))
    tracemalloc.start()
    model.predict_proba([text])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * len(text), peak / len(text)


def test_malformed_files(tmp_path):
    path = tmp_path / "broken.ftz"
    dense, quantised = model_bytes()[0], model_bytes(quantised=True, prune=[(3, 0), (5, 1)])[0]
    cases = [b"", b"PK\3\4 not a model", dense + b"x"]
    cases += [data[:n] for data in (dense, quantised) for n in range(4, len(data), 29)]
    for at, value in {4: 13, 8: 0, 8 + 4 * 6: 9, 8 + 4 * 7: 1, 8 + 4 * 8: -1, 64: 8, 68: 2 ** 30,
                      72: 0, 84: 1}.items():
        cases.append(dense[:at] + struct.pack("<i", value) + dense[at + 4:])
    cases.append(dense[:-4] + struct.pack("<f", math.nan))
    for data in cases:
        path.write_bytes(data)
        with pytest.raises(ValueError, match="broken.ftz: ") as error:
            language.load(path)
        assert "\n" not in str(error.value)
    rng = np.random.default_rng(0)
    for _ in range(300):        # any one byte changed: a model or a ValueError, nothing else
        data = bytearray(quantised)
        data[rng.integers(len(data) - 300 if rng.random() < 0.3 else 300)] = rng.integers(256)
        path.write_bytes(data)
        try:
            language.load(path)
        except ValueError as error:
            assert "broken.ftz" in str(error)
    with pytest.raises(FileNotFoundError):
        language.load(tmp_path / "absent.ftz")


def test_a_count_that_fasttext_takes_for_infinity(tmp_path):
    """Counts of 1e15 and more made its Huffman tree run off the end of the nodes."""
    data, path = model_bytes(loss=classifier.HS)[0], tmp_path / "m.bin"
    for count, good in ((10 ** 15 - 1, True), (10 ** 15, False), (2 ** 63 - 1, False)):
        path.write_bytes(data.replace(b"__label__en\0" + struct.pack("<q", 9),
                                      b"__label__en\0" + struct.pack("<q", count)))
        if good:
            assert np.isfinite(language.load(path).predict_proba(["the cat"])).all()
        else:
            with pytest.raises(ValueError, match=f"m.bin: a label count of {count}"):
                language.load(path)


def test_lid_176(shared):
    model = language.load(shared("lid.176.ftz"))
    assert len(model.labels) == 176
    labels, scores = model.predict(ENGLISH[:4] + list(OTHERS.values()))
    assert labels == ["en"] * 4 + list(OTHERS) and scores.min() > 0.3
    proba = model.predict_proba(ENGLISH)        # the tree's leaves share out 1, give or take 1e-5 a step
    np.testing.assert_allclose(proba.sum(1), 1, atol=0.05)


# ---- training ------------------------------------------------------------------------------------

def gradient_case():
    rng = np.random.default_rng(1)
    x = rng.random((5, 7))
    return rng.normal(size=(7, 3)), rng.normal(size=(3, 4)), x / x.sum(1, keepdims=True), np.array([0, 3, 1, 1, 2])


def test_gradients():
    emb, w, x, y = gradient_case()
    _, demb, dw = language_training.loss_and_grads(emb, w, x, y)
    check_grad(lambda: language_training.loss_and_grads(emb, w, x, y)[0], {"emb": (emb, demb), "w": (w, dw)}, tol=1e-7)


def test_a_wrong_gradient_is_caught():
    emb, w, x, y = gradient_case()
    _, demb, dw = language_training.loss_and_grads(emb, w, x, y)
    with pytest.raises(AssertionError):
        check_grad(lambda: language_training.loss_and_grads(emb, w, x, y)[0], {"emb": (emb, demb * 1.001)}, tol=1e-7)


def test_first_loss_is_ln_labels():
    emb, w, x, y = gradient_case()
    assert language_training.loss_and_grads(emb, w * 0, x, y)[0] == pytest.approx(math.log(4))


def corpus():
    rng = np.random.default_rng(3)
    made = {"aa": "mano kilo tera sumi vako", "bb": "strunk gralp fnord blisk jeltz"}
    return [f"__label__{label} " + " ".join(rng.choice(words.split(), 6)) + f" {i}"
            for label, words in made.items() for i in range(60)]


SMALL = dict(dim=4, bucket=500, epochs=4, n_texts=256, batch=16)


def test_train_learns_and_is_deterministic(tmp_path):
    model = language_training.train(corpus(), tmp_path / "a.ftz", **SMALL)
    language_training.train(corpus(), tmp_path / "b.ftz", **SMALL)
    language_training.train(corpus(), tmp_path / "c.ftz", seed=1, **SMALL)
    a, b, c = ((tmp_path / f"{name}.ftz").read_bytes() for name in "abc")
    assert a == b != c
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ftz", "b.ftz", "c.ftz"]
    texts = ["kilo mano", "blisk fnord gralp"]
    assert model.predict(texts)[0] == ["aa", "bb"]
    np.testing.assert_array_equal(language.load(tmp_path / "a.ftz").predict_proba(texts), model.predict_proba(texts))
    results = language_training.evaluate(model, corpus(), "aa", 0.5)
    assert results["recall"] == results["precision"] == 1 and results["others taken for it"] == 0


def test_read_texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "deu_1901.txt").write_text("Ja. Nein!\n  Doch", encoding="utf-8")
    (folder / "007.txt").write_text("x", encoding="utf-8")
    (folder / "nku.txt").write_text("", encoding="utf-8")
    (tmp_path / "lines.txt").write_text("__label__fr Oui. Non.\n__label__en Yes\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("A", encoding="utf-8")
    got = language_training.read_texts([folder, tmp_path / "lines.txt", f"en={tmp_path / 'b.txt'}", "__label__it Sì"])
    assert got == {"und": ["x"], "de": ["Ja.", "Nein!", "Doch"], "nku": [], "fr": ["Oui. Non."],
                   "en": ["A", "Yes"], "it": ["Sì"]}
    with pytest.raises(FileNotFoundError, match="--input"):
        language_training.read_texts([tmp_path / "absent"])
    (tmp_path / "lines.txt").write_text("__label__fr Oui\nNon\n", encoding="utf-8")
    with pytest.raises(ValueError, match="Non"):
        language_training.read_texts([tmp_path / "lines.txt"])


def test_train_refuses(tmp_path):
    with pytest.raises(ValueError, match="two labels"):
        language_training.train(["__label__en a"] * 3, tmp_path / "x.ftz", **SMALL)
    with pytest.raises(ValueError, match="lr"), np.errstate(all="ignore"):
        language_training.train(corpus(), tmp_path / "x.ftz", lr=1e30, **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option, value", [
    ("dim", 0), ("bucket", 0), ("bucket", -1), ("bucket", 2 ** 31), ("minn", 0), ("minn", 5), ("maxn", 0),
    ("epochs", 0), ("epochs", -1), ("n_texts", 3), ("batch", 0), ("lr", -1.0), ("lr", 0.0), ("lr", math.nan),
    ("lr", math.inf), ("smoothing", -1.0), ("smoothing", math.nan), ("seed", -1)])
def test_train_checks_its_options_first(tmp_path, option, value):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} {value} must be "):
        language_training.train(["no such file"], tmp_path / "x.ftz", **{option: value})


def test_train_checks_where_to_write_first(tmp_path):
    for out in (tmp_path / "absent" / "x.ftz", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"--out {out} "):
            language_training.train(["no such file"], out)


# ---- the default model ---------------------------------------------------------------------------

@pytest.fixture(scope="module")
def default():
    return language.load()


def test_default_is_small(default):
    assert language.Path(language.__file__).with_name("language.ftz").stat().st_size <= 2 ** 20
    assert len(default.labels) > 100 and set(OTHERS) | {"en"} <= set(default.labels)


def test_default_knows_english(default):
    labels, scores = default.predict(ENGLISH + [" ".join(ENGLISH), "\n".join(ENGLISH * 20)])
    assert labels == ["en"] * len(labels) and scores.min() > 0.65


def test_default_takes_nothing_else_for_english(default):
    others = list(OTHERS.values())
    labels, scores = default.predict(others + [" ".join([t] * 3).upper() for t in others])
    wrong = [t for t, l, s in zip(others * 2, labels, scores) if l == "en" and s > 0.65]
    assert set(wrong) <= {OTHERS["la"]}, wrong          # 48 letters of Latin: "sed ad mare sol" passes for English
    assert np.mean([a == b for a, b in zip(labels, OTHERS)]) > 0.4      # 21 languages among 355 labels


def test_held_out_figures(default, shared):
    """The project's bar: English recall 0.93, at most 1 % of other languages taken for it."""
    results = language_training.evaluate(default, [shared("udhr"), f"en={shared('english.txt')}"])
    assert results["recall"] >= 0.93 and results["others taken for it"] <= 0.01, results


def test_awkward_inputs(default):
    texts = ["", "😀🎉", "__label__en", "no\u00a0break\u00a0space", "x" * 200_000, "\ud800 lone \udfff",
             "two\nlines", "</s>", "\0\0", "http://example.com/a?b=c", "é" * 999]
    labels, scores = default.predict(texts)
    assert len(labels) == len(texts) and all(labels) and scores.dtype == np.float32
    assert np.isfinite(scores).all() and (scores > 0).all() and (scores <= 1.0001).all()
    np.testing.assert_array_equal(*default.predict_proba(["", "__label__en"]))
    np.testing.assert_array_equal(*default.predict_proba(["two\nlines", "two lines"]))
    with pytest.raises(ValueError, match="list"):
        default.predict("one text")


def test_no_features_no_label(tmp_path):
    data = model_bytes()[0].replace(b"</s>", b"<xs>")
    (tmp_path / "m.bin").write_bytes(data)
    labels, scores = language.load(tmp_path / "m.bin").predict(["", "the"])
    assert labels[0] == "" and scores[0] == 0 and labels[1] and scores[1] > 0


# ---- command line --------------------------------------------------------------------------------

def test_command_line(tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(corpus()), encoding="utf-8")
    small = [x for name, value in SMALL.items() for x in (f"--{name.replace('_', '-')}", value)]
    done = run_script("web/language.py", "train", "--input", tmp_path / "lines.txt", "--out", tmp_path / "m.ftz", *small)
    assert done.returncode == 0 and "2 labels" in done.stdout and "nats" in done.stderr
    done = run_script("web/language.py", "test", "--model", tmp_path / "m.ftz", "--input", tmp_path / "lines.txt",
                      "--label", "bb", "--threshold", 0.5)
    assert done.returncode == 0 and "recall" in done.stdout
    done = run_script("web/language.py", "predict", "--model", tmp_path / "m.ftz", "-", input="mano kilo\nfnord\n")
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["aa", "bb"]
    assert done.stderr == ""
    done = run_script("web/language.py", "predict", "hello")
    assert done.returncode == 0 and done.stderr.startswith("under 10 words the language is a guess")


@pytest.mark.parametrize("args,message", [
    (["predict", "--model", "absent.ftz", "x"], "absent.ftz"),
    (["predict", "--model", "web/language.py", "x"], "no fastText model"),
    (["train", "--input", "absent", "--out", "x.ftz"], "--input takes"),
    (["test", "--input", "__label__fr oui"], "held-out"),
])
def test_command_line_mistakes(args, message):
    done = run_script("web/language.py", *args)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("language.py: error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1


def test_closed_and_broken_streams():
    """sh closes stdin or stdout; a reader that has enough, such as head, closes the pipe."""
    run = f"{sys.executable} -m web.language predict"
    for command, message in ((f"{run} - <&-", "stdin is closed"), (f"{run} x >&-", "stdout is closed")):
        done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    process = subprocess.Popen([*run.split(), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    process.stdin.write(b"one text\n")
    process.stdin.close()
    assert process.stderr.read() == b"" and process.wait() == 141


def test_interrupted(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        patch.setattr(language.Path, "read_bytes", interrupt)
        patch.setattr(sys, "argv", ["language.py", "predict", "x"])
        runpy.run_path(language.__file__, run_name="__main__")
    assert repr(caught.value) == "SystemExit(130)" and capsys.readouterr() == ("", "language.py: interrupted\n")
