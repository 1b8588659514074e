"""web/dedup.py: signatures and clusters."""

import hashlib
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import data
from web import dedup
from pages import VOCABULARY, prose

def clusters_of(signatures):
    """The first document of each one's cluster."""
    return dedup.clusters(dedup.band_keys(signatures))


def test_minhash_conformance():
    a, b = dedup.permutations()
    assert (
        a[:4].tolist()
        == [775169054918279404, 1758426461858698313, 2109959069025162, 965365488286768774]
        and a[111] == 223865076026037746
    )
    assert (
        b[:4].tolist()
        == [1062448801025099917, 1324811268927594100, 1217488311597731462, 100775521383383736]
        and b[111] == 1097409548522419201
    )
    assert dedup.shingle_hashes("a b c d e").tolist() == [1214900226509477255]
    signature = dedup.minhash(["a b c d e"])
    assert (data.minhash(["a b c d e"]) == signature).all()
    assert signature.shape == (1, 112) and signature.dtype == np.uint64
    assert signature[0, :4].tolist() == [
        1579576027991400705, 4472124569112051, 889064944675421779, 305477644026747238,
    ]  # wraps at 64 bits


@pytest.mark.parametrize(
    "text, normal",
    [
        ("|$17.56||1|\n|$15.37||2599|", "0 0 0 0"),
        ("Don't  PANIC — naïve\tcafé", "don t panic naive cafe"), ("1.5.2, ٣٫١٤!", "0 0 0"),
        ("?!", ""), ("", ""),
    ],
)
def test_normalize(text, normal):
    assert dedup.normalize(text) == normal


@pytest.mark.parametrize(
    "text, normal",
    [
        ("|$17.56||1|\n|$15.37||2599|", "01 01"),
        ("Don't  PANIC — naïve\tcafé", "dont panic  naive cafe"), ("1.5.2, ٣ 4x", "0 0 0x"),
        ("?!", ""),
    ],
)
def test_normalize_of_v1(text, normal):
    """Punctuation is deleted before digits are looked at, and joins what stood beside it."""
    want = normal.replace("01", "0")
    assert dedup.normalize(text, "v1") == want


@pytest.mark.parametrize(
    "text, split",
    [
        (
            "you cannot gonna gotta gimme lemme wanna",
            "you can not gon na got ta gim me lem me wan na",
        ),
        ("doesnt 0km wannabe cannots", "doesnt 0km wannabe cannots"),
        ("a ‘b x―y cannot‘", "a ‘ b x ― y can not ‘"),
        ("gimme😀 wanna😀", "gim me 😀 wanna😀"),
        ("", ""),
    ],
)
def test_words_of_v1(text, split):
    assert dedup.split_v1(text) == split


def test_words_without_apostrophes_are_split_before_they_are_hashed():
    for text, split in (
        ("it doesnt cost 0mb a day", "it does nt cost 0 mb a day"),
        ("a b c dé id x", "a b c dé i d x"),
    ):
        words_ = split.split()
        shingles = [" ".join(words_[i : i + 5]) for i in range(len(words_) - 4)]
        want = [int.from_bytes(hashlib.sha1(x.encode()).digest()[:8], "little") for x in shingles]
        assert dedup.shingle_hashes(text).tolist() == want


def test_signature_is_the_minimum_over_shingles_in_any_blocks():
    text = " ".join(VOCABULARY[:5000])
    a, b = dedup.permutations()
    hashes = dedup.shingle_hashes(text)
    slow = [
        min((int(h) * int(a[j]) + int(b[j])) % 2**64 % (2**61 - 1) for h in hashes)
        for j in (0, 57, 111)
    ]
    assert dedup.minhash([text])[0, [0, 57, 111]].tolist() == slow


def test_fewer_than_five_words_have_no_signature_and_no_duplicate():
    short = ["one two three four", "", "!!!", "one two three four"]
    assert (data.minhash(short) == dedup.NO_SIGNATURE).all()
    assert data.deduplicate(short).all()
    assert data.deduplicate(["one two three four five"] * 2).tolist() == [True, False]
    assert data.deduplicate([]).shape == (0,) and data.minhash([]).shape == (0, 112)


