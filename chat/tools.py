"""tools.py: what a reply may call: a calculator, letters of a word, and a search.

    37*48                    1776
    count: e in beetle       3
    spell: moss              m o s s
    search: the glulblow     what a page of the run says about it, or "nothing found"

sample.py tells to which of them a call goes.

Source: Cobbe et al. 2021 (a calculator inside the answer).
"""

import ast
import decimal
import functools
import json
import math
import operator
import re
from pathlib import Path

from run import disk
from web import search

# The argument of each tool, where a call names it and its argument apart.
ARGUMENTS = {"calculator": "expression", "count": "letters", "spell": "word", "search": "query"}
ROOM = 256          # tokens that the answers of tools may take of a reply

LONGEST = 100       # characters of a call or an answer; this also bounds the size of every number
LETTERS = set("0123456789.,+-*/%() ")
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")      # the comma of 1,000, and no other comma


def calculator(expression):
    """'37*48' -> '1776'; None for anything that is not arithmetic.

    Nothing is ever executed: the function walks the syntax tree of the expression, and knows only
    numbers and + - * / // % ( ).
    """
    if len(expression) > LONGEST or not set(expression) <= LETTERS:
        return None
    try:
        tree = ast.parse(THOUSANDS.sub("", expression).strip(), mode="eval")
        return written(value_of(tree.body))
    except (ValueError, SyntaxError, ArithmeticError, MemoryError, RecursionError):
        return None


def value_of(node):
    """The number that a node of the syntax tree stands for; ValueError if it is not arithmetic."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value_of(node.left), value_of(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value_of(node.operand))
    raise ValueError("not arithmetic")


def written(x):
    """A number as digits without an exponent, which calculator could not read; None if too long."""
    if isinstance(x, int):
        return str(x)
    if not math.isfinite(x):
        return None
    if x.is_integer() and abs(x) < 1e15:
        return str(int(x))
    digits = f"{decimal.Decimal(f'{x:.12g}'):f}"
    return digits if len(digits) <= LONGEST else None


def call_of(name, argument):
    """The text of a call, as a model writes it: ("spell", "moss") -> "spell: moss"."""
    return argument if name == "calculator" else f"{name}: {argument}"


# ------------------------------------------------------------------------------------------ letters


def count(text):
    """'e in beetle' -> '3', how often the word has the letters; None for another form."""
    letters, _, word = text.partition(" in ")
    if not letters or not word or len(text) > LONGEST:
        return None
    return str(word.lower().count(letters.lower()))


def spell(text):
    """'moss' -> 'm o s s'; None if it is longer than a call may be."""
    return " ".join(text) if 0 < len(text) <= LONGEST else None


# ------------------------------------------------------------------------------------------- search


class Search:
    """The tool that searches documents, files of data.py. They are read at the first call."""

    def __init__(self, paths):
        self.paths = tuple(paths)

    def __call__(self, query):
        """What the best page says, or that nothing was found; None if no word is asked for."""
        if not search.words_of(query):
            return None
        marks = [path.stat().st_mtime_ns for path in self.paths]
        return index_of(self.paths, tuple(marks)).search(query) or search.NOTHING


@functools.lru_cache(maxsize=2)
def index_of(paths, marks):
    """The search.Index of files of documents. marks: when they were written."""
    texts = []
    for path in paths:
        texts += [json.loads(line)["text"] for line in disk.read_lines(path)]
    return search.Index(texts)


def beside(folder):
    """{name: tool} for a model in a folder: a search, if the run that it lies in has documents."""
    for run in list(Path(folder).resolve().parents)[:3]:    # RUN/sft, RUN/talk/NAME/MODEL
        paths = sorted(run.glob("docs/*.jsonl.gz"))
        if paths:
            return {"search": Search(paths)}
    return {}
