"""chat/batching.py: who is let in, in which order, and who is not."""

import collections
import dataclasses

import pytest

from chat import batching
from chat.request import Refused
from model import llama
import bpe
import gpt
import sample

TOK = bpe.Tokenizer.train(["the lamp is lit, said the goat."] * 4, 300)
CFG = gpt.Config(TOK.n_vocab, 64, 16, 2, 2)
PARAMS = gpt.init(CFG, 0)
GOAT = TOK.encode_ordinary("goat")


def writer_of(places, waiting):
    return batching.Writer((PARAMS, CFG, TOK), places=places, waiting=waiting)


def rows_of(jobs):
    """How many rows each job has or had."""
    return [job.begun for job in jobs]


def written(job):
    """The tokens of each prompt that are ready to be read."""
    tokens = collections.defaultdict(list)
    while not job.events.empty():
        for i, grown in job.events.get().items():
            tokens[i] += grown.ids
    return list(tokens.values())


def test_who_cannot_wait_is_told_so():
    """One place, one may wait: the third is declined."""
    writer = writer_of(1, 1)            # not started: nobody leaves
    writer.submit(batching.Job([GOAT], sample.Settings()))
    for close, status, message in (
        (False, 429, "1 requests are waiting already"),
        (True, 503, "shutting down"),
    ):
        if close:
            writer.close()
        with pytest.raises(Refused, match=message) as e:
            writer.submit(batching.Job([GOAT], sample.Settings()))
        assert e.value.status == status


def test_many_prompts_come_in_as_places_become_free():
    """A request for all places does not keep the others out, and those gone count as nobody."""
    writer, jobs = writer_of(4, 2), []  # not started: it is stepped here
    for n, most in ((1, 40), (4, 2), (1, 2)):
        jobs.append(batching.Job([GOAT] * n, sample.Settings(max_new_tokens=most, seed=1)))
    for job in jobs[:2]:
        writer.submit(job)
    writer._admit()
    assert rows_of(jobs) == [1, 2, 0]   # one place is kept
    gone = batching.Job([GOAT], sample.Settings())
    writer.submit(gone)
    gone.gone = True
    writer.submit(jobs[2])
    for _ in range(6):
        writer._step()
        writer._admit()
    assert rows_of(jobs) == [1, 4, 1] and gone.begun == 0
    assert [len(tokens) for job in jobs[1:] for tokens in written(job)] == [2] * 5


def test_rows_come_in_together_while_more_wait_than_fit():
    """In a crowd, two steps pass before the next come in; whoever waits alone comes in at once."""
    writer, came = writer_of(4, 9), []  # not started: it is stepped here
    jobs = []
    for most in (1, 2, 3, 9, 9, 9, 9, 9):
        jobs.append(batching.Job([GOAT], sample.Settings(max_new_tokens=most, seed=1)))
    for job in jobs:
        writer.submit(job)
    for _ in range(4):
        writer._admit()
        came.append(sum(rows_of(jobs)))
        writer._step()
    assert came == [4, 4, 4, 7]
    writer.batch.drop(next(row for row, (job, *_) in writer.texts.items() if job is jobs[3]))
    writer._admit()
    assert rows_of(jobs) == [1] * 8


def test_places_are_kept_for_jobs_that_have_none():
    """Beside two requests for as many texts as there are places a short one comes in at once."""
    writer = writer_of(8, 9)
    settings = sample.Settings(max_new_tokens=3, seed=1)
    greedy = [batching.Job([GOAT] * 8, settings, client="greedy") for _ in range(2)]
    short = batching.Job([GOAT], settings, client="greedy")
    for job in [*greedy, short]:
        writer.submit(job)
    writer._admit()
    assert rows_of([*greedy, short]) == [6, 1, 1] and len(writer.batch) == 8
    while len(writer.batch) or writer.waiting:
        writer._step()
        if writer.waiting:
            writer._admit()
        assert len(writer.batch) <= 8
    assert rows_of([*greedy, short]) == [8, 8, 1]
    for job in [*greedy, short]:
        events = []
        while not job.events.empty():
            events.append(job.events.get())
        ended = [grown.finish for event in events for grown in event.values() if grown.finish]
        assert len(ended) == len(job.prompts)


def test_the_next_is_who_has_the_fewest_rows():
    writer = writer_of(4, 20)
    many = [batching.Job([GOAT], sample.Settings(), client="many") for _ in range(6)]
    few = [batching.Job([GOAT], sample.Settings(), client=client) for client in ("a", "b", "a")]
    for job in many + few:
        writer.submit(job)
    writer._admit()
    assert rows_of(many) == [1, 1, 0, 0, 0, 0] and rows_of(few) == [1, 1, 0]


def test_who_fills_the_queue_gives_way():
    """Where it is full, the last job of the client with most gives way, unless that client asks."""
    writer = writer_of(1, 4)
    many = [batching.Job([GOAT], sample.Settings(), client="many") for _ in range(4)]
    for job in many:
        writer.submit(job)
    with pytest.raises(Refused, match="4 requests are waiting"):
        writer.submit(batching.Job([GOAT], sample.Settings(), client="many"))
    few = [batching.Job([GOAT], sample.Settings(), client="few") for _ in range(3)]
    for job in few[:2]:
        writer.submit(job)
    assert [job.events.empty() for job in many] == [True, True, False, False]
    assert many[3].events.get().value["error"]["code"] == "queue_full"
    with pytest.raises(Refused):  # now they are even
        writer.submit(few[2])
    assert list(writer.waiting) == [*many[:2], *few[:2]]


def test_long_contexts_are_cut_to_what_memory_holds():
    """A Llama 3.1 8B reads 131,072 tokens, which take 34 GB of keys and values in one row."""
    small = gpt.PRESETS["demo"]
    assert batching.fitted((None, small, None))[1] == small
    for name in ("smollm2-135m", "qwen3-0.6b", "llama-3.2-1b", "llama-3.1-8b"):
        cfg = llama.PRESETS[name]
        _, fitted, _ = batching.fitted((None, cfg, None))
        assert 4096 <= fitted.n_positions <= cfg.n_positions
        assert dataclasses.replace(fitted, n_positions=cfg.n_positions) == cfg
        a_row = 2 * cfg.n_layer * cfg.n_kv_head * cfg.head_size * 4 * fitted.n_positions
        assert a_row <= max(batching.CACHE, 4096 * a_row // fitted.n_positions)
        assert batching.places_for(fitted) == max(8, batching.CACHE // a_row)


def test_a_context_that_is_cut_is_told(capsys):
    cfg = llama.PRESETS["llama-3.1-8b"]
    batching.fitted((None, cfg, None))                  # as the process of a writer, which is mute
    batching.fitted((None, gpt.PRESETS["demo"], None), "out/demo/sft")
    assert capsys.readouterr().err == ""
    batching.fitted((None, cfg, None), "hf/llama")
    assert capsys.readouterr().err == (
        "[hf/llama: reads up to 4,096 of the 131,072 tokens that the model could: 8 such texts "
        "take 8.0 GiB of memory]\n")
