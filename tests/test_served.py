"""chat/served.py: models that are loaded, replaced, broken, or asked for by many at once."""

import concurrent.futures
import json
import threading

import numpy as np
import pytest

import gpt
import sample
from chat import generate, served
from serving import (  # noqa: F401
    ASK, CFG, CHAT, PARAMS, TEXTS, TOK, choices, listed, post, run, running, send, server, started,
    wait_for,
)


def save_model(folder, params):
    gpt.save(folder, params, CFG)
    TOK.save(folder / "tokenizer.json")


def test_folders_without_a_whole_model_are_left_out(tmp_path):
    """Whatever is wrong with one, the others are served, and it is back when it is whole."""
    for stage in ("base", "rl", "sft"):
        save_model(tmp_path / stage, PARAMS)
    names = ("model.safetensors", "config.json", "tokenizer.json")
    weights, config, tokenizer = (tmp_path / "rl" / name for name in names)
    with running(tmp_path) as server:
        assert listed(server) == ["base", "rl", "sft"]
        for path, damage in (
            (weights, None),
            (weights, lambda data: data[:-10]),
            (weights, lambda data: b""),
            (config, None),
            (config, lambda data: b"{"),
            (config, lambda data: b"{}"),
            (tokenizer, None),
        ):
            data = path.read_bytes()
            path.unlink()
            if damage:
                path.write_bytes(damage(data))
            about = json.loads(send(server, "GET", "/api/about")[2])
            assert listed(server) == about["models"] == ["base", "sft"]
            assert send(server, "GET", "/v1/models/rl")[0] == 404
            assert send(server, "GET", "/v1/models/base")[0] == 200
            assert post(server, CHAT, ASK)["system_fingerprint"] == "sft"
            if path.exists() or path != config:
                error = post(server, CHAT, {**ASK, "model": "rl"}, 503)["error"]
                assert "rl" in error["message"]
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            assert listed(server) == ["base", "rl", "sft"]
        assert post(server, CHAT, ASK)["system_fingerprint"] == "rl"


def test_a_model_that_is_replaced(tmp_path):
    """A reply ends on the model that began it. The old model answers until the new one is whole."""
    other = {}
    for name, p in PARAMS.items():
        noise = np.random.default_rng(1).standard_normal(p.shape).astype(np.float32)
        other[name] = p + np.float32(0.3) * noise
    for stage, params in (("sft", PARAMS), ("new", other)):
        save_model(tmp_path / stage, params)
    server, step, go = started(tmp_path), generate.Batch.step, threading.Event()
    bias = {str(TOK.special_tokens["<|im_end|>"]): -100}
    ask = {"max_tokens": 30, "logit_bias": bias}
    try:
        old, new = (choices(server, **ask, model=name) for name in ("sft", "new"))
        assert old != new
        writer = server.models.writers["sft"]
        writer.batch.step = lambda: (go.wait(20), step(writer.batch))[1]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            begun = pool.submit(choices, server, **ask, model="sft")
            wait_for(lambda: len(writer.batch) == 1)
            weights = (tmp_path / "sft/model.safetensors").read_bytes()
            (tmp_path / "sft/model.safetensors").unlink()
            assert listed(server) == ["new"] and server.models.writer("sft") is writer
            (tmp_path / "sft/.new").write_bytes(weights[:1000])
            (tmp_path / "sft/.new").replace(tmp_path / "sft/model.safetensors")
            assert server.models.writer("sft") is writer
            gpt.save(tmp_path / "sft", other, CFG)
            assert choices(server, **ask, model="sft") == new
            assert server.models.writers["sft"] is not writer
            go.set()
            assert begun.result(20) == old
    finally:
        go.set()
        server.close()
        assert not writer.is_alive()


def test_nothing_waits_for_a_model_that_is_loaded(tmp_path, monkeypatch):
    for stage in ("base", "sft"):
        save_model(tmp_path / stage, PARAMS)
    server, load, go = started(tmp_path), sample.load_model, threading.Event()
    try:
        choices(server)
        def slowly(folder, **how):
            return go.wait(20) and load(folder, **how)

        monkeypatch.setattr(sample, "load_model", slowly)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            slow = pool.submit(post, server, TEXTS, {"prompt": "goat", "max_tokens": 2})
            wait_for(lambda: "base" in server.models.loading)
            assert post(server, CHAT, ASK)["system_fingerprint"] == "sft"
            assert send(server, "GET", "/health")[0] == 200 and not slow.done()
            go.set()
            assert slow.result(20)["system_fingerprint"] == "base"
    finally:
        go.set()
        server.close()


