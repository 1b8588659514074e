"""models.py: which model of a run a command means."""

import sys
from pathlib import Path

from model import folders
from run import disk


def is_judge(folder):
    """Whether a folder holds a reward model, which writes no text."""
    path = Path(folder) / "config.json"
    if not path.exists():
        return False
    names = disk.read_json(path).get("architectures") or ()
    return any(name.endswith("ForSequenceClassification") for name in names)


def in_run(run):
    """The folders of a run's language models, by name. ValueError for a broken config.json."""
    there = [path.parent for path in sorted(Path(run).glob("*/config.json"))]
    return [folder for folder in there if folders.is_finished(folder) and not is_judge(folder)]


def add_options(parser):
    """--run and --model, for a command that takes one model."""
    which = parser.add_argument_group("which model")
    which.add_argument("--run", help="run folder (default: out/demo)")
    which.add_argument("--model", help="a model folder, in place of the run's")


def check_options(args):
    """The args, with the default of --run.

    ValueError for --run with --model, and for an option that an unset variable left empty.
    """
    for name, value in vars(args).items():
        for text in value if isinstance(value, list) else [value]:
            if name == "text" or not isinstance(text, str):
                continue
            if not text or name != "stop" and not text.strip():
                option = "--" + name.replace("_", "-")
                raise ValueError(f"{option} is empty; leave it out, or give it a value")
    if args.run and args.model:
        raise ValueError(
            f"--run {args.run}: --model {args.model} stands in place of the run's; give one of them"
        )
    args.run = args.run or "out/demo"
    return args


def chosen(args, stages, kind, maker):
    """The folder of the model that --model or --run asks for.

    stages: those of the run that are wanted, the best first; kind, maker: what the error calls such
    a model, and the command that makes one. Where none is finished, the last checkpoint of one that
    is still in training will do.
    """
    if args.model:
        return Path(args.model)
    run = Path(args.run)
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder; make the demo's with: make")
    for stage in stages:
        if folders.is_finished(run / stage):
            return run / stage
    for stage in stages:
        if (run / stage / "trainer.safetensors").exists():
            print(f"{run / stage}: still in training; this is its last checkpoint", file=sys.stderr)
            return run / stage
    raise FileNotFoundError(
        f"{run}: no {kind} in it yet; make one with: python {maker} --run {run}"
    )


NOWHERE = "the zubberquill"      # a name that stands on no page of web/toyweb.py


def examples(run):
    """{label: a question to try} for the models of a run; {} where it has no tasks.

    Of the facts, one that stands on most pages: the model has learned it best. The same question
    about a name that nobody has read shows what the model makes up.
    """
    found = {}
    for label, kind in (("who it is", "identity"), ("a fact", "facts"), ("a sum", "calculator"),
                        ("the wheel", "wheel")):
        path = Path(run) / "tasks" / f"{kind}_test.jsonl"
        if not path.exists():
            continue
        tasks = [task for _, task in disk.read_jsonl(path)]
        task = max(tasks, key=lambda task: task.get("exposure", 0))
        found[label] = task["question"]
        name = task.get("entity", "")
        if kind == "facts" and name and name in task["question"]:
            found["an unknown name"] = task["question"].replace(name, NOWHERE)
    return found
