"""web/language.py beside the fasttext package: its models read by us, ours by it, the same numbers."""

import itertools
import re
import time

import numpy as np
import pytest

from web import language
from web import language_training

fasttext = pytest.importorskip("fasttext")

TEXTS = ["the cat sat on the mat", "die Katze saß auf der Matte", "", "中文 text\tmixed", "__label__en hm",
         "the </s> rest is cut", "NBSP\u00a0here", "a\vb\fc", "word " * 50, "😀"]


def their_scores(model, texts):
    """[{label: probability}] through the binding itself: 0.9.2's Python wrapper fails on numpy 2."""
    return [{label[9:]: p for p, label in model.f.predict(text.replace("\n", " ") + "\n", -1, 0.0, "strict")}
            for text in texts]


def assert_same(ours, theirs, texts, atol):
    """Same probabilities for whatever labels they list; they leave out what is below 1e-5 or so."""
    proba = ours.predict_proba(texts)
    column = {label: i for i, label in enumerate(ours.labels)}
    for text, p, expected in zip(texts, proba, their_scores(theirs, texts)):
        best = max(expected, key=expected.get)
        assert p[column[best]] > p.max() - atol, text               # ties may fall either way
        for label, score in expected.items():
            assert abs(p[column[label]] - score) < atol, (text, label)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("corpus") / "lines.txt"
    words = {"en": "the cat sat on a mat and it was warm", "de": "die Katze saß auf der Matte und es war warm",
             "zh": "猫 坐在 垫子 上 很 暖和", "fr": "le chat était assis sur un tapis chaud"}
    path.write_text("".join(f"__label__{label} {' '.join(rng.choice(text.split(), 8))}\n"
                            for label, text in words.items() for _ in range(100 if label == "en" else 60)),
                    encoding="utf-8")
    return path


def test_lid_176_every_sentence(shared):
    path = str(shared("lid.176.ftz"))
    sentences = list(itertools.chain(*language_training.read_texts([shared("udhr")]).values()))
    ours, theirs = language.load(path), fasttext.load_model(path)
    start = time.perf_counter()
    labels, scores = ours.predict(sentences)
    middle = time.perf_counter()
    expected = [theirs.f.predict(s + "\n", 1, 0.0, "strict")[0] for s in sentences]
    end = time.perf_counter()
    print(f"\n{len(sentences)} sentences: ours {len(sentences) / (middle - start):,.0f}/s, fasttext "
          f"{len(sentences) / (end - middle):,.0f}/s, ratio {(end - middle) / (middle - start):.2f}")
    assert len(sentences) > 30_000
    assert [label[9:] for _, label in expected] == labels
    assert max(abs(scores - np.array([p for p, _ in expected]))) < 1e-4


@pytest.mark.parametrize("options",
                         [dict(loss="softmax", minn=2, maxn=4), dict(loss="hs", minn=1, maxn=3),
                          dict(loss="ova", minn=2, maxn=3), dict(loss="ns", minn=3, maxn=3),
                          dict(loss="softmax"), dict(loss="softmax", wordNgrams=3, minn=2, maxn=2)],
                         ids=lambda o: re.sub(r"[{}' ]", "", str(o)))
def test_their_models(tmp_path, corpus, options):
    path = str(tmp_path / "m.bin")
    theirs = fasttext.train_supervised(str(corpus), dim=7, bucket=300, epoch=5, lr=0.5, thread=1, verbose=0, **options)
    theirs.save_model(path)
    ours = language.load(path)
    assert_same(ours, theirs, TEXTS, 1e-5)
    with pytest.raises(ValueError, match="m.vec|has no labels"):
        fasttext.train_unsupervised(str(corpus), dim=4, minCount=1, epoch=1, thread=1, verbose=0).save_model(path)
        language.load(path)


@pytest.mark.parametrize("options", [dict(qnorm=True), dict(qnorm=False), dict(qnorm=True, dsub=3),
                                     dict(qnorm=True, cutoff=300), dict(qout=True, qnorm=True)], ids=str)
def test_their_quantised_models(tmp_path, corpus, options):
    theirs = fasttext.train_supervised(str(corpus), dim=8, bucket=400, epoch=5, thread=1, minn=2, maxn=3, verbose=0)
    if options.get("qout"):     # 256 centroids need 256 labels
        lines = "".join(f"__label__{i} word{i} number{i * i}\n" for i in range(300))
        (tmp_path / "many.txt").write_text(lines, encoding="utf-8")
        theirs = fasttext.train_supervised(str(tmp_path / "many.txt"), dim=8, bucket=400, epoch=5, thread=1,
                                           minn=2, maxn=3, verbose=0)
    theirs.quantize(**options)
    theirs.save_model(str(tmp_path / "m.ftz"))
    assert_same(language.load(tmp_path / "m.ftz"), theirs, TEXTS, 1e-5)


def test_our_models(tmp_path, corpus):
    default = language.Path(language.__file__).with_name("language.ftz")
    assert_same(language.load(), fasttext.load_model(str(default)), TEXTS, 1e-5)
    language_training.train([corpus], tmp_path / "m.ftz", dim=5, bucket=300, epochs=2, n_texts=128)
    assert_same(language.load(tmp_path / "m.ftz"), fasttext.load_model(str(tmp_path / "m.ftz")), TEXTS, 1e-5)


def test_our_training_beside_theirs(tmp_path, corpus):
    """The same held-out sentences, trained by each: neither errs on these."""
    theirs = fasttext.train_supervised(str(corpus), dim=16, bucket=2000, minn=2, maxn=4, epoch=25, thread=1, verbose=0)
    ours = language_training.train([corpus], tmp_path / "m.ftz", bucket=2000, epochs=10, n_texts=512)
    pairs = [(label, s) for label, ss in language_training.read_texts([corpus]).items() for s in ss if language_training.held_out(s)]
    texts = [s for _, s in pairs]
    found = [max(scores, key=scores.get) for scores in their_scores(theirs, texts)]
    truth = [label for label, _ in pairs]
    assert np.mean([a == b for a, b in zip(found, truth)]) > 0.95
    assert np.mean([a == b for a, b in zip(ours.predict(texts)[0], truth)]) > 0.95
