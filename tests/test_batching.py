"""batching.py: who is let in, in which order, and who is not."""

import pytest

import batching
import bpe
import gpt
import sample

TOK = bpe.Tokenizer.train(["the lamp is lit, said the goat."] * 4, 300)
CFG = gpt.Config(TOK.n_vocab, 64, 16, 2, 2)
PARAMS = gpt.init(CFG, 0)
GOAT = TOK.encode_ordinary("goat")


def test_who_cannot_wait_is_told_so():
    """One place, one may wait: the third is declined."""
    writer = batching.Writer((PARAMS, CFG, TOK), places=1, waiting=1)       # not started: nobody leaves
    writer.submit(batching.Job([GOAT], sample.Settings()))
    for close, reason, message in ((False, "full", "1 requests are waiting already"), (True, "closing", "shutting down")):
        if close:
            writer.close()
        with pytest.raises(batching.Declined, match=message) as e:
            writer.submit(batching.Job([GOAT], sample.Settings()))
        assert e.value.reason == reason


def test_many_prompts_come_in_as_places_become_free():
    """Who asks for as many texts as there are places does not keep the others out, and those gone count as nobody."""
    writer = batching.Writer((PARAMS, CFG, TOK), places=4, waiting=2)       # not started: it is stepped here
    jobs = [batching.Job([GOAT] * n, sample.Settings(max_new_tokens=most, seed=1)) for n, most in ((1, 40), (4, 2), (1, 2))]
    for job in jobs[:2]:
        writer.submit(job)
    writer._admit()
    assert [len(job.rows) for job in jobs] == [1, 2, 0]     # one place is kept
    gone = batching.Job([GOAT], sample.Settings())
    writer.submit(gone)
    gone.gone = True
    writer.submit(jobs[2])
    for _ in range(6):
        for row, token, *_ in writer.batch.step():
            writer._pass_on(row, token)
        writer.batch.read()
        writer._admit()
    assert [len(job.rows) for job in jobs] == [1, 4, 1] and gone.rows == [] and [len(row.ids) for row in jobs[1].rows + jobs[2].rows] == [2] * 5