def test_models_that_are_not_there(server):
    """404 with OpenAI's code wherever a model is named; without a name the default answers."""
    for name in ("stf", "gpt-4o", "SFT", "base/", "../base", "sft.txt", "\u00e4", " sft"):
        for path, body in (
            (CHAT, ASK),
            (TEXTS, {"prompt": "goat"}),
            ("/tokenize", {"content": "a"}),
            ("/detokenize", {"tokens": [1]}),
            ("/api/look", {"text": "a"}),
        ):
            error = post(server, path, {**body, "model": name}, 404)["error"]
            assert error["code"] == "model_not_found" and error["param"] == "model"
            assert "base, sft" in error["message"]
    for name in ("stf", "gpt-4o", "%2e%2e%2fbase"):
        status, _, data = send(server, "GET", f"/v1/models/{name}")
        assert status == 404 and json.loads(data)["error"]["code"] == "model_not_found"
    for absent in ({}, {"model": None}, {"model": ""}):
        assert post(server, CHAT, {**ASK, **absent})["model"] == "sft"
        body = {"prompt": "goat", "max_tokens": 1, **absent}
        assert post(server, TEXTS, body)["model"] == "base"


def test_the_only_model_has_the_name_of_its_folder(run, monkeypatch):
    monkeypatch.chdir(run / "sft")
    for folder in (run / "sft", ".", "../sft/"):
        assert list(served.Models(folder=folder).folders) == ["sft"]


@pytest.fixture
def loads(run, monkeypatch):
    """(server, names of the models that were loaded, an Event that lets all but sft be loaded)."""
    loaded, load, go = [], sample.load_model, threading.Event()

    def slowly(folder, **how):
        loaded.append(folder.name)
        if folder.name != "sft":
            assert go.wait(20)
        return load(folder, **how)

    monkeypatch.setattr(sample, "load_model", slowly)
    with running(run) as server:
        choices(server)
        yield server, loaded, go
        go.set()


def test_who_waits_for_a_model_is_in_nobodys_way(loads):
    """However many wait for base, in whatever route: sft answers; and base is loaded once."""
    server, loaded, go = loads
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        body = {"prompt": "goat", "max_tokens": 2}
        waiting = [pool.submit(post, server, TEXTS, body) for _ in range(8)]
        for path, body in (
            ("/tokenize", {"content": "a"}),
            ("/api/look", {"text": "a"}),
            ("/detokenize", {"tokens": [1]}),
        ):
            waiting.append(pool.submit(post, server, path, {**body, "model": "base"}))
        waiting.append(pool.submit(post, server, "/api/cut", {"vocabulary": "base", "text": "a"}))
        wait_for(lambda: sum(h.since is None for h in list(server.handlers)) >= len(waiting))
        for _ in range(3):
            choices(server)
            post(server, "/tokenize", {"content": "goat", "model": "sft"})
            post(server, "/api/cut", {"vocabulary": "sft", "text": "goat"})
        assert not any(one.done() for one in waiting)
        go.set()
        for one in waiting:
            assert "error" not in one.result(20)
    assert loaded == ["sft", "base"]


def test_a_model_that_cannot_be_loaded_answers_all_who_wait(loads, monkeypatch):
    """One attempt for all of them. Who asks later tries again."""
    server, loaded, go = loads
    slowly = sample.load_model

    def broken(folder, **how):
        slowly(folder, **how)
        raise ValueError("half a model")

    waits, result = [], concurrent.futures.Future.result

    def waited(future, timeout=None):
        waits.append(future)
        return result(future, timeout)

    monkeypatch.setattr(sample, "load_model", broken)
    monkeypatch.setattr(concurrent.futures.Future, "result", waited)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(post, server, TEXTS, {"prompt": "goat"}, 503) for _ in range(6)]
        wait_for(lambda: len(waits) == 6)
        go.set()
        for one in waiting:
            assert one.result(20)["error"]["message"] == "half a model"
    assert loaded == ["sft", "base"]
    monkeypatch.setattr(sample, "load_model", slowly)
    assert post(server, TEXTS, {"prompt": "goat", "max_tokens": 1})["choices"]


def test_a_model_that_changes_all_the_time_still_answers(run, monkeypatch):
    """It is loaded at most once for a request, however often its files are written meanwhile."""
    times, loaded, load = iter(range(10**6)), [], sample.load_model

    def noted(folder, **how):
        loaded.append(folder)
        return load(folder, **how)

    def signature(folder):
        return (("tokenizer.json", 0, 0, next(times)),)

    with running(run) as server:
        monkeypatch.setattr(served, "signature", signature)
        error = post(server, CHAT, ASK, 503)["error"]       # nothing older could answer
        assert "is being written" in error["message"]
        monkeypatch.undo()
        choices(server)
        monkeypatch.setattr(served, "signature", signature)
        monkeypatch.setattr(sample, "load_model", noted)
        assert choices(server) and len(loaded) == 1
