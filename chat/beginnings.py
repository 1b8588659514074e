"""beginnings.py: how pages of a run begin, for a base model to go on from.

A base model answers nobody: it goes on with a page. So it is tried on beginnings of pages, and what
those look like depends on what it has read. Some are taken from the run's own documents, one of
each frequent kind, and one of a rare kind. Pages are of one kind whose first two words are the
same.

Where the run's tasks say how many pages tell of a name, one beginning is about a name that many
pages tell of, and the next one is the same with a name that no page tells of.
"""

import functools
import re

from run import disk, parquet

KINDS = 3                       # the most frequent kinds of pages, each with one beginning
RARE = 3                        # pages that a rare kind has at least
PAGES = 400                     # pages that are read to find them
LONGEST = 140                   # characters of a beginning
WELL_KNOWN = 10                 # pages that tell of a name


def of_run(run):
    """[{"label", "text"}] of a run folder; [] if it has no documents.

    ValueError or OSError if a file is damaged.
    """
    sources = sorted([*run.glob("docs/*.jsonl.gz"), *run.glob("docs/*.parquet")])[:1]
    sources += sorted(run.glob("tasks/*_test.jsonl"))
    signed = tuple((path, path.stat().st_mtime_ns) for path in sources)
    return list(read(signed))


@functools.lru_cache(4)
def read(signed):
    """of_run() of files ((path, time of its last change), ...), the documents first."""
    paths = [path for path, _ in signed]
    texts = []
    for path in paths:
        if path.parent.name == "docs":
            texts += pages(path)
    told = pages_by_name([path for path in paths if path.parent.name == "tasks"])
    found = [{"label": label_of(text), "text": shortened(text)} for text in frequent(texts)]
    return found + about_names(texts, told)


def pages(path):
    """The texts of the first pages of a file of documents."""
    found = []
    for document in parquet.documents(path, ("text",)):
        found.append(document["text"])
        if len(found) == PAGES:
            break
    return found


def kind_of(text):
    """The first two words of a page."""
    return tuple(text.split(None, 2)[:2])


def frequent(texts):
    """One long page of each of the most frequent kinds, the first one there, and a rare one."""
    kinds = {}
    for text in texts:
        if len(text) > LONGEST:
            kinds.setdefault(kind_of(text), []).append(text)
    by_size = sorted(kinds.values(), key=len, reverse=True)
    rare = [same for same in by_size[KINDS:] if len(same) >= RARE]
    return [same[0] for same in by_size[:KINDS] + rare[-1:]]


def label_of(text):
    """The first line of a page, shortened."""
    line = text.strip().partition("\n")[0]
    if len(line) <= 40:
        return line
    return re.sub(r"\s+\S*$", "", line[:40]) + " …"


def shortened(text):
    """The beginning of a page, up to the end of a word: not much more than its first line."""
    return text if len(text) <= LONGEST else re.sub(r"\s+\S*$", "", text[:LONGEST])


# ------------------------------------------------------------------------------------------- names


def pages_by_name(paths):
    """{name: how many pages tell of it} of files of tasks that say so."""
    told = {}
    for path in paths:
        for _, task in disk.read_jsonl(path):
            if isinstance(task.get("entity"), str) and type(task.get("exposure")) is int:
                told[task["entity"]] = task["exposure"]
    return told


def alike(a, b):
    """Whether two names can stand in one place: as many words, in small letters or in capitals."""
    return [word.islower() for word in a.split()] == [word.islower() for word in b.split()]


def about_names(texts, told):
    """A beginning about a name of many pages, and the same about a name of none; [] without."""
    known = [name for name, pages in told.items() if pages >= WELL_KNOWN]
    unknown = [name for name, pages in told.items() if pages == 0]
    for text in texts:
        for name in known:
            others = [other for other in unknown if alike(name, other)]
            begin = up_to(text, name)
            if others and begin:
                other = others[0]
                return [
                    {"label": f"{name}: on {told[name]} pages", "text": begin},
                    {"label": f"{other}: on no page", "text": begin.replace(name, other)},
                ]
    return []


def up_to(text, name):
    """The beginning of a page, up to a name and the word behind it; None if that is too long."""
    found = re.match(rf".{{0,{LONGEST}}}?(?<!\w){re.escape(name)} \w+", text, re.S)
    return found and found[0]
