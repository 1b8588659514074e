"""chat/objectives.py beside TRL and cleanrl: their losses and PyTorch's gradients, on the same model and the same tokens."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import align
import bpe
from model import fast
from model import folders
from model import fast
from model import folders
import gpt
from chat import objectives

transformers = pytest.importorskip("transformers", exc_type=ImportError)
torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

TOK = bpe.Tokenizer.train(["The goat is grey. The wheel is red. What is it?"] * 3, 300)
B, P, T, TAU = 4, 3, 6, 1.3
CFG = gpt.Config(TOK.n_vocab, P + T, 32, 2, 2)
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 250, (B, P + T))
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
ADVANTAGE = np.array([1.3, -0.7, 0.4, -1.1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    params = gpt.init(CFG, 1)
    for p in params.values():
        p += 0.1 * RNG.standard_normal(p.shape).astype(np.float32)
    gpt.save(folder, params, CFG)
    TOK.save(folder / "tokenizer.json")
    return folder


def theirs(folder, kind=None):
    return (kind or transformers.GPT2LMHeadModel).from_pretrained(folder, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0).eval()


def tokenizer(folder):
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|endoftext|>", eos_token="<|im_end|>")


def settings(tmp_path, **more):
    return {"output_dir": str(tmp_path), "report_to": [], "use_cpu": True, "bf16": False, "gradient_checkpointing": False, **more}


def compare(grads, model, names=("wte.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_proj.bias", "ln_f.weight")):
    of = {name.removeprefix("transformer."): p.grad for name, p in model.named_parameters()}
    for name in names:
        np.testing.assert_allclose(grads[name], of[name].numpy(), atol=2e-5 * np.abs(of[name].numpy()).max(), rtol=2e-3)


def rows():
    """(tokens, targets, mask) as align pads them; what was sampled stands behind the prompt."""
    targets = np.where(np.concatenate([np.zeros((B, P - 1)), MASK], 1) > 0, IDS[:, 1:], -1)
    return IDS[:, :-1], targets, (targets >= 0).astype(float)


@pytest.mark.parametrize("loss_type, beta", [("grpo", 0.0), ("dapo", 0.0), ("dr_grpo", 0.0), ("dapo", 0.3), ("cispo", 0.0), ("two sides", 0.0)])
def test_grpo(folder, tmp_path, loss_type, beta):
    delta = 1.4 if loss_type == "two sides" else None
    name = "dapo" if delta else loss_type
    args = trl.GRPOConfig(**settings(tmp_path, loss_type=name, beta=beta, epsilon=0.2, epsilon_high=5.0 if name == "cispo" else 0.28, delta=delta, use_bias_correction_kl=False,
                                     temperature=TAU, max_completion_length=T, per_device_train_batch_size=B, num_generations=2))
    trainer = trl.GRPOTrainer(model=theirs(folder), reward_funcs=[lambda **kw: 0.0], args=args, processing_class=tokenizer(folder),
                              train_dataset=datasets.Dataset.from_list([{"prompt": "a"}] * B))
    trainer.model.eval()
    params = gpt.load(folder)[0]
    tokens, targets, mask = rows()
    l = -fast.token_losses(params, CFG, tokens, targets, temperature=TAU)
    l_old, l_ref = (np.where(mask > 0, l + 0.4 * RNG.standard_normal(l.shape), 0.0) for _ in "or")
    as_theirs = lambda x: torch.tensor(x[:, P - 1:], dtype=torch.float32)  # noqa: E731
    # The mask has holes, as where a tool wrote: those tokens are attended to.
    inputs = {"prompt_ids": torch.tensor(IDS[:, :P]), "prompt_mask": torch.ones(B, P, dtype=torch.long), "completion_ids": torch.tensor(IDS[:, P:]),
              "completion_mask": torch.ones(B, T, dtype=torch.long), "tool_mask": torch.tensor(MASK), "advantages": torch.tensor(ADVANTAGE, dtype=torch.float32), "old_per_token_logps": as_theirs(l_old),
              "ref_per_token_logps": as_theirs(l_ref), "num_items_in_batch": torch.tensor(MASK.sum())}
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    counts = objectives.normaliser(mask, {"grpo": "replies", "dr_grpo": "constant"}.get(name, "tokens"), T)
    if name == "cispo":
        ours, w = objectives.cispo(l, l_old, counts, ADVANTAGE, 5.0)
    else:
        ours, w = objectives.clipped(l, l_old, counts, ADVANTAGE, 0.2, 0.28, delta)
    kl, w_kl = objectives.kl_estimate(l, l_ref, counts, "k3")
    assert ours + beta * kl == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    compare(fast.loss_and_grads(params, CFG, tokens, targets, w + beta * w_kl, temperature=TAU)[1], trainer.model)


def test_dpo(folder, tmp_path):
    args = trl.DPOConfig(**settings(tmp_path, beta=0.3, per_device_train_batch_size=2, max_length=None))
    reference = theirs(folder)
    with torch.no_grad():
        for p in reference.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    trainer = trl.DPOTrainer(model=theirs(folder), ref_model=reference, args=args, processing_class=tokenizer(folder),
                             train_dataset=datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2))
    trainer.model.eval()
    chosen_first = [0, 2, 1, 3]                             # theirs: all chosen, then all rejected; ours in pairs
    completion = np.concatenate([np.zeros((B, P)), MASK], 1)[chosen_first]
    inputs = {"input_ids": torch.tensor(IDS[chosen_first]), "attention_mask": torch.ones(B, P + T, dtype=torch.long), "completion_mask": torch.tensor(completion).long()}
    loss = trainer._compute_loss(trainer.model, inputs, False)
    loss.backward()
    params, tokens, targets, mask = gpt.load(folder)[0], *rows()
    ref_params = {name.removeprefix("transformer."): p.detach().numpy() for name, p in reference.named_parameters()}
    l, l_ref = (-fast.token_losses(p, CFG, tokens, targets) for p in (params, ref_params))
    ours, w = objectives.dpo(l, l_ref, mask, 0.3)
    assert ours == pytest.approx(loss.item(), rel=1e-4)
    compare(fast.loss_and_grads(params, CFG, tokens, targets, w)[1], trainer.model)


def test_reward_model(folder, tmp_path):
    """Our reward model opens as a GPT2ForSequenceClassification that gives the same rewards; TRL's loss and gradients on it are ours."""
    params = gpt.load(folder)[0]
    params["score.weight"] = RNG.standard_normal(CFG.n_embd).astype(np.float32)
    folders.save_config(tmp_path, CFG)
    TOK.save(tmp_path / "tokenizer.json")
    align.save_reward(tmp_path, params, CFG, 0.0)
    model = theirs(tmp_path, transformers.GPT2ForSequenceClassification)
    model.config.pad_token_id = TOK.eot_token
    lengths = [9, 5, 7, 9]
    conversations = [IDS[r, :n].tolist() for r, n in enumerate(lengths)]
    order = [0, 2, 1, 3]
    padded = np.full((B, P + T), TOK.eot_token)
    for r, ids in enumerate(conversations):
        padded[r, :len(ids)] = ids
    inputs = {"input_ids": torch.tensor(padded[order]), "attention_mask": torch.tensor(padded[order] != TOK.eot_token).long(), "margin": torch.full((2,), 0.2)}
    args = trl.RewardConfig(**settings(tmp_path / "out", center_rewards_coefficient=0.05, per_device_train_batch_size=2))
    trainer = trl.RewardTrainer(model=model, args=args, processing_class=tokenizer(tmp_path),
                                train_dataset=datasets.Dataset.from_list([{"chosen": "a", "rejected": "b"}] * 2))
    trainer.model.eval()
    loss, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
    loss.backward()
    judge = align.load_reward(tmp_path)
    np.testing.assert_allclose(align.score(judge, conversations)[order], outputs.logits[:, 0].detach().numpy(), atol=2e-5)
    scores, prompts = np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])

    class Sum:
        sum, begun, arena = {k: np.zeros_like(p) for k, p in params.items()}, False, None

    ours, *_ = align.score_rows(params, CFG, conversations, Sum, lambda r: objectives.preferences(r, scores, prompts, 0.2, 0.05))
    assert ours == pytest.approx(loss.item(), rel=1e-4)
    compare(Sum.sum, trainer.model)
    np.testing.assert_allclose(Sum.sum["score.weight"], trainer.model.score.weight.grad[0].numpy(), rtol=1e-3, atol=1e-6)


