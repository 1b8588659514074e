"""web/language_training.py: the gradient, what is learned, what is refused."""
import math

import numpy as np
import pytest

from conftest import check_grad
from web import language
from web import language_training
from fasttext_models import SMALL, corpus


# ---- training ------------------------------------------------------------------------------------

def gradient_case():
    rng = np.random.default_rng(1)
    x = rng.random((5, 7))
    emb, w = rng.normal(size=(7, 3)), rng.normal(size=(3, 4))
    return emb, w, x / x.sum(1, keepdims=True), np.array([0, 3, 1, 1, 2])


def test_gradients():
    emb, w, x, y = gradient_case()
    _, demb, dw = language_training.loss_and_grads(emb, w, x, y)
    check_grad(lambda: language_training.loss_and_grads(emb, w, x, y)[0],
               {"emb": (emb, demb), "w": (w, dw)}, tol=1e-7)


def test_a_wrong_gradient_is_caught():
    emb, w, x, y = gradient_case()
    _, demb, dw = language_training.loss_and_grads(emb, w, x, y)
    with pytest.raises(AssertionError):
        check_grad(lambda: language_training.loss_and_grads(emb, w, x, y)[0],
                   {"emb": (emb, demb * 1.001)}, tol=1e-7)


def test_first_loss_is_ln_labels():
    emb, w, x, y = gradient_case()
    assert language_training.loss_and_grads(emb, w * 0, x, y)[0] == pytest.approx(math.log(4))


def test_train_learns_and_is_deterministic(tmp_path):
    model = language_training.train(corpus(), tmp_path / "a.ftz", **SMALL)
    language_training.train(corpus(), tmp_path / "b.ftz", **SMALL)
    language_training.train(corpus(), tmp_path / "c.ftz", seed=1, **SMALL)
    a, b, c = ((tmp_path / f"{name}.ftz").read_bytes() for name in "abc")
    assert a == b != c
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ftz", "b.ftz", "c.ftz"]
    texts = ["kilo mano", "blisk fnord gralp"]
    assert model.predict(texts)[0] == ["aa", "bb"]
    loaded = language.load(tmp_path / "a.ftz")
    np.testing.assert_array_equal(loaded.predict_proba(texts), model.predict_proba(texts))
    results = language_training.evaluate(model, corpus(), "aa", 0.5)
    assert results["recall"] == results["precision"] == 1 and results["others taken for it"] == 0


def test_read_texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "deu_1901.txt").write_text("Ja. Nein!\n  Doch", encoding="utf-8")
    (folder / "007.txt").write_text("x", encoding="utf-8")
    (folder / "nku.txt").write_text("", encoding="utf-8")
    lines = tmp_path / "lines.txt"
    lines.write_text("__label__fr Oui. Non.\n__label__en Yes\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("A", encoding="utf-8")
    got = language_training.read_texts([folder, lines, f"en={tmp_path / 'b.txt'}",
                                        "__label__it Sì"])
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
    ("dim", 0), ("bucket", 0), ("bucket", -1), ("bucket", 2 ** 31), ("minn", 0), ("minn", 5),
    ("maxn", 0), ("epochs", 0), ("epochs", -1), ("n_texts", 3), ("batch", 0), ("lr", -1.0),
    ("lr", 0.0), ("lr", math.nan), ("lr", math.inf), ("smoothing", -1.0), ("smoothing", math.nan),
    ("seed", -1)])
def test_train_checks_its_options_first(tmp_path, option, value):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} {value} must be "):
        language_training.train(["no such file"], tmp_path / "x.ftz", **{option: value})


def test_train_checks_where_to_write_first(tmp_path):
    for out in (tmp_path / "absent" / "x.ftz", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"--out {out} "):
            language_training.train(["no such file"], out)
