"""The rules of the house hold for the code, and each rule finds a fault in a made-up house.

tests/house.py has the rules. NOT_YET names files that break one today; a file that no longer breaks
it must be removed from the table, so the table can only shrink.
"""

import ast

import pytest

import house
from conftest import ROOT

HOUSE = house.read_house()
TESTS = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("test_*.py")}
PRODUCT = [*ROOT.glob("kernels/*.cu*"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"),
           ROOT / "Makefile", ROOT / ".ci/run", *(ROOT / "chat/page").iterdir()]
PRODUCT += (ROOT / "tests").rglob("*.py")
TEXTS = HOUSE | {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in PRODUCT}
CHECKS = {
    "600 lines a chapter": lambda: house.long_chapters(HOUSE),
    "100 columns": lambda: house.wide_lines(TEXTS),
    "60 lines a function": lambda: house.long_functions(HOUSE),
    "one idea a line": lambda: house.dense(HOUSE),
    "docstrings": lambda: house.undocumented(HOUSE),
    "no circle": lambda: house.circles(HOUSE),
    "gpt.py and bpe.py run alone": lambda: house.dependent_definitions(HOUSE),
    "nothing imports upwards": lambda: house.upward_imports(HOUSE),
    "folders list their rooms": lambda: house.unlisted(HOUSE),
    "a test file each": lambda: house.untested(HOUSE, TESTS),
    "definition = fast twin": lambda: house.unpaired(HOUSE, TESTS),
}
NOT_YET = {
}


@pytest.mark.parametrize("check", CHECKS)
def test_the_rules_of_the_house(check):
    house.check(CHECKS[check](), NOT_YET.get(check, []))


def test_a_table_that_should_shrink():
    house.check({"a.py": "wrong"}, ["a.py"])
    with pytest.raises(AssertionError, match="wrong"):
        house.check({"a.py": "wrong"}, [])
    with pytest.raises(AssertionError, match="remove them from NOT_YET"):
        house.check({}, ["a.py"])


def test_not_yet_names_checks():
    assert set(NOT_YET) <= set(CHECKS)


def test_the_drawing_is_the_code():
    drawn = (ROOT / "docs/house.md").read_text(encoding="utf-8")
    assert drawn == house.drawing(HOUSE), "out of date: make it anew with python tests/house.py"


def test_every_folder_of_rooms_is_known():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(house.FOLDERS) == set(house.BELOW)
    assert {p.stem for p in ROOT.glob("*.py")} == set(house.CHAPTERS)


# ---------------------------------------------------------------------- each rule finds its fault

DOC = '"""x.py: a file."""\n'


def small_house(**changed):
    """A house without faults, with the text of some files changed: web_crawl for web/crawl.py."""
    paths = [f"{name}.py" for name in house.CHAPTERS]
    paths += [f"{folder}/__init__.py" for folder in house.FOLDERS]
    texts = dict.fromkeys([*paths, "model/fast.py", "web/crawl.py"], DOC)
    texts["model/__init__.py"] = '"""Rooms.\n\n    fast    the model, fast\n"""\n'
    texts["web/__init__.py"] = '"""Rooms.\n\n    crawl   fetches\n"""\n'
    for name, text in changed.items():
        texts[f"{name.replace('_', '/', 1)}.py"] = DOC + text
    return texts


def test_a_house_without_faults_has_none():
    well = small_house(
        gpt="def f():\n    'x'\n    from model import fast\n",      # when called: no circle
        model_fast="import gpt\n",
        bpe="if __name__ == '__main__':\n    from model import fast\n",
        web_crawl="def g():\n    'x'\n",
    )
    tests = {f"test_{name}.py": "" for name in [*house.CHAPTERS, "crawl", "fast", "kernels"]}
    for rule in (house.long_chapters, house.wide_lines, house.long_functions, house.undocumented,
                 house.circles, house.dependent_definitions, house.upward_imports,
                 house.unlisted, house.dense):
        assert rule(well) == {}, rule
    assert house.untested(well, tests) == {} and house.unpaired(well, tests) == {}


@pytest.mark.parametrize("rule, changed, path", [
    (house.long_chapters, {"gpt": "\n" * 600}, "gpt.py"),
    (house.wide_lines, {"web_crawl": "#" * 101}, "web/crawl.py"),
    (house.long_functions, {"gpt": "def f():\n" + "    1\n" * 61}, "gpt.py"),
    (house.long_functions, {"gpt": "class C:\n    def f():\n" + "        1\n" * 61}, "gpt.py"),
    (house.dense, {"web_crawl": "x = [a + b + c + d + e + f + g]\n"}, "web/crawl.py"),
    (house.dense, {"data": "x = 1\n" * 10}, "data.py"),
    (house.undocumented, {"gpt": "def f():\n    1\n"}, "gpt.py"),
    (house.undocumented, {"web_crawl": "class C:\n    x = 1\n"}, "web/crawl.py"),
    (house.circles, {"web_crawl": "import data", "data": "from web import crawl"}, "data.py"),
    (house.circles, {"run_a": "def f():\n    from run import b", "run_b": "import run.a"},
     "run/a.py"),
    (house.circles, {"run_a": "from run.b import x", "run_b": "import run.c",
                     "run_c": "from run import a"}, "run/c.py"),
    (house.dependent_definitions, {"bpe": "try:\n    from run import disk\nfinally: 1",
                                   "run_disk": ""}, "bpe.py"),
    (house.upward_imports, {"data": "import align"}, "data.py"),
    (house.upward_imports, {"run_disk": "import gpt"}, "run/disk.py"),
    (house.upward_imports, {"web_crawl": "def f():\n    import train"}, "web/crawl.py"),
    (house.upward_imports, {"model_fast": "from web import crawl"}, "model/fast.py"),
    (house.unlisted, {"web_warc": ""}, "web/__init__.py"),
    (house.unlisted, {"model___init__": "x = 1"}, "model/__init__.py"),
])
def test_a_planted_fault_is_found(rule, changed, path):
    assert path in rule(small_house(**changed))


def test_the_density_of_a_file():
    text = DOC + "x = 'a long string'     # said\n\nif x:\n    y(x, 1)\n"
    assert house.density(text) == (12 / 3, 2 / 5)


def test_a_definition_that_hands_over_to_its_room_needs_no_pair():
    handing = "def load(): \n    'x'\n    from model import fast\n    return fast.load()\n"
    texts = small_house(gpt=handing, model_fast="def load(): 'x'\n")
    assert house.unpaired(texts, {}) == {}
    assert house.unpaired(texts | {"gpt.py": DOC + "def load(): 'x'\n"}, {}) != {}


def test_planted_faults_in_tests_are_found():
    text = "def f(): 'x'\nclass C: 'x'\n"
    texts = small_house(gpt=text, model_fast=text)
    one = {"test_gpt.py": "import gpt\nPAIRS = [(gpt.f, fast.f)]"}
    assert "shares C with gpt.py" in house.unpaired(texts, one)["model/fast.py"]
    both = {"test_gpt.py": "import gpt\nPAIRS = [(gpt.f, fast.f), (gpt.C, fast.C)]"}
    assert house.unpaired(texts, both) == {}
    other = {"test_gpt.py": "import gpt\nPAIRS = [(gpt.f, walk.f), (gpt.C, walk.C)]"}
    assert "shares C, f with gpt.py" in house.unpaired(texts, other)["model/fast.py"]
    on_a_gpu = small_house(gpt=text, model_device=text)
    assert "shares C, f" in house.unpaired(on_a_gpu, one)["model/device.py"]
    called = {"test_device.py": "device.f(1)\ndevice.C()\n"}
    assert house.unpaired(on_a_gpu, called) == {}
    missing = set(house.untested(texts, {"test_fast.py", "test_data.py"}))
    assert {"gpt.py", "web/crawl.py"} <= missing and not {"data.py", "model/fast.py"} & missing


def test_the_drawing_shows_what_is_imported_and_when():
    texts = small_house(
        data="from web import crawl\ndef main():\n    'x'\n    from web import dedup\n",
        web_dedup="from web.crawl import fetch\nif __name__ == '__main__':\n    fetch()\n",
    )
    drawn = house.drawing(texts)
    assert "| `data.py` | a file |  | web: crawl | web: dedup |" in drawn
    assert "| `web/dedup.py` | a file | `python -m web.dedup` | web: crawl |  |" in drawn
    assert "    data     imports web\n" in drawn
    assert ast.parse(texts["data.py"])                  # the made-up files are Python
