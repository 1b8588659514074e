"""chat/inside_page.py: what the page's views Inside and Playground are told."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import bpe
import gpt
from chat import inside, inside_page, page, patching
from serving import CFG, PARAMS, TEXT, TOK, post, run, running, send, server  # noqa: F401
from test_beginnings import run_of

FOLDER = Path(page.__file__).with_name("page")
BODY = {"text": "the lamp is lit", "n": 4}
IDS = inside.ids_of(TOK, BODY["text"])


def predicted(**change):
    """The probabilities behind each token of BODY with a change."""
    other = change.pop("other", None)
    change = patching.change_of(CFG, **change)
    return inside.predictions(TOK, patching.changed(PARAMS, CFG, IDS, change, other))


def said(found, second):
    """Whether an answer is the two predictions side by side."""
    return found == inside.side_by_side(TOK, predicted(), second, IDS, 4)


def refused(server, **body):  # noqa: F811
    return post(server, "/api/contrast", {**BODY, **body}, 400)["error"]["message"]


def test_a_text_with_parts_off(server):  # noqa: F811
    found = post(server, "/api/contrast", {**BODY, "off": ["1.2", "mlp2"]})
    assert said(found, predicted(off=["1.2", "mlp2"])) and max(found["moved"]) > 0.01
    nothing = post(server, "/api/contrast", BODY)
    assert said(nothing, predicted()) and not any(nothing["moved"])


def test_a_text_with_parts_patched(server):  # noqa: F811
    """By another text as words or as tokens, at all places or at some."""
    text = "the goat is lit"
    other = inside.ids_of(TOK, text)
    assert len(other) == len(IDS)
    for more in ({"other": text}, {"other_tokens": other}):
        found = post(server, "/api/contrast", {**BODY, "patch": ["layer1"], **more})
        assert said(found, predicted(patch=["layer1"], other=other))
        found = post(server, "/api/contrast", {**BODY, "patch": ["1.1"], "places": [1], **more})
        assert said(found, predicted(patch=["1.1"], places=[1], other=other))
    last = post(server, "/api/contrast", {**BODY, "patch": ["layer2"], "other": text})
    own = post(server, "/api/look", {"text": text, "n": 1})
    best = max(last["next"][-1], key=lambda entry: entry[3])
    assert [best[0], best[3]] == own["next"][-1][0][::2]


def test_settings_count_on_both_sides(server):  # noqa: F811
    found = post(server, "/api/contrast", {**BODY, "off": ["1.2"], "temperature": 0})
    for row in found["next"]:
        assert sorted({share for entry in row for share in entry[2:]}) == [0, 1]


def test_what_cannot_be_changed(server):  # noqa: F811
    assert "as many" in refused(server, patch=["1.1"], other="the lamp")
    assert "none" in refused(server, patch=["1.1"])
    assert "no part" in refused(server, off=["3.1"])
    assert "not switched off" in refused(server, off=["layer1"])
    assert "list of texts" in refused(server, off=[1])
    assert "list of texts" in refused(server, patch=["1.1"] * 5000)
    for places in ([99], [-1], ["1"], [0.5]):
        assert "places" in refused(server, patch=["1.1"], other=BODY["text"], places=places)


def test_which_places_count(server):  # noqa: F811
    """Behind the last layer the last place decides alone, and all others count for nothing."""
    other = inside.ids_of(TOK, "the goat is lit")
    body = {"tokens": IDS, "other_tokens": other}
    found = post(server, "/api/trace", body)
    token, text = found["token"]
    after = inside.predictions(TOK, patching.changed(PARAMS, CFG, other, patching.Change()))[-1]
    before = predicted()[-1]
    assert token == after.argmax() and text == inside.spelled(TOK, token)
    assert (found["before"], found["after"]) == pytest.approx(
        (before[token], after[token]), abs=1e-5)
    assert np.shape(found["shares"]) == (CFG.n_layer, len(IDS))
    last = [found["before"]] * (len(IDS) - 1) + [found["after"]]
    assert found["shares"][-1] == pytest.approx(last, abs=2e-5)
    want = [predicted(patch=["layer1"], places=[t], other=other)[-1, token]
            for t in range(len(IDS))]
    assert found["shares"][0] == pytest.approx(want, abs=2e-5)
    assert "as many" in post(server, "/api/trace", {**body, "other_tokens": other[1:]}, 400)[
        "error"]["message"]


def test_two_stages(server, run, tmp_path):  # noqa: F811
    """Another model reads the text; one with another vocabulary, or no such one, cannot."""
    other = {name: p * 1.5 for name, p in PARAMS.items()}
    gpt.save(tmp_path / "base", PARAMS, CFG)
    gpt.save(tmp_path / "sft", other, CFG)
    foreign = bpe.Tokenizer.train([TEXT[::-1]] * 4, 300)
    gpt.save(tmp_path / "rl", PARAMS, CFG)
    for stage, tokenizer in (("base", TOK), ("sft", TOK), ("rl", foreign)):
        tokenizer.save(tmp_path / stage / "tokenizer.json")
    with running(tmp_path) as two:
        found = post(two, "/api/contrast", {**BODY, "model": "base", "against": "sft"})
        second = patching.changed(other, CFG, IDS, patching.Change())
        assert said(found, inside.predictions(TOK, second))
        message = refused(two, model="base", against="rl")
        assert message.startswith("rl cuts text into other tokens")
        post(two, "/api/contrast", {**BODY, "against": "x"}, 404)


def test_more_numbers_than_memory_should_hold(server, monkeypatch):  # noqa: F811
    monkeypatch.setattr(page, "LOOKED_AT", 1000)
    assert "at most 1,000" in refused(server, off=["1.1"])
    assert "at most" in post(server, "/api/induction", {}, 400)["error"]["message"]
    body = {"tokens": IDS, "other_tokens": IDS}
    assert "at most" in post(server, "/api/trace", body, 400)["error"]["message"]


def test_ids(server):  # noqa: F811
    """Of a text, as special tokens or as letters; of tokens, however many."""
    found = post(server, "/api/ids", {"text": "<|im_start|>a\u0115", "special": True})
    start = TOK.special_tokens["<|im_start|>"]
    assert found["ids"] == [start, *TOK.encode_ordinary("a\u0115")]
    assert found["pieces"] == ["<|im_start|>", "a", "\\xc4", "\\x95"]
    assert found["text"] == "<|im_start|>a\u0115" and found["context"] == CFG.n_positions
    plain = post(server, "/api/ids", {"text": "<|im_start|>"})
    assert plain["ids"] == inside.ids_of(TOK, "<|im_start|>") and start not in plain["ids"]
    many = inside.ids_of(TOK, "the lamp " * 50)
    assert post(server, "/api/ids", {"tokens": many})["text"] == "the lamp " * 50
    for wrong in ([], [10**9], ["a"]):
        post(server, "/api/ids", {"tokens": wrong}, 400)
    post(server, "/api/ids", {"text": "a" * 100_001}, 413)


def test_special_tokens_are_read_where_they_are_wanted(server):  # noqa: F811
    body = {"text": "<|im_start|>user", "n": 1}
    assert post(server, "/api/look", {**body, "special": True})["special"] == [0]
    assert post(server, "/api/look", body)["special"] == [0]            # <|endoftext|>
    assert post(server, "/api/look", body)["pieces"][0] == "<|endoftext|>"


def test_heads_that_copy(server):  # noqa: F811
    found = post(server, "/api/induction", {"model": "base"})
    assert np.shape(found["scores"]) == (CFG.n_layer, CFG.n_head)
    n = found["length"]
    assert found["ids"][1:n + 1] == found["ids"][n + 1:] and found["rows"] == inside_page.ROWS
    reading = range(n + 1, 2 * n)
    assert found["chance"] == pytest.approx(np.mean([1 / (t + 1) for t in reading]), abs=1e-4)
    assert found["first"] > 1 and found["second"] > 1
    assert found == post(server, "/api/induction", {"model": "base"})
    assert found["ids"] != post(server, "/api/induction", {"seed": 1})["ids"]


def test_a_context_that_holds_no_text_twice(tmp_path):
    gpt.save(tmp_path / "base", gpt.init(gpt.Config(TOK.n_vocab, 4, 16, 1, 2), 0),
             gpt.Config(TOK.n_vocab, 4, 16, 1, 2))
    TOK.save(tmp_path / "base/tokenizer.json")
    with running(tmp_path) as small:
        assert "twice" in post(small, "/api/induction", {}, 400)["error"]["message"]


def test_beginnings(tmp_path):
    """Of the run's own pages; none where it has no documents."""
    gpt.save(tmp_path / "base", PARAMS, CFG)
    TOK.save(tmp_path / "base/tokenizer.json")
    with running(tmp_path) as own:
        assert json.loads(send(own, "GET", "/api/beginnings")[2]) == {"beginnings": []}
        run_of(tmp_path, ["The lamp and the goat " * 20])
        [found] = json.loads(send(own, "GET", "/api/beginnings")[2])["beginnings"]
        assert found["text"].startswith("The lamp and the goat The lamp")
        (tmp_path / "docs/000000.jsonl.gz").write_bytes(b"no gzip")
        status, _, data = send(own, "GET", "/api/beginnings")
        assert status == 500 and b"000000.jsonl.gz" in data


def names_of(script):
    """The names that a script of the page makes for all scripts."""
    return re.findall(r"^(?:async )?(?:const|let|function\*?|class) ([\w$]+)", script, re.M)


def test_scripts_of_the_page_share_their_names():
    """So no name may be made twice: the later script would end at once."""
    found = []
    for path in FOLDER.glob("*.js"):
        found += names_of(path.read_text(encoding="utf-8"))
    assert len(found) > 100 and sorted(found) == sorted(set(found))
    assert names_of("const a = 1;\n  let b;\nasync function* c() {}\nclass D {") == ["a", "c", "D"]
