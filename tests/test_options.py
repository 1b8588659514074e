"""Every script: --help is true and readable; an option without effect is an error that names it.

COMMANDS says which options each command takes. All others of its parser have to be refused. So an
option that is added to a parser needs a place: it is taken, and stands here, or the command refuses
it. Whether an option does what it says is for the tests of its script. A refusal comes before
anything is read or written: here nothing is there to be read.
"""

import argparse
import importlib
import inspect
import re
import runpy
import sys
from pathlib import Path

import pytest

import house
from conftest import ROOT

DRAWING = ("--temperature --top-k --top-p --min-p --seed --max-tokens --repetition-penalty "
           "--presence-penalty --frequency-penalty --stop")
TRAINING = ("--run --data --start --out --steps --lr --batch --seed --on-mismatch --chat-format "
            "--ranks --device")
# device.chosen refuses --dtype without --device cuda, for all scripts (tests/test_device.py).
DEVICE = "--device --dtype"
FILTERING = ("--workers --dump --blocklist --hard-words --soft-words --subwords --public-suffixes "
             "--language --language-model --index --save-index --pii --tokenizer --fineweb --order "
             "--no-rights --task --phase --slurm")
REINFORCING = ("--run --tasks --held-out --start --out --steps --lr --batch --replay --prompts "
               "--group --max-tokens --baseline --normaliser --leash --reward --seed "
               "--on-mismatch --chat-format --ranks --device")
TASKS = "--task --phase --slurm"
ADAPTER = "--lora-rank --adapter"
COMMANDS = {
    "align.py sft": f"{TRAINING} --replay {ADAPTER}",
    "align.py sft --device cuda": f"{TRAINING} --replay {ADAPTER} --dtype",
    "align.py sft --lora-rank 8": f"{TRAINING} --replay --lora-rank --lora-alpha --dtype",
    "align.py sft --adapter x": f"{TRAINING} --replay --adapter --dtype",
    "align.py rl": f"{REINFORCING} {ADAPTER}",
    "align.py rl --leash 1": f"{REINFORCING} --leash-to {ADAPTER}",
    "align.py rl --lora-rank 8": f"{REINFORCING} --lora-rank --lora-alpha --dtype",
    "align.py reward": f"{TRAINING} --held-out {ADAPTER}",
    "align.py reward --lora-rank 8": f"{TRAINING} --held-out --lora-rank --lora-alpha --dtype",
    "align.py dpo": f"{TRAINING} --held-out --leash --leash-to {ADAPTER}",
    "align.py dpo --lora-rank 8": f"{TRAINING} --held-out --leash --leash-to --lora-rank "
                                  "--lora-alpha --dtype",
    "align.py eval": "--run --samples --chat-format --device",
    "align.py eval --samples 2": "--run --samples --seed --chat-format --device",
    "align.py eval --device cuda": f"--run --samples --chat-format {DEVICE}",
    "align.py arena": "--run --seed --chat-format --device",
    "align.py arena --device cuda": f"--run --seed --chat-format {DEVICE}",
    "bpe.py train": "--run --input --workers --ties --min-frequency --vocab-size --pattern "
                    f"{TASKS}",
    "bpe.py train --slurm 2": "--run --input --workers --ties --min-frequency --vocab-size "
                              "--pattern --slurm",
    "bpe.py encode": f"--run --input --workers --shard-tokens --val-percent --vocab {TASKS}",
    "bpe.py encode --vocab v.json": "--run --input --workers --shard-tokens --val-percent --vocab "
                                    f"{TASKS}",
    "bpe.py encode --vocab cl100k_base": "--run --input --workers --shard-tokens --val-percent "
                                         f"--vocab --ranks {TASKS}",
    "bpe.py decode 1": "--run --vocab",
    "bpe.py decode 1 --vocab v.json": "--vocab",
    "bpe.py decode 1 --vocab cl100k_base": "--vocab --ranks",
    "bpe.py show x": "--run --vocab --steps",
    "bpe.py show x --vocab v.json": "--vocab --steps",
    "bpe.py show x --vocab cl100k_base": "--vocab --steps --ranks",
    "chat/chats.py a.jsonl": "--lang --show",
    "web/crawl.py http://localhost": "--run --pages --depth --delay --other-sites --contact",
    "data.py": f"--run --crawl --check {FILTERING}",
    "data.py --check": "--check",
    "data.py --crawl CC-MAIN-2024-51": f"--run --crawl --files {FILTERING}",
    "chat/terminal.py complete Once": f"--run --model -n {DRAWING} {DEVICE}",
    "chat/serve.py": f"--run --model --host --port --allow-host --key --origin --ranks {DEVICE}",
    "chat/export.py --gguf x.gguf": "--run --model --gguf --type",
    "web/dedup_steps.py sign a.jsonl --work w": "--work --workers --task --slurm",
    "web/dedup_steps.py match --work w": "--work --index --save-index --task --phase --slurm",
    "web/dedup_steps.py drop a.jsonl --work w --to t": "--work --to --workers --task --slurm",
    "web/words.py x": "",
    "model/evaluate.py m --tokens t": f"--tokenizer --tokens --hellaswag {DEVICE}",
    "model/evaluate.py m --hellaswag h": f"--tokenizer --tokens --hellaswag --most {DEVICE}",
    "web/extract.py a.html": "--charset",
    "gpt.py": "",
    "model/folders.py m": "",
    "model/llama.py": "",
    "model/lora.py": "",
    "chat/inside.py x": f"--run --model --off --patch --other {DEVICE}",
    "chat/votes.py": "--run",
    "chat/walk.py x": "--run --model --out",
    "web/language.py predict x": "--model",
    "web/language.py train --input a": "--out --dim --bucket --minn --maxn --epochs --n-texts "
                                       "--batch --lr --smoothing --seed --input",
    "web/language.py test --input a": "--label --threshold --input --model",
    "chat/probe.py": "--run --control --steps --lr --seed --on-mismatch --device",
    "chat/probe.py --device cuda": "--run --control --steps --lr --seed --on-mismatch --device "
                                   "--dtype",
    "run/parquet.py a.jsonl --to t": "--to --text --skip-null",
    "run/runs.py --run r --name n --makes x -- a.py": "--run --name --made-of --makes --output "
                                                        "--about",
    "sample.py check": "--call",
    "sample.py complete Once": f"--run --model -n {DRAWING} {DEVICE}",
    "sample.py Once": f"--run --model -n {DRAWING} {DEVICE}",
    "sample.py Once --model m": f"--model -n {DRAWING} {DEVICE}",
    "sample.py chat": f"--run --model --ask --system --no-thinking {DRAWING} {DEVICE}",
    "sample.py serve": f"--run --model --host --port --allow-host --key --origin --ranks {DEVICE}",
    "sample.py export --gguf x.gguf": "--run --model --gguf --type",
    "talk/__main__.py": "--run --seeds --list",
    "web/toyweb.py": "--run --pages --seed --score",
    "web/toyweb.py --score": "--run --pages --seed --score",
    "train.py": "--run --data --tokenizer --raw --align-documents --init --preset --steps --batch "
                "--lr --eval-every --save-every --micro-batch --recompute --memory-gb --seed "
                f"--ranks --on-mismatch --check {DEVICE}",
    "train.py --check": "--check --preset --steps --batch --lr",
    "model/bench.py char": "",
    "model/planning.py": "--tokens",
    "chat/jinja.py": "",
    "web/warc.py a.warc": "",
}


