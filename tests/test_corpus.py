"""model/corpus.py: tokens of this project and of others, texts, windows at documents."""

import json

import bpe
import gpt
import numpy as np
import pytest
import train
from conftest import run_script
from model import corpus
from test_train import TEXT
from tokens.shards import write_shard

SMALL = ["--preset", "shakespeare", "--steps", "4", "--batch", "4"]


def test_tokens_of_another_tokenizer_are_refused(tmp_path):
    ours = bpe.Tokenizer.train([TEXT], 300)
    other = bpe.Tokenizer.train([TEXT[::-1]], 300)
    (tmp_path / "tokens").mkdir()
    ours.save(tmp_path / "tokenizer.json")
    for split in ("train", "val"):
        path = tmp_path / "tokens" / f"{split}_000000.bin"
        write_shard(path, other.encode_to_numpy(TEXT), other)
    done = run_script("train.py", "--run", tmp_path)
    assert done.returncode != 0 and len(done.stderr.strip().splitlines()) == 1
    assert "made by another tokenizer" in done.stderr and "bpe.py encode" in done.stderr
    assert not (tmp_path / "base").exists()


def test_windows_at_the_start_of_documents(capsys):
    shard = np.arange(1, 200)
    shard[[0, 30, 35, 90, 91, 150, 195]] = 0                # 0 begins a document
    windows = train.Windows([shard], 10, 0, document_start=0)
    rows = windows.rows(0, windows.per_epoch)
    # From 0, 30, 90 and 150. 35 and 91 are inside a window, 195 is too late.
    assert sorted(row[2] for row in rows) == [3, 33, 93, 153]
    assert (rows[:, 0] == 0).all() and rows.shape == (4, 11)
    assert "79.9% of the tokens are in none" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no document starts 100 tokens"):
        train.Windows([np.ones(300, int)], 100, 0, document_start=0)
    for tokenizer in (None, bpe.Tokenizer.characters("ab")):
        with pytest.raises(ValueError, match="--align-documents needs a tokenizer with"):
            corpus.start_token(tokenizer)


def test_short_shards_are_left_out(capsys):
    short, long = np.arange(9), np.arange(50)
    windows = train.Windows([short, long], 10, 0)
    assert windows.per_epoch == 4
    assert "1 of 2 shards are shorter than two windows" in capsys.readouterr().err


def test_shards_of_other_programs(tmp_path):
    ids = np.random.default_rng(0).integers(0, 60, 3000)
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, len(ids)
    for name in ("fineweb_train_000001.bin", "fineweb_val_000000.bin"):
        (tmp_path / name).write_bytes(header.tobytes() + ids.astype("<u2").tobytes())
    train_shards, val_shards = corpus.load_shards([tmp_path], raw=False)
    np.testing.assert_array_equal(train_shards[0], ids)
    assert len(train_shards) == len(val_shards) == 1
    raw = tmp_path / "nano"
    raw.mkdir()
    for name in ("train.bin", "val.bin"):
        (raw / name).write_bytes(ids.astype("<u2").tobytes())
    _, val_shards = corpus.load_shards([raw / "train.bin", raw / "val.bin"], raw=True)
    np.testing.assert_array_equal(val_shards[0], ids)
    with pytest.raises(ValueError, match="train.bin: magic .* is no token shard's"):
        corpus.load_shards([raw], raw=False)
    for bad in (b"abc", b""):
        (raw / "val.bin").write_bytes(bad)
        with pytest.raises(ValueError, match=f"val.bin: {len(bad)} bytes are no whole number"):
            corpus.load_shards([raw], raw=True)
    with pytest.raises(FileNotFoundError, match="no shard for val"):
        corpus.load_shards([raw / "train.bin"], raw=True)


def test_training_on_jsonl_on_shards_and_from_a_given_model(tmp_path):
    tok = bpe.Tokenizer.train([TEXT], 300)
    tok_path = str(tmp_path / "tokenizer.json")
    tok.save(tok_path)
    docs = tmp_path / "docs.jsonl"
    with open(docs, "w") as f:
        for i in range(0, len(TEXT), 300):
            f.write(json.dumps({"text": TEXT[i:i + 300], "id": i}) + "\n")
    train.main(["--data", str(docs), "--tokenizer", tok_path, "--run", str(tmp_path / "a"), *SMALL,
                "--align-documents"])
    params, cfg = gpt.load(tmp_path / "a/base")
    assert cfg.vocab_size == tok.n_vocab
    last = json.loads((tmp_path / "a/base/log.jsonl").read_text().splitlines()[-1])
    assert last["mfu"] is None and last["val_bits_per_byte"] > 0
    (tmp_path / "s").mkdir()
    for split in ("train", "val"):
        write_shard(tmp_path / "s" / f"{split}.bin", tok.encode_to_numpy(TEXT))
    # Without a tokenizer: the vocabulary of the preset or of the given model, no bits a byte.
    shards, init = ["--data", str(tmp_path / "s")], ["--init", str(tmp_path / "a/base")]
    train.main([*shards, "--run", str(tmp_path / "b"), *SMALL, *init, "--lr", "1e-12"])
    again, same = gpt.load(tmp_path / "b/base")
    assert same == cfg and all(np.allclose(again[k], params[k], atol=1e-6) for k in params)


def test_what_does_not_fit_together_is_refused(tmp_path):
    tok, small = bpe.Tokenizer.train([TEXT], 300), bpe.Tokenizer.characters(TEXT)
    small.save(tmp_path / "small.json")
    cfg = gpt.Config(tok.n_vocab, 8, 16, 1, 2)
    gpt.save(tmp_path / "base", gpt.init(cfg, 0), cfg)
    (tmp_path / "docs.jsonl").write_text(json.dumps({"text": TEXT}))
    (tmp_path / "s").mkdir()
    for split in ("train", "val"):
        write_shard(tmp_path / "s" / f"{split}.bin", tok.encode_to_numpy(TEXT))
    run = ["--run", str(tmp_path / "c"), *SMALL]
    shards, docs = ["--data", str(tmp_path / "s")], ["--data", str(tmp_path / "docs.jsonl")]
    other = ["--tokenizer", str(tmp_path / "small.json")]
    refused = [
        ([*run, *shards], "is beyond the vocabulary of 65"),
        ([*run, *docs], "give the --tokenizer"),
        ([*run, *docs, "--raw"], "--raw is for shards of tokens"),
        ([*run, "--raw"], "--raw: says how to read --data"),
        ([*run, *other], "--tokenizer: says how to read --data"),
        # The tokenizer does not know the token, though the model does.
        ([*run, *shards, *other, "--init", str(tmp_path / "base")],
         f"beyond the vocabulary of {small.n_vocab}"),
    ]
    for words, message in refused:
        with pytest.raises(ValueError, match=message):
            train.main(words)
    for split in ("train", "val"):
        write_shard(tmp_path / "s" / f"{split}.bin", tok.encode_to_numpy(TEXT), tok)
    with pytest.raises(ValueError, match="made by another tokenizer"):
        train.main([*run, *shards, *other])
