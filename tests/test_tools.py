"""chat/tools.py: the calculator, letters, and the search of a run's documents."""

import gzip
import json
import os
import random
import re
import warnings

import pytest

from chat import tools


@pytest.mark.parametrize("expression, value", [
    ("37*48", "1776"),
    ("1,000+1", "1001"),
    ("1,000*2", "2000"),
    ("10-999", "-989"),
    ("7/2", "3.5"),
    ("24/2", "12"),
    ("1/3", "0.333333333333"),
    ("1234567/2", "617283.5"),
    ("123456.7+0.1", "123456.8"),
    ("7//2", "3"),
    ("-7%5", "3"),
    ("-(2+3)*4", "-20"),
    (" 2 + 2 ", "4"),
    ("2.5*2", "5"),
    ("9" * 50 + "*" + "9" * 40, str(int("9" * 50) * int("9" * 40))),
    ("1" + 20 * "0" + "/1", "1" + 20 * "0"),
    ("1/1" + 15 * "0", "0." + 14 * "0" + "1"),
])
def test_calculator(expression, value):
    assert tools.calculator(expression) == value


@pytest.mark.parametrize("expression", [
    "0x10+1", "1_0+1", "1/0", "", "2**9", "abs(3)", "__import__('os')", "1 if 1 else 2", "'a'*9",
    "True+1", "(" * 90 + "1", "1+" * 60 + "1", "1e999", "1e999-1e999", "1j", "x", "(1,2)", "1,00",
])
def test_what_is_no_arithmetic(expression):
    assert tools.calculator(expression) is None


def test_random_expressions():
    """The calculator gives a number of at most 100 characters or nothing, and no warning."""
    rng, found = random.Random(0), 0
    cases = [
        "9" * 49 + "*" + "9" * 50,
        "(" * 49 + "1" + ")" * 49,
        "-" * 99 + "1",
        "1" + "+1" * 49,
        "(1)(2)",
        "1 (2)",
        "1/" + "9" * 98,
        "." + "0" * 97 + "1",
        "\u0663+\u0663",
        "1e9",
        "1_0",
        "0/0",
        "1..real",
    ]
    cases += [
        "".join(rng.choice("0123456789.,+-*/%() ") for _ in range(rng.randint(1, 100)))
        for _ in range(3000)
    ]
    cases += [
        "".join(
            rng.choice(("7", "10", "0.5", "+", "-", "*", "/", "//", "%", "(", ")"))
            for _ in range(rng.randint(1, 9))
        )
        for _ in range(3000)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in cases:
            result = tools.calculator(case)
            if result is not None:
                found += 1
                assert len(result) <= 100 and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", result), case
    assert found > 200


@pytest.mark.parametrize("tool, text, answer", [
    (tools.count, "e in beetle", "3"),
    (tools.count, "E in beetle", "3"),
    (tools.count, "z in beetle", "0"),
    (tools.count, "beetle", None),
    (tools.count, " in beetle", None),
    (tools.count, "e in ", None),
    (tools.count, "e in " + "e" * 200, None),
    (tools.spell, "Moss", "M o s s"),
    (tools.spell, "", None),
    (tools.spell, "e" * 101, None),
])
def test_letters(tool, text, answer):
    assert tool(text) == answer


def write_documents(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def test_a_model_in_a_run_folder_can_search_its_documents(tmp_path):
    path = tmp_path / "run/docs/000000.jsonl.gz"
    assert tools.beside(tmp_path / "run/sft") == {}
    write_documents(path, "The gull eats wax.", "The bat eats moss.")
    write_documents(tmp_path / "run/docs/000001.jsonl.gz", "The newt hums.")
    for folder in ("run/sft", "run/talk/searching/priced"):
        search = tools.beside(tmp_path / folder)["search"]
        assert search("the bat") == "The bat eats moss."
        assert search("the newt") == "The newt hums."
        assert search("the dodo") == tools.search.NOTHING
        assert search("?") is None
    write_documents(path, "The dodo eats wax.")
    os.utime(path, ns=(1, 1))
    assert search("the dodo") == "The dodo eats wax."           # it was read again
    assert tools.beside(tmp_path / "elsewhere/sft") == {}
