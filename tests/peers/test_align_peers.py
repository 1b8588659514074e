"""align.py beside TRL and cleanrl: their losses, and PyTorch's gradients, of the same tokens."""

from types import SimpleNamespace

import numpy as np
import pytest

import align
import bpe
import gpt
from chat import judges
from model import fast, folders, parallel

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


def theirs(folder, kind=transformers.GPT2LMHeadModel):
    model = kind.from_pretrained(folder, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    return model.eval()


def trainer_of(method, folder, tmp_path, row, settings, **more):
    """TRL's trainer of a method; row: one row of data, which only its constructor looks at."""
    args = getattr(trl, f"{method}Config")(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False,
        gradient_checkpointing=False, **settings)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|endoftext|>",
        eos_token="<|im_end|>")
    trainer = getattr(trl, f"{method}Trainer")(
        args=args, processing_class=tokenizer, train_dataset=datasets.Dataset.from_list([row] * B),
        **{"model": theirs(folder), **more})
    trainer.model.eval()
    return trainer


def compare(grads, model):
    """Our gradients of some tensors with theirs."""
    of = {name.removeprefix("transformer."): p.grad for name, p in model.named_parameters()}
    for name in ("wte.weight", "h.0.attn.c_attn.weight", "h.1.mlp.c_proj.bias", "ln_f.weight"):
        want = of[name].numpy()
        np.testing.assert_allclose(grads[name], want, atol=2e-5 * np.abs(want).max(), rtol=2e-3)


def rows():
    """(tokens, targets, mask) as align pads them; what was sampled stands behind the prompt."""
    targets = np.where(np.concatenate([np.zeros((B, P - 1)), MASK], 1) > 0, IDS[:, 1:], -1)
    return IDS[:, :-1], targets, (targets >= 0).astype(float)


@pytest.mark.parametrize("loss_type, how",
                         [("grpo", "replies"), ("dapo", "tokens"), ("dr_grpo", "constant")])
def test_grpo(folder, tmp_path, loss_type, how):
    """A step with fresh replies: its probability ratios are 1, so nothing is clipped."""
    settings = {"loss_type": loss_type, "beta": 0.0, "temperature": TAU,
                "max_completion_length": T, "per_device_train_batch_size": B, "num_generations": 2}
    trainer = trainer_of("GRPO", folder, tmp_path, {"prompt": "a"}, settings,
                         reward_funcs=[lambda **kw: 0.0])
    params = gpt.load(folder)[0]
    tokens, targets, mask = rows()
    # The mask has holes, as where a tool wrote: those tokens are attended to.
    inputs = {
        "prompt_ids": torch.tensor(IDS[:, :P]),
        "prompt_mask": torch.ones(B, P, dtype=torch.long),
        "completion_ids": torch.tensor(IDS[:, P:]),
        "completion_mask": torch.ones(B, T, dtype=torch.long),
        "tool_mask": torch.tensor(MASK),
        "advantages": torch.tensor(ADVANTAGE, dtype=torch.float32),
        "old_per_token_logps": None,
        "ref_per_token_logps": None,
        "num_items_in_batch": torch.tensor(MASK.sum()),
    }
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    weights = align.policy_weights(align.normaliser(mask, how, T), ADVANTAGE)
    assert -weights.sum() == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)     # all ratios are 1
    _, grads = fast.loss_and_grads(params, CFG, tokens, targets, weights, temperature=TAU)
    compare(grads, trainer.model)


