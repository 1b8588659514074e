"""toy_world.py: a small world, written once for all tests, and what a model of it would read."""
import hashlib
import json

import pytest

from web import extract
from web import toyweb
from web import warc

N = 400


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    run = tmp_path_factory.mktemp("toyweb")
    return run, toyweb.write(run, N, seed=0)


def files(run):
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(run.rglob("*"))
            if p.is_file() and p.parent.name != "docs"}


def jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def training_text(world):
    """Everything a model of this world is trained on: pages and conversations."""
    run, truth = world
    pages = [extract.main_text(r.body, charset=r.charset)
        for p in sorted((run / "crawl").iterdir()) for r in warc.read_warc(p)
             if r.type == "response" and truth[r.url] != "not_html"]
    chats = [json.dumps(c, ensure_ascii=False) for name in ("train", "tools", "reading")
        for c in jsonl(run / f"chat/{name}.jsonl")]
    return "\n".join(pages + chats
        + [t["question"] for t in jsonl(run / "tasks/wheel_train.jsonl")])
