"""model/checkpoint.py: safetensors files that are whole, and those that are not."""

import json
import resource
import struct

import numpy as np
import pytest

from model import checkpoint


def test_a_failed_write_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    checkpoint.save_safetensors(path, {"a": np.ones(4)})
    before = path.read_bytes()
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )  # a disk that is full
    try:
        with pytest.raises(OSError, match="x.safetensors"):
            checkpoint.save_safetensors(path, {"a": np.ones(100_000)})
    finally:
        resource.setrlimit(
            resource.RLIMIT_FSIZE,
            (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]),
        )
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def safetensors_bytes(header, data):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_safetensors_layout(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save_safetensors(
        path,
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.array(7, np.int64)},
        {"k": "v"},
    )
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + n])
    assert n % 8 == 0 and header["a"] == {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    assert header["s"] == {"dtype": "I64", "shape": [], "data_offsets": [24, 32]}
    assert raw[8 + n : 8 + n + 24] == np.arange(6, dtype="<f4").tobytes()
    tensors, meta = checkpoint.load_safetensors(path)
    assert meta == {"k": "v"} and tensors["s"] == 7 and not tensors["a"].flags.writeable
    path.write_bytes(
        safetensors_bytes(
            {"b": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\x80\x3f\x00\xc0"
        )
    )
    np.testing.assert_array_equal(
        checkpoint.load_safetensors(path)[0]["b"], np.array([1.0, -2.0], np.float32)
    )


@pytest.mark.parametrize(
    "header, data, names",
    [
        (
            {"__metadata__": None, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
            b"1234",
            ["a"],
        ),
        ("{}  \n", b"", []),
        ({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4], "more": 1}}, b"1234", ["a"]),
        (
            {
                "z": {"dtype": "F32", "shape": [3, 0], "data_offsets": [0, 0]},
                "b": {"dtype": "U8", "shape": [3], "data_offsets": [4, 7]},
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "y": {"dtype": "I8", "shape": [0], "data_offsets": [7, 7]},
            },
            b"1234567",
            ["z", "b", "a", "y"],
        ),
    ],
)
def test_legal_safetensors_are_read(tmp_path, header, data, names):
    """Null as metadata, spaces behind the header, empty tensors, tensors in any order, keys that
    are not known."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors_bytes(header, data))
    tensors, metadata = checkpoint.load_safetensors(path)
    assert (
        list(tensors) == names
        and metadata == {}
        and sum(a.nbytes for a in tensors.values()) == len(data)
    )


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"", "not a safetensors file"),
        (b"WARC/1.0\r\nnot a model at all", "not a safetensors file"),
        (safetensors_bytes("{broken", b""), "bad safetensors header"),
        (
            safetensors_bytes({"a": {"dtype": "F32", "shape": [2]}}, b"12345678"),
            "bad safetensors header",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, b"12345678"
            ),
            "dtype F99",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"
            ),
            "truncated",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678"
            ),
            "truncated or overlapping",
        ),
        (
            safetensors_bytes(
                {
                    "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                    "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
                },
                b"123456",
            ),
            "overlapping",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"
            ),
            "expected to begin at 0",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"
            ),
            "the header accounts for",
        ),
        (
            safetensors_bytes(
                '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}', b"1234"
            ),
            "the key 'a' stands twice",
        ),
        (
            safetensors_bytes({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
            "bad safetensors header: a: .*, expected dtype, shape and two data_offsets",
        ),
        (safetensors_bytes({"a": None}, b""), "bad safetensors header: a: None, expected dtype"),
        (
            safetensors_bytes({"__metadata__": []}, b""),
            "its __metadata__ is .., expected texts by name",
        ),
        (
            safetensors_bytes({"__metadata__": {"step": 5}}, b""),
            "its __metadata__ is .'step': 5., expected texts by name",
        ),
        (safetensors_bytes(" {}", b""), "it must begin with '{'"),
        (
            safetensors_bytes(
                {
                    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                    "z": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]},
                },
                b"12345678",
            ),
            "z spans bytes 4..4",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [2**70, 0], "data_offsets": [0, 0]}}, b""
            ),
            "which is too large",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, b"1234"
            ),
            "bad safetensors header",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": None, "data_offsets": [0, 4]}}, b"1234"
            ),
            "bad safetensors header",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, b"1234"
            ),
            "bad safetensors header",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, b"1234"
            ),
            "bad safetensors header",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [2**70], "data_offsets": [0, 4]}}, b"1234"
            ),
            "truncated or overlapping",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}}, b"1234"
            ),
            "bad safetensors header",
        ),
        (
            safetensors_bytes({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, b"1234"),
            "bad safetensors header",
        ),
        (safetensors_bytes("[" * 100_000, b""), "bad safetensors header"),
        (safetensors_bytes("[]", b""), "bad safetensors header"),
    ],
)
def test_malformed_safetensors_are_refused(tmp_path, raw, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        checkpoint.load_safetensors(path)
