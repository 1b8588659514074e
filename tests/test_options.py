"""Every script: an option that the command would ignore is an error that names it.

COMMANDS says which options each command takes. All others of its parser have to be refused. So an option
that is added to a parser needs a place: it is taken, and stands here, or the command refuses it.
That an option which is taken does what it says is for the tests of its script.
A refusal comes before anything is read or written: here nothing is there to be read.
"""

import argparse
import importlib
from pathlib import Path

import pytest

DRAWING = "--temperature --top-k --top-p --min-p --seed --max-tokens --repetition-penalty --presence-penalty --frequency-penalty --stop"
TRAINING = "--run --data --start --out --steps --lr --batch --seed --on-mismatch"
# --dtype without --device cuda is refused by device.chosen for all scripts at once (tests/test_device.py).
DEVICE = "--device --dtype"
COMMANDS = {
    "align.py sft": f"{TRAINING} --replay --keep-moments",
    "align.py rl": "--run --tasks --held-out --start --reference --out --steps --lr --batch --replay --prompts --group --max-tokens --epochs "
                   "--baseline --normaliser --kl --reward --seed --on-mismatch",
    "align.py reward": f"{TRAINING} --held-out",
    "align.py dpo": f"{TRAINING} --held-out --reference --kl",
    "align.py eval": "--run --samples",
    "align.py eval --samples 2": "--run --samples --seed",
    "align.py arena": "--run --seed",
    "bpe.py train": "--run --input --workers --ties --min-frequency --vocab-size --pattern",
    "bpe.py encode": "--run --input --workers --shard-tokens --val-percent --vocab",
    "bpe.py encode --vocab v.json": "--run --input --workers --shard-tokens --val-percent --vocab",
    "bpe.py encode --vocab cl100k_base": "--run --input --workers --shard-tokens --val-percent --vocab --ranks",
    "bpe.py decode 1": "--run --vocab",
    "bpe.py decode 1 --vocab v.json": "--vocab",
    "bpe.py show x": "--run --vocab --steps",
    "bpe.py show x --vocab v.json": "--vocab --steps",
    "bpe.py show x --vocab cl100k_base": "--vocab --steps --ranks",
    "chat/chats.py a.jsonl": "--lang --show",
    "web/crawl.py http://localhost": "--run --pages --depth --delay --other-sites --contact",
    "data.py": "--run --crawl --workers --dump --blocklist --hard-words --soft-words --subwords --public-suffixes --language --language-model "
               "--index --save-index --pii --tokenizer --fineweb --order --no-rights",
    "data.py --crawl CC-MAIN-2024-51": "--run --crawl --files --workers --dump --blocklist --hard-words --soft-words --subwords "
                                       "--public-suffixes --language --language-model --index --save-index --pii --tokenizer "
                                       "--fineweb --order --no-rights",
    "web/dedup.py sign a.jsonl --work w": "--work --workers",
    "web/dedup.py match --work w": "--work --index --save-index",
    "web/dedup.py drop a.jsonl --work w --to t": "--work --to --workers",
    "model/evaluate.py m --tokens t": f"--tokenizer --tokens --hellaswag {DEVICE}",
    "model/evaluate.py m --hellaswag h": f"--tokenizer --tokens --hellaswag --most {DEVICE}",
    "web/extract.py a.html": "--charset",
    "gpt.py": "",
    "model/folders.py m": "",
    "chat/inside.py x": "--model",
    "web/language.py predict x": "--model",
    "web/language.py train --input a": "--out --dim --bucket --minn --maxn --epochs --n-texts --batch --lr --smoothing --seed --input",
    "web/language.py test --input a": "--label --threshold --input --model",
    "chat/probe.py": "--run --control --steps --lr --seed --on-mismatch",
    "run/runs.py --run r --name n --makes x -- script.py": "--run --name --made-of --makes --output",
    "sample.py Once": f"--run --model -n {DRAWING} {DEVICE}",
    "sample.py Once --model m": f"--model -n {DRAWING} {DEVICE}",
    "sample.py chat": f"--run --model --ask --system {DRAWING} {DEVICE}",
    "sample.py serve": f"--run --model --host --port --allow-host --key --origin --ranks {DEVICE}",
    "sample.py export --gguf x.gguf": "--run --model --gguf --type",
    "web/toyweb.py": "--run --pages --seed --score",
    "web/toyweb.py --score": "--run --pages --seed --score",
    "train.py": "--run --data --tokenizer --raw --align-documents --init --preset --steps --batch --lr --eval-every --save-every "
                f"--micro-batch --recompute --memory-gb --seed --on-mismatch --check {DEVICE}",
    "train.py --check": "--check --preset --steps --batch --lr",
    "model/bench.py char": "",
    "web/warc.py a.warc": "",
}


class Found(Exception):
    pass


def parser_of(module, argv, monkeypatch):
    """The parser, or of those of several commands the one, that reads argv."""
    def stop(self, *_):
        raise Found(self)

    with monkeypatch.context() as patch, pytest.raises(Found) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        module.parse_args(argv) if hasattr(module, "parse_args") else module.main(argv)
    parser = caught.value.args[0]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices[argv[0]]
    return parser


def error_of(module, argv, capsys):
    """What the command says when it fails; None when it does not."""
    capsys.readouterr()
    try:
        failed = module.main(module.parse_args(argv) if module.__name__ == "web.language" else argv)
    except (ValueError, OSError) as error:
        return str(error)
    except SystemExit as end:
        failed = end.code
    return capsys.readouterr().err if failed else None


def values(action):
    """Values to try, of which none may pass for an option that was not given: 0, the empty text, the default."""
    if action.nargs == 0:
        return [[]]
    if action.choices:
        return [[str(choice)] for choice in action.choices]
    tried = ["0", "1"] if action.type in (int, float) else ["x", ""]
    if isinstance(action.default, (int, float, str, Path)):
        tried.append(str(action.default))
    return [[value] for value in dict.fromkeys(tried)]


@pytest.mark.parametrize("line", COMMANDS)
def test_an_option_without_effect_is_refused(line, monkeypatch, capsys, tmp_path):
    script, *argv = line.split()
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    monkeypatch.chdir(tmp_path)
    actions = parser_of(module, argv, monkeypatch)._actions
    options = {max(a.option_strings, key=len): a for a in actions if a.option_strings and a.dest != "help"}
    taken = COMMANDS[line].split()
    assert set(taken) <= set(options), "no longer in the parser"
    for option in sorted(options.keys() - set(taken)):
        for value in values(options[option]):
            said = error_of(module, [*argv, option, *value], capsys) or "no error"
            before_advice = (said.partition(": error: ")[2] or said).split("python ")[0]        # an advised command may hold the option as well
            assert option in before_advice, f"{line} {option} {' '.join(value)}: {said}"
    assert not list(tmp_path.iterdir()), "something was written before the option was refused"


def test_each_script_is_here():
    root = Path(__file__).resolve().parent.parent
    files = [*root.glob("*.py"), *(path for room in root.glob("*/__init__.py") for path in room.parent.glob("*.py"))]
    with_options = {str(path.relative_to(root)) for path in files if "ArgumentParser(" in path.read_text(encoding="utf-8")}
    assert {line.split()[0] for line in COMMANDS} == with_options