def test_cleanrl():
    """The losses of its ppo.py, as autograd differentiates them, with logits of which each line makes log-probabilities, and its returns."""
    rng, n, low = np.random.default_rng(3), 64, 0.2
    logits = torch.tensor(rng.standard_normal((n, 7)), requires_grad=True)
    actions, old, advantage = torch.tensor(rng.integers(0, 7, n)), rng.standard_normal(n), rng.standard_normal(n)
    policy = torch.distributions.Categorical(logits=logits)
    l = policy.log_prob(actions)
    l.retain_grad()
    before = l.detach() + 0.3 * torch.tensor(old)
    A, ratio = torch.tensor(advantage), (l - before).exp()
    loss = torch.max(-A * ratio, -A * torch.clamp(ratio, 1 - low, 1 + low)).mean()
    loss.backward(retain_graph=True)
    ours, weights = objectives.clipped(l.detach().numpy()[:, None], before.numpy()[:, None], np.full((n, 1), 1 / n), advantage, low, low)
    np.testing.assert_allclose(ours, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(-weights[:, 0], l.grad.numpy(), atol=1e-12)
    k3 = ((ratio - 1) - (l - before)).mean().item()         # its approx_kl, of the new policy from the old
    np.testing.assert_allclose(objectives.kl_estimate(before.numpy(), l.detach().numpy(), np.full(n, 1 / n), "k3")[0], k3, rtol=1e-12)

    v, v_old, returns = torch.tensor(rng.standard_normal(n), requires_grad=True), torch.tensor(rng.standard_normal(n)), torch.tensor(rng.standard_normal(n))
    kept = v_old + torch.clamp(v - v_old, -low, low)
    loss = 0.5 * torch.max((v - returns) ** 2, (kept - returns) ** 2).mean()
    loss.backward()
    ours, dv = objectives.value_loss(v.detach().numpy(), returns.numpy(), np.full(n, 1 / n), v_old.numpy(), low)
    np.testing.assert_allclose(ours, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(dv, v.grad.numpy(), atol=1e-12)

    rewards, values, T = rng.standard_normal(9), rng.standard_normal(9), 9
    want, later = np.zeros(T), 0.0
    for t in reversed(range(T)):                            # an episode that ends with its last step
        going_on, value = (0.0, 0.0) if t == T - 1 else (1.0, values[t + 1])
        later = rewards[t] + 0.99 * value * going_on - values[t] + 0.99 * 0.95 * going_on * later
        want[t] = later
    np.testing.assert_allclose(objectives.gae(rewards[None], values[None], np.ones((1, T)), 0.99, 0.95)[0][0], want, rtol=1e-12)