class Found(Exception):
    """Carries a parser and the words that it was about to read, or had read."""


def module_of(script):
    """The module of a script, web.crawl for web/crawl.py."""
    return importlib.import_module(script.removesuffix(".py").replace("/", "."))


def parser_of(module, argv, monkeypatch):
    """The parser that reads argv; of one with several commands, that of the command."""
    def stop(self, words=None, *_):
        raise Found(self, words)

    with monkeypatch.context() as patch, pytest.raises(Found) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        module.main(argv)
    parser, words = caught.value.args
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices[words[0]]
    return parser


def check_accepted(script, argv, monkeypatch):
    """SystemExit if the script's parser refuses argv. Nothing is run."""
    main = module_of(script).main
    with monkeypatch.context() as patch, pytest.raises(Found):
        for name in ("parse_args", "parse_intermixed_args"):
            parse = getattr(argparse.ArgumentParser, name)

            def parse_and_stop(self, *args, parse=parse):
                parse(self, *args)
                raise Found(self, args)

            patch.setattr(argparse.ArgumentParser, name, parse_and_stop)
        patch.setattr(sys, "argv", [script, *argv])
        main(argv) if inspect.signature(main).parameters else main()


def error_of(module, argv, capsys):
    """What the command says when it fails; None when it does not."""
    capsys.readouterr()
    try:
        failed = module.main(argv)
    except (ValueError, OSError) as error:
        return str(error)
    except SystemExit as end:
        failed = end.code
    return capsys.readouterr().err if failed else None


def values(action):
    """Values to try: 0, the empty text, the default. None may pass for an option not given."""
    if action.nargs == 0:
        return [[]]
    if action.choices:
        return [[str(choice)] for choice in action.choices]
    tried = ["0", "1"] if action.type in (int, float) else ["x", ""]
    if isinstance(action.default, (int, float, str, Path)):
        tried.append(str(action.default))
    return [[value] for value in dict.fromkeys(tried)]


