"""counting.py: dots and letters are counted badly in the head, and better with a tool.

To say how many dots stand in a text, a model must count them all within the computation of one
token. That works for few and fails for many. With a tool it has only to copy the text into a call,
token by token; the tool counts. A small model loses its place where it copies many equal dots. For
letters it is the same, and the tokenizer may hide them in longer tokens besides.

Refuted if counting in the head is as good for many marks as for few, or as good as with the tool.
Both models are taught with the same questions, in as many steps.

    python -m talk.counting
"""

from talk import plots, results         # before numpy
from talk.experiment import right, share, teach
import numpy as np

from run import command
from web import toylessons, toynumbers, toytools, toyworld

STAGES = ("base",)
SECONDS = 48
LESSONS, STEPS = 9000, 400
TESTS = 240                             # of each kind
KINDS = {"dots": toynumbers.DOT, "letters": toynumbers.LETTER}
WAYS = ("in the head", "with the tool")
BANDS = {f"{n} to {n + 3}": range(n, n + 4) for n in range(1, toynumbers.MOST, 4)}


def drawn(rng, sign):
    """(a text with 1 to 16 of a sign, how many it has)."""
    n = rng.randint(1, toynumbers.MOST)
    return toynumbers.marks(rng, sign, n), n


def lesson(sign, text, n, way):
    """A conversation in which marks are counted in one of the WAYS."""
    answer = f"{n}."
    if way == "with the tool":
        answer = toytools.with_tool(f"count: {sign} in {text}", str(n), answer)
    return toylessons.chat(toynumbers.count_question(sign, text), answer)


def experiment(run, seed):
    """Teach base to count in both ways, and ask about texts that were in no lesson."""
    rng, found = toyworld.stream(seed, "counting"), {}
    lessons = []
    for _ in range(LESSONS):
        sign = rng.choice(list(KINDS.values()))
        lessons.append((sign, *drawn(rng, sign)))
    seen = {text for _, text, _ in lessons}
    asked = {}
    for kind, sign in KINDS.items():
        texts = [drawn(rng, sign) for _ in range(TESTS)]
        asked[kind] = [(text, n) for text, n in texts if text not in seen]
    for way in WAYS:
        rows = [lesson(*each, way) for each in lessons]
        model = teach(run, f"counting/{way.replace(' ', '_')}", rows, STEPS, seed)
        for kind, texts in asked.items():
            tasks = [{"question": toynumbers.count_question(KINDS[kind], text), "answer": str(n)}
                     for text, n in texts]
            ok, numbers = right(model, tasks), np.array([n for _, n in texts])
            found[f"{kind} {way}"] = share(f"{kind:8} {way:14}", ok.sum(), len(ok))
            shares = {}
            for band, of_band in BANDS.items():
                shares[band] = found[f"{kind} {way}, {band}"] = float(
                    ok[np.isin(numbers, list(of_band))].mean())
            print(f"   {'':8} by how many: "
                  + ", ".join(f"{band}: {x:.0%}" for band, x in shares.items()))
    return found


def plot(figure, found):
    """Right answers by how many marks there are, in the head and with the tool."""
    axes, style = figure.subplots(), 0
    places = np.arange(len(BANDS))
    for way in WAYS:
        for kind in KINDS:
            labels = [f"{kind} {way}, {band}" for band in BANDS]
            plots.curve(axes, found, labels, places, f"{kind}, {way}", style, 100)
            style += 1
    axes.set_xticks(places, BANDS)
    axes.set(xlabel="marks to count", ylabel="right answers (%)", ylim=(-2, 102))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    head, tool = (100 * plots.mean(found, f"letters {way}, {list(BANDS)[-1]}") for way in WAYS)
    plots.title(figure, f"Thirteen letters or more are counted rightly in {head:.0f} % of cases in "
                        f"the head, in {tool:.0f} % with the tool")


if __name__ == "__main__":
    command.run(results.main)
