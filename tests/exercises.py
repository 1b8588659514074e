"""exercises.py: the chapters with some functions left to write, and a check of what was written.

    python tests/exercises.py                   what there is, in order of difficulty
    python tests/exercises.py gpt               write exercises/gpt.py
    python tests/exercises.py check             say which are right, wrong, or not begun
    python tests/exercises.py check gpt merge   those of a chapter, or some of them

An exercise file is its chapter, with the bodies of some functions replaced by an error. The
docstring that is left is the task. The file is made from the chapter whenever it is asked for, so
it is never out of date, and a file that was edited is never written over.

A check runs the project's own tests with your function in the place of the chapter's, one exercise
at a time (tests/exercise_checks.py). All else that runs is the chapter's, except for what you add
beside it: imports, constants, functions of other names. docs/exercises.md leads through them.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from run import command, disk  # noqa: E402

FUNCTIONS = (ast.FunctionDef, ast.ClassDef)
STILL_S = 120                   # a check that says nothing for so long is ended


class Exercise(NamedTuple):
    chapter: str
    name: str                   # of a function, or Class.method
    level: int                  # 1: a line or two, 2: some lines, 3: a derivation
    tests: str                  # what pytest is given, separated by spaces


CHECK = "test_gpt.py::test_the_check_of_the_chapter"
OPERATIONS = "test_gpt.py::test_fast_operations_are_the_plain_ones[real-1]"
ATTENTION = "test_gpt.py::test_attention_with_fewer_queries_than_keys"
EXERCISES = [
    Exercise("data", "repeats", 1,
             "test_data.py::test_dup_line_frac test_data.py::test_dup_para_frac_and_chars "
             "test_data.py::test_dup_line_char_frac "
             "test_data.py::test_fineweb_duplicate_characters"),
    Exercise("data", "shingles", 1,
             "test_dedup.py::test_fewer_than_five_words_have_no_signature_and_no_duplicate "
             "test_dedup.py::test_numbers_case_accents_and_punctuation_do_not_matter"),
    Exercise("data", "Words.top_ngram_chars", 2,
             "test_data.py::test_top_ngram_counts_even_once_and_takes_the_first_of_equals "
             "test_data.py::test_top_ngram"),
    Exercise("data", "Words.duplicate_ngram_chars", 2,
             "test_data.py::test_duplicate_ngrams_scan "
             "test_data.py::test_duplicate_ngram_thresholds"),
    Exercise("data", "minhash", 2,
             "test_dedup.py::test_minhash_conformance "
             "test_dedup.py::test_fewer_than_five_words_have_no_signature_and_no_duplicate "
             "test_dedup.py::test_the_earliest_of_a_cluster_is_kept_and_chains_are_one_cluster"),
    Exercise("data", "clusters", 3,
             "test_dedup.py::test_chain_whose_ends_share_no_band "
             "test_dedup.py::test_the_earliest_of_a_cluster_is_kept_and_chains_are_one_cluster "
             "test_dedup.py::test_fewer_than_five_words_have_no_signature_and_no_duplicate"),
    Exercise("bpe", "decode", 1, "test_bpe.py::test_special_tokens_come_only_from_programs"),
    Exercise("bpe", "replace_pair", 1, "test_bpe.py::test_published_examples"),
    Exercise("bpe", "merge", 2, "test_bpe.py::test_published_examples"),
    Exercise("bpe", "train", 2,
             "test_bpe.py::test_published_examples "
             "test_bpe.py::test_a_rule_about_tokens_holds_for_both_trainers"),
    Exercise("gpt", "gelu_backward", 1, f"{CHECK} {OPERATIONS}"),
    Exercise("gpt", "embedding_backward", 1, f"{CHECK} {OPERATIONS}"),
    Exercise("gpt", "cross_entropy_backward", 2, f"{CHECK} {OPERATIONS}"),
    Exercise("gpt", "linear_backward", 2, f"{CHECK} {OPERATIONS}"),
    Exercise("gpt", "attention_forward", 2,
             f"{CHECK} {ATTENTION} {OPERATIONS}"),
    Exercise("gpt", "block_backward", 2, CHECK),
    Exercise("gpt", "layernorm_backward", 3, f"{CHECK} {OPERATIONS}"),
    Exercise("gpt", "attention_backward", 3,
             f"{CHECK} {ATTENTION} {OPERATIONS}"),
    Exercise("sample", "draw", 1,
             "test_sample.py::test_draw_hits_each_token_as_often_as_it_should"),
    Exercise("sample", "penalise", 2,
             "test_sample.py::test_penalties test_sample.py::test_a_bias_named_twice_is_added "
             "test_sample.py::test_three_log_probabilities"),
    Exercise("sample", "probabilities", 2,
             "test_sample.py::test_probabilities "
             "test_sample.py::test_when_the_order_of_the_steps_matters "
             "test_sample.py::test_random_settings_are_the_same_in_a_batch "
             "test_sample.py::test_a_temperature_next_to_nothing_is_greedy"),
    Exercise("train", "clip_scale", 1, "test_train.py::test_schedule_and_clipping"),
    Exercise("train", "learning_rate", 1, "test_train.py::test_schedule_and_clipping"),
    Exercise("train", "AdamW.step", 2,
             "test_adamw.py::test_the_definition_by_hand "
             "test_adamw.py::test_it_equals_the_definition"),
    Exercise("train", "orthogonal", 2,
             "test_muon.py::test_orthogonal_acts_on_the_singular_values_alone "
             "test_muon.py::test_every_strength_above_a_hundredth_comes_near_1"),
    Exercise("align", "sft_weights", 1,
             "test_objectives.py::test_weights_are_the_gradient_through_the_model[sft] "
             "test_align.py::test_a_batch_with_nothing_to_learn_contributes_nothing"),
    Exercise("align", "pad_rows", 1, "test_align.py::test_rows_line_up_targets_with_weights "
             "test_align.py::test_only_the_assistants_tokens_are_learned"),
    Exercise("align", "advantages", 2,
             "test_objectives.py::test_advantages "
             "test_align.py::test_a_group_of_equal_rewards_moves_nothing"),
    Exercise("align", "policy_weights", 2,
             "test_objectives.py::test_the_leash_pulls_like_the_kl_divergence "
             "test_objectives.py::test_weights_are_the_gradient_through_the_model[leash]"),
    Exercise("align", "preferences", 3, "test_objectives.py::test_preferences"),
    Exercise("align", "dpo_weights", 3,
             "test_objectives.py::test_weights_are_the_gradient_through_the_model[dpo]"),
]


def names_of(exercise):
    """The words by which the command line may name an exercise."""
    whole = f"{exercise.chapter}.{exercise.name}"
    alone = [] if exercise.name in CHAPTERS else [exercise.name]        # train is a chapter
    return [exercise.chapter, whole, *alone]


CHAPTERS = list(dict.fromkeys(exercise.chapter for exercise in EXERCISES))

# ---------------------------------------------------------------------------------- reading a file


def find(tree, name):
    """The definition of a function in the syntax tree of a file; None if it is not there."""
    body, found = tree.body, None
    for part in name.split("."):
        named = [node for node in body if isinstance(node, FUNCTIONS) and node.name == part]
        if not named:
            return None
        found = named[-1]                       # of two definitions the last one counts
        body = found.body
    return found


def body_of(function):
    """The statements of a function behind its docstring."""
    return function.body[1:] if ast.get_docstring(function) is not None else function.body


def is_begun(function):
    """Whether anything stands in a function besides its docstring and the error."""
    for node in body_of(function):
        empty = isinstance(node, ast.Pass) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        error = isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node)
        if not empty and not error:
            return True
    return False


# ---------------------------------------------------------------------------------- writing a file

HEADER = """\
# Exercises: {chapter}.py with some functions left to write. Each ends in NotImplementedError, and
# its docstring is the task. docs/exercises.md leads through them. To see which are right:
#     python tests/exercises.py check {chapter}
# As it was written: {digest}
"""
WRITTEN = re.compile(r"(?:#.*\n){3}# As it was written: ([0-9a-f]{16})\n")


def emptied(chapter):
    """The text of a chapter in which the bodies of its exercises are an error."""
    text = (ROOT / f"{chapter}.py").read_text(encoding="utf-8")
    lines, tree = text.splitlines(keepends=True), ast.parse(text)
    functions = [(name, find(tree, name)) for of, name, *_ in EXERCISES if of == chapter]
    for name, function in sorted(functions, key=lambda item: -item[1].lineno):
        docstring = function.body[0]
        indent = " " * docstring.col_offset
        task = f'{indent}raise NotImplementedError("the exercise {name}")\n'
        lines[docstring.end_lineno:function.end_lineno] = [task]
    return "".join(lines)


def file_of(chapter):
    """The text of a fresh exercise file."""
    text = emptied(chapter)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return HEADER.format(chapter=chapter, digest=digest) + text


def is_untouched(text):
    """Whether an exercise file is as it was written, perhaps from an older chapter."""
    header = WRITTEN.match(text)
    if not header:
        return False
    return hashlib.sha256(text[header.end():].encode()).hexdigest()[:16] == header[1]


def write(chapter, folder):
    """Write the exercise file of a chapter. ValueError if one is there that was edited."""
    path = folder / f"{chapter}.py"
    if path.exists() and not is_untouched(path.read_text(encoding="utf-8")):
        raise ValueError(
            f"{path}: you have worked on it, so it is not written over; to see what is right: "
            f"python tests/exercises.py check {chapter}; to begin anew: mv {path} {path}.old")
    folder.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, file_of(chapter))
    tasks = [exercise.name for exercise in EXERCISES if exercise.chapter == chapter]
    print(f"{path}: write {', '.join(tasks)}.\n"
          f"Then: python tests/exercises.py check {chapter}")


# ---------------------------------------------------------------------------------------- checking


def states(exercises, folder):
    """[(exercise, "not begun", "missing" or "begun")]; ValueError for a file that is no Python."""
    trees, found = {}, []
    for exercise in exercises:
        path = folder / f"{exercise.chapter}.py"
        if path not in trees:
            trees[path] = parse(path) if path.exists() else None
        if trees[path] is None:
            found.append((exercise, "not begun"))
            continue
        function = find(trees[path], exercise.name)
        if function is None:
            found.append((exercise, "missing"))
        else:
            found.append((exercise, "begun" if is_begun(function) else "not begun"))
    return found


def parse(path):
    """The syntax tree of an exercise file. ValueError, with the line, for one that is no Python."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise ValueError(f"{path}:{error.lineno}: {error.msg}\n    {line}") from None


