"""chat/stream.py: a reply as text and as parts, while its tokens come."""

import time

import numpy as np

import sample
from chat import stream
from small_talker import S, TOK, enc


def shown(tokens, **how):
    text = stream.Text(TOK, **how)
    return [*(text.put(token) for token in tokens), text.end()]


def test_streaming_shows_whole_characters_only():
    text = "naïve café 안녕하세요 😉 \u2028 end"
    pieces = shown([*enc(text), S["<|im_end|>"]])
    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
    tail = TOK.encode_ordinary("😉")[:1]        # it never becomes a character
    assert "".join(shown(tail)) == "\ufffd"


def test_calls_are_shown_only_if_asked_for():
    call = [S["<|tool_start|>"], *enc("37*48"), S["<|tool_end|>"]]
    output = [S["<|output_start|>"], *enc("1776"), S["<|output_end|>"]]
    ids = [*enc("so "), *call, *output, *enc("it is"), S["<|im_end|>"]]
    assert "".join(shown(ids)) == "so it is"
    assert "".join(shown(ids, calls=True)) == "so [37*48 = 1776] it is"


def test_stop_strings_end_a_text_however_tokens_cut_it():
    rng, letters = np.random.default_rng(0), "abc\u00e9"
    for _ in range(300):
        text = "".join(rng.choice(list(letters), 12))
        n_stop = rng.integers(0, 3)
        stop = ["".join(rng.choice(list(letters), rng.integers(1, 4))) for _ in range(n_stop)]
        ids = [b for c in text for b in TOK.encode_ordinary(c)]
        pieces = shown(ids, stop=stop)
        ends = [(text.find(x) + len(x), text.find(x)) for x in stop if x in text]
        _, at = min(ends, default=(None, len(text)))
        assert "".join(pieces) == text[:at]
        held = at - len("".join(pieces[:-1]))   # no more than the beginning of a stop string
        assert held < max(map(len, stop), default=1)


def test_a_stop_string_costs_time_in_proportion_to_the_text():
    """Also one that is as long as the text and nearly matches at each of its letters."""

    def seconds(n):                     # of this thread's own, whoever else runs
        times = []
        for _ in range(5):
            text, a = stream.Text(TOK, ["a" * n + "b", "a" * (n // 2) + "c"]), enc("a")[0]
            began = time.thread_time()
            shown = "".join([text.put(a) for _ in range(2 * n)]) + text.end()
            times.append(time.thread_time() - began)
            assert shown == "a" * 2 * n
        return min(times)

    # 4 times. Where each letter looks at all letters before it, it is 16 times and more.
    assert seconds(4000) < 12 * seconds(1000)


def test_overlapping_stop_strings():
    for text, stop, want in (
        ("aaab", ["aab"], "a"),
        ("abcab", ["cab", "ab"], ""),
        ("xabcd", ["abcd", "bc"], "xa"),
        ("xabcd", ["bcd", "abcd"], "x"),
        ("ababab", ["abac"], "ababab"),
        ("aabaac", ["aac"], "aab"),
    ):
        for ids in (enc(text), [b for c in text for b in enc(c)]):
            assert "".join(shown(ids, stop=stop)) == want, (text, stop)


def test_parts_that_grow_are_the_parts_of_the_whole_reply():
    """Random tokens, special ones and parts of characters among them."""
    rng = np.random.default_rng(0)
    some = [*S.values(), *enc("37*48 the lamp"), *enc("\u4f60")]
    with_a_call = 0
    for _ in range(300):
        ids = rng.choice(some, rng.integers(0, 25)).tolist()
        growing = stream.Parts(TOK)
        pieces = stream.gathered([*map(growing.put, ids), growing.end()])
        parts = [{"type": piece["type"], "text": piece["text"]} for piece in pieces]
        want = sample.reply_parts(ids, TOK)
        if isinstance(want, str):
            assert {part["type"] for part in parts} <= {"text"}
            assert "".join(part["text"] for part in parts) == want
        else:
            assert parts == want
            with_a_call += 1
    assert 50 < with_a_call < 300
