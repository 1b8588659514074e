"""web/search.py beside bm25s and rank_bm25: the same scores, and how fast.

    python -m pytest -s tests/peers/test_search_peers.py
"""

import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest

bm25s = pytest.importorskip("bm25s")
rank_bm25 = pytest.importorskip("rank_bm25")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from web import search, toypages, toyworld  # noqa: E402

WORLD = toyworld.entities(0)


@pytest.fixture(scope="module")
def pages():
    """2,000 pages of the embedded world, one in four about an entity."""
    rng, texts = random.Random(0), []
    for i in range(500):
        for text in (toypages.entity_text(rng, WORLD[i % len(WORLD)]), *(
            toypages.story_text(rng) for _ in range(3)
        )):
            texts.append("\n".join(text[1]))
    return texts


@pytest.fixture(scope="module")
def queries():
    """Names, facts, and words of which most pages have some."""
    rng = random.Random(1)
    names = [entity["name"].lower() for entity in rng.sample(WORLD, 40)]
    return [*names, *(f"what food does the {name} eat" for name in names), "the the harbour", "zzz"]


def of_bm25s(texts):
    """bm25s over the words of the texts, with search's formula and constants."""
    index = bm25s.BM25(method="lucene", k1=search.K, b=search.B, dtype="float64")
    index.index([search.words_of(text) for text in texts], show_progress=False)
    return index


def of_rank_bm25(texts):
    """rank_bm25 over the words of the texts, with search's constants."""
    words = [search.words_of(text) for text in texts]
    return rank_bm25.BM25Okapi(words, k1=search.K, b=search.B)


def test_scores_are_theirs(pages, queries):
    """bm25s leaves out the constant k + 1. rank_bm25 takes a logarithm without the 1, and another
    number where that is negative; with our rarity its scores are ours."""
    index = search.Index(pages)
    quick, plain = of_bm25s(pages), of_rank_bm25(pages)
    for word in plain.idf:
        n = index.n_pages(word)
        plain.idf[word] = np.log(1 + (len(pages) - n + 0.5) / (n + 0.5))
    n_scored = 0
    for query in queries:
        words, scores = search.words_of(query), index.scores(query)
        known = [word for word in words if word in index.postings]
        theirs = (search.K + 1) * quick.get_scores(known) if known else 0 * scores
        np.testing.assert_allclose(scores, theirs, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(scores, plain.get_scores(words), rtol=1e-9, atol=1e-12)
        n_scored += (scores > 0).sum()
    assert n_scored > 10_000


def test_how_fast_it_is(pages, queries):
    """Prints seconds: of the index, and of the scores of all queries."""
    words = [search.words_of(query) for query in queries[:-1]]
    print(f"\n{len(pages):,} pages, {len(words)} queries")
    for name, build, scores in (
        ("web/search.py", search.Index, lambda index, i: index.scores(queries[i])),
        ("bm25s", of_bm25s,
         lambda index, i: index.get_scores([w for w in words[i] if w in index.vocab_dict])),
        ("rank_bm25", of_rank_bm25, lambda index, i: index.get_scores(words[i])),
    ):
        began = time.perf_counter()
        index = build(pages)
        built = time.perf_counter()
        found = [scores(index, i).argmax() for i in range(len(words))]
        print(f"  {name:14} index {built - began:6.2f} s, "
              f"queries {1000 * (time.perf_counter() - built) / len(words):6.2f} ms each")
        assert len(found) == len(words)
