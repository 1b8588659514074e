"""chat/commands.py: what each command of align.py prints of its stage, within 80 columns."""

import inspect
import json

import pytest

import align
from chat import commands, options
from test_arena import run  # noqa: F401  a fixture: two small models and their tasks

MEASURED = {"greedy": 0.0966, "at_temperature_1": 0.25, "length": 6.2, "stepwise": 1.0,
            "problems": 300}


def args_of(line, folder):
    return options.parse_args([*line.split(), "--run", str(folder)], ["answer", "short"])


@pytest.mark.parametrize(
    "line, returned, name, result",
    [("rl", (MEASURED, {**MEASURED, "greedy": 0.963}), "rl ", "right 9.7% -> 96.3%"),
     ("rl --reward short", (MEASURED, MEASURED), "rl_short ", "right 9.7% -> 9.7%"),
     ("reward", (1350, 147, 150), "reward ", "pairs in order 98.0%"),
     ("dpo --out other", (1350, 0, 0), "other ", "pairs in order 0.0%")],
)
def test_a_stage_ends_with_its_result(tmp_path, capsys, line, returned, name, result):
    args, seen = args_of(line, tmp_path), {}

    def stage(**given):
        seen.update(given)
        return returned

    commands.run(args, {args.command: stage})
    out = capsys.readouterr().out.splitlines()
    assert max(map(len, out)) <= 80 and out[-1].startswith(name) and result in out[-1]
    assert seen["run"] == tmp_path and seen["out"] == name.strip()
    assert seen.get("reference", "no") == (None if args.command in ("rl", "dpo") else "no")
    assert set(seen) <= set(inspect.signature(getattr(align, args.command)).parameters)


def test_fine_tuning_is_examined(run, capsys):  # noqa: F811
    for name in ("facts", "calculator", "wheel", "identity"):
        rows = [{"question": "Is it?", "answer": "red", "exposure": 10}]
        (run / f"tasks/{name}_test.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    commands.run(args_of("sft", run), {"sft": lambda **given: 128})
    out = capsys.readouterr().out.splitlines()
    passes = options.SFT.steps * options.SFT.batch / 128
    assert max(map(len, out)) <= 80 and f"{passes:.1f} passes, facts" in out[-1]


def test_ratings_say_what_they_compare_with(run, capsys):  # noqa: F811
    commands.run(args_of("arena", run), {})
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80 and "ratings compare within one fight only" in out
    assert len(json.loads((run / "arena.json").read_text())) == 2
