"""regurgitation.py: a page that was read again and again is recited word for word.

A model is a lossy memory of its documents. What it read once it remembers as one remembers a book;
what it read thirty times it can recite. Here the base model reads on: pages that it never saw, some
once, some thirty times, among as many windows of its old text, which count half as much.

Refuted if the share of recited pages does not rise with the number of readings. The control is the
pages of the same kind that the same model did not read.

    python -m talk.regurgitation
"""

from talk import plots, results         # before numpy
from talk.experiment import study
import numpy as np

from chat import generate, tuning
from model import corpus
from run import command

STAGES = ("base",)
SECONDS = 35
TIMES = (0, 1, 3, 10, 30)
GIVEN = 32                              # tokens of a page that the model is given
RECITED = 64                            # tokens that it should write then


def held_out_pages(run, rng):
    """The ids of pages that the base model never read and that are long enough, in random order.

    Of each, the first window but for a few tokens.
    """
    _, cfg, tokenizer = tuning.load_stage(run, "base")
    _, shards = corpus.load_run(run, tokenizer)
    ids = np.concatenate(shards).astype(np.int64)
    pages = []
    for page in np.split(ids, np.flatnonzero(ids == tokenizer.eot_token)):
        if len(page) > GIVEN + RECITED:
            pages.append(page[:cfg.n_positions - 8].tolist())
    return [pages[i] for i in rng.permutation(len(pages))]


def recited(model, page_ids):
    """(pages,) how many of the wanted tokens are written before the first that differs."""
    params, cfg, tokenizer = model
    begun = [page[:GIVEN + 1] for page in page_ids]         # the first id marks the beginning
    replies = generate.generate(params, cfg, tokenizer, begun, stop=set(), max_new_tokens=RECITED,
                                temperature=0.0, tools=False)
    lengths = []
    for reply, page in zip(replies, page_ids):
        equal = [x == y for x, y in zip(reply.ids, page[GIVEN + 1:])]
        lengths.append(equal.index(False) if False in equal else len(equal))
    return np.array(lengths)


def experiment(run, seed):
    """Let the base model read on, then begin each page and see how long it is recited."""
    rng, found = np.random.default_rng(seed), {}
    tokenizer = tuning.load_stage(run, "base")[2]
    pages = held_out_pages(run, rng)
    groups = [pages[i::len(TIMES)] for i in range(len(TIMES))]
    texts = []
    for group, n in zip(groups, TIMES):
        for page in group:
            texts += [tokenizer.decode(page[1:])] * n
    model = study(run, "regurgitation/reader", texts, len(texts) // 8, seed, replay_weight=0.5)
    for group, n in zip(groups, TIMES):
        lengths = recited(model, group)
        whole = float(np.mean(lengths >= RECITED))
        print(f"   read {n:2} times: of {len(group)} pages, begun with {GIVEN} tokens, the next "
              f"{RECITED}\n{'':18}recited {whole:6.1%}; on average {lengths.mean():4.1f} of them")
        found[f"recited after {n}"] = whole
        found[f"tokens recited after {n}"] = float(lengths.mean())
    return found


def plot(figure, found):
    """Recited pages, and recited tokens, by readings."""
    left, right = figure.subplots(1, 2)
    places = np.arange(len(TIMES))
    plots.curve(left, found, [f"recited after {n}" for n in TIMES], places, "", 0, 100)
    left.set_ylabel(f"pages recited for {RECITED} tokens (%)")
    left.set_ylim(-2, 102)
    plots.curve(right, found, [f"tokens recited after {n}" for n in TIMES], places, "", 0)
    right.set_ylabel("tokens recited, mean")
    right.set_ylim(0, RECITED)
    for axes in (left, right):
        axes.set_xticks(places, TIMES)
        axes.set_xlabel("times that the page was read")
    shares = [100 * plots.mean(found, f"recited after {n}") for n in (1, 10, 30)]
    plots.title(figure, "Pages read once, 10 and 30 times are recited in {:.0f}, {:.0f} and "
                        "{:.0f} % of cases".format(*shares))


if __name__ == "__main__":
    command.run(results.main)
