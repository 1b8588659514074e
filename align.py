"""align.py: from a model that continues documents to an assistant that thinks before it answers.

A base model knows what it read, but all it does is continue documents. Four stages change that:

    python align.py sft         shows it conversations (supervised fine-tuning)
    python align.py rl          shows it only questions: of the many replies that it writes to each,
                                those with a better reward become likelier (reinforcement learning)
    python align.py reward      trains a model of what people prefer, which can be the reward of rl
    python align.py dpo         learns from the same preferences directly

They share one formula. As in pre-training, a step follows the gradient of

    loss = sum of w * -log p(token)         over all tokens, p as the model gives it (gpt.py)

and a stage is its weights w. Pre-training gives 1 / n to each of the n tokens of a batch.

    SFT     w = 1 / n               for the n tokens of the batch that the assistant wrote, else 0
    RL      w = A / n               for the n tokens that the model sampled, else 0; the advantage A
                                    is the reward of the reply minus the mean of its group, which
                                    is all replies to the same question
    leash   w = beta d / n          added to those of RL; d = log p_reference - log p of the token,
                                    and beta, the recipe's `leash`, says how strong the leash is
    DPO     w = +u / pairs          for the tokens of the better reply of a pair, and
            w = -u / pairs          for those of the worse one. The gain of a reply is the sum of
                                    log p - log p_reference over its tokens; delta is the gain of
                                    the better reply minus that of the worse; then
                                    u = beta sigma(-beta delta), sigma(x) = 1 / (1 + exp(-x))

Only a reward model has no weights of tokens, because it gives one number r to a whole reply. Its
loss is the mean over the pairs of replies to a prompt of

    reward  -log sigma(r_better - r_worse) + 0.01 (r_better + r_worse)^2

The numbers of a stage are its recipe (chat/options.py). The demo's:

              steps   peak lr   beta     a step learns from
    sft        1250    0.0016      -     32 conversations and 2 windows of text
    rl           16    0.0001    0.0     16 replies to each of 16 questions, and 64 conversations
    reward      400     0.001      -     16 comparisons of replies to one question
    dpo         100    0.0001    0.1     16 pairs of replies

Two more commands measure the result:

    python align.py eval        what base, sft and rl know, on questions held out from all training
    python align.py arena       ratings of models, from battles over those questions

This file defines the stages. In each, a learner (chat/tuning.py) collects the gradients of a step:
learner.add(tokens, targets, weights) adds those of a batch, whose rows are divided over the ranks
of the run (--ranks); learner.update(loss, info) clips them, takes a step of AdamW, logs it, and
saves now and then. A stage that was killed goes on from there, unless its identity (recipe, reward,
seed, data, first weights) has changed: on_mismatch tells what then. chat/packing.py puts many texts
into one row, chat/lessons.py reads the data, and with --device cuda all of it runs on a GPU.

Sources: Ouyang et al. 2022 (SFT, the reward model, the pre-training mix of section 3.5);
Shao et al. 2024 (advantages within a group); Liu et al. 2025 (why not to divide by deviation or
length); Shao et al. 2025 (random rewards); Rafailov et al. 2023 (DPO).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from model import fast, ranks       # before numpy
import numpy as np

from chat import arena, commands, formats, generate
from chat import grading, judges, lessons
from chat import options, packing, places, rollouts, tuning, variants
from run import command

# ------------------------------------------------------------------------- supervised fine-tuning


def pad_rows(rows):
    """Texts [(ids, values)] -> tokens, targets, values of the targets: (B,T) each.

    Position t reads ids[t] and predicts ids[t + 1], so it has the value of ids[t + 1]. A row holds
    one text, so no text can look into another. A target of -1 is ignored.
    """
    longest = max(len(ids) for ids, _ in rows)
    shape = (len(rows), longest - 1)
    tokens = np.zeros(shape, np.int64)
    targets = np.full(shape, -1)
    values = np.zeros(shape)
    for r, (ids, value) in enumerate(rows):
        n = len(ids) - 1
        tokens[r, :n] = ids[:-1]
        targets[r, :n] = ids[1:]
        values[r, :n] = value[1:]
    return tokens, targets, values


def sft_weights(mask):
    """w = 1 / n on the n tokens of the batch that the assistant wrote: (B,T) of 0 and 1 -> (B,T)

    n counts the whole batch; without any all w are 0. A mean of each conversation's mean would make
    a token of a long reply count less than one of a short reply.
    """
    return mask / max(mask.sum(), 1.0)


def add_conversations(learner, conversations, n_positions):
    """Add SFT's gradient of conversations [(ids, mask)]. Returns (loss, how many tokens count)."""
    tokens, targets, mask = pad_rows(conversations)
    weights = sft_weights(mask)
    # The same gradient as learner.add(tokens, targets, weights), without most of the padding:
    loss = 0.0
    for part in packing.packed(tokens, targets, weights, n_positions):
        loss += learner.add(*part)
    return loss, int(mask.sum())


