"""chat/probe.py: what counts as known, what a refusal is, and the whole of it on a small model."""

import json

import numpy as np
import pytest

import align
import bpe
import gpt
from chat import probe, tuning
from tokens.shards import write_shard
from web import toylessons, toyweb, toywords, toyworld
from conftest import run_main

TASKS = [
    {"question": f"What does {n} eat?", "answer": v, "reply": f"{n} eats {v}.", "kind": "fact",
     "exposure": x}
    for n, v, x in (("Ann", "snails", 30), ("Bo", "wax", 0), ("Cy", "moss", 3), ("Di", "plums", 10))
]


def test_known_unknown_and_between():
    right = np.array([[1] * 5, [0] * 5, [1, 1, 0, 0, 0], [0, 1, 1, 1, 1]], bool)
    texts = np.array(
        [[f"{t['question'][10:12]} eats {i}." for i in range(5)] for t in TASKS], object
    )
    rows, counts = probe.lessons(TASKS, right, texts)
    assert counts == {"known": 2, "unknown": 1, "between": 1}
    said = sorted(
        (r["messages"][0]["content"], r["messages"][1]["content"], r["kind"]) for r in rows
    )
    assert said == [
        ("What does Ann eat?", texts[0][0], "fact"),
        *2 * [("What does Bo eat?", "Bo eats something I have not read about.", "refusal")],
        ("What does Di eat?", texts[3][1], "fact"),
    ]


def test_the_control_refuses_as_often_but_anything():
    right, texts = (np.array([[1] * 5, [0] * 5, [0] * 5, [1] * 5], bool),
                    np.array([["It is so."] * 5] * 4, object))
    old = [toylessons.chat("Is it?", "It is.", kind="fact"),
           toylessons.chat("Hello.", "Hello!", kind="talk")]
    real, _ = probe.lessons(TASKS, right, texts, old)
    assert sum(r["kind"] == "refusal" for r in real) == 4 and real[-2:] == old
    refused = set()
    for seed in range(20):
        rows, _ = probe.lessons(TASKS, right, texts, old, seed, control=True)
        assert (
            len(rows) == len(real)
            and sum(r["kind"] == "refusal" for r in rows) == 4
            and rows[-1] == old[1]
        )
        refused |= {r["messages"][0]["content"] for r in rows if r["kind"] == "refusal"}
        assert all(
            probe.is_refusal(r["messages"][1]["content"]) == (r["kind"] == "refusal")
            for r in rows[:-1]
        )
    assert refused == {"Is it?", *(t["question"] for t in TASKS)}


def test_refusals():
    assert (
        probe.refusal(TASKS[0]) == "Ann eats something I have not read about."
        and probe.refusal({"answer": 5}) == "I do not know."
    )
    assert (
        probe.is_refusal("Ann eats something I have not read about.")
        and probe.is_refusal(" I do not know.")
        and not probe.is_refusal("Ann eats wax.")
    )


def test_the_questions_of_the_world():
    """Train and test share no entity; names of no page are new; the reply holds the answer; the
    same seed gives the same."""
    found = toylessons.probes(0, 300)
    names = {k: {t["entity"] for t in v} for k, v in found.items()}
    known = {e["name"] for e in toyworld.entities(0, 300)}
    assert not names["probe_train"] & names["probe_test"] and found == toylessons.probes(
        0, 300
    ) != toylessons.probes(1, 300)
    for rows in found.values():
        assert {t["entity"] in known for t in rows if t["exposure"]} == {True} and not {
            t["entity"] for t in rows if not t["exposure"]
        } & known
        assert all(
            t["answer"] in t["reply"] and t["entity"].lower() in t["reply"].lower() for t in rows
        )
    asked = {q for kind in toywords.KINDS.values() for a in kind.values() for q in a[3]}
    assert all(
        any(q.format(n=t["entity"]) == t["question"] for q in asked) for t in found["probe_test"]
    )


@pytest.fixture
def run(tmp_path):
    """A model that has learned two animals' food by heart."""
    chats = [
        {
            "messages": [{"role": "user", "content": t["question"]},
                         {"role": "assistant", "content": t["reply"]}]
        }
        for t in (TASKS[0], TASKS[3])
    ] * 4
    tok = bpe.Tokenizer.train(
        [
            "user assistant What does Ann eat? What does Bo eat? Ann eats snails. Di eats plums. "
            "Bo eats something I have not read about."
        ]
        * 3,
        330,
    )
    cfg = gpt.Config(tok.n_vocab, 64, 32, 2, 2)
    gpt.save(tmp_path / "base", gpt.init(cfg, 0), cfg)
    tok.save(tmp_path / "base" / "tokenizer.json")
    (tmp_path / "tokens").mkdir()
    for split in ("train", "val"):
        write_shard(tmp_path / "tokens" / f"{split}_000000.bin",
                    tok.encode_to_numpy("Ann eats snails. Di eats plums. " * 60), tok)
    for name, rows in (
        ("chat/train", chats),
        ("tasks/probe_train", TASKS),
        ("tasks/probe_test", TASKS),
        ("tasks/facts_test", TASKS),
        ("tasks/wheel_test", TASKS),
        ("tasks/identity_test", TASKS),
        ("tasks/calculator_test", TASKS),
    ):
        toyweb.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    align.main(f"sft --run {tmp_path} --steps 200 --lr 0.01".split())
    return tmp_path


def test_the_whole(run, capsys):
    """It goes on to answer what it knows and refuses what it does not."""
    right, texts = probe.ask_often(tuning.load_stage(run, "sft"), TASKS, times=3, temperature=0.0)
    assert right.tolist() == [[True] * 3, [False] * 3, [False] * 3, [True] * 3]
    assert set(texts[0]) == {"Ann eats snails."} and set(texts[3]) == {"Di eats plums."}
    probe.main(f"--run {run} --steps 80 --lr 0.01".split())
    out = capsys.readouterr().out
    assert "asked five times: 2 known, 2 unknown" in out and "10 pages or more" in out
    rows = [json.loads(line) for line in (run / "chat/honest.jsonl").read_text().splitlines()]
    assert sum(r.get("kind") == "refusal" for r in rows) == 4
    after = probe.test(tuning.load_stage(run, "honest"), TASKS)
    assert after["10 pages or more"] == [2, 0, 0] and after["no page"] == [0, 0, 1]


def test_bad_input(run):
    (run / "tasks/probe_train.jsonl").unlink()
    done = run_main("chat/probe.py", "--run", run)
    assert (
        done.returncode == 1
        and "probe_train.jsonl: no such file; make the demo's with: python -m web.toyweb"
        in done.stderr
    )
    done = run_main("chat/probe.py", "--run", run, "--steps", "0")
    assert done.returncode == 1 and "--steps 0" in done.stderr
    toyweb.write_jsonl(run / "tasks/probe_train.jsonl", TASKS[1:3])
    done = run_main("chat/probe.py", "--run", run)
    assert done.returncode == 1 and "there is nothing to tell apart" in done.stderr
    done = run_main("chat/probe.py", "--run", run / "none")
    assert done.returncode == 1 and "no such run folder" in done.stderr
