"""house.py: reads the project's code as a house: chapters, rooms, and what each of them imports.

    python tests/house.py       write docs/house.md anew

A chapter is a script at the top, a room is a file in a folder. A house is {path: text} of all of
them. tests/test_house.py checks the rules of the house with the functions here; each returns
{path: what is wrong there}, and an empty one if all is well.
"""

import argparse
import ast
import functools
import io
import re
import sys
import textwrap
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ["data", "bpe", "gpt", "train", "sample", "align"]       # in the order of reading
STANDALONE = ["gpt", "bpe"]         # these import nothing of ours when they are imported
FOLDERS = {                         # folders of rooms, and the chapters that they serve
    "run": [],
    "kernels": ["gpt"],
    "model": ["gpt", "train"],
    "tokens": ["bpe"],
    "web": ["data"],
    "chat": ["sample", "align"],
    "talk": [],
}
BELOW = {                           # what rooms may import besides their own folder and chapters
    "run": [],
    "kernels": ["run", "model", *STANDALONE],
    "model": ["run", "kernels", "tokens", *STANDALONE],
    "tokens": ["run", "model", *STANDALONE],
    "web": ["run", "model", "tokens", *STANDALONE],
    "chat": ["run", "model", "tokens", "kernels", "web", "train", *STANDALONE],
    "talk": ["run", "model", "tokens", "web", "chat", *CHAPTERS],
}
MOST_LINES = 600                # of a chapter
MOST_COLUMNS = 100
MOST_FUNCTION_LINES = 60
MOST_TOKENS = {"gpt.py": 11, "chapter": 10, "room": 12}     # on a line with code
LEAST_PROSE = 0.25              # of a chapter's lines: comments and docstrings
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
ON_A_GPU = {                    # twins that are compared by a test of each room
    "kernels/__init__.py", "kernels/attention.py", "model/device.py",
}
DEFINITIONS = {"model/llama.py", "model/lora.py"}       # as gpt.py is, and nobody's twin
EVERYWHERE = {"main", "parse_args"}         # names that are no definition with a fast twin
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# --------------------------------------------------------------------------------- reading the code


def read_house(root=ROOT):
    """{path relative to root: text} of all chapters and rooms."""
    paths = sorted(root.glob("*.py"))
    for folder in FOLDERS:
        paths += sorted((root / folder).glob("*.py"))
    return {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in paths}


@functools.lru_cache(maxsize=None)
def parse(text):
    """The syntax tree of a file."""
    return ast.parse(text)


def module_of(path):
    """The name of a file in imports: model.fast for model/fast.py, web for web/__init__.py."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def folder_of(module):
    """The folder of a room; the name itself for a chapter."""
    return module.partition(".")[0]


def is_guard(node):
    """Whether a statement is `if __name__ == "__main__":`, which runs when the file is a script."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Compare):
        return ast.unparse(node.test.left) == "__name__"
    return False