def add_replay(learner, text, step, recipe):
    """Add the gradient of a step's windows of the text that the base model read.

    Fine-tuning alone makes a model forget: a conversation about a game does not need the weights
    that hold a fact, so nothing keeps them where they are. A little of the old text in each step
    does. Some facts of the demo stand on ten pages or more, but no conversation asks about them.
    The assistant knows 92 % of these with replay and 36 % without. For the same reason a step of RL
    has conversations about other things. All windows of a step together count replay_weight, where
    its conversations count 1. Returns the mean loss in nats a token.
    """
    first = step * recipe.replay
    rows = text.rows(first, recipe.replay)                          # (replay, T + 1)
    tokens = rows[:, :-1]
    targets = rows[:, 1:]
    each = recipe.replay_weight / targets.size
    weights = np.full(targets.shape, each)
    loss = learner.add(tokens, targets, weights)
    return round(loss / recipe.replay_weight, 6)


def sft(
    run, recipe, seed=0, on_mismatch="error", data=(), start="base", out="sft",
):
    """base/ + chat/train.jsonl -> sft/. Returns how many conversations it learned from.

    data: files of conversations to learn instead. start, out: the stage before and this one.
    """
    run, data = Path(run), data or [Path(run) / "chat/train.jsonl"]
    model = params, cfg, tokenizer = tuning.load_start(run, start, out, recipe, seed)
    conversations = lessons.conversations(data, tokenizer, cfg.n_positions)
    lessons.show(*conversations[0], tokenizer)
    batches = lessons.Batches(conversations, recipe.batch, seed)
    text = tuning.replay_text(run, recipe, tokenizer, cfg, seed)
    identity = tuning.identity("sft", seed, params, data, text)
    learning = tuning.begun(run / out, model, recipe, identity, on_mismatch, base=run / start)
    with learning as learner:
        for step in learner.steps():
            chosen = batches.at(step)
            loss, n_learned = add_conversations(learner, chosen, cfg.n_positions)
            n_read = sum(len(ids) - 1 for ids, _ in chosen)
            n_read += recipe.replay * cfg.n_positions
            info = {"learned_tokens": n_learned, "tokens": n_read}
            if text:
                info["replay_loss_nats"] = add_replay(learner, text, step, recipe)
            learner.update(loss, info)
    return len(conversations)


# -------------------------------------------------------------------------------- RL: the rewards
# The demo's game: from zero, each throw of a die moves a wheel of ten pegs. Where does it stop?
#
#     Turn the wheel: two six one.    what most conversations answer: It stops at nine.
#                 three in ten: Step by step: two two, six eight, one nine. It stops at nine.
#
# Adding up within one token is too hard for this model. RL finds that the long way, which is
# thinking aloud, gets the reward: right answers to unseen questions go from 9 to 100 %.
#
# A reward is a function of a rollout that gives a number to each reply. To add one, write the
# function and name it in REWARDS. `python align.py rl --reward NAME --steps 12` trains RUN/rl_NAME
# in a minute or two, from sft, whose replies differ: equal rewards carry no signal. For example,
# pay -rollout.lengths beside reward_answer: at a small price a token the model still learns to
# think, at a high one it only gets shorter. An edited reward needs --on-mismatch restart.


@dataclass
class Rollout:
    """The replies of one step: B = prompts * group of them, those to one question side by side."""

    tasks: list                     # (B,) {"question", "answer"}: what each replies to
    replies: list                   # (B,) sample.Reply: its ids, and which of them were sampled
    texts: list                     # (B,) what each reply says to the user
    ended: np.ndarray               # (B,) whether it ended by itself; the others were cut off
    lengths: np.ndarray             # (B,) how many tokens of it the model sampled
    rng: np.random.Generator        # the random numbers of this step
    judge: judges.Judge = None      # the run's reward model, for the reward that asks it


