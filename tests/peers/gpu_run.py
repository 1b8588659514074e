"""gpu_run.py: what is to be known of a GPU, in less than six minutes of it.

    python tests/peers/gpu_run.py               `make gpu` runs this

The first part compiles the kernels and tests them, as many files at once as there are cores. Then
gpu_speed.py measures, in order of worth. A part is a process of its own with a limit in seconds:
one that crashes or hangs is ended, and the next one begins. out/gpu.txt (all that was said) and
out/gpu.json (all that was measured) are written anew with every measurement and after each part.
"""

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from run import command, disk  # noqa: E402

END_S = 350             # of the whole run: the limits of all parts together
DYING_S = 5             # that a process has to be gone after it was killed
SPEED = "tests/peers/gpu_speed.py"
# Each takes a process. The longest files are cut in two.
TESTS = {
    "attention kernels": ("test_kernels.py", "-k", "attention"),
    "kernels": ("test_kernels.py", "-k", "not attention"),
    "llama kernels": ("test_kernels_llama.py",),
    "rows of texts": ("test_attention.py",),
    "drawing": ("test_draw.py",),
    "model": ("test_device.py",),
    "training": ("test_device_training.py",),
    "tuning": ("test_device_tuning.py",),
    "pages": ("test_pages.py",),
    "stages": ("test_places.py",),
    "commands": ("test_gpu_commands.py",),
    "ranks": ("test_nccl_ranks.py",),
}


class Part(NamedTuple):
    """Commands that run side by side: {what it is: words behind python}."""

    name: str
    limit_s: float
    commands: dict


def speed_part(name, limit_s, *more):
    """A part of gpu_speed.py."""
    return Part(name, limit_s, {name: (SPEED, name, *more)})


def parts_of(*more, tests=TESTS):
    """All parts, the most wanted first. more: options of gpu_speed.py."""
    checks = {what: ("-m", "pytest", "-q", "-rsf", "-p", "no:cacheprovider", f"tests/{words[0]}",
                     *words[1:]) for what, words in tests.items()}
    # What the other parts will launch is compiled meanwhile.
    checks["build"] = SPEED, "build", *more
    checks["gradients"] = SPEED, "gradients", *more
    return [
        Part("check", 90, checks),
        speed_part("step", 35, *more),
        speed_part("pytorch", 65, *more),
        speed_part("kernels", 40, *more),
        speed_part("decode", 30, *more),
        speed_part("llama", 30, *more),
        speed_part("tuning", 35, *more),
        speed_part("trl", 25, *more),
    ]


class Report:
    """What was said and measured, on the screen and in two files."""

    def __init__(self, out):
        self.out, self.lines, self.parts = out, [], []
        out.parent.mkdir(parents=True, exist_ok=True)

    def say(self, line):
        """A line for the reader."""
        print(line, flush=True)
        self.lines.append(line)

    def hear(self, what, line):
        """A line of a command: JSON is a measurement, and the rest is for the reader."""
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            self.parts[-1]["rows"].append(row)
            self.write()
        else:
            self.say(f"{what}: {line}" if what else line)

    def write(self):
        """Both files, each whole."""
        found = {"date": time.strftime("%Y-%m-%d"), "parts": self.parts}
        disk.write_text(f"{self.out}.txt", "\n".join(self.lines) + "\n")
        disk.write_text(f"{self.out}.json", json.dumps(found, indent=1) + "\n")


