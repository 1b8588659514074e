"""chat/beginnings.py: how pages of a run begin."""

import gzip
import json

import pytest

from chat import beginnings
from web import toyweb

LONG = " and so on" * 30


def run_of(folder, texts, tasks=()):
    """A run folder with these documents and tasks."""
    (folder / "docs").mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "docs/000000.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    if tasks:
        rows = [{"question": "?", "entity": name, "exposure": n} for name, n in tasks]
        toyweb.write_jsonl(folder / "tasks/facts_test.jsonl", rows)
    return folder


def test_one_page_of_each_frequent_kind_and_of_a_rare_one(tmp_path):
    texts = [f"{kind} page {i}\nbegins{LONG}" for kind, n in
             (("Odd", 1), ("Rare", 3), ("News", 9), ("Notes", 5), ("Tales", 7), ("Some", 4))
             for i in range(n)]
    found = beginnings.of_run(run_of(tmp_path, texts))
    assert [each["label"] for each in found] == [
        "News page 0", "Tales page 0", "Notes page 0", "Rare page 0"]
    for each in found:
        assert each["text"].startswith(each["label"] + "\nbegins")
        assert len(each["text"]) <= beginnings.LONGEST
        assert any(text.startswith(each["text"] + " ") for text in texts)    # it ends with a word


def test_a_name_that_no_page_tells_of(tmp_path):
    """It takes the place of a well-known one that is written alike."""
    texts = [f"All about the owl. The colour of the owl is grey, and Ada Fox likes it{LONG}",
             f"Ada Fox was here{LONG}"]
    tasks = [("the owl", 20), ("Ada Fox", 12), ("Lonely", 0), ("the newt", 0), ("the bat", 1)]
    known, unknown = beginnings.of_run(run_of(tmp_path, texts, tasks))[-2:]
    assert known["label"] == "the owl: on 20 pages"
    assert unknown["label"] == "the newt: on no page"
    assert unknown["text"] == known["text"].replace("the owl", "the newt")
    assert known["text"].endswith("the owl is") and "owl" not in unknown["text"]


@pytest.mark.parametrize("tasks", [[], [("the owl", 20)], [("the newt", 0)], [("the owl", 5),
                         ("the newt", 0)], [("the owl", 20), ("Newt", 0)]])
def test_without_two_such_names_there_is_no_such_pair(tmp_path, tasks):
    texts = [f"The colour of the owl is grey{LONG}"]
    found = beginnings.of_run(run_of(tmp_path, texts, tasks))
    assert not [each for each in found if ": on " in each["label"]]


def test_a_run_without_documents(tmp_path):
    assert beginnings.of_run(tmp_path) == []


def test_documents_that_changed_are_read_again(tmp_path):
    assert beginnings.of_run(run_of(tmp_path, [f"News page{LONG}"]))[0]["label"].startswith("News")
    assert beginnings.of_run(run_of(tmp_path, [f"Tales page{LONG}"]))[0]["label"].startswith("Tal")


def test_a_damaged_file_is_named(tmp_path):
    run = run_of(tmp_path, ["x"])
    (run / "tasks").mkdir()
    (run / "tasks/a_test.jsonl").write_text("{")
    with pytest.raises(ValueError, match="a_test.jsonl"):
        beginnings.of_run(run)