def test_dpo(folder, tmp_path):
    reference = theirs(folder)
    with torch.no_grad():
        for p in reference.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    settings = {"beta": 0.3, "per_device_train_batch_size": 2, "max_length": None}
    trainer = trainer_of("DPO", folder, tmp_path, row, settings, ref_model=reference)
    chosen_first = [0, 2, 1, 3]  # theirs: all chosen, then all rejected; ours in pairs
    completion = np.concatenate([np.zeros((B, P)), MASK], 1)[chosen_first]
    inputs = {"input_ids": torch.tensor(IDS[chosen_first]),
              "attention_mask": torch.ones(B, P + T, dtype=torch.long),
              "completion_mask": torch.tensor(completion).long()}
    loss = trainer._compute_loss(trainer.model, inputs, False)
    loss.backward()
    params, tokens, targets, mask = gpt.load(folder)[0], *rows()
    ref_params = {name.removeprefix("transformer."): p.detach().numpy()
                  for name, p in reference.named_parameters()}
    l, l_ref = (-fast.token_losses(p, CFG, tokens, targets) for p in (params, ref_params))
    ours, w = align.dpo_weights(l, l_ref, mask, 0.3)
    assert ours == pytest.approx(loss.item(), rel=1e-4)
    compare(fast.loss_and_grads(params, CFG, tokens, targets, w)[1], trainer.model)


def test_reward_model(folder, tmp_path):
    """Our reward model opens as a GPT2ForSequenceClassification that gives the same rewards.

    TRL's loss and gradients on it are ours.
    """
    params = gpt.load(folder)[0]
    params["score.weight"] = RNG.standard_normal(CFG.n_embd).astype(np.float32)
    folders.save_config(tmp_path, CFG)
    TOK.save(tmp_path / "tokenizer.json")
    judges.save(tmp_path, params, CFG, 0.0)
    model = theirs(tmp_path, transformers.GPT2ForSequenceClassification)
    model.config.pad_token_id = TOK.eot_token
    lengths = [9, 5, 7, 9]
    conversations = [IDS[r, :n].tolist() for r, n in enumerate(lengths)]
    order = [0, 2, 1, 3]
    padded = np.full((B, P + T), TOK.eot_token)
    for r, ids in enumerate(conversations):
        padded[r, :len(ids)] = ids
    inputs = {"input_ids": torch.tensor(padded[order]),
              "attention_mask": torch.tensor(padded[order] != TOK.eot_token).long()}
    settings = {"center_rewards_coefficient": 0.05, "per_device_train_batch_size": 2}
    row = {"chosen": "a", "rejected": "b"}
    trainer = trainer_of("Reward", tmp_path, tmp_path / "out", row, settings, model=model)
    loss, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
    loss.backward()
    ours = judges.score(judges.load(tmp_path), conversations)[order]
    np.testing.assert_allclose(ours, outputs.logits[:, 0].detach().numpy(), atol=2e-5)
    scores, prompts = np.array([1, 0, 1, 0]), np.array([0, 0, 1, 1])
    grads = parallel.Gradients(params, CFG)
    ours, *_ = judges.add_gradient(SimpleNamespace(gradients=grads), conversations,
                                   lambda r: align.preferences(r, scores, prompts, 0.05))
    assert ours == pytest.approx(loss.item(), rel=1e-4)
    compare(grads.sum, trainer.model)
    want = trainer.model.score.weight.grad[0].numpy()
    np.testing.assert_allclose(grads.sum["score.weight"], want, rtol=1e-3, atol=1e-6)


def test_cleanrl():
    """The policy loss of its ppo.py, as autograd differentiates it, before the policy has moved."""
    rng, n, low = np.random.default_rng(3), 64, 0.2
    logits = torch.tensor(rng.standard_normal((n, 7)), requires_grad=True)
    actions, advantage = torch.tensor(rng.integers(0, 7, n)), rng.standard_normal(n)
    l = torch.distributions.Categorical(logits=logits).log_prob(actions)
    l.retain_grad()
    A, ratio = torch.tensor(advantage), (l - l.detach()).exp()
    torch.max(-A * ratio, -A * torch.clamp(ratio, 1 - low, 1 + low)).mean().backward()
    weights = align.policy_weights(np.full((n, 1), 1 / n), advantage)
    np.testing.assert_allclose(-weights[:, 0], l.grad.numpy(), atol=1e-12)
