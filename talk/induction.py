"""induction.py: heads that look back for the same token and copy what came after it.

A page that repeats itself is easy to predict, whatever it says: find where the last token stood
before, and say what came next there. Large models learn this early, at one moment, in a few heads
of attention. Everything that a model learns from its context rests on it.

Refuted if random tokens are not easier to predict the second time, if no head looks at what came
after the earlier one, or if other heads do as much when they are switched off.

    python -m talk.induction
"""

from talk import in_context, plots, results     # before numpy
import numpy as np

from chat.induction import losses, rows_of, scores, second_time
from run import command
from web import toybooks, toyworld

STAGES = ("base",)
AFTER = ("in_context",)                 # which makes the same models
SECONDS = 5
LENGTH = 10                             # tokens of a sequence, which is then said again
ROWS = 128
SCORED = 32                             # of them, to find the heads
N_OFF = 2                               # heads that are switched off together


def drilled_tokens(tokenizer):
    """The ids of the syllables that are one token; the sequences of pages were made of those."""
    found = [tokenizer.encode_ordinary(f" {syllable}") for syllable in toybooks.SYLLABLES]
    return [ids[0] for ids in found if len(ids) == 1]


def without_heads(params, cfg, heads):
    """The parameters with some heads [(layer, head)] switched off: nothing of them is added."""
    params = dict(params)
    size = cfg.n_embd // cfg.n_head
    for layer, head in heads:
        name = f"h.{layer}.attn.c_proj.weight"
        params[name] = params[name].copy()
        params[name][head * size:(head + 1) * size] = 0.0
    return params


def switch_off(params, cfg, rows, rng):
    """Find the heads that look back the most; switch them off, and others in their place."""
    by_head = scores(params, cfg, rows[:SCORED])
    heads = [(layer, head) for layer in range(cfg.n_layer) for head in range(cfg.n_head)]
    heads.sort(key=lambda place: -by_head[place])
    best, others = heads[:N_OFF], heads[N_OFF:]
    shown = ", ".join(f"{layer + 1}.{head + 1} {by_head[layer, head]:.0%}" for layer, head in best)
    print(f"   heads (layer.head) that look at what came next then: {shown}")
    of_others = []
    for _ in range(10):
        off = without_heads(params, cfg, rng.sample(others, N_OFF))
        of_others.append(second_time(off, cfg, rows))
    found = {
        "all heads": second_time(params, cfg, rows),
        "without those heads": second_time(without_heads(params, cfg, best), cfg, rows),
        "without others": float(np.mean(of_others)),
        "attention of those heads": float(np.mean([by_head[place] for place in best])),
    }
    print(f"   nats a token, the second time: {found['all heads']:.2f}; without these "
          f"{N_OFF} heads {found['without those heads']:.2f}; without {N_OFF} others "
          f"{found['without others']:.2f}")
    return found


def experiment(run, seed):
    """Random tokens said twice: losses by position, and the heads that copy."""
    rng, found = toyworld.stream(seed, "induction"), {}
    models = in_context.models(run, seed)
    tokenizer = models["base"][2]
    rows = rows_of(tokenizer, rng, drilled_tokens(tokenizer), ROWS, LENGTH)
    print("   nats a token              first time  second time")
    for name, (params, cfg, _) in models.items():
        curve = losses(params, cfg, rows)
        found[name] = curve.tolist()
        found[f"{name}, first"] = float(curve[:LENGTH].mean())
        found[f"{name}, second"] = second_time(params, cfg, rows)
        print(f"   {name:25} {found[f'{name}, first']:10.2f} {found[f'{name}, second']:12.2f}")
    params, cfg, _ = models["books"]
    return found | switch_off(params, cfg, rows, rng)


def plot(figure, found):
    """Losses by position in the three models."""
    axes = figure.subplots()
    for i, (name, said) in enumerate(in_context.MODELS.items()):
        plots.curve(axes, found, name, np.arange(1, 2 * LENGTH + 1), said, i)
    axes.axvline(LENGTH + 0.5, color="0.5", linewidth=0.8)
    axes.set_xticks(range(2, 2 * LENGTH + 1, 2))
    axes.set_xlabel(f"place in the text; from {LENGTH + 1} on, the first {LENGTH} tokens again")
    axes.set_ylabel("loss (nats a token)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    first, second, off, other = (plots.mean(found, label) for label in (
        "books, first", "books, second", "without those heads", "without others"))
    plots.title(figure, f"Random tokens cost {first:.1f} nats, said again {second:.1f}; with "
                        f"{N_OFF} heads off {off:.1f}, with {N_OFF} others off {other:.1f}")


if __name__ == "__main__":
    command.run(results.main)