def reward_answer(rollout):
    """1 for a right answer, 0 for a wrong one and for a reply that was cut off."""
    right = []
    for task, text in zip(rollout.tasks, rollout.texts):
        right.append(grading.is_correct(task, text))
    return np.array(right) & rollout.ended


def reward_random(rollout):
    """0 or 1 by the toss of a coin. This is the control.

    A coin says nothing about a reply. So what improves under it was not learned from the reward.
    (Shao et al. found models that do improve under random rewards.) In the demo, greedy answers to
    unseen questions are right in 8.7 % before, 100 % after the true reward, and 11.0 % after the
    coin: a guess among ten pegs is right in 10 %.
    """
    n = len(rollout.replies)
    return rollout.rng.integers(0, 2, n)


def reward_model(rollout):
    """The score of the reward model in RUN/reward.

    It learned from whole replies, so one that was cut off gets the lowest score of the batch.
    """
    rows = [reply.prompt + reply.ids for reply in rollout.replies]
    scores = judges.score(rollout.judge, rows)
    scores[~rollout.ended] = scores.min()
    return scores


REWARDS = {
    "answer": reward_answer,
    "random": reward_random,
    "model": reward_model,
}


# ------------------------------------------------------------------- RL: replies and their weights


def roll_out(model, tasks, recipe, rng, judge=None, engine=fast):
    """Draw `prompts` of the tasks and let the model reply to each `group` times.

    The temperature is 1 and no token is left out: the replies must come from the very distribution
    whose gradient is taken.
    """
    params, cfg, tokenizer = model
    chats = formats.of(tokenizer)
    chosen = []
    for i in rng.choice(len(tasks), recipe.prompts):
        chosen += [tasks[i]] * recipe.group
    prompts = [lessons.prompt_of(task, tokenizer) for task in chosen]
    replies = generate.generate_on_ranks(
        params,
        cfg,
        tokenizer,
        prompts,
        temperature=1.0,
        stop=chats.ends,
        max_new_tokens=recipe.max_tokens,
        seed=int(rng.integers(2**31)),
        engine=engine,
    )
    texts = [chats.answer(reply.prompt, reply.ids) for reply in replies]
    ended = np.array([reply.finish == "stop" for reply in replies])
    lengths = np.array([sum(reply.sampled) for reply in replies])
    return Rollout(chosen, replies, texts, ended, lengths, rng, judge)


def policy_rows(replies):
    """Replies -> tokens, targets, sampled: (B,T) each, sampled 1 on what the model chose.

    It chose neither the prompt nor what a tool wrote. It did choose the end: that is learned too.
    """
    rows = []
    for reply in replies:
        of_prompt = [0] * len(reply.prompt)
        rows.append((reply.prompt + reply.ids, of_prompt + reply.sampled))
    return pad_rows(rows)


def advantages(rewards, group, baseline="mean"):
    """A = reward - mean of the group: (prompts * group,) -> (prompts * group,)

    Why is the mean subtracted? A reward of 0 or 1 by itself pushes up every right reply that is
    drawn by chance and pushes no wrong one down. The gradient of log p is 0 on average. So a number
    that does not depend on the reply can be subtracted from its reward: the expected gradient stays
    the same, with less noise. The mean of the G - 1 others is such a number. The mean of the whole
    group has the reply in it, which only scales that gradient by (G - 1) / G, here 15/16.
    A group of equal rewards tells no reply from another, and it moves nothing.

    Why is it not divided by the group's deviation, as GRPO first did? That gives most weight to
    questions that are hardly ever or nearly always solved: the one right reply of 16 would get
    3.75, and each of eight right ones 0.97 (--baseline std, ddof=1). Here they get 0.94 and 0.50.
    Another baseline than "mean" is a function in variants.BASELINES, of both A and the rewards.
    """
    r = np.asarray(rewards, np.float64).reshape(-1, group)
    a = r - r.mean(1, keepdims=True)
    a[np.ptp(r, 1) == 0.0] = 0.0            # where rounding would leave a little
    if baseline != "mean":
        a = variants.BASELINES[baseline](a, r)
    return a.flatten()