def verdicts(jobs, limit):
    """Yield {"state": "right" or "wrong", "why": [lines]} for each job, in their order.

    jobs: [(exercise, path of the file it is in)]. limit: seconds for one call of a function. One
    process checks all; when an exercise kills it, or keeps it busy, the next one gets a new one.
    """
    jobs = list(jobs)
    while jobs:
        for answer in worker(list(jobs), limit):
            jobs.pop(0)
            yield answer


def worker(jobs, limit):
    """Yield the verdicts of one process. The last one is of the job that ended it, if one did."""
    wanted = [{"chapter": exercise.chapter, "name": exercise.name, "path": str(path),
               "tests": exercise.tests.split(), "limit": limit} for exercise, path in jobs]
    words = [sys.executable, str(ROOT / "tests/exercise_checks.py"), json.dumps(wanted)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0,
                               cwd=ROOT, env=environment)
    try:
        for _ in jobs:
            ready, _, _ = select.select([process.stdout], [], [], STILL_S + limit)
            line = process.stdout.readline() if ready else b""
            if line:
                yield json.loads(line)
                continue
            why = f"no end after {STILL_S + limit:.0f} seconds" if not ready else (
                f"it ended the whole process, with the status {process.wait()}")
            yield {"state": "wrong", "why": [why]}
            return
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


