"""chat/page.py: what the page is told of a run."""

import base64
import json
import re

import numpy as np
import pytest

import gpt
import sample
from chat import page, served
from serving import CFG, PARAMS, TOK, names, post, run, running, send, server  # noqa: F401
from web import toyweb


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
    assert whole["dreams"] == []
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
        assert about["models"] == ["base", "sft"] and about["examples"] == [["a fact", "What?"]]
        assert (about["assistant"], about["base"]) == ("sft", "base")
        assert about["contexts"] == {"base": CFG.n_positions, "sft": CFG.n_positions}
        (tasks / "facts_test.jsonl").write_text('{"question"')
        assert json.loads(send(server, "GET", "/api/about")[2])["examples"] == []
    finally:
        (tasks / "facts_test.jsonl").unlink()
        tasks.rmdir()


def test_columns_of_a_log():
    lines = [b'{"step": 1, "loss": 2.5, "note": "x"}', b"[1]", b"{", b'{"step": 2, "loss": NaN}']
    rows = [page.row_of(line) for line in lines]
    assert page.columns_of(rows) == {"step": [1, None, None, 2], "loss": [2.5, None, None, None]}
    assert page.columns_of([{"a": True}, {"b": 1}]) == {"b": [None, 1]}


def test_dreams_of_a_log():
    """What the model wrote by itself, with the step; a run without a tokenizer has none."""
    rows = [{"step": 1}, {"step": 2, "dream": "the lamp"}, {"step": 3, "dream": None}, {}]
    assert page.dreams_of(rows) == [[2, "the lamp"]]


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


WHO = {"role": "user", "content": "Who?"}
LAMP = {"role": "assistant", "content": "the lamp is lit"}


def test_turns_are_forgotten_before_a_reply_lacks_room(server):
    """In one request: as few as leave so many tokens free, but never the last question."""
    messages = [{"role": "system", "content": "a lamp"}, *[WHO, LAMP] * 3, WHO]

    def kept(**how):
        return post(server, "/api/fit", {"messages": messages, **how})

    for room in (1, 10, 20, 30, CFG.n_positions // 2):
        found = kept(room=room)
        assert found["context"] == CFG.n_positions
        assert found["messages"] == [messages[0], *messages[1 + 2 * found["forgotten"]:]]
        n = len(sample.render_prompt(found["messages"], TOK))
        assert n + room <= CFG.n_positions
        if found["forgotten"]:
            one_more = messages[1 + 2 * (found["forgotten"] - 1):]
            n = len(sample.render_prompt([messages[0], *one_more], TOK))
            assert n + room > CFG.n_positions
    assert [kept(room=room)["forgotten"] for room in (1, 10**6)] == [1, 3]
    assert kept(room=10**6) == kept(room=CFG.n_positions // 2)      # half of the context at most
    messages = [WHO, LAMP, {"role": "user", "content": "goat " * 100}]
    assert kept(room=5) == {"messages": messages[2:], "forgotten": 1, "context": CFG.n_positions}
    messages = [LAMP]
    assert post(server, "/api/fit", {"messages": messages}, 400)["error"]["param"] == "messages"


def test_tokens_of_a_conversation(server):
    """Which message each is in, and what the model itself wrote of it: as sample.render says."""
    call = [
        {"type": "tool", "text": "1+2"},
        {"type": "output", "text": "3"},
        {"type": "text", "text": "3. \u0115"},
    ]
    messages = [{"role": "system", "content": "assistant"}, WHO, LAMP, WHO,
                {"role": "assistant", "content": call}]
    ids, mask = sample.render(messages, TOK)
    found = post(server, "/api/pieces", {"tokens": ids})
    assert found["ids"] == ids and "\\xc4" in found["pieces"]
    assert found["written"] == [i for i, sampled in enumerate(mask) if sampled]
    begins = [i for i, token in enumerate(ids) if token == TOK.special_tokens["<|im_start|>"]]
    assert found["turns"] == [sum(begin <= i for begin in begins) - 1 for i in range(len(ids))]
    special = TOK.special_tokens.values()
    assert found["special"] == [i for i, token in enumerate(ids) if token in special]
    plain = post(server, "/api/pieces", {"tokens": names("assistant", "the lamp")})
    assert plain["written"] == [] and set(plain["turns"]) == {None}


def test_a_run_without_a_model_is_served(tmp_path):
    """From the first stage on; a model that is finished meanwhile is seen without a restart."""
    with pytest.raises(FileNotFoundError, match="no run in that folder; make the demo's with"):
        served.Models(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        served.Models(tmp_path / "none")
    (tmp_path / "crawl").mkdir()
    with running(tmp_path) as server:
        def about():
            return json.loads(send(server, "GET", "/api/about")[2])

        assert about()["models"] == [] and about()["assistant"] is None
        assert "no whole model" in post(server, "/v1/chat/completions", {"messages": [WHO]},
                                        503)["error"]["message"]
        toyweb.write_jsonl(tmp_path / "base/log.jsonl", [{"step": 1, "loss_nats": 2.0}])
        assert [stage["name"] for stage in about()["stages"]] == ["base"]
        found = json.loads(send(server, "GET", "/api/log?stage=base")[2])
        assert found["columns"]["loss_nats"] == [2.0]
        gpt.save(tmp_path / "base", PARAMS, CFG)
        TOK.save(tmp_path / "base/tokenizer.json")
        assert about()["models"] == about()["documents"] == ["base"]
        post(server, "/v1/completions", {"prompt": "the", "max_tokens": 1})