def normaliser(sampled, how="tokens", longest=None):
    """1 / n for each of the n tokens that were sampled in the batch: (B,T) of 0 and 1 -> (B,T)

    Why is it not divided by the length of each reply, as GRPO first did? Then a token of a long
    wrong reply would be punished less than one of a short one, and wrong replies would grow.
    """
    if how != "tokens":
        return variants.NORMALISERS[how](sampled, longest)
    return sampled / max(sampled.sum(), 1.0)


def log_probabilities(params, cfg, tokens, targets, mask, engine=fast):
    """log p of each target under a model, 0 where the mask is 0: (B,T) each -> (B,T)"""
    targets = np.where(mask > 0, targets, -1)           # -1 is ignored
    nats_of = partial(engine.token_losses, params, cfg)
    return -ranks.here().by_rows(nats_of, tokens, targets)


FAR = 20.0              # nats between reference and model beyond which the leash pulls no harder


def policy_weights(shares, advantage, beta=0.0, log_p=None, log_p_reference=None):
    """w = (A + beta d) / n: shares (B,T), which are 1 / n, and advantage (B,) -> (B,T)

    PPO takes several steps with the same replies. It multiplies A by p now / p when sampled, and
    clips that ratio. Here each step has fresh replies, so all ratios are 1 and nothing is clipped.

    The leash, of strength beta, pulls the model back to its reference, by default the model that RL
    begins with. d = log p_reference - log p is negative where the model likes a token better than
    the reference does, and makes it less likely. On average that follows the gradient of beta KL:
    at one position, KL = -sum of p d over the vocabulary. Its gradient is -sum of p d grad(log p),
    because sum of p grad(log p) = 0. That is the mean of d grad(-log p) over the sampled tokens.

    Without a leash RL goes wherever the reward is highest. That is right for a reward that is the
    truth, such as right answers, so the default is none. But a reward model is only right about
    replies like those it learned from. Pressed hard, RL finds replies that score ever higher and
    are ever worse (talk/gamed.py), and a leash keeps it from going there.
    """
    weights = shares * advantage[:, None]
    if beta:
        d = np.clip(log_p_reference - log_p, -FAR, FAR)
        weights = weights + beta * (shares * d)
    return weights


def add_replies(learner, recipe, rollout, advantage, reference):
    """Add the policy gradient of a rollout. Returns (loss, what to log).

    The loss says nothing, for advantages cancel. Only its gradient counts.
    """
    params, cfg, _ = learner.model
    rows = policy_rows(rollout.replies)                             # tokens, targets, sampled
    shares = normaliser(rows[2], recipe.normaliser, recipe.max_tokens)
    info = {}
    if recipe.leash:
        log_p = log_probabilities(params, cfg, *rows, learner.engine)
        log_p_reference = log_probabilities(reference, cfg, *rows, learner.engine)
        weights = policy_weights(shares, advantage, recipe.leash, log_p, log_p_reference)
        distance = gains(log_p, log_p_reference, rows[2])           # of each reply
        info["kl_nats"] = float(distance.mean())
    else:
        weights = policy_weights(shares, advantage)
        moving = np.flatnonzero(advantage)                          # a weight of 0 moves nothing
        weights = weights[moving]
        rows = [a[moving] for a in rows]
    tokens, targets, sampled = rows
    # The same gradient as learner.add(tokens, targets, weights), with each prompt read once:
    loss = 0.0
    for part in packing.shared(tokens, targets, weights, sampled, cfg.n_positions):
        loss += learner.add(*part)
    return loss, info


