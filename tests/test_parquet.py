"""run/parquet.py: documents in Parquet and in jsonl, and from one to the other.

The tests that need pyarrow are skipped where it is not installed. make peers has it, and runs them.
"""

import gzip
import importlib.util
import json
import random
import subprocess
import sys

import pytest

import bpe
from conftest import ROOT
from run import parquet
from tokens import shards
from web import dedup_steps, results

needs_pyarrow = pytest.mark.skipif(
    not importlib.util.find_spec("pyarrow"), reason="pyarrow is not installed")
WORDS = "the sea naïve 안녕 \n\x00 👩\u200d🚀".split(" ")
GOOD = b'{"text": "hello hello"}\n'


def some_documents(n=30):
    """Documents with FineWeb's columns; some have no URL."""
    rng = random.Random(4)
    found = []
    for i in range(n):
        found.append({
            "text": " ".join(rng.choices(WORDS, k=9 * i)),
            "id": f"<urn:uuid:{i}>",
            "dump": "CC-MAIN-2024-10",
            "url": None if i % 7 == 3 else f"http://a.example/{i}",
            "date": "2024-02-20T21:00:00Z",
            "file_path": "s3://commoncrawl/x.warc.gz",
            "language": "en",
            "language_score": rng.random(),
            "token_count": i,
        })
    return found