def test_numbers_case_accents_and_punctuation_do_not_matter():
    assert data.deduplicate(
        [
            "It cost $3.50 in 1999, Zoë said!",
            "it COST 7 in 2024 — zoe: said",
            "it cost a lot in 2024, zoe said",
        ]
    ).tolist() == [True, False, True]


def test_the_earliest_of_a_cluster_is_kept_and_chains_are_one_cluster():
    base = VOCABULARY[:1000]
    changed = lambda seed: [w if i // 100 != seed else f"new{seed}x" for i, w in enumerate(base)]
    a, b, c = changed(0), base, changed(9)  # a~b and b~c are nearer than a~c
    texts = [" ".join(t) for t in (a, VOCABULARY[2000:3000], c, b)]
    assert data.deduplicate(texts).tolist() == [True, True, False, False]


def test_chain_whose_ends_share_no_band():
    signatures = np.arange(4 * 112, dtype=np.uint64).reshape(4, 112)
    signatures[3, :8] = signatures[0, :8]  # 0 ~ 3 in the first band, 3 ~ 1 in the last
    signatures[1, -8:] = signatures[3, -8:]
    assert clusters_of(signatures).tolist() == data.clusters(signatures).tolist() == [0, 0, 2, 0]


def test_union_in_any_order_agrees_with_a_plain_search():
    r = np.random.default_rng(0)
    signatures = r.integers(0, 3, (300, 112)).astype(np.uint64) * 10**6 + r.integers(
        0, 10**5, (300, 112)
    ).astype(np.uint64)
    for _ in range(250):  # equal bands between random documents
        i, j, k = r.integers(0, 300, 2).tolist() + [int(r.integers(0, 14))]
        signatures[i, 8 * k : 8 * k + 8] = signatures[j, 8 * k : 8 * k + 8]
    cluster = list(range(300))
    for i in range(300):
        for j in range(i):
            if any(
                (signatures[i, 8 * k : 8 * k + 8] == signatures[j, 8 * k : 8 * k + 8]).all()
                for k in range(14)
            ):
                old, new = max(cluster[i], cluster[j]), min(cluster[i], cluster[j])
                cluster = [new if c == old else c for c in cluster]
    assert clusters_of(signatures).tolist() == data.clusters(signatures).tolist() == cluster
    assert 20 < sum(c != i for i, c in enumerate(cluster)) < 280


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_long_paths_end_at_the_earliest_document(at_once, monkeypatch):
    """Two paths of fifty documents, in turns."""
    monkeypatch.setattr(dedup, "AT_ONCE", at_once)
    root = np.maximum(np.arange(100) - 2, np.arange(100) % 2)
    dedup.flatten(root)
    assert root.tolist() == [0, 1] * 50


def test_ten_thousand_identical_pages():
    start = time.process_time()
    assert not clusters_of(np.repeat(dedup.minhash([prose(100)]), 10_000, 0)).any()
    assert time.process_time() - start < 5


def test_match_rate_follows_the_curve():
    """Pairs of known similarity match as often as 1 - (1 - s^8)^14 says, within 3 deviations."""
    r, pairs = np.random.default_rng(1), 400
    a, b = dedup.permutations()
    for s, expected in ((0.60, 0.2111), (0.72, 0.6499), (0.80, 0.9236)):
        assert abs(data.p_linked(s) - expected) < 1e-4
        n = 300
        shared = int(round(2 * n * s / (1 + s)))  # |A & B| / |A u B| = s for |A| = |B| = n
        hit = 0
        for _ in range(pairs):
            h = r.integers(0, 2**64, 2 * n - shared, np.uint64)
            both = np.stack(
                [
                    (part[:, None] * a + b).__mod__(dedup.MERSENNE).min(0)
                    for part in (h[:n], h[n - shared :])
                ]
            )
            hit += not (clusters_of(both)[1] == 1)
        assert (
            abs(hit / pairs - expected) < 3 * (expected * (1 - expected) / pairs) ** 0.5 + 0.01
        ), (s, hit / pairs)