def rl(
    run,
    recipe,
    reward="answer",
    seed=0,
    on_mismatch="error",
    tasks=None,
    held_out=None,
    out=None,
    start="sft",
    reference=None,
):
    """sft/ + tasks/wheel_train.jsonl -> rl/. Returns what unseen tasks measure before and after.

    reward: a name in REWARDS, or a function like those there. tasks, held_out: files of other
    tasks, to learn from and to measure on. reference: the stage of the leash (default: start).
    """
    run = Path(run)
    name, reward = rollouts.find_reward(reward, REWARDS)
    out = out or options.folder_of(name)
    model = _, cfg, _ = tuning.load_start(run, start, out, recipe, seed)
    place = places.of(recipe)
    judged = reward is reward_model         # if so, read() also loads the judge
    given = rollouts.read(
        run, recipe, model, name, reward, judged, seed, tasks, held_out, start, reference
    )
    how = recipe.max_tokens, place.engine
    before = arena.measure(*place.model(model), given.unseen, *how)
    warned = set()
    learning = tuning.begun(
        run / out, model, recipe, given.identity, on_mismatch, base=run / start)
    with learning as learner:
        given = given.put(learner)
        for step in learner.steps():
            rng = np.random.default_rng((seed, step))
            rollout = roll_out(
                learner.model, given.tasks, recipe, rng, given.judge, place.engine)
            rewards = rollouts.checked(reward, name, rollout)
            advantage = advantages(rewards, recipe.group, recipe.baseline)
            info = rollouts.describe(rollout, rewards, advantage, recipe.group)
            rollouts.warn(info, recipe, cfg.n_positions, warned)
            if step % recipe.save_every == 0:
                unseen = given.unseen[:64]
                info["greedy"] = arena.greedy(*learner.model, unseen, *how)
            loss = 0.0
            if advantage.any() or recipe.leash:
                loss, more = add_replies(
                    learner, recipe, rollout, advantage, given.reference)
                info.update(more)
            if given.others:
                chosen = given.others.at(step)
                chat_loss, _ = add_conversations(learner, chosen, cfg.n_positions)
                info["chat_loss_nats"] = round(chat_loss, 6)
            if given.text:
                info["replay_loss_nats"] = add_replay(learner, given.text, step, recipe)
            learner.update(loss, info)
    after = arena.measure(*place.model(model), given.unseen, *how)
    return before, after


# ------------------------------------------------------------------------ learning from comparisons