def write_lines(path, found):
    """Write documents as a .jsonl or .jsonl.gz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(parquet.line_of(document) for document in found)


# ------------------------------------------------------------------------------ without pyarrow


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_documents_of_lines(tmp_path, name):
    found = some_documents()
    write_lines(tmp_path / name, found)
    assert list(parquet.documents(tmp_path / name)) == found


def test_the_columns_are_those_of_data_py():
    assert list(parquet.COLUMNS) == list(results.COLUMNS)


@pytest.mark.parametrize("content, message", [
    (GOOD + b"{", "a.jsonl:2: cannot be read: "),
    (GOOD + b"[1]\n", r"a.jsonl:2: cannot be read: expected \{\"text\""),
    (GOOD + b"\n\n" + b'{"text": 5}\n', r"a.jsonl:4: cannot be read: expected .* found ..text.: 5"),
    (GOOD + b'{"txt": "x"}\n', "a.jsonl:2: cannot be read: expected"),
])
def test_lines_without_a_text(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(parquet.documents(tmp_path / "a.jsonl"))


def test_where_pyarrow_is_missing(tmp_path, monkeypatch):
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    write_lines(tmp_path / "a.jsonl", some_documents(3))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for work in (lambda: list(parquet.documents(tmp_path / "a.parquet")),
                 lambda: parquet.write(tmp_path / "b.parquet", []),
                 lambda: parquet.main([str(tmp_path / "a.jsonl"), "--to", str(tmp_path / "new")])):
        with pytest.raises(ValueError, match="need pyarrow .*install it with: pip install pyarrow"):
            work()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.parquet"]


def test_files_that_cannot_be_converted(tmp_path):
    write_lines(tmp_path / "a.jsonl", some_documents(3))
    write_lines(tmp_path / "a.jsonl.gz", some_documents(3))
    (tmp_path / "empty").mkdir()
    to = ["--to", str(tmp_path / "new")]
    with pytest.raises(ValueError, match="new/a.parquet: would be written over"):
        parquet.main([str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl.gz"), *to])
    (tmp_path / "b.parquet").write_bytes(b"")
    write_lines(tmp_path / "b.jsonl.gz", some_documents(3))
    with pytest.raises(ValueError, match="b.jsonl.gz: would be written over"):
        parquet.main([str(tmp_path / "b.parquet"), str(tmp_path / "b.jsonl.gz"),
                      "--to", str(tmp_path)])
    with pytest.raises(ValueError, match="a.txt: its name ends in none of .jsonl, .jsonl.gz"):
        parquet.main([str(tmp_path / "a.txt"), *to])
    with pytest.raises(FileNotFoundError, match="empty: has no file whose name ends in"):
        parquet.main([str(tmp_path / "empty"), *to])
    assert not (tmp_path / "new").exists()


def test_both_kinds_in_a_run_are_refused(tmp_path):
    write_lines(tmp_path / "docs" / "a.jsonl.gz", some_documents(3))
    (tmp_path / "docs" / "a.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="has a.jsonl.gz and a.parquet, .* may be the same doc"):
        shards.input_files(tmp_path)
    (tmp_path / "docs" / "a.jsonl.gz").unlink()
    assert shards.input_files(tmp_path) == [tmp_path / "docs" / "a.parquet"]


# --------------------------------------------------------------------------------- with pyarrow


def foreign_table(found, string):
    """Documents as a table of pyarrow, their strings of another type."""
    pa = pytest.importorskip("pyarrow")
    kinds = {"string": pa.string(), "large_string": pa.large_string(),
             "string_view": pa.string_view(), "dictionary": pa.dictionary(pa.int32(), pa.string())}
    columns = {}
    for name in found[0]:
        values = [document[name] for document in found]
        is_text = parquet.COLUMNS.get(name) == "string"
        columns[name] = pa.array(values, kinds[string] if is_text else None)
    return pa.table(columns)


@needs_pyarrow
@pytest.mark.parametrize("string", ["string", "large_string", "string_view", "dictionary"])
@pytest.mark.parametrize("options", [
    {"compression": "zstd", "row_group_size": 7},
    {"compression": "snappy", "data_page_size": 100, "data_page_version": "2.0"},
    {"compression": "gzip", "use_dictionary": False},
    {"compression": "none", "use_byte_stream_split": ["language_score"], "use_dictionary": ["id"]},
])
def test_what_others_may_write(tmp_path, monkeypatch, string, options):
    from pyarrow import parquet as theirs
    path, found = tmp_path / "a.parquet", some_documents()
    theirs.write_table(foreign_table(found, string), path, **options)
    for rows_read in (1, 4, 1000):
        monkeypatch.setattr(parquet, "ROWS_READ", rows_read)
        monkeypatch.setattr(parquet, "BUFFER_BYTES", 16)
        assert list(parquet.documents(path)) == found
        short = [{"text": document["text"], "id": document["id"]} for document in found]
        assert list(parquet.documents(path, ("id", "text", "nothing"))) == short


@needs_pyarrow
@pytest.mark.parametrize("group_rows, characters", [(1, 9), (7, 10**9), (1000, 300), (1000, 10**9)])
def test_what_we_write(tmp_path, monkeypatch, group_rows, characters):
    from pyarrow import parquet as theirs
    monkeypatch.setattr(parquet, "GROUP_ROWS", group_rows)
    monkeypatch.setattr(parquet, "GROUP_CHARACTERS", characters)
    path, found = tmp_path / "a.parquet", some_documents()
    assert parquet.write(path, iter(found)) == len(found)
    table = theirs.read_table(path)
    assert {field.name: str(field.type).replace("double", "float64") for field in table.schema} \
        == parquet.COLUMNS
    assert table.to_pylist() == [{**document, "license": None} for document in found]
    metadata = theirs.read_metadata(path)
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert max(groups) <= group_rows and (len(groups) > 1 or characters == group_rows ** 3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@needs_pyarrow
@pytest.mark.parametrize("document, message", [
    ({"text": "a", "topic": "b"}, "a.parquet: document 3 has .'topic'., and the columns are text,"),
    ({"text": "a", "token_count": "b"}, "column token_count: "),
    ({"text": "a", "token_count": 2**63}, "column token_count: "),
    ({"text": "a", "id": 5}, "column id: "),
])
def test_documents_that_do_not_fit_leave_no_file(tmp_path, document, message):
    with pytest.raises(ValueError, match=message):
        parquet.write(tmp_path / "a.parquet", [*some_documents(2), document])
    assert not list(tmp_path.iterdir())


@needs_pyarrow
def test_a_run_there_and_back(tmp_path, capsys):
    """The same bytes, as data.py writes them, and the same types for a column without values."""
    for name in ("000000", "000001"):
        found = [{**document, "token_count": None, "license": None}
                 for document in some_documents(40)]
        parquet.write_lines(tmp_path / f"{name}.jsonl.gz", found)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "report.json").write_text("{}")
    there, back = tmp_path / "there", tmp_path / "back"
    assert parquet.main([str(tmp_path), "--to", str(there)]) is None
    out = capsys.readouterr().out
    assert f"000001.jsonl.gz -> {there}/000001.parquet: 40 documents, 0.0 MB" in out
    assert parquet.main([str(there), "--to", str(back)]) is None
    assert {path.name: path.read_bytes() for path in back.iterdir()} == before
    import pyarrow.parquet as theirs
    assert theirs.read_schema(there / "000000.parquet") == parquet.schema_of()
    first = (there / "000000.parquet").read_bytes()
    assert parquet.main([str(tmp_path), "--to", str(there)]) is None
    assert (there / "000000.parquet").read_bytes() == first


@needs_pyarrow
def test_columns_of_strangers(tmp_path):
    """Nothing is lost: columns that come late, numbers, lists and dicts; a half of a surrogate pair
    becomes U+FFFD."""
    found = [{"content": "a", "n": 1, "language_score": 1},
             {"content": "b\ud800", "n": 2.5, "id": 7, "tags": ["x", "y"]},
             {"content": "c", "meta": {"k": {"l": [1]}}, "seen": True, "none": None}]
    write_path = tmp_path / "a.jsonl"
    write_path.write_text("".join(json.dumps(document) + "\n" for document in found))
    with pytest.raises(ValueError, match="a.jsonl:1: cannot be read: expected"):
        parquet.main([str(write_path), "--to", str(tmp_path / "to")])
    parquet.main([str(write_path), "--to", str(tmp_path / "to"), "--text", "content"])
    columns = ["text", "n", "language_score", "id", "tags", "meta", "seen", "none"]
    expected = []
    for document in found:
        text = document.pop("content").replace("\ud800", "\ufffd")
        expected.append(dict.fromkeys(columns) | {"text": text} | document)
    assert list(parquet.documents(tmp_path / "to" / "a.parquet")) == expected
    types = {field.name: str(field.type) for field in
             __import__("pyarrow").parquet.read_schema(tmp_path / "to" / "a.parquet")}
    assert types["n"] == types["language_score"] == "double" and types["none"] == "string"


@needs_pyarrow
def test_columns_that_do_not_agree(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "n": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "a", "n": "x"}\n')
    with pytest.raises(ValueError, match="b.jsonl: .*[Ff]ield n"):
        parquet.main([str(tmp_path), "--to", str(tmp_path / "to")])
    assert not (tmp_path / "to").exists()


@needs_pyarrow
def test_dates_and_bytes_in_json(tmp_path):
    import datetime
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    when = datetime.datetime(2024, 2, 20, 21, 0)
    pa.parquet.write_table(pa.table({"text": ["a"], "date": [when]}), path)
    parquet.main([str(path), "--to", str(tmp_path / "to")])
    [document] = parquet.documents(tmp_path / "to" / "a.jsonl.gz")
    assert document == {"text": "a", "date": "2024-02-20T21:00:00"}
    pa.parquet.write_table(pa.table({"text": ["a"], "raw": [b"\0"]}), path)
    with pytest.raises(ValueError, match=r"a.parquet: b'\\x00' is bytes, which JSON does not have"):
        parquet.main([str(path), "--to", str(tmp_path / "to2")])
    assert not list((tmp_path / "to2").iterdir())


@needs_pyarrow
def test_tables_without_a_text(tmp_path, capsys):
    pa = pytest.importorskip("pyarrow")
    path, to = tmp_path / "a.parquet", ["--to", str(tmp_path / "to")]

    def write(**columns):
        pa.parquet.write_table(pa.table(columns), path, row_group_size=2)

    write(content=["a", "b"], id=["1", "2"])
    with pytest.raises(ValueError, match=r"a.parquet: no column text, but content, id; if one .*"
                       rf"python -m run.parquet {path} --to DIR --text COLUMN"):
        list(parquet.documents(path, ("text", "id")))
    parquet.main([str(path), *to, "--text", "content"])
    assert list(parquet.documents(tmp_path / "to" / "a.jsonl.gz")) == [
        {"text": "a", "id": "1"}, {"text": "b", "id": "2"}]

    write(text=["a", "b", None, "d", None], id=list("12345"))
    with pytest.raises(ValueError, match=r"a.parquet: row 3: its text is null; leave such rows out:"
                       rf" python -m run.parquet {path} --to DIR --skip-null"):
        list(parquet.documents(path))
    capsys.readouterr()
    parquet.main([str(path), *to, "--skip-null"])
    assert [d["id"] for d in parquet.documents(tmp_path / "to" / "a.jsonl.gz")] == list("124")
    assert f"{path}: 2 documents whose text is null are left out" in capsys.readouterr().err

    write(text=[1, 2])
    with pytest.raises(ValueError, match="row 1: its text is 1, but texts are strings"):
        list(parquet.documents(path))
    write(text=["a"], content=["b"])
    with pytest.raises(ValueError, match="has a column text besides content"):
        parquet.main([str(path), *to, "--text", "content"])


@needs_pyarrow
def test_damaged_files(tmp_path):
    """Every damage of the data is an error that names the file. None changes a text unnoticed."""
    path, found = tmp_path / "a.parquet", some_documents(60)
    parquet.write(path, found)
    good, rng = path.read_bytes(), random.Random(0)
    for content in (b"", b"PAR1", good[:-1], good[: len(good) // 2], b"x" * 100):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.parquet: cannot be read after row 0: .*make it ag"):
            list(parquet.documents(path))
    with pytest.raises(IsADirectoryError):
        list(parquet.rows(tmp_path))
    n_errors = 0
    for _ in range(60):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            texts = [document["text"] for document in parquet.documents(path)]
        except ValueError as error:
            n_errors += 1
            assert str(error).startswith(str(path))
        else:
            assert texts == [document["text"] for document in found]
    assert n_errors > 30


@needs_pyarrow
def test_a_row_group_with_fewer_rows_than_declared(tmp_path, monkeypatch):
    """The footer has no checksum. One bit in it can make a row group shorter."""
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setattr(parquet, "GROUP_ROWS", 16)
    path = tmp_path / "a.parquet"
    parquet.write(path, some_documents(48))
    good = path.read_bytes()
    footer = int.from_bytes(good[-8:-4], "little")
    for place in range(len(good) - 8 - footer, len(good) - 8):
        bad = bytearray(good)
        bad[place] ^= 0x20         # of a 16 in it, this makes a 0
        try:
            metadata = pa.parquet.read_metadata(pa.BufferReader(bytes(bad)))
        except (OSError, ValueError, pa.ArrowException):
            continue
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        if metadata.num_rows == 48 and sum(groups) < 48:
            break
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=f"after row {sum(groups)}: it declares 48 rows"):
        list(parquet.documents(path, ("text", "id")))


@needs_pyarrow
def test_train_and_encode_give_what_they_give_for_lines(tmp_path):
    found = some_documents(60)
    lines, tables = tmp_path / "lines", tmp_path / "tables"
    write_lines(lines / "docs" / "a.jsonl.gz", found)
    tables.mkdir()
    (tables / "docs").mkdir()
    parquet.write(tables / "docs" / "a.parquet", found)
    for run in (lines, tables):
        assert bpe.main(["train", "--run", str(run), "--vocab-size", "300"]) == 0
        assert bpe.main(["encode", "--run", str(run), "--val-percent", "30"]) == 0
    made = {path.relative_to(lines) for path in lines.rglob("*.*") if "docs" not in path.parts}
    assert len(made) == 5
    for name in made:
        assert (tables / name).read_bytes() == (lines / name).read_bytes()


@needs_pyarrow
def test_train_py_learns_from_parquet(tmp_path):
    from model import corpus
    found = some_documents(60)
    tokenizer = bpe.Tokenizer.train([document["text"] for document in found], 300)
    tokenizer.save(tmp_path / "tokenizer.json")
    write_lines(tmp_path / "a.jsonl", found)
    parquet.write(tmp_path / "a.parquet", found)
    ids = []
    for name in ("a.jsonl", "a.parquet"):
        _, train, val = corpus.load_data(tmp_path, [tmp_path / name], tmp_path / "tokenizer.json")
        ids.append((train[0].tolist(), val[0].tolist()))
    assert ids[0] == ids[1]


@needs_pyarrow
def test_one_large_row_group_is_not_read_whole(tmp_path):
    """40 MB of texts in one group, read in less than 24 MB more than two rows take."""
    pa = pytest.importorskip("pyarrow")
    rng = random.Random(0)
    texts = [rng.randbytes(2000).hex() for _ in range(10_000)]
    for name, n in (("small", 2), ("large", len(texts))):
        table = pa.table({"text": texts[:n]})
        pa.parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=10**9)
    peaks = []
    for name in ("small", "large"):
        code = ("import resource, sys; from run import parquet; "
                "n = sum(1 for _ in parquet.documents(sys.argv[1])); "
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{name}.parquet")],
                              cwd=ROOT, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 24


@needs_pyarrow
def test_near_duplicates_of_parquet_files_are_those_of_jsonl(tmp_path):
    found = [document | {"text": f"{WORDS[0]} {5 * chr(97 + i % 20)} " * 40}
             for i, document in enumerate(some_documents())]
    (tmp_path / "parquet").mkdir()
    parquet.write(tmp_path / "parquet/a.parquet", found)
    write_lines(tmp_path / "jsonl/a.jsonl", found)
    for kind in ("parquet", "jsonl"):
        work, out = tmp_path / f"{kind}/work", tmp_path / f"{kind}/out"
        path = tmp_path / f"{kind}/a.{kind}"
        dedup_steps.main(["sign", str(path), "--work", str(work), "--workers", "1"])
        dedup_steps.main(["match", "--work", str(work)])
        dedup_steps.main(
            ["drop", str(path), "--work", str(work), "--to", str(out), "--workers", "1"])
    of_parquet, of_jsonl = (list(parquet.documents(tmp_path / f"{kind}/out/a.jsonl.gz"))
                            for kind in ("parquet", "jsonl"))
    assert of_parquet == [document | {"license": None} for document in of_jsonl]
    assert len(of_jsonl) == 20
