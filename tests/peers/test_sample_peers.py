"""sample.py beside transformers: what penalties, temperature, top-k, top-p and min-p leave."""

import numpy as np
import pytest
import torch
import transformers

import sample

processors = transformers.generation.logits_process


def theirs(z, ids, temperature, top_k, top_p, min_p, penalty):
    """Probabilities of one row, (V,), by the processors in the order of transformers."""
    steps = [processors.RepetitionPenaltyLogitsProcessor(penalty),
             processors.TemperatureLogitsWarper(temperature)]
    if top_k:
        steps.append(processors.TopKLogitsWarper(top_k))
    steps.append(processors.TopPLogitsWarper(top_p))
    if min_p:
        steps.append(processors.MinPLogitsWarper(min_p))
    left = processors.LogitsProcessorList(steps)(torch.tensor([ids]), torch.tensor(z[None]))
    return left.softmax(-1)[0].numpy()


def test_probabilities_are_theirs():
    rng, kept = np.random.default_rng(0), []
    for _ in range(500):
        V = int(rng.integers(5, 300))
        z, ids = rng.standard_normal(V) * rng.choice([0.5, 2.0, 6.0]), rng.integers(0, V, 20)
        drawn = {
            "temperature": float(rng.uniform(0.2, 2)),
            "top_k": int(rng.choice([0, 1, 5, 40])),
            "top_p": float(rng.choice([1.0, 0.95, 0.5, 0.1])),
            "min_p": float(rng.choice([0, 0.01, 0.2, 0.9])),
        }
        penalty = float(rng.choice([1.0, 1.3, 0.7]))
        settings = sample.Settings(repetition_penalty=penalty)
        penalised = sample.penalise(z, ids.tolist(), [], settings)
        ours = sample.probabilities(penalised, **drawn)
        want = theirs(z, ids.tolist(), **drawn, penalty=penalty)
        np.testing.assert_allclose(ours, want, rtol=1e-9, atol=1e-15)
        kept.append((ours > 0).mean())
    assert min(kept) < 0.02 and max(kept) == 1.0


def test_presence_and_frequency_as_openai_defines_them():
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence; c counts what was written."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        z, counts = rng.standard_normal(50), rng.integers(0, 3, 50)
        frequency, presence = rng.uniform(-2, 2, 2)
        settings = sample.Settings(presence_penalty=presence, frequency_penalty=frequency)
        want = [z[j] - counts[j] * frequency - (counts[j] > 0) * presence for j in range(50)]
        written = np.repeat(np.arange(50), counts).tolist()
        settings = sample.Settings(presence_penalty=presence, frequency_penalty=frequency)
        got = sample.penalise(z, [], written, settings)
        assert got.tolist() == pytest.approx(want)
