"""web/classifier.py: fastText's hash, features and three losses against plain loops."""
import tracemalloc

import numpy as np
import pytest

from web import classifier
from web import language
from fasttext_models import TEXTS, model_bytes, plain_hash, plain_rows, plain_scores


# ---- features ------------------------------------------------------------------------------------

def test_hash_vectors():
    for text, expected in {"the": 3020861980, "<the>": 4243648960, "</s>": 3617362777,
                           "é": 1023043777, "中": 3930512628}.items():
        assert classifier.fnv_hash(text.encode()) == expected == plain_hash(text.encode())


def test_ngram_vectors():
    hashes, inside, size = classifier.ngram_hashes(["the".encode(), "é".encode()], 2, 4)
    hashes, n = classifier.by_token(np.where(inside, hashes.astype(np.int64) % 2000000, -1), size)
    assert hashes.tolist() == [454941, 1151151, 409726, 1059089, 861980, 60934, 1363254,
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
    hashes, inside, size = classifier.ngram_hashes([t.encode() for t in tokens], minn, maxn)
    assert size.tolist() == [len(t) + 2 for t in tokens]
    hashes, n = classifier.by_token(np.where(inside, hashes.astype(np.int64), -1), size)
    assert hashes.tolist() == expected and n.sum() == len(expected) and len(n) == len(tokens)


# ---- reading -------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    dict(), dict(loss=classifier.HS), dict(loss=classifier.NS), dict(loss=classifier.OVA),
    dict(word_ngrams=3), dict(quantised=True), dict(quantised=True, loss=classifier.HS),
    dict(quantised=True, prune=[(30, 0), (7, 2), (11, 1), (41, 3)]),
    dict(quantised=True, word_ngrams=2, prune=[(30, 0), (7, 2), (11, 1)]),
    dict(quantised=True, prune=[]),
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


def test_batches_do_not_matter(tmp_path, monkeypatch):
    (tmp_path / "m.bin").write_bytes(model_bytes(word_ngrams=2)[0])
    model = language.load(tmp_path / "m.bin")
    whole = model.predict_proba(TEXTS)
    monkeypatch.setattr(classifier, "CHUNK_CHARS", 8)
    np.testing.assert_allclose(model.predict_proba(iter(TEXTS)), whole, rtol=1e-5)
    assert model.predict([]) == ([], pytest.approx(np.zeros(0)))


def test_one_text_is_counted_as_among_others():
    lists = [token.split() for token in (b"a b a </s>", b"c a </s>", b"</s>")]
    tokens, times = classifier.count_tokens(lists)
    assert tokens == [b"</s>", b"a", b"b", b"c"]
    assert times.tolist() == [[1, 2, 1, 0], [1, 1, 0, 1], [1, 0, 0, 0]]
    for tokens_of_one, row in zip(lists, times):
        of_one, [alone] = classifier.count_tokens([tokens_of_one])
        assert dict(zip(of_one, alone)) == {t: n for t, n in zip(tokens, row) if n}
        assert of_one[0] == b"</s>"


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
        tokens, _ = classifier.count_tokens(model.tokenize([text]))
        rows, _ = model.find_rows(tokens)
        n_rows = np.count_nonzero(rows >= 0)
        assert len(model.emb) < n_rows < 200 * len(model.emb)
        alone, among = model.hidden([text]), model.hidden([text] + [""] * 199)
        np.testing.assert_allclose(alone[0][0], among[0][0], rtol=1e-5, atol=1e-7)
        assert alone[1][0] == among[1][0]


@pytest.mark.parametrize("minn, maxn", [(1, 1), (1, 4), (2, 4), (3, 6), (0, 0)])
def test_a_long_token_in_pieces_is_the_same_token(tmp_path, monkeypatch, minn, maxn):
    """Pieces of a few characters, cut anywhere: the same features, and nearly the same mean."""
    (tmp_path / "m.bin").write_bytes(model_bytes()[0])
    model = language.load(tmp_path / "m.bin")
    model.args.minn, model.args.maxn = minn, maxn
    texts = ["x" + "ab\u00e9\u6f22<>" * k + " y </s>" for k in (5, 6, 7, 20)]
    texts += [TEXTS[0], "</s>x</s>y" * 9]
    whole, n_whole = model.hidden(texts)
    monkeypatch.setattr(classifier, "LONG_TOKEN", 10)
    monkeypatch.setattr(classifier, "BLOCK_BYTES", 8 * (maxn + 1))
    taken, pieces_of = [], classifier.pieces_of
    monkeypatch.setattr(classifier, "pieces_of",
                        lambda token, maxn: taken.append(token) or pieces_of(token, maxn))
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


def test_no_features_no_label(tmp_path):
    data = model_bytes()[0].replace(b"</s>", b"<xs>")
    (tmp_path / "m.bin").write_bytes(data)
    labels, scores = language.load(tmp_path / "m.bin").predict(["", "the"])
    assert labels[0] == "" and scores[0] == 0 and labels[1] and scores[1] > 0
