"""serve_load.py: chat/serve.py under load, beside a single client.

    python tests/peers/serve_load.py [MODEL] [SECONDS]

64 clients send requests for a minute, and some of them leave in the middle of a stream. Every text
is compared with the answer to the same request alone: nothing may be lost or mixed. Prints tokens a
second of both, their ratio, and the server's memory at the beginning and at the end.
"""

import argparse
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
QUESTIONS = [
    "Who are you?",
    "What does the glulblow eat?",
    "Turn the wheel: two six one four five three six one.",
    "How much is 37 times 48?",
    "Hello.",
    "Where does the fizzle live?",
]


def ask(port, body, leave_after=None):
    """(text, tokens) of a stream; leave_after: leave after so many events -> (None, how many)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {answer.read()[:200]}")
    text, n, tokens = "", 0, None
    for line in answer:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event, n = json.loads(line[6:]), n + 1
        if leave_after is not None and n >= leave_after:
            answer.close()
            connection.close()
            return None, n
        if event["choices"]:
            text += event["choices"][0]["delta"].get("content", "")
        else:
            tokens = event["usage"]["completion_tokens"]
    if tokens is None:
        raise RuntimeError(f"the stream broke off after {text!r}")
    connection.close()
    return text, tokens


def memory(pid):
    """MB that a process has in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024


def clients(port, n, seconds, seed, leave=0.1):
    """[(body, text, tokens)] of all requests n clients made in that time, and the errors."""
    found, errors, until = [], [], time.perf_counter() + seconds

    def one(i):
        rng = random.Random(seed * 1000 + i)
        while time.perf_counter() < until:
            body = {
                "messages": [{"role": "user", "content": rng.choice(QUESTIONS)}],
                "seed": rng.randrange(5),
                "temperature": rng.choice([0, 1]),
                "max_tokens": 60,
            }
            leave_after = rng.randint(1, 8) if rng.random() < leave else None
            try:
                found.append((body, *ask(port, body, leave_after)))
            except Exception as e:
                errors.append(f"{type(e).__name__}: {e}")

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return found, errors


def main():
    p = argparse.ArgumentParser(description="Serve many clients at once, then one.")
    p.add_argument("model", nargs="?", type=Path, default=ROOT / "out" / "demo" / "sft",
                   help="model folder (default: out/demo/sft)")
    p.add_argument("seconds", nargs="?", type=float, default=60, help="(default: 60)")
    args = p.parse_args()
    seconds = args.seconds
    words = [sys.executable, "-u", str(ROOT / "sample.py"), "serve", "--model", str(args.model),
             "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    port = int(process.stdout.readline().split("at http://127.0.0.1:")[1].split(";")[0])
    alone, errors = clients(port, 1, seconds / 4, 1, leave=0)
    one = sum(n for *_, n in alone) / (seconds / 4)
    clients(port, 64, 3, 2)
    begin = memory(process.pid)
    together, more = clients(port, 64, seconds, 3)
    many, errors = sum(n for _, text, n in together if text is not None) / seconds, errors + more
    time.sleep(1)
    end = memory(process.pid)
    want = {}
    for body, text, _ in together:
        key = json.dumps(body)
        if text is not None and key not in want:
            want[key] = ask(port, body)[0]
    wrong = sum(text is not None and text != want[json.dumps(body)] for body, text, _ in together)
    left = sum(text is None for _, text, _ in together)
    print(f"64 clients for {seconds:.0f} s: {len(together):,} requests, {left:,} left early, "
          f"{len(errors)} errors, {wrong} of {len(together) - left:,} texts differ from those "
          "written alone")
    print(f"{many:,.0f} tokens a second, one client alone {one:,.0f}: {many / one:.1f} times; "
          f"memory {begin:.0f} MB, at the end {end:.0f}")
    for e in errors[:5]:
        print("  " + e)
    process.terminate()
    sys.exit(process.wait() or bool(errors or wrong))


if __name__ == "__main__":
    main()