COLOURS = {"right": "32", "wrong": "31", "missing": "31", "not begun": "90"}


def line_of(exercise, state, detail=""):
    """One line of the report."""
    shown = f"{state:10}"
    if command.has_colours(sys.stdout):
        shown = f"\x1b[{COLOURS[state]}m{shown}\x1b[0m"
    return f"{shown} {exercise.chapter + '.py':10} {exercise.name:28} {detail}".rstrip()


def folded(line):
    """A line below an exercise, in as many lines as the terminal needs."""
    indent = " " * (11 + len(line) - len(line.lstrip()))
    width = max(40, min(100, shutil.get_terminal_size().columns - 1))
    return textwrap.fill(line.strip(), width, initial_indent=indent, subsequent_indent=indent)


def check(words, folder, limit):
    """Check the exercises that are begun; returns 1 if one is wrong or missing, else 0."""
    chosen = [e for e in EXERCISES if not words or not set(words).isdisjoint(names_of(e))]
    if not any((folder / f"{e.chapter}.py").exists() for e in chosen):
        chapter = chosen[0].chapter
        print(f"Nothing is begun. Write {folder / chapter}.py with: python tests/exercises.py "
              f"{chapter}\ndocs/exercises.md leads through the exercises.")
        return 0
    found = states(chosen, folder)
    begun = [exercise for exercise, state in found if state == "begun"]
    answers = verdicts([(e, folder / f"{e.chapter}.py") for e in begun], limit)
    counts = {"right": 0, "wrong": 0, "missing": 0, "not begun": 0}
    stream = command.uncensored(sys.stdout)
    for exercise, state in found:
        why = ["the file has no such function; an exercise keeps its name"] * (state == "missing")
        if state == "begun":
            answer = next(answers)
            state, why = answer["state"], answer["why"]
        counts[state] += 1
        detail = why[0] if state == "right" else "*" * exercise.level * (state == "not begun")
        print(line_of(exercise, state, detail), file=stream, flush=True)
        for line in why * (state != "right"):
            print(folded(command.printable(line)), file=stream, flush=True)
    parts = [f"{n} {state}" for state, n in counts.items() if n]
    print(f"\n{', '.join(parts)}.", end="")
    next_one = [exercise for exercise, state in found if state == "not begun"]
    if next_one and not counts["wrong"] + counts["missing"]:
        print(f" The next: {next_one[0].name} in {folder / next_one[0].chapter}.py", end="")
    print()
    return 1 if counts["wrong"] or counts["missing"] else 0