def options_of(actions):
    """{--name: action} of a parser's options, --help apart."""
    named = [a for a in actions if a.option_strings and a.dest != "help"]
    return {max(a.option_strings, key=len): a for a in named}


@pytest.mark.parametrize("line", COMMANDS)
def test_an_option_without_effect_is_refused(line, monkeypatch, capsys, tmp_path):
    script, *argv = line.split()
    module = module_of(script)
    monkeypatch.chdir(tmp_path)
    actions = parser_of(module, argv, monkeypatch)._actions
    options = options_of(actions)
    taken = COMMANDS[line].split()
    assert set(taken) <= set(options), "no longer in the parser"
    for option in sorted(options.keys() - set(taken)):
        for value in values(options[option]):
            said = error_of(module, [*argv, option, *value], capsys) or "no error"
            message = said.partition(": error: ")[2] or said
            message = message.split("python ")[0]       # an advised command may have the option too
            assert option in message, f"{line} {option} {' '.join(value)}: {said}"
    assert not list(tmp_path.iterdir()), "something was written before the option was refused"


def test_each_script_is_here():
    scripts = set()
    for path, text in house.read_house().items():
        if house.is_script(text) and "parse_args(" in text:
            scripts.add(path)
    assert {line.split()[0] for line in COMMANDS} == scripts


# ------------------------------------------------------------------------------------------- --help

VERBS = {"check", "complete", "chat", "serve", "export", "sft", "rl", "reward", "dpo", "eval",
         "arena", "train", "encode", "decode", "show", "sign", "match", "drop", "predict", "test"}
NO_DEFAULTS = re.compile(r"default:? (None|False|\[\])|PosixPath|==SUPPRESS==")
FILES = [path for path, text in house.read_house().items() if house.is_script(text)]
FILES += [f"tests/{name}.py" for name in ("exercises", "golden", "house", "malformed", "planted",
                                          "torture")]


def faults_of_help(text):
    """What is wrong with a text that --help prints at 80 columns."""
    if not text.startswith("usage:"):
        return "it prints no usage"
    wide = [line for line in text.splitlines() if len(line) > 80]
    if wide:
        return f"over 80 columns: {wide[0]}"
    found = NO_DEFAULTS.search(" ".join(text.split()))
    return f"it shows {found[0]!r}, which is no value" if found else ""


def help_of(path, monkeypatch, capsys):
    """What --help prints on standard output, 80 columns wide; the error if there is one."""
    monkeypatch.setattr(sys, "argv", [path, "--help"])
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    try:
        if path.startswith("tests/"):
            runpy.run_path(str(ROOT / path), run_name="__main__")
        else:
            runpy.run_module(path.removesuffix(".py").replace("/", "."), run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"{path} --help: exit code {end.code}"
    except ImportError as error:
        return str(error)
    return capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_every_file_answers_help(monkeypatch, capsys):
    faults = {path: faults_of_help(help_of(path, monkeypatch, capsys)) for path in FILES}
    assert not {path: fault for path, fault in faults.items() if fault}


def command_of(line):
    """The script of a line of COMMANDS, with the word behind it if that is a command."""
    words = line.split()
    return " ".join(words[:2]) if len(words) > 1 and words[1] in VERBS else words[0]


def test_the_help_of_a_command_shows_its_options_and_no_others(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    taken, faults = {}, {}
    for line, options in COMMANDS.items():
        taken.setdefault(command_of(line), set()).update(options.split())
    for line in COMMANDS:
        script, *argv = line.split()
        module = module_of(script)
        parser = parser_of(module, argv, monkeypatch)
        fault = faults_of_help(parser.format_help())
        foreign = options_of(parser._actions).keys() - taken[command_of(line)]
        if foreign:
            fault = f"it shows options of other commands: {sorted(foreign)}"
        if fault:
            faults[command_of(line)] = fault
    assert not faults


@pytest.mark.parametrize("text, fault", [
    ("", "no usage"),
    ("usage: x.py\n" + "x" * 81, "over 80 columns"),
    ("usage: x.py\n  --kl  its weight (default: None)", "'default: None'"),
    ("usage: x.py\n  --run  folders (default:\n  [PosixPath('out/demo')])", "PosixPath"),
    ("usage: x.py\n  --raw  no header (default: False)", "'default: False'"),
])
def test_faults_of_help_are_found(text, fault):
    assert fault in faults_of_help(text)
    assert faults_of_help("usage: x.py\n  --lr  peak rate (default: 0.002)") == ""
