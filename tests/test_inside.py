"""chat/inside.py: what it shows is what the model does."""

import dataclasses

import numpy as np
import pytest

import bpe
from model import bfloat16, checkpoint, fast, folders, llama
import gpt
from chat import generate, inside
import sample
from conftest import at_a_terminal, run_script
from test_llama import random_params

TOK = bpe.Tokenizer.train(["the lamp is lit, said the goat. user assistant"] * 4, 320)
CFG = gpt.Config(TOK.n_vocab, 48, 32, 3, 4)
PARAMS = gpt.init(CFG, 0)
for _p in PARAMS.values():
    _p += np.random.default_rng(5).standard_normal(_p.shape).astype(np.float32) * 0.1


def test_the_last_layer_says_what_the_model_says():
    ids = TOK.encode_ordinary("the lamp is lit, said the goat")
    seen, lens = inside.look(PARAMS, CFG, ids)
    np.testing.assert_allclose(
        lens[-1], fast.forward(PARAMS, CFG, np.array([ids]))[0][0], atol=1e-4
    )
    assert seen.shape == (3, 4, len(ids), len(ids)) and lens.shape == (4, len(ids), CFG.vocab_size)
    np.testing.assert_allclose(seen.sum(-1), 1, atol=1e-5)
    assert not seen[:, :, np.triu(np.ones(seen.shape[2:], bool), 1)].any()


@pytest.mark.parametrize("name", llama.EXAMPLES)
def test_llamas_too(name):
    """Attention and the lens are those of a walk that stops after each layer."""
    cfg = llama.EXAMPLES[name]
    params, ids = random_params(cfg), [1, 2, 3, 4, 5]
    seen, lens = inside.look(params, cfg, ids)
    assert seen.shape == (cfg.n_layer, cfg.n_head, 5, 5)
    np.testing.assert_allclose(seen.sum(-1), 1)
    for n_layer in range(1, cfg.n_layer + 1):
        shorter = dataclasses.replace(cfg, n_layer=n_layer)
        want, _ = llama.forward(params, shorter, np.array([ids]))
        np.testing.assert_allclose(lens[n_layer], want[0], atol=1e-12)
    first, _ = llama.rmsnorm_forward(params["wte.weight"][ids], params["ln_f.weight"], cfg.norm_eps)
    np.testing.assert_allclose(lens[0], first @ llama.head_matrix(params).T, atol=1e-12)


def test_layers_that_add_nothing_change_nothing():
    """A model whose second layer writes nothing into the stream says the same before and after
    it."""
    params = {
        k: (0 * p if k.startswith("h.1.") and "c_proj" in k else p) for k, p in PARAMS.items()
    }
    _, lens = inside.look(params, CFG, [1, 2, 3])
    np.testing.assert_array_equal(lens[1], lens[2])
    assert np.abs(lens[2] - lens[3]).max() > 0.1


def test_what_the_page_shows():
    ids = TOK.encode_ordinary("the lamp")
    found = inside.describe((PARAMS, CFG, TOK), ids, n=5, temperature=0.5, top_p=0.5)
    p = generate.probabilities(
        fast.forward(PARAMS, CFG, np.array([ids]))[0][0].astype(float)[:, : TOK.n_vocab]
    )
    assert "".join(found["pieces"]) == "the lamp" and found["surprise"][0] is None
    for t, row in enumerate(found["next"]):
        assert (
            [i for i, *_ in row] == np.argsort(-p[t], kind="stable")[:5].tolist()
            and row[0][2] == pytest.approx(p[t].max(), abs=1e-4)
            and row[0][3] >= row[0][2]
        )
    assert found["surprise"][1] == pytest.approx(-np.log(p[0, ids[1]]), abs=2e-3)
    assert [row[0][0] for row in found["lens"][-1]] == p.argmax(-1).tolist() and len(
        found["lens"]
    ) == 4


def test_ids_of_a_text_and_back():
    """With special tokens, a text that begins with one begins with nothing else."""
    start = TOK.special_tokens["<|im_start|>"]
    begin = TOK.special_tokens["<|endoftext|>"]
    plain = inside.ids_of(TOK, "<|im_start|>user")
    assert plain == [begin, *TOK.encode_ordinary("<|im_start|>user")]
    assert inside.ids_of(TOK, "<|im_start|>user", True) == [start, *TOK.encode_ordinary("user")]
    assert inside.ids_of(TOK, "a<|im_start|>", True) == [begin, *TOK.encode_ordinary("a"), start]
    assert inside.ids_of(TOK, "", True) == [begin]
    for text in ("", "the lamp", "<|im_start|>user", "a<|im_end|>b", "<|endoftext|>",
                 "<|endoftext|><|im_end|>", "<|endoftext|>the lamp"):
        ids = inside.ids_of(TOK, text, True)
        assert inside.ids_of(TOK, inside.text_of(TOK, ids), True) == ids
    assert inside.text_of(TOK, inside.ids_of(TOK, "the lamp")) == "the lamp"
    assert inside.text_of(TOK, [start, 97]) == "<|im_start|>a"
    assert inside.text_of(TOK, []) == ""


