"""search.py: find the page of a run that answers a query, and the sentences that do.

A page is scored by BM25: the sum over the words of the query of

    log(1 + (N - n + 0.5) / (n + 0.5))  *  f (k + 1) / (f + k (1 - b + b l / mean l))

of N pages n hold the word; f is how often this page does, and l is its length in words. The first
factor makes a rare word count more than a common one. The second grows with f, but never beyond
k + 1, and makes a word of a long page count less.

What is left out: stems (eat, eats), synonyms, the order of words, links between pages.

    >>> Index(["The gull eats wax.", "The bat eats moss. The bat is grey."]).search("the bat")
    'The bat eats moss. The bat is grey.'

Source: Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond",
section 3.4; the 1 in the logarithm, which keeps it positive, is Lucene's.
"""

import re
from collections import Counter

import numpy as np

K, B = 1.2, 0.75            # how soon more of a word counts no more; how much the length matters
NOTHING = "nothing found"   # what the tool says where no page is found
MOST_WORDS = 80             # of what a search answers: 98 % of facts on one page are in it

WORD = re.compile(r"\w+")
SENTENCE = re.compile(r'[^.!?\n]+[.!?]+["\u201d]?')


def words_of(text):
    """The words of a text, in small letters."""
    return WORD.findall(text.lower())


def passage(text, word, most=MOST_WORDS):
    """The sentences of a text that hold a word, in their order, with so many words at most.

    A question tells nothing, so it is left out. So is a heading, which does not end.
    """
    found = []
    for sentence in SENTENCE.findall(text):
        words = words_of(sentence)
        if word in words and "?" not in sentence and len(words) <= most:
            found.append(" ".join(sentence.split()))
            most -= len(words)
    return " ".join(found)


class Index:
    """The pages that hold each word.

    texts      the pages
    lengths    (N,) how many words each has
    postings   {word: (2, n)}: the numbers of the pages that hold it, and how often each does
    """

    def __init__(self, texts):
        self.texts = list(texts)
        lengths, postings = [], {}
        for page, text in enumerate(self.texts):
            counts = Counter(words_of(text))
            lengths.append(counts.total())
            for word, n in counts.items():
                postings.setdefault(word, []).append((page, n))
        self.lengths = np.array(lengths)
        self.postings = {word: np.array(found).T for word, found in postings.items()}

    def n_pages(self, word):
        """How many pages hold a word."""
        return len(self.postings[word][0]) if word in self.postings else 0

    def scores(self, query):
        """BM25 of every page for the words of a query: (N,)"""
        total = np.zeros(len(self.texts))
        size = 1 - B + B * self.lengths / max(self.lengths.mean(), 1)
        for word in words_of(query):
            n = self.n_pages(word)
            if n:
                pages, f = self.postings[word]
                rarity = np.log(1 + (len(total) - n + 0.5) / (n + 0.5))
                total[pages] += rarity * f * (K + 1) / (f + K * size[pages])
        return total

    def search(self, query):
        """The passage of the best page that holds the rarest word of the query; None if none does.

        A word that is on no page is the rarest of all: an unknown name is not found by its "the".
        """
        rarest = min(words_of(query), key=self.n_pages, default=None)
        if not self.n_pages(rarest):
            return None
        pages, _ = self.postings[rarest]
        best = pages[self.scores(query)[pages].argmax()]
        return passage(self.texts[best], rarest) or None
