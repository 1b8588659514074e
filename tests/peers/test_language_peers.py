"""web/language.py beside the fasttext package: its models read by us, ours by it, equal numbers."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

from web import language, language_training

fasttext = pytest.importorskip("fasttext")

TEXTS = ["the cat sat on the mat", "die Katze saß auf der Matte", "", "中文 text\tmixed",
         "__label__en hm", "the </s> rest is cut", "NBSP\u00a0here", "a\vb\fc", "word " * 50, "😀"]
WORDS = {
    "en": "the cat sat on a mat and it was warm",
    "de": "die Katze saß auf der Matte und es war warm",
    "zh": "猫 坐在 垫子 上 很 暖和",
    "fr": "le chat était assis sur un tapis chaud",
}


def their_scores(model, texts):
    """[{label: probability}] through the binding: 0.9.2's Python wrapper fails on numpy 2."""
    found = []
    for text in texts:
        pairs = model.f.predict(text.replace("\n", " ") + "\n", -1, 0.0, "strict")
        found.append({label.removeprefix("__label__"): p for p, label in pairs})
    return found


def assert_same(ours, theirs, texts=TEXTS, atol=1e-5):
    """Same probabilities for whatever labels they list; they leave out what is below 1e-5 or so."""
    column = {label: i for i, label in enumerate(ours.labels)}
    for text, p, expected in zip(texts, ours.predict_proba(texts), their_scores(theirs, texts)):
        best = max(expected, key=expected.get)
        assert p[column[best]] > p.max() - atol, text               # ties may fall either way
        for label, score in expected.items():
            assert abs(p[column[label]] - score) < atol, (text, label)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("corpus") / "lines.txt"
    lines = []
    for label, text in WORDS.items():
        for _ in range(100 if label == "en" else 60):
            lines.append(f"__label__{label} {' '.join(rng.choice(text.split(), 8))}\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def train(corpus, **options):
    """A model of theirs."""
    return fasttext.train_supervised(str(corpus), thread=1, verbose=0, **options)


def test_lid_176_every_sentence(shared):
    path, sentences = str(shared("lid.176.ftz")), []
    for some in language_training.read_texts([shared("udhr")]).values():
        sentences += some
    ours, theirs = language.load(path), fasttext.load_model(path)
    start = time.perf_counter()
    labels, scores = ours.predict(sentences)
    middle = time.perf_counter()
    expected = [theirs.f.predict(s + "\n", 1, 0.0, "strict")[0] for s in sentences]
    end = time.perf_counter()
    n, mine, other = len(sentences), middle - start, end - middle
    print(f"\n{n} sentences: ours {n / mine:,.0f}/s, fasttext {n / other:,.0f}/s, "
          f"ratio {other / mine:.2f}")
    assert len(sentences) > 30_000
    assert [label[9:] for _, label in expected] == labels
    assert max(abs(scores - np.array([p for p, _ in expected]))) < 1e-4


@pytest.mark.parametrize("options", [
    {"loss": "softmax", "minn": 2, "maxn": 4},
    {"loss": "hs", "minn": 1, "maxn": 3},
    {"loss": "ova", "minn": 2, "maxn": 3},
    {"loss": "ns", "minn": 3, "maxn": 3},
    {"loss": "softmax"},
    {"loss": "softmax", "wordNgrams": 3, "minn": 2, "maxn": 2},
], ids=lambda options: re.sub(r"[{}' ]", "", str(options)))
def test_their_models(tmp_path, corpus, options):
    path = str(tmp_path / "m.bin")
    theirs = train(corpus, dim=7, bucket=300, epoch=5, lr=0.5, **options)
    theirs.save_model(path)
    assert_same(language.load(path), theirs)


def test_a_model_without_labels_is_refused(tmp_path, corpus):
    path = str(tmp_path / "m.bin")
    fasttext.train_unsupervised(str(corpus), dim=4, minCount=1, epoch=1, thread=1,
                                verbose=0).save_model(path)
    with pytest.raises(ValueError, match="has no labels"):
        language.load(path)


@pytest.mark.parametrize("options", [
    {"qnorm": True}, {"qnorm": False}, {"qnorm": True, "dsub": 3}, {"qnorm": True, "cutoff": 300},
    {"qout": True, "qnorm": True}], ids=str)
def test_their_quantised_models(tmp_path, corpus, options):
    if options.get("qout"):     # 256 centroids need 256 labels
        corpus = tmp_path / "many.txt"
        lines = [f"__label__{i} word{i} number{i * i}\n" for i in range(300)]
        corpus.write_text("".join(lines), encoding="utf-8")
    theirs = train(corpus, dim=8, bucket=400, epoch=5, minn=2, maxn=3)
    theirs.quantize(**options)
    theirs.save_model(str(tmp_path / "m.ftz"))
    assert_same(language.load(tmp_path / "m.ftz"), theirs)


def test_our_models(tmp_path, corpus):
    default = Path(language.__file__).with_name("language.ftz")
    assert_same(language.load(), fasttext.load_model(str(default)))
    path = tmp_path / "m.ftz"
    language_training.train([corpus], path, dim=5, bucket=300, epochs=2, n_texts=128)
    assert_same(language.load(path), fasttext.load_model(str(path)))


def test_our_training_beside_theirs(tmp_path, corpus):
    """The same held-out sentences, trained by each: neither errs on these."""
    theirs = train(corpus, dim=16, bucket=2000, minn=2, maxn=4, epoch=25)
    ours = language_training.train([corpus], tmp_path / "m.ftz", bucket=2000, epochs=10,
                                   n_texts=512)
    truth, texts = [], []
    for label, sentences in language_training.read_texts([corpus]).items():
        for sentence in filter(language_training.held_out, sentences):
            truth.append(label)
            texts.append(sentence)
    found = [max(scores, key=scores.get) for scores in their_scores(theirs, texts)]
    assert np.mean([a == b for a, b in zip(found, truth)]) > 0.95
    assert np.mean([a == b for a, b in zip(ours.predict(texts)[0], truth)]) > 0.95