def test_parts_of_a_text():
    """Together they are the text; a character comes with its last token, broken ones are marked."""
    for text in ("the \u0115 lamp", "\u0115", "<|endoftext|>a", "<|im_start|>\U0001f600"):
        ids = inside.ids_of(TOK, text, True)
        assert "".join(inside.parts_of(TOK, ids)) == inside.text_of(TOK, ids)
        assert inside.text_of(TOK, ids) == text.removeprefix("<|endoftext|>")
    begin = TOK.eot_token
    assert inside.parts_of(TOK, [begin, 0xc4, 0x95, 97]) == ["", "", "\u0115", "a"]
    assert inside.parts_of(TOK, [97, 0xc4]) == ["a", "\ufffd"]
    assert inside.parts_of(TOK, [0xc4, 97]) == ["", "\ufffda"]


def test_parts_of_characters_are_spelled():
    found = inside.describe((PARAMS, CFG, TOK), TOK.encode_ordinary("\u0115"), n=CFG.vocab_size)
    assert found["pieces"] == ["\\xc4", "\\x95"] and found["text"] == "\u0115"
    texts = {i: text for i, text, *_ in found["next"][0]}
    assert texts[0xe4] == "\\xe4" and len(set(texts.values())) == TOK.n_vocab


def test_two_predictions_side_by_side():
    rng = np.random.default_rng(0)
    first, second = rng.dirichlet(np.ones(TOK.n_vocab) / 50, (2, 3))
    ids = [5, 6, 7]
    found = inside.side_by_side(TOK, first, second, ids, n=4)
    for t in range(3):
        row = found["next"][t]
        most = np.maximum(first[t], second[t])
        assert [i for i, *_ in row] == np.argsort(-most, kind="stable")[:4].tolist()
        for i, text, p, q in row:
            assert (p, q) == pytest.approx((first[t, i], second[t, i]), abs=1e-5)
            assert text == inside.spelled(TOK, i)
        left = np.minimum(first[t], second[t]).sum()            # what both give to the same tokens
        assert found["moved"][t] == pytest.approx(1 - left, abs=1e-4)
    for p, surprise in zip((first, second), found["surprise"]):
        assert surprise[0] is None
        assert surprise[2] == pytest.approx(-np.log(max(p[1, 7], 1e-30)), abs=1e-3)


def test_changes_from_the_command_line(tmp_path, capsys):
    """What is off and what is patched shows, in 80 columns; what cannot be is said."""
    gpt.save(tmp_path, PARAMS, CFG)
    TOK.save(tmp_path / "tokenizer.json")

    def shown(*options):
        inside.main([*options, "--model", str(tmp_path)])
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        return out

    assert "  0.0%" not in shown("the lamp", "--off", "1.3", "--off", "mlp2")
    same = shown("the lamp", "--patch", "1.1", "--other", "the lamp")
    assert same.count("  0.0%") == len(TOK.encode_ordinary("the lamp")) + 1
    other = shown("the goat", "--off", "1.1")
    patched = shown("the lamp", "--patch", "layer3", "--other", "the goat")
    last = "after the last token"
    before = [line[:32] for line in other.partition(last)[2].splitlines()]
    after = [line[:24] + line[32:] for line in patched.partition(last)[2].splitlines()]
    assert set(before[1:4]) <= set(after)           # the likeliest are the goat's
    with pytest.raises(ValueError, match="belong together"):
        shown("the lamp", "--patch", "1.1")
    with pytest.raises(ValueError, match="belong together"):
        shown("the lamp", "--other", "the lamp")
    with pytest.raises(ValueError, match="as many"):
        shown("the lamp", "--patch", "1.1", "--other", "the")
    with pytest.raises(ValueError, match="no part of this model"):
        shown("the lamp", "--off", "9.9")


def test_from_the_command_line(tmp_path):
    gpt.save(tmp_path, PARAMS, CFG)
    TOK.save(tmp_path / "tokenizer.json")
    done = run_script("chat/inside.py", "the lamp", "--model", tmp_path)
    assert done.returncode == 0 and "layer 3" in done.stdout and "lamp" in done.stdout, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for columns in (80, 50):
        said = at_a_terminal(["-m", "chat.inside", "the lamp", "--model", tmp_path], columns)
        assert "layer 3" in said and max(map(len, said.splitlines())) < columns
    done = run_script("chat/inside.py", "<|im_start|>user", "--model", tmp_path)
    assert "'<|im_start|>'" in done.stdout  # one token, not its letters
    done = run_script("chat/inside.py", "lamp " * 60, "--model", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "48" in done.stderr


def test_a_model_that_stays_in_bfloat16(tmp_path, capsys):
    cfg = dataclasses.replace(llama.EXAMPLES["Llama"], vocab_size=TOK.n_vocab, n_positions=48)
    params = {name: bfloat16.narrow(p) for name, p in random_params(cfg).items()}
    folders.save_config(tmp_path, cfg)
    tensors = folders.in_files(params, cfg)
    checkpoint.save_safetensors(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    TOK.save(tmp_path / "tokenizer.json")
    for options in ([], ["--off", "1.2", "--patch", "mlp2", "--other", "the lamp"]):
        shown = []
        for dtype in ("float32", "bf16"):
            inside.main(["the lamp", "--model", str(tmp_path), "--dtype", dtype, *options])
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1] and " lamp" in shown[0]