# ------------------------------------------------------------------------------------ command line


def show():
    """Print all exercises in their order."""
    for exercise in EXERCISES:
        print(f"{exercise.chapter + '.py':10} {'*' * exercise.level:4} {exercise.name}")
    print("\n* a line or two, ** some lines, *** a derivation. "
          "To begin: python tests/exercises.py bpe")


def parse_args(argv=None):
    """The words of the command line, checked."""
    p = argparse.ArgumentParser(
        prog="tests/exercises.py",
        description="Write exercise files, or check what you wrote in them.",
        epilog="Without a word it lists the exercises. docs/exercises.md leads through them.")
    p.add_argument("words", nargs="*", metavar="WORD",
                   help="chapters whose files to write; or check, and then chapters or functions")
    p.add_argument("--folder", type=Path, default=Path("exercises"), metavar="DIR",
                   help="where the files are (default: %(default)s)")
    p.add_argument("--limit", type=float, default=10, metavar="S",
                   help="seconds that one call of your function may take (default: %(default)s)")
    args = p.parse_args(argv)
    args.check = args.words[:1] == ["check"]
    if args.check:
        del args.words[0]
    known = set(CHAPTERS)
    for exercise in EXERCISES if args.check else ():
        known.update(names_of(exercise))
    for word in args.words:
        if word not in known:
            p.error(f"{word!r}: there is no such {'exercise' if args.check else 'chapter'}; "
                    "python tests/exercises.py lists all")
    if args.limit <= 0:
        p.error(f"--limit {args.limit:g}: expected more than 0 seconds")
    return args


def main(argv=None):
    """Run one command; returns the exit status."""
    args = parse_args(argv)
    if args.check:
        return check(args.words, args.folder, args.limit)
    for chapter in args.words:
        write(chapter, args.folder)
    if not args.words:
        show()
    return 0


if __name__ == "__main__":
    command.run(main, error_status=2)
