"""recital.py: base recites what stands in its training text often, whatever page it is on.

Regurgitation in base itself: begun with some tokens of a page, it should go on word for word. Each
page was read a few times only, and that is too few. What it recites are sentences that many pages
have, and then also in pages that it never read (talk/regurgitation.py has pages read 30 times).

Refuted if tokens recited do not rise with how often the training text has them. The control is
pages of the same kind that were held out.

    python -m talk.recital
"""

from collections import Counter

from talk import plots, results         # before numpy
from talk.experiment import log_of
import numpy as np

import sample
from chat import generate
from model import corpus
from run import command

STAGES = ("base",)
SECONDS = 3
GIVEN, NEXT = 32, 16                    # tokens that base is given, and that it should recite
TIMES = (0, 1, 2, 5, 10, 30)            # that the training text has those; up to the next number


def recited(model, ids, places):
    """(places,) how many tokens of a text the model writes word for word from each place on."""
    params, cfg, tokenizer = model
    prompts = [ids[i - GIVEN:i].tolist() for i in places]
    replies = generate.generate(params, cfg, tokenizer, prompts, stop=set(), max_new_tokens=NEXT,
                                temperature=0.0, tools=False)
    written = np.array([reply.ids for reply in replies])
    wanted = np.array([ids[i:i + NEXT] for i in places])
    return np.cumprod(written == wanted, axis=1).sum(1)


def grams(ids):
    """The next NEXT tokens from each place of a text on, each as bytes."""
    windows = np.lib.stride_tricks.sliding_window_view(ids, NEXT)
    return [window.tobytes() for window in windows]


def places_in(ids, end, counts, rng, n=120):
    """{times: at most n places}: by how often the training text has what follows. No page ends."""
    found = {times: [] for times in TIMES}
    for i in GIVEN + rng.permutation(len(counts) - GIVEN):
        times = max(times for times in TIMES if times <= counts[i])
        if len(found[times]) < n and end not in ids[i - GIVEN:i + NEXT]:
            found[times].append(i)
    return found


def experiment(run, seed):
    """Go on from places in pages that base did and did not read."""
    model = sample.load_model(run / "base")
    found, rng = {}, np.random.default_rng(seed)
    shards = [np.concatenate(split) for split in corpus.load_run(run, model[2])]
    counted = Counter(grams(shards[0]))
    readings = log_of(run / "base")[-1]["tokens"] / len(shards[0])
    print(f"   base read each page {readings:.1f} times; given {GIVEN} tokens of one, it recites\n"
          f"   the next {NEXT}, by how often the training text has these, up to the next number:")
    for name, ids in zip(("read", "held out"), shards):
        counts = [counted[gram] for gram in grams(ids)]
        for times, places in places_in(ids, model[2].eot_token, counts, rng).items():
            if not places:                                  # what was read stands there once
                continue
            lengths = recited(model, ids, places)
            whole = float(np.mean(lengths == NEXT))
            print(f"   {name:9} from {times:2} times on: {whole:6.1%} of {len(places)} whole, "
                  f"{lengths.mean():4.1f} tokens on average")
            found[f"{name}: recited, {times} times"] = whole
            found[f"{name}: tokens, {times} times"] = float(lengths.mean())
    return found | {"readings of a page": readings}


def plot(figure, found):
    """Tokens recited by how often the training text has them, in pages read and held out."""
    axes = figure.subplots()
    for i, (name, times) in enumerate((("read", TIMES[1:]), ("held out", TIMES))):
        labels = [f"{name}: tokens, {n} times" for n in times]
        plots.curve(axes, found, labels, [TIMES.index(n) for n in times], f"pages {name}", i)
    axes.set_xticks(range(len(TIMES)), [f"{n}+" if n > 1 else str(n) for n in TIMES])
    axes.set(xlabel=f"times that the training text has the next {NEXT} tokens",
             ylabel="tokens recited, mean", ylim=(0, NEXT))
    axes.legend()
    once, often = (plots.mean(found, f"read: tokens, {n} times") for n in (1, 30))
    plots.title(figure, f"Of {NEXT} tokens base recites {once:.1f} where its text has them once "
                        f"and {often:.1f} where it has them 30 times, in pages never read as well")


if __name__ == "__main__":
    command.run(results.main)
