"""past_the_teacher.py: a model that imitates stops at its teacher; a rewarded one passes him.

AlphaGo that imitated people stayed below the best of them; rewarded for games won, it passed them.
Here a teacher turns the wheel and makes a mistake in one step of ten. A model at temperature 1 does
as its teacher did. From the same start, one model goes on to imitate and one is rewarded for right
answers, with as many rows.

Refuted if imitation alone passes the teacher at temperature 1, or if reinforcement does not.

    python -m talk.past_the_teacher
"""

from talk import plots, results         # before numpy
from talk.experiment import BATCH, both_ways, load, reinforce, stage, teach

from chat import chats, options
from run import command
from web import toylessons, toywords, toyworld

STAGES = ("base",)
SECONDS = 120
SLIP = 0.1                              # chance of a mistake in a step
LESSONS = 9000
IMITATE, REINFORCE = 520, 30            # steps
ROWS = options.RL.prompts * options.RL.group            # replies in a step of reinforcement
GO_ON = REINFORCE * ROWS // BATCH       # steps that imitate as many rows


def lesson(rng):
    """(a round as the teacher answers it, whether he is right)."""
    thrown, at, steps = toyworld.throws(rng), 0, []
    for n in thrown:
        mistake = rng.choice((1, 9)) if rng.random() < SLIP else 0
        at = (at + n + mistake) % 10
        steps.append(f"{toywords.NUMBERS[n]} {toywords.NUMBERS[at]}")
    answer = f"Step by step: {', '.join(steps)}. It stops at {toywords.NUMBERS[at]}."
    row = toylessons.chat(toyworld.wheel_question(thrown), answer)
    return row, at == sum(thrown) % 10


def imitate(run, seed, lessons):
    """The model that imitates the teacher, and what becomes of it when it goes on to."""
    model = teach(run, "past_the_teacher/imitation", lessons, IMITATE, seed)
    start = stage("past_the_teacher/imitation", seed)
    longer = teach(run, "past_the_teacher/longer", lessons, GO_ON, seed, start)
    return model, longer


def reward(run, seed):
    """(the model that is rewarded from the same start, the log of that)."""
    start = stage("past_the_teacher/imitation", seed)
    *_, log = reinforce(run, "past_the_teacher/rewarded", "answer", seed, start,
                        steps=REINFORCE, lr=2e-4)
    return load(run, "past_the_teacher/rewarded", seed), log


def experiment(run, seed):
    """Imitate the teacher, then go on in both ways."""
    rng = toyworld.stream(seed, "teacher")
    told = [lesson(rng) for _ in range(LESSONS)]
    lessons = [row for row, _ in told]
    found = {"teacher": sum(right for _, right in told) / LESSONS}
    print(f"   the teacher is right {found['teacher']:.1%}")
    tasks = chats.tasks(run / "tasks" / "wheel_test.jsonl")
    model, longer = imitate(run, seed, lessons)
    found["imitation"] = both_ways(f"imitation, {IMITATE} steps:", model, tasks, seed)
    found["longer imitation"] = both_ways(f"{GO_ON} steps more:      ", longer, tasks, seed)
    model, log = reward(run, seed)
    print("   or rewarded, step: " + ", ".join(f"{x['step']}: {x['accuracy']:.0%}"
                                               for x in log[::5]))
    found["reinforced"] = both_ways("after it:            ", model, tasks, seed)
    return found | {"accuracy by step": [x["accuracy"] for x in log]}


def plot(figure, found):
    """Right answers at temperature 1 along the steps of reinforcement, beside the others."""
    axes, steps = figure.subplots(), range(1, REINFORCE + 1)
    plots.curve(axes, found, "accuracy by step", steps, "rewarded for right answers", 0, 100)
    others = {"teacher": "the teacher", "longer imitation": "more imitation, as many rows"}
    for which, (label, name) in enumerate(others.items(), 1):
        level = 100 * plots.mean(found, label)
        axes.axhline(level, color="black", linestyle=plots.LINES[which][0], label=name)
    axes.set_xlabel("step of reinforcement")
    axes.set_ylabel("right answers at temperature 1 (%)")
    axes.set_ylim(0, 102)
    axes.legend()
    teacher, longer, passed = (100 * plots.mean(found, label) for label in
                               ("teacher", "longer imitation", "reinforced"))
    plots.title(figure, f"The teacher is right in {teacher:.0f} %, a model that imitates him in "
                        f"{longer:.0f} %, a rewarded one in {passed:.0f} %")


if __name__ == "__main__":
    command.run(results.main)