def import_statements(node, late=False):
    """(statement, whether it stands in a function) of all imports below a node.

    Imports of a script's own start, under `if __name__ == "__main__":`, do not count.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, late
        elif not is_guard(child):
            yield from import_statements(child, late or isinstance(child, FUNCTIONS))


def imports_of(text, modules):
    """The modules, out of a set, that a file imports: (when it is imported, when it is called).

    `from web import charset` imports web.charset, `from kernels import check` imports kernels.
    """
    early, late = set(), set()
    for node, is_late in import_statements(parse(text)):
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            rooms = [f"{node.module}.{name}" for name in names]
            names = [room if room in modules else node.module for room in rooms]
        (late if is_late else early).update(names)
    early &= modules
    return early, (late & modules) - early


def imports(house):
    """{module: (modules imported with it, modules imported when it is called)}."""
    modules = {module_of(path) for path in house}
    return {module_of(path): imports_of(text, modules) for path, text in house.items()}


def purpose(text):
    """What a file is for: the first sentence of its docstring, without its name."""
    doc = ast.get_docstring(parse(text)) or ""
    paragraph = " ".join(doc.partition("\n\n")[0].split())
    sentence = re.split(r"(?<=\.)\s", paragraph)[0]
    return re.sub(r"^[\w/]+(\.py)?: ", "", sentence).rstrip(".:")


def is_script(text):
    """Whether a file has a command of its own."""
    return "\nif __name__ ==" in text


def command_of(path):
    """The command that runs a file."""
    module = module_of(path).removesuffix(".__main__")
    return f"python -m {module}" if "/" in path else f"python {path}"


# ---------------------------------------------------------------------------------------- the rules


def long_chapters(house):
    """Chapters of more than MOST_LINES lines."""
    faults = {}
    for name in CHAPTERS:
        n_lines = len(house[f"{name}.py"].splitlines())
        if n_lines > MOST_LINES:
            faults[f"{name}.py"] = f"{n_lines} lines, at most {MOST_LINES} are readable at once"
    return faults


def wide_lines(texts):
    """Files with lines of more than MOST_COLUMNS characters; tables of Markdown may be wider."""
    faults = {}
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if path.endswith(".md") and line.lstrip().startswith("|"):
                continue
            if len(line) > MOST_COLUMNS:
                faults[path] = f"line {number} has {len(line)} columns, at most {MOST_COLUMNS}"
                break
    return faults


def long_functions(house):
    """Files with a function of more than MOST_FUNCTION_LINES lines."""
    faults = {}
    for path, text in house.items():
        for node in ast.walk(parse(text)):
            if not isinstance(node, FUNCTIONS):
                continue
            n_lines = node.end_lineno - node.lineno + 1
            if n_lines > MOST_FUNCTION_LINES + 1:
                faults[path] = f"{node.name}() has {n_lines} lines"
    return faults


def density(text):
    """(tokens on a line with code, share of lines that are prose) of a file.

    A string is one token, however long. A docstring is prose and no code.
    """
    docs = set()
    for node in ast.walk(parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
            first = node.body[0]
            docs.update(range(first.lineno, first.end_lineno + 1))
    code, comments, n_tokens = set(), set(), 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in LAYOUT and token.start[0] not in docs:
            code.update(range(token.start[0], token.end[0] + 1))
            n_tokens += 1
    return n_tokens / max(1, len(code)), len(docs | comments) / max(1, len(text.splitlines()))


def dense(house):
    """Files with many tokens on a line, and chapters with little prose."""
    faults = {}
    for path, text in house.items():
        kind = "room" if "/" in path else "chapter"
        tokens, prose = density(text)
        most = MOST_TOKENS.get(path, MOST_TOKENS[kind])
        if round(tokens, 1) > most:
            faults[path] = f"{tokens:.1f} tokens on a line with code, at most {most}"
        elif kind == "chapter" and prose < LEAST_PROSE:
            faults[path] = f"{prose:.0%} of the lines are prose, at least {LEAST_PROSE:.0%}"
    return faults


def undocumented(house):
    """Files with a public function or class, or the file itself, that has no docstring."""
    faults = {}
    for path, text in house.items():
        tree = parse(text)
        missing = [] if ast.get_docstring(tree) else ["the file"]
        for node in tree.body:
            is_public = isinstance(node, (ast.ClassDef, *FUNCTIONS)) and node.name[0] != "_"
            if is_public and not ast.get_docstring(node):
                missing.append(node.name)
        if missing:
            faults[path] = f"no docstring: {', '.join(missing)}"
    return faults


def circles(house):
    """Files that reach themselves by imports.

    A chapter may import its rooms when it is called, for its commands are made of rooms. All other
    imports count, also those inside functions.
    """
    reach = {}
    for module, (early, late) in imports(house).items():
        reach[module] = early if module in CHAPTERS else early | late
        reach[module] = reach[module] - {module}
    for _ in reach:
        for module in reach:
            reach[module] = reach[module].union(*(reach[other] for other in reach[module]))
    faults = {}
    for path in house:
        module = module_of(path)
        if module in reach[module]:
            others = [m for m in reach[module] if module in reach[m] and m != module]
            faults[path] = f"imports itself by way of {', '.join(sorted(others))}"
    return faults


def dependent_definitions(house):
    """Chapters that should run alone, copied out of the project, and import ours at the top."""
    faults, table = {}, imports(house)
    for module in STANDALONE:
        early, _ = table[module]
        if early:
            faults[f"{module}.py"] = f"imports {', '.join(sorted(early))} at the top"
    return faults


def upward_imports(house):
    """Files that import what stands above them.

    A chapter imports rooms, and chapters that are read before it. A room imports rooms of its own
    folder, the chapters that it serves, and what BELOW names.
    """
    faults, table = {}, imports(house)
    for path in house:
        module = module_of(path)
        folder = folder_of(module)
        if module in CHAPTERS:
            allowed = {*FOLDERS, *CHAPTERS[:CHAPTERS.index(module)], *STANDALONE}
        else:
            allowed = {folder, *BELOW[folder], *FOLDERS[folder]}
        wrong = [m for m in set.union(*table[module]) if folder_of(m) not in allowed]
        if wrong:
            faults[path] = f"imports {', '.join(sorted(wrong))}, which stands above it"
    return faults


def untested(house, tests):
    """Chapters and rooms without a test file of their name. tests: the names of test files."""
    faults = {}
    for path in house:
        name = Path(path).stem
        if path.startswith("kernels/"):         # launchers and .cu files are tested together
            name = "kernels"
        elif path.startswith("talk/") and name != "__init__":
            name = "talk"                       # so are experiments, which are of one form
        if name != "__init__" and f"test_{name}.py" not in tests:
            faults[path] = f"there is no tests/test_{name}.py"
    return faults


def unlisted(house):
    """Folders whose docstring does not list their rooms, "    NAME   what it is for", or others."""
    faults = {}
    for folder in FOLDERS:
        paths = [path for path in house if path.startswith(f"{folder}/")]
        rooms = {Path(path).stem for path in paths} - {"__init__"}
        doc = ast.get_docstring(parse(house[f"{folder}/__init__.py"]), clean=False) or ""
        listed = set(re.findall(r"^    (\w+)  +\S", doc, re.M))
        if listed != rooms:
            missing, gone = sorted(rooms - listed), sorted(listed - rooms)
            faults[f"{folder}/__init__.py"] = f"does not list {missing}; lists {gone}, not there"
    return faults


# ---------------------------------------------------------------------- definitions and fast twins


def definitions(text):
    """{name: syntax tree} of the public functions and classes that a file defines."""
    nodes = [n for n in parse(text).body if isinstance(n, (ast.ClassDef, *FUNCTIONS))]
    return {n.name: n for n in nodes if n.name[0] != "_" and n.name not in EVERYWHERE}


def hands_over(node, module):
    """Whether a definition imports a room itself, as gpt.load does: it is no second version."""
    room = module.rpartition(".")[2]
    for inner in ast.walk(node):
        if isinstance(inner, ast.ImportFrom) and room in {alias.name for alias in inner.names}:
            return True
    return False


def listed_pairs(text):
    """{"gpt.decode fast.decode"}: a test file's lists PAIRS, as they are written there."""
    found = set()
    for node in parse(text).body:
        is_pairs = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAIRS"
        if not is_pairs or not isinstance(node.value, ast.List):
            continue
        for element in node.value.elts:
            if isinstance(element, ast.Tuple):
                definition, twin = element.elts[:2]
                found.add(f"{ast.unparse(definition)} {ast.unparse(twin)}")
    return found