class Work:
    """A command that runs, and what it has said of a line that has not ended."""

    def __init__(self, what, words, environment):
        self.what, self.rest = what, b""
        self.process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **environment},
            start_new_session=True)         # a group of its own: its children end with it
        self.pipe = self.process.stdout.fileno()
        os.set_blocking(self.pipe, False)

    def hear(self, report):
        """Report the lines that have come. False where no more will come now."""
        try:
            piece = os.read(self.pipe, 1 << 16)
        except BlockingIOError:
            return False
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            self._report(line, report)
        return bool(piece)

    def hear_the_end(self, report):
        """Report what is left, also of a line that has not ended."""
        for _ in range(100):            # whoever floods the pipe does not keep us
            if not self.hear(report):
                break
        self._report(self.rest, report)
        self.process.stdout.close()

    def _report(self, line, report):
        text = line.decode("utf-8", "replace").rstrip().rpartition("\r")[2]
        if text:
            report.hear(self.what, text)

    def end(self):
        """End the process and its children -> how it ended"""
        found = self.process.poll()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if found is None:
            try:
                self.process.wait(DYING_S)
            except subprocess.TimeoutExpired:       # in the driver, where no signal reaches it
                return "stopped at the limit, and does not end"
            return "stopped at the limit"
        return "done" if found == 0 else f"failed, exit status {found}"


def run_part(part, limit_s, report, environment):
    """Run the commands of a part side by side -> whether all ended well in time"""
    began = time.monotonic()
    entry = {"name": part.name, "limit_s": round(limit_s, 1), "rows": [], "ended": {}}
    report.parts.append(entry)
    report.say(f"\n== {part.name}, {limit_s:.0f} s at most")
    several = len(part.commands) > 1
    works, listening = [], selectors.DefaultSelector()
    try:
        for what, words in part.commands.items():
            work = Work(what if several else "", words, environment)
            works.append(work)
            listening.register(work.pipe, selectors.EVENT_READ, work)
        while time.monotonic() < began + limit_s:
            ready = listening.select(0.1)
            for key, _ in ready:
                if not key.data.hear(report):       # it is ready with nothing: the end
                    listening.unregister(key.fd)
            if not ready and not listening.get_map():
                time.sleep(0.1)
            if all(work.process.poll() is not None for work in works):
                break
    finally:
        endings = [work.end() for work in works]
        listening.close()
    for what, work, ending in zip(part.commands, works, endings):
        work.hear_the_end(report)
        entry["ended"][what] = ending
        if ending != "done":
            report.say(f"{what}: {ending}")
    entry["seconds"] = round(time.monotonic() - began, 1)
    report.say(f"== {part.name}: {entry['seconds']} s")
    report.write()
    return set(endings) == {"done"}


def run(parts, out, environment, end_s=END_S):
    """Run parts one after the other -> the names of those that did not end well"""
    report, began, bad = Report(out), time.monotonic(), []
    for part in parts:
        left = began + end_s - time.monotonic()
        if left <= 0 or not run_part(part, min(part.limit_s, left), report, environment):
            bad.append(part.name)
    seconds = time.monotonic() - began
    not_well = f"; not well: {', '.join(bad)}" if bad else ""
    report.say(f"\n{seconds:.0f} s in all{not_well}. See {out}.txt and {out}.json")
    report.write()
    return bad


def main():
    """Run all parts, or some."""
    p = argparse.ArgumentParser(description="Test and time the kernels on a GPU.")
    p.add_argument("--out", type=Path, default=ROOT / "out/gpu",
                   help="the files are OUT.txt and OUT.json (default: out/gpu)")
    p.add_argument("--parts", help="only these, with commas between (default: all)")
    p.add_argument("--tiny", action="store_true",
                   help="small sizes, also without a GPU: to see that all parts run")
    args = p.parse_args()
    if args.tiny:
        parts, environment = parts_of("--tiny", tests={"drawing": ("test_draw.py",)}), {}
    else:
        parts, environment = parts_of(), {"LONGHAND_GPU": "1"}
    if args.parts:
        names = args.parts.split(",")
        unknown = set(names) - {part.name for part in parts}
        if unknown:
            raise ValueError(f"--parts {args.parts}: no part {', '.join(sorted(unknown))}; "
                             f"there are {', '.join(part.name for part in parts)}")
        parts = [part for part in parts if part.name in names]
    return int(bool(run(parts, args.out, environment)))


if __name__ == "__main__":
    command.run(main)
