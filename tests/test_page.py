"""chat/page.py: what the page is told of a run."""

import base64
import json
import re

import numpy as np

from chat import page
from serving import CFG, TOK, post, run, send, server  # noqa: F401


def test_the_files_of_the_page(server):
    """index.html names files that are there, and all of them; one file can hold them all."""
    status, headers, html = send(server, "GET", "/")
    named = re.findall(r'(?:href|src)="page/([\w.]+)"', html.decode())
    assert status == 200 and sorted([*named, "index.html"]) == page.FILES
    texts = [send(server, "GET", f"/page/{name}")[2].decode() for name in named]
    alone = page.inlined(html.decode())
    assert all(text in alone for text in texts) and 'src="' not in alone
    assert send(server, "GET", "/page/common.js")[1]["content-type"].startswith("text/javascript")
    for outside in ("/page/../serve.py", "/page/", "/page/x.js"):
        assert send(server, "GET", outside)[0] == 404


def test_a_log_that_is_broken_or_begun_anew(server, run):
    log = run / "base" / "log.jsonl"
    lines = ['{"step": 1, "loss_nats": 2.5}', "broken", "[1]", '{"step": 2, "loss_nats": NaN}']
    log.write_text("\n".join([*lines, '{"step": 3']))

    def get(after):
        return json.loads(send(server, "GET", f"/api/log?stage=base&after={after}")[2])

    whole = get(0)
    assert whole["columns"] == {"step": [1, None, None, 2], "loss_nats": [2.5, None, None, None]}
    assert get(7) == get("9" * 5000) == get(10**9) == whole and get(whole["next"])["columns"] == {}
    log.unlink()


def test_a_look_at_more_numbers_than_memory_should_hold(server, monkeypatch):
    monkeypatch.setattr(page, "LOOKED_AT", 10 * (3 * CFG.vocab_size + 4 * 10))
    assert send(server, "POST", "/api/look", {"tokens": [1] * 10})[0] == 200
    assert "at most" in post(server, "/api/look", {"tokens": [1] * 11}, 400)["error"]["message"]


def test_what_there_is_to_see(server, run):
    """Models, logs and questions to try; a broken file of tasks is none of the page's business."""
    tasks = run / "tasks"
    tasks.mkdir()
    try:
        (tasks / "facts_test.jsonl").write_text('{"question": "What?", "exposure": 3}\n')
        about = json.loads(send(server, "GET", "/api/about")[2])
        assert about["models"] == ["base", "sft"] and about["examples"] == ["What?"]
        assert (about["assistant"], about["base"]) == ("sft", "base")
        (tasks / "facts_test.jsonl").write_text('{"question"')
        assert json.loads(send(server, "GET", "/api/about")[2])["examples"] == []
    finally:
        (tasks / "facts_test.jsonl").unlink()
        tasks.rmdir()


def test_columns_of_a_log():
    lines = [b'{"step": 1, "loss": 2.5, "note": "x"}', b"[1]", b"{", b'{"step": 2, "loss": NaN}']
    assert page.columns_of(lines) == {"step": [1, None, None, 2], "loss": [2.5, None, None, None]}
    assert page.columns_of([b'{"a": true}', b'{"b": 1}']) == {"b": [None, 1]}


def test_a_text_in_the_tokens_of_a_vocabulary(server):
    cut = post(server, "/api/cut", {"vocabulary": "base", "text": "the \u0115"})
    ids = TOK.encode_ordinary("the \u0115")
    assert cut["ids"] == ids and cut["size"] == TOK.n_vocab
    assert cut["pieces"][-2:] == ["\\xc4", "\\x95"]
    assert "no vocabulary" in post(server, "/api/cut", {"vocabulary": "x"}, 404)["error"]["message"]


def test_attention_in_bytes(server):
    """A token looks at itself and those before it, with shares that add up to 255."""
    body = {"text": "the lamp is lit", "layer": 1, "head": 0, "model": "base"}
    found = post(server, "/api/look", body)
    n = found["size"]
    seen = np.frombuffer(base64.b64decode(found["attention"]), np.uint8).reshape(n, n)
    assert not np.triu(seen, 1).any() and (np.abs(seen.sum(1).astype(int) - 255) <= n).all()