def unpaired(house, tests):
    """Rooms that share a name with their chapter which no list PAIRS of the tests has.

    tests: {path: text} of the test files. A room is compared with the chapters that it serves.
    Two things of one name are a definition and its fast twin, or one of them needs another name.
    Twins on a GPU are compared in tests of their own, which must call them.
    """
    listed = set()
    for text in tests.values():
        if "PAIRS = [" in text:
            listed |= listed_pairs(text)
    faults = {}
    for path, text in house.items():
        if path in DEFINITIONS:
            continue
        module = module_of(path)
        room = module.rpartition(".")[2]
        tested = tests.get(f"test_{room}.py", "") if path in ON_A_GPU else ""
        for chapter in FOLDERS.get(folder_of(module), []):
            plain, fast = definitions(house[f"{chapter}.py"]), definitions(text)
            missing = []
            for name in sorted(plain.keys() & fast):
                is_paired = f"{chapter}.{name} {room}.{name}" in listed
                if not (is_paired or f"{room}.{name}" in tested or hands_over(plain[name], module)):
                    missing.append(name)
            if missing:
                faults[path] = f"shares {', '.join(missing)} with {chapter}.py, and no PAIRS has it"
    return faults


def check(faults, not_yet):
    """AssertionError for faults of a rule, {path: what}, and for files in not_yet without one."""
    new = {path: what for path, what in faults.items() if path not in not_yet}
    assert not new, new
    mended = [path for path in not_yet if path not in faults]
    assert not mended, f"these are well now, or gone: remove them from NOT_YET: {mended}"


