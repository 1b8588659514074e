"""tools.py: the calculator that a reply may call.

Source: Cobbe et al. 2021 (a calculator inside the answer).
"""

import ast
import decimal
import math
import operator
import re


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