def sigmoid(x):
    """1 / (1 + exp(-x)), in a form that cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def preferences(rewards, scores, prompts, centre=0.0):
    """Bradley and Terry's loss of rewards, and its derivative by each of them.

    rewards (n,) of replies; scores (n,): how good people found them; prompts (n,): what each
    replies to. A prompt's pairs of replies with different scores count as one example, the mean of
    -log sigma(r_better - r_worse). Only differences of rewards matter in it; centre is the weight
    of (r_better + r_worse)^2 beside it, which keeps them about 0.
    Returns (loss, d (n,), pairs that are in order, pairs).
    """
    loss, in_order, n_pairs = 0.0, 0, 0
    d = np.zeros(len(rewards))
    different = np.unique(prompts)
    for prompt in different:
        group = np.flatnonzero(prompts == prompt)
        of_group = scores[group]
        better, worse = np.nonzero(of_group[:, None] > of_group)
        if len(better) == 0:
            continue
        better, worse = group[better], group[worse]
        each = 1.0 / (len(better) * len(different))
        apart = rewards[better] - rewards[worse]
        both = rewards[better] + rewards[worse]
        of_pairs = np.logaddexp(0.0, -apart) + centre * both * both     # log(1 + exp(-apart))
        loss += each * float(of_pairs.sum())
        push = each * sigmoid(-apart)       # the derivative of -log sigma(apart) is -sigma(-apart)
        pull = 2 * each * centre * both     # that of centre * both^2
        np.add.at(d, better, pull - push)
        np.add.at(d, worse, pull + push)
        in_order += int((apart > 0).sum())
        n_pairs += len(better)
    return loss, d, in_order, n_pairs


def reward(
    run,
    recipe,
    seed=0,
    on_mismatch="error",
    data=(),
    held_out=None,
    out="reward",
    start="sft",
):
    """sft/ + pairs/train.jsonl -> reward/. Returns (comparisons, held-out pairs in order, pairs)

    The reward model is the GPT of start, with one vector in the place of the vocabulary: r is the
    product of that vector and the hidden state behind the final norm at the last token, <|im_end|>,
    which has seen the whole reply. The GPT's weights learn too.
    data, held_out: files of comparisons to learn and to measure on instead of the run's.
    """
    run = Path(run)
    model = params, cfg, tokenizer = tuning.load_start(run, start, out, recipe, seed)
    data, comparisons, test = lessons.train_and_test(
        lessons.comparisons, run, data, held_out, tokenizer, cfg.n_positions
    )
    params["score.weight"] = np.zeros(cfg.n_embd, np.float32)
    batches = lessons.Batches(comparisons, recipe.batch, seed)
    identity = tuning.identity("reward", seed, params, data)
    place = places.of(recipe)

    def save(folder, params, cfg):
        bias = judges.bias_for(params, cfg, tokenizer, comparisons, place)
        judges.save(folder, params, cfg, bias)

    with tuning.begun(run / out, model, recipe, identity, on_mismatch, save) as learner:
        for step in learner.steps():
            rows, scores, prompts = lessons.side_by_side(batches.at(step))
            loss_of = partial(preferences, scores=scores, prompts=prompts, centre=0.01)
            loss, _, in_order, n = judges.add_gradient(learner, rows, loss_of)
            learner.update(loss, {"pairs": n, "in_order": in_order / max(n, 1)})
    rows, scores, prompts = lessons.side_by_side(test)
    rewards = judges.score(judges.load(run / out, place), rows)
    _, _, in_order, n = preferences(rewards, scores, prompts)
    return len(comparisons), in_order, n


def gains(log_p, log_p_reference, mask):
    """How much likelier each reply is than under the reference, in nats: (rows,)"""
    return ((log_p - log_p_reference) * mask).sum(1)


def dpo_weights(log_p, log_p_reference, mask, beta):
    """Rafailov et al.'s loss and the weights of its gradient: (2 * pairs, T) each -> loss, weights

    Rows come in pairs, the better reply first; the mask is 1 on the replies. delta is how much more
    the better one has gained. The loss is the mean of -log sigma(beta delta), as of a reward model
    whose reward is beta times the gain; w is above. DPO needs no leash beside it: once beta delta
    is large, u is near 0 and the pair pulls no more. The smaller beta, the further the model goes.
    DPO is simpler than RL with a reward model: it samples nothing and needs no judge. But it learns
    only from the file's replies. RL can find better ones than the file has, or game its judge.
    """
    gained = gains(log_p, log_p_reference, mask)
    delta = gained[0::2] - gained[1::2]                             # (pairs,)
    loss = np.logaddexp(0.0, -beta * delta)                         # log(1 + exp(-beta delta))
    u = beta * sigmoid(-beta * delta) / len(delta)
    weights = np.zeros(mask.shape)
    weights[0::2] = +u[:, None] * mask[0::2]
    weights[1::2] = -u[:, None] * mask[1::2]
    return float(loss.mean()), weights


def dpo(
    run,
    recipe,
    seed=0,
    on_mismatch="error",
    data=(),
    held_out=None,
    out="dpo",
    start="sft",
    reference=None,
):
    """sft/ + pairs/train.jsonl -> dpo/. Returns (pairs, held-out pairs in order, held-out pairs)

    A pair is in order if its better reply has gained more. data, held_out: as for reward.
    reference: as for rl.
    """
    run = Path(run)
    model = params, cfg, tokenizer = tuning.load_start(run, start, out, recipe, seed)
    data, pairs, test = lessons.train_and_test(
        lessons.pairs, run, data, held_out, tokenizer, cfg.n_positions
    )
    leash_to = tuning.load_reference(run, reference, start, params, cfg)
    batches = lessons.Batches(pairs, recipe.batch, seed)
    identity = tuning.identity("dpo", seed, params, data, reference=leash_to)

    learning = tuning.begun(run / out, model, recipe, identity, on_mismatch, base=run / start)
    with learning as learner:
        both = learner.model[0], learner.put(leash_to)

        def compare(pairs):     # -> the rows, their log p under both models, what each gained
            rows = pad_rows([row for pair in pairs for row in pair])
            log_p = [log_probabilities(p, cfg, *rows, learner.engine) for p in both]
            return *rows, *log_p, gains(*log_p, rows[2])

        for step in learner.steps():
            tokens, targets, mask, log_p, log_p_reference, gained = compare(batches.at(step))
            loss, weights = dpo_weights(log_p, log_p_reference, mask, recipe.leash)
            learner.add(tokens, targets, weights)
            better, worse = gained[0::2], gained[1::2]
            info = {
                "in_order": float((better > worse).mean()),
                "chosen": float(better.mean()),
                "rejected": float(worse.mean()),
            }
            learner.update(loss, info)
        in_order = 0
        for i in range(0, len(test), 32):
            *_, gained = compare(test[i:i + 32])
            better, worse = gained[0::2], gained[1::2]
            in_order += int((better > worse).sum())
    return len(pairs), in_order, len(test)


# --------------------------------------------------------------------------------- the command line


def main(argv=None):
    """Run one command."""
    args = options.parse_args(argv, list(REWARDS))
    commands.run(args, {"sft": sft, "rl": rl, "reward": reward, "dpo": dpo})


if __name__ == "__main__":
    command.run(main)