# ------------------------------------------------------------------------------------ docs/house.md

HEAD = """# The house

`python tests/house.py` makes this file from the code, and `tests/test_house.py` fails when it is
out of date. A file with a command answers `--help`.

A chapter is a script at the top: it holds the plain definitions. A room is a file in a folder: it
makes a chapter fast, or reads other people's files. Imports run one way. Rooms import definitions
and other rooms, chapters import rooms and earlier chapters, and there is no circle. `gpt.py` and
`bpe.py` import nothing of ours when they are imported, so each of them runs alone. An import that
stands inside a function happens when that function is called; it has a column of its own.
"""


TABLE_HEAD = [
    "| file | what it is for | command | imports | imports when called |",
    "| --- | --- | --- | --- | --- |",
]


def in_words(modules):
    """Names of modules for a cell: "model: cores, fast; run: disk"."""
    folders = {}
    for module in sorted(modules):
        folder, _, room = module.partition(".")
        folders.setdefault(folder, []).append(room)
    words = []
    for folder, rooms in folders.items():
        words.append(f"{folder}: {', '.join(rooms)}" if rooms != [""] else folder)
    return "; ".join(words)


def floors(house):
    """One line for each chapter and folder: the chapters and folders that it imports."""
    table = imports(house)
    lines = []
    for name in [*FOLDERS, *CHAPTERS]:
        early, late = set(), set()
        for module, (at_the_top, when_called) in table.items():
            if folder_of(module) == name:
                early |= {folder_of(m) for m in at_the_top}
                late |= {folder_of(m) for m in when_called}
        early -= {name}
        late -= {name, *early}
        line = f"    {name:8} imports {', '.join(sorted(early)) or 'nothing of ours'}"
        if late:
            line += f"; when called {', '.join(sorted(late))}"
        lines.append(line)
    return lines


def drawing(house):
    """The text of docs/house.md."""
    table = imports(house)
    lines = [HEAD, "## Floors", "", *floors(house), ""]
    groups = {"Chapters": ([f"{name}.py" for name in CHAPTERS], "In the order of reading.")}
    for folder in FOLDERS:
        paths = [p for p in house if p.startswith(f"{folder}/") and imported_alone(p)]
        groups[f"{folder}/"] = paths, purpose(house[f"{folder}/__init__.py"]) + "."
    for title, (paths, about) in groups.items():
        lines += [f"## {title}", "", *textwrap.wrap(about, MOST_COLUMNS), "", *TABLE_HEAD]
        for path in paths:
            early, late = table[module_of(path)]
            command = f"`{command_of(path)}`" if is_script(house[path]) else ""
            imported = [in_words(early), in_words(late)]
            cells = [f"`{path}`", purpose(house[path]), command, *imported]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def imported_alone(path):
    """Whether a file is a room, and not just the list of a folder's rooms."""
    return not path.endswith("/__init__.py") or path.startswith("kernels/")


def main():
    """Write docs/house.md."""
    argparse.ArgumentParser(description="Write docs/house.md anew.").parse_args()
    path = ROOT / "docs" / "house.md"
    path.write_text(drawing(read_house()), encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
