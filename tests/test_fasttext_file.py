"""web/fasttext_file.py: models of other versions, malformed ones, and lid.176."""
import math
import struct

import numpy as np
import pytest

from web import classifier
from web import language
from fasttext_models import ENGLISH, OTHERS, model_bytes, plain_scores


def test_version_11_has_no_ngrams(tmp_path):
    data, emb, out = model_bytes(version=11)
    (tmp_path / "m.bin").write_bytes(data)
    got = language.load(tmp_path / "m.bin").predict_proba(["the cat"])
    expected = plain_scores([1, 0], emb, out, classifier.SOFTMAX)
    np.testing.assert_allclose(got[0], expected, rtol=2e-5)


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
    proba = model.predict_proba(ENGLISH)        # the leaves share out 1, but for 1e-5 a step
    np.testing.assert_allclose(proba.sum(1), 1, atol=0.05)
