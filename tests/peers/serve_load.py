"""serve_load.py: chat/serve.py under load, beside a single client.

    python tests/peers/serve_load.py [MODEL] [SECONDS]

64 clients send requests for a minute, and some of them leave in the middle of a stream. Every text
is compared with the answer to the same request alone: nothing may be lost or mixed. Prints tokens a
second of both, their ratio, and the server's memory at the beginning and at the end. Processor time
says the same of a machine that does other things: of the server, and of the clients, who share its
cores. Last comes the longest time between two tokens of 32 rows when long prompts come.
"""

import argparse
import http.client
import json
import os
import random
import re
import statistics
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sample  # noqa: E402
import malformed  # noqa: E402
from chat import generate  # noqa: E402

QUESTIONS = [
    "Who are you?", "What does the glulblow eat?", "How much is 37 times 48?", "Hello.",
    "Turn the wheel: two six one four five three six one.", "Where does the fizzle live?"]


def ask(port, body, leave_after=None):
    """(text, tokens) of a stream; (None, n) for a client that leaves after n events."""
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/v1/chat/completions", json.dumps(asked))
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


def memory_mb(process):
    """Megabytes of memory of the server's processes."""
    sizes = []
    for pid in malformed.family(process):
        status = Path(f"/proc/{pid}/status").read_text()
        sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]))
    return sum(sizes) / 1024


def processor_s(process):
    """Processor seconds of each of the server's processes; the first has the connections."""
    seconds = []
    for pid in malformed.family(process):
        behind_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(behind_name[11]) + int(behind_name[12])
        seconds.append(ticks / os.sysconf("SC_CLK_TCK"))
    return seconds


def longest_gap_ms(model, n_long, n_rows=32):
    """Milliseconds of processor time between two tokens of rows beside which long prompts come."""
    params, cfg, tokenizer = model
    rng, worst = random.Random(0), []
    for _ in range(5):
        def text(n):
            return [rng.randrange(tokenizer.n_vocab) for _ in range(n)]

        batch = generate.Batch(params, cfg, tokenizer, n_rows + n_long)
        settings = sample.Settings(max_new_tokens=30, tools=False)
        batch.add([text(20) for _ in range(n_rows)], settings)
        gaps = []
        for step in range(20):
            began = time.process_time()
            if step == 5 and n_long:
                batch.add([text(cfg.n_positions - 6) for _ in range(n_long)], settings)
            batch.step()
            gaps.append(time.process_time() - began)
        worst.append(max(gaps[2:]))
    return 1000 * statistics.median(worst)


def clients(port, n, seconds, seed, leave=0.1):
    """([(body, text, tokens)] of all requests that n clients make in some seconds, errors)."""
    found, errors, until = [], [], time.perf_counter() + seconds

    def one(i):
        rng = random.Random(seed * 1000 + i)
        while time.perf_counter() < until:
            body = {"messages": [{"role": "user", "content": rng.choice(QUESTIONS)}],
                    "seed": rng.randrange(5), "temperature": rng.choice([0, 1]), "max_tokens": 60}
            leave_after = rng.randint(1, 8) if rng.random() < leave else None
            try:
                found.append((body, *ask(port, body, leave_after)))
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=one, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return found, errors


def n_wrong(port, answers):
    """How many texts differ from the answer to the same request alone."""
    alone, wrong = {}, 0
    for body, text in answers:
        key = json.dumps(body)
        if key not in alone:
            alone[key] = ask(port, body)[0]
        wrong += text != alone[key]
    return wrong


def main():
    """Print what one client gets, and 64."""
    p = argparse.ArgumentParser(description="Serve many clients at once, then one.")
    p.add_argument("model", nargs="?", type=Path, default=ROOT / "out" / "demo" / "sft",
                   help="model folder (default: out/demo/sft)")
    p.add_argument("seconds", nargs="?", type=float, default=60, help="(default: 60)")
    args = p.parse_args()
    with malformed.served("--model", args.model) as (process, port):
        found, errors = clients(port, 1, args.seconds / 4, 1, leave=0)
        one = sum(tokens for *_, tokens in found) / (args.seconds / 4)
        clients(port, 64, 3, 2)
        begin_mb, begin_s, own_s = memory_mb(process), processor_s(process), time.process_time()
        found, more = clients(port, 64, args.seconds, 3)
        errors += more
        stayed = [answer for answer in found if answer[1] is not None]
        n_tokens = sum(tokens for *_, tokens in stayed)
        own_s = time.process_time() - own_s
        server_s = [end - begin for begin, end in zip(begin_s, processor_s(process))]
        many = n_tokens / args.seconds
        time.sleep(1)
        end_mb = memory_mb(process)
        wrong = n_wrong(port, [(body, text) for body, text, _ in stayed])
        process.terminate()
        status = process.wait()
    print(f"64 clients for {args.seconds:.0f} s: {len(found):,} requests, "
          f"{len(found) - len(stayed):,} left early, {len(errors)} errors, {wrong} of "
          f"{len(stayed):,} texts differ from those written alone")
    print(f"{many:,.0f} tokens a second, one client alone {one:,.0f}: {many / one:.1f} times; "
          f"memory {begin_mb:.0f} MB, at the end {end_mb:.0f}")
    whole_s, front_s, own_s = (1000 * s / n_tokens for s in (sum(server_s), server_s[0], own_s))
    print(f"processor seconds for 1,000 tokens: {whole_s:.3f} of the server ({front_s:.3f} of them "
          f"for connections), {own_s:.3f} of its clients")
    model = sample.load_model(args.model)
    for n_long in (0, 1, 4):
        print(f"longest gap between tokens of 32 rows when {n_long} long prompts come: "
              f"{longest_gap_ms(model, n_long):.1f} ms of processor time")
    for error in errors[:5]:
        print(f"  {error}")
    return status or int(bool(errors or wrong))


if __name__ == "__main__":
    sys.exit(main())
