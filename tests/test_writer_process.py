"""chat/writer_process.py: a process writes what a thread would, and how it ends."""

import json

import pytest

import sample
from chat import batching, writer_process
from chat.request import Refused
from serving import (  # noqa: F401
    ASK, CFG, CHAT, PARAMS, TOK, choices, post, run, running, send, server, texts, wait_for,
)

GOAT = TOK.encode_ordinary("goat")
LONG = sample.Settings(max_new_tokens=60, seed=1)


def process_of(run):
    return writer_process.WriterProcess((PARAMS, CFG, TOK), run / "sft")


@pytest.fixture(scope="module")
def writer(run):
    writer = process_of(run)
    writer.start()
    yield writer
    writer.close()
    writer.join(20)
    assert not writer.is_alive() and writer.process.exitcode == 0 and not writer.failed


@pytest.fixture(scope="module")
def apart(run):
    """A server whose writers are processes."""
    with running(run, apart=True) as server:
        yield server


def written(job):
    """The tokens of each prompt of a job, read to the end. A Refused is raised."""
    tokens = [[] for _ in job.prompts]
    while job.left:
        wait_for(lambda: not job.events.empty())
        event = job.events.get()
        if isinstance(event, Refused):
            raise event
        for i, grown in event.items():
            tokens[i] += grown.ids
            job.left -= grown.finish is not None
    return tokens


def all_streamed(server, **fields):
    """The contents of a streamed answer to ASK."""
    data = send(server, "POST", CHAT, {**ASK, **fields, "stream": True})[2].decode()
    events = [json.loads(line[6:]) for line in data.split("\n\n")[:-2]]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    return "".join(delta.get("content", "") for delta in deltas)


def test_a_process_writes_what_a_thread_does(server, apart):
    every = {"n": 2, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    assert choices(apart, **every, show_calls=True) == choices(server, **every, show_calls=True)
    echoed = {"prompt": ["goat", "lamp"], "max_tokens": 3, "echo": True, "logprobs": 1, "seed": 1}
    assert texts(apart, **echoed) == texts(server, **echoed)
    assert all_streamed(apart) == all_streamed(server) == choices(server)[0]["message"]["content"]
    usage = [post(each, CHAT, ASK)["usage"] for each in (server, apart)]
    assert usage[0] == usage[1] and usage[0]["completion_tokens"] > 0
    health = json.loads(send(apart, "GET", "/health")[2])["models"]["sft"]
    assert health["writing"] == health["waiting"] == 0 < health["cached_tokens"]


def test_a_job_that_nobody_waits_for_is_not_written(writer):
    left, other = batching.Job([GOAT] * 5000, LONG), batching.Job([GOAT], LONG)
    writer.submit(left)
    left.events.get(timeout=20)
    writer.leave(left)
    writer.submit(other)
    assert len(written(other)[0]) <= 60
    wait_for(lambda: writer.counts["writing"] == 0)
    assert writer.counts["prompt_tokens"] < 2500 * len(GOAT) and not writer.jobs.get(left.number)
    writer.leave(other)
    assert not writer.jobs


def test_who_cannot_wait_is_told_so(writer):
    """The refusal comes as an event, whole."""
    jobs = [batching.Job([GOAT] * 9, LONG) for _ in range(300)]
    for job in jobs:
        writer.submit(job)
    refused = []
    for job in jobs:
        try:
            written(job)
        except Refused as e:
            refused.append(e)
        writer.leave(job)
    assert 0 < len(refused) < 250
    assert {(e.status, e.value["error"]["code"]) for e in refused} == {(429, "queue_full")}
    assert "64 requests are waiting" in str(refused[0])


def test_the_end_waits_for_what_was_begun(run):
    writer, job = process_of(run), batching.Job([GOAT] * 90, LONG)
    writer.start()
    writer.submit(job)
    writer.close()
    with pytest.raises(Refused, match="shutting down"):
        writer.submit(batching.Job([GOAT], LONG))
    tokens = written(job)
    assert len(tokens) == 90 and all(tokens)
    writer.join(20)
    assert not writer.is_alive() and writer.process.exitcode == 0


def test_nobody_waits_for_a_process_that_was_killed(run):
    writer, job = process_of(run), batching.Job([GOAT] * 5000, LONG)
    writer.start()
    writer.submit(job)
    job.events.get(timeout=20)
    writer.process.kill()
    with pytest.raises(Refused, match="failed") as e:
        written(job)
    assert e.value.status == 500 and writer.failed
    with pytest.raises(Refused, match="failed"):
        writer.submit(batching.Job([GOAT], LONG))
    writer.leave(job)
    writer.close()
    writer.join(20)
    assert not writer.is_alive()


def test_the_process_ends_with_its_server(run):
    writer = process_of(run)            # not started: nobody reads
    writer.pipe.close()
    writer.process.join(20)
    assert writer.process.exitcode == 1


def test_a_process_that_does_not_begin(tmp_path, capfd):
    with pytest.raises(ChildProcessError, match="should write has ended"):
        writer_process.WriterProcess((PARAMS, CFG, TOK), tmp_path / "nothing")
    assert "nothing" in capfd.readouterr().err
