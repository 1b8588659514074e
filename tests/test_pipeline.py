"""web/pipeline.py: data.py from end to end. Sources, workers, units, shards, killed runs."""

import contextlib
import functools
import gzip
import http.server as http_server
import io
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

import data
from conftest import run_main, run_script, script
from pages import (
    GOOD,
    MAIL,
    IP,
    PAGES,
    crawl,
    documents,
    dropped,
    fails,
    files_of,
    html_of,
    page,
    prose,
    record,
    run,  # noqa: F401
    stub_language,
)
from run import disk, tasks
from tokens import shards
from web import matching
from web import options
from web import pipeline
from web import results
from web import warc

DATA = Path(
    os.environ.get("LONGHAND_DATA") or Path(__file__).parent.parent.parent / "shared" / "data"
)
DOCS = ["000000.jsonl.gz", "dropped.tsv.gz", "report.json"]
THREE = [page(b"<p>%d" % i, f"http://a.com/{i}") for i in range(3)]


def report_of(run_dir):
    """The funnel of a run."""
    return json.loads((run_dir / "docs/report.json").read_text(encoding="utf-8"))


def products(run_dir):
    """{name: bytes} of a run's files that do not depend on time."""
    return {k: v for k, v in files_of(run_dir / "docs").items() if k != "report.json"}


def units_of(run_dir):
    """The files of documents of an unfinished run."""
    return list((run_dir / "docs" / ".new").glob("*/units/*/*.jsonl"))


def made_of(run_dir, settings):
    """What a run over the one file of a crawl is made of."""
    files = [run_dir / "crawl/000000.warc.gz"]
    job = pipeline.Job(files, run_dir, None, settings, {}, None, None, 1)
    return pipeline.identity(job), pipeline.sources_of(job)


def check_accounts(stages, n, n_kept):
    """What leaves a stage and what it drops is what came in, from n pages to n_kept documents."""
    n_bytes = None
    for row in stages.values():
        assert row["documents_in"] == n and n_bytes in (None, row["bytes_in"])
        n, n_bytes = row["documents_out"], row["bytes_out"]
        assert row["documents_in"] - n == sum(row["reasons"].values())
    assert n == n_kept


def test_pipeline_end_to_end(crawl, capsys):
    run(crawl)
    docs, report = (documents(crawl), report_of(crawl))
    assert sorted(files_of(crawl / "docs")) == DOCS
    assert [d["url"] for d in docs] == ["http://a.com/good", "http://a.com/mail"]
    assert tuple(docs[0]) == results.COLUMNS
    assert docs[0] | {"text": 0} == {
        "text": 0, "id": "<urn:uuid:0>", "dump": "local", "url": "http://a.com/good",
        "date": "2024-01-02T03:04:05Z", "file_path": "crawl/000000.warc.gz", "language": "en",
        "language_score": 0.9, "token_count": None, "license": None,
    }
    assert docs[0]["text"] == GOOD
    assert docs[1]["text"].endswith(f"write to the {MAIL} or {IP} of it.")
    assert dropped(crawl)[0] == ("url", "stage", "reason")
    assert sorted(dropped(crawl)[1:]) == sorted(
        (url, stage, why) for url, _, stage, why in PAGES if stage
    )
    assert list(report["stages"]) == list(data.STAGES)
    stages = list(report["stages"].values())
    check_accounts(report["stages"], len(PAGES), 2)
    for row in stages:
        assert set(row["examples"]) == set(row["reasons"]) and row["seconds"] >= 0
    assert stages[-1]["bytes_out"] == sum(len(d["text"].encode()) for d in docs)
    assert report["stages"]["c4"]["examples"]["curly_bracket"][0]["text"] == prose(300, 7)[:300]
    assert report["reader"]["response"] == len(PAGES) and report["reader"]["request"] == len(PAGES)
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == [
        "stage",
        *data.STAGES,
        "data",
    ] and "hard_blacklisted 1" in out[1]


def as_texts(crawl, docs, *more):
    """The documents of a run over a file of documents, in a run of its own."""
    path = crawl.parent / "texts.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(doc) + "\n" for doc in docs)
    again = crawl.parent / "again"
    data.main([str(path), "--run", str(again), "--workers", "1", *more])
    return documents(again)


def test_texts_that_somebody_has_extracted_are_filtered_as_pages_are(crawl, capsys):
    run(crawl)
    docs = documents(crawl)
    assert as_texts(crawl, docs) == docs                # with the file that each page came from
    again = as_texts(crawl, docs, "--dump", "other")
    assert again == [doc | {"dump": "other"} for doc in docs]
    bare = as_texts(crawl, [{"text": doc["text"], "url": doc["url"]} for doc in docs])
    assert [doc["file_path"] for doc in bare] == [str(crawl.parent / "texts.jsonl.gz")] * 2
    assert [doc["text"] for doc in bare] == [doc["text"] for doc in docs]
    code = docs[0] | {"text": docs[0]["text"].replace(" ", " { ", 1)}
    assert as_texts(crawl, [code, docs[1]]) == docs[1:]
    assert dropped(crawl.parent / "again")[1][1:] == ("c4", "curly_bracket")
    with pytest.raises(ValueError, match="texts.jsonl.gz:1: .*expected"):
        as_texts(crawl, [{"url": "http://a.com/"}])


def test_an_interrupted_run_leaves_what_was_there_and_goes_on(crawl, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "UNIT", 4)
    run(crawl)
    before, keep, main_text = files_of(crawl / "docs"), products(crawl), data.extract.main_text

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(data.extract, "main_text", interrupted)
    with pytest.raises(KeyboardInterrupt):      # in the first unit: nothing to go on from
        run(crawl, "--dump", "x")
    assert files_of(crawl / "docs") == before and not (crawl / "docs" / ".new").exists()
    monkeypatch.setattr(data.extract, "main_text", main_text)
    with monkeypatch.context() as m:
        m.setattr(data.pii, "redact", interrupted)
        with pytest.raises(KeyboardInterrupt):  # in the second
            run(crawl)
    assert (
        files_of(crawl / "docs") == before
        and len(units_of(crawl)) == 4
    )
    monkeypatch.setattr(
        data.extract, "main_text", lambda *args: pytest.fail("a page is worked on again")
    )
    run(crawl)
    assert products(crawl) == keep
    assert not (crawl / "docs" / ".new").exists()


def test_bytes_do_not_depend_on_time_workers_place_or_a_killed_run(crawl, tmp_path, monkeypatch):
    run(crawl)
    keep = products(crawl)
    (crawl / "docs" / "000007.jsonl.gz").write_bytes(b"of an earlier, larger run")
    (crawl / "docs" / ".new").mkdir()  # what a run leaves that is shot
    (crawl / "docs" / ".new" / "000003.jsonl.gz").write_bytes(b"half")
    crawl.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(time, "time", lambda: 1e9)
    run(tmp_path / "elsewhere", "--workers", "2")
    assert products(tmp_path / "elsewhere") == keep


def test_a_page_that_breaks_a_stage_is_dropped_and_counted(crawl, monkeypatch):
    def broken(page, url, charset, counts):
        if url.endswith("/good"):
            raise RecursionError
        return main_text(page, url, charset, counts)

    main_text = data.extract.main_text
    monkeypatch.setattr(data.extract, "main_text", broken)
    run(crawl)
    assert ("http://a.com/good", "extract", "error_RecursionError") in dropped(crawl)
    assert [d["url"] for d in documents(crawl)] == ["http://a.com/mail", "http://a.com/copy"]


def test_text_that_is_no_utf8_is_dropped_and_counted(crawl, monkeypatch):
    main_text = data.extract.main_text
    monkeypatch.setattr(
        data.extract,
        "main_text",
        lambda page, url, charset, counts: (
            main_text(page, url, charset, counts) + "\ud800" * url.endswith("/good")
        ),
    )
    run(crawl)
    assert ("http://a.com/good", "extract", "error_UnicodeEncodeError") in dropped(crawl)


def test_a_worker_that_is_killed_ends_the_run(crawl, monkeypatch, capsys):
    run(crawl)
    before = files_of(crawl / "docs")
    monkeypatch.setattr(data.pii, "redact", lambda *args: os.kill(os.getpid(), signal.SIGKILL))
    said = fails(crawl, "--workers", "2")
    assert re.fullmatch(
        r"worker process \d+ has died \(exit code -9\); "
        r"the same command goes on from the last unit.*",
        said,
    )
    assert files_of(crawl / "docs") == before


def slow_echo(stages, i):
    time.sleep(0.01 * (i % 50 == 0))
    return i, os.getpid()


def test_workers_answer_in_order():
    with pipeline.worker_processes(3, slow_echo) as each:
        for n in (0, 1, 500):
            out = list(each((), range(n)))
            assert [i for i, _ in out] == list(range(n)) and (
                n < 500 or len({pid for _, pid in out}) > 1
            )


def test_a_second_run_on_the_same_folder_ends_at_once(crawl, capsys):
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    (crawl / "docs").mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", code, crawl / "docs" / ".data.py.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"held\n"
    assert re.fullmatch(r".*/run/docs: another data\.py is writing there; .*", fails(crawl))
    other.kill()
    other.communicate()
    assert (crawl / "docs" / ".data.py.lock").exists()  # of a dead process: holds nobody up
    run(crawl)
    assert sorted(files_of(crawl / "docs")) == DOCS


def test_an_index_that_cannot_be_saved_costs_no_documents(crawl, tmp_path, monkeypatch, capsys):
    run(crawl)
    before = files_of(crawl / "docs")
    monkeypatch.setattr(pipeline, "UNIT", 2)  # else it would be the same run again
    said = fails(crawl, "--save-index", str(tmp_path / "none" / "index.npy"))
    assert "its folder" in said and files_of(crawl / "docs") == before
    elsewhere = tmp_path / "index.npy"

    def other_disk(path, whole_file=disk.whole_file):
        if Path(path) == elsewhere:
            raise OSError(28, "No space left on device", str(path))
        return whole_file(path)

    with monkeypatch.context() as m:
        m.setattr(disk, "whole_file", other_disk)
        assert "No space left" in fails(crawl, "--save-index", str(elsewhere))
    assert files_of(crawl / "docs") == before and not elsewhere.exists()
    run(crawl, "--save-index", str(elsewhere))
    assert matching.load_index(elsewhere).shape[1] > 0
    monkeypatch.setattr(pipeline, "UNIT", 3)
    monkeypatch.setattr(pipeline, "read_pages", lambda *args: pytest.fail("an hour of work before"))
    assert "report.json: damaged" in fails(crawl, "--index", str(crawl / "docs/report.json"))


def test_pages_whose_end_is_not_read_are_counted_once(crawl, monkeypatch):
    monkeypatch.setattr(data.extract, "MAX_CHARS", len(html_of(GOOD)) - 20)
    run(crawl)
    whole = [
        body
        for _, body, stage, _ in PAGES
        if stage not in ("url",)
        and len(body) > data.extract.MAX_CHARS
        and not body.startswith(b"%PDF")
    ]
    report = report_of(crawl)
    assert report["reader"]["page_cut"] == len(whole) > 0


def test_contents_decide_whether_a_killed_run_goes_on(crawl, tmp_path, monkeypatch):
    """An edited list of equal size, a WARC written anew under equal times: another run."""
    block, warc = crawl.parent / "block.txt", crawl / "crawl/000000.warc.gz"
    settings = options.Settings(blocklist=(str(block),))
    block.write_text("spam.com\n")
    before = made_of(crawl, settings)
    for path in (block, warc):
        os.utime(path, (5, 5))
        assert made_of(crawl, settings) == before
    block.write_text("spam.org\n")
    os.utime(block, (5, 5))
    assert made_of(crawl, settings) != before
    block.write_text("spam.com\n")
    assert made_of(crawl, settings) == before
    bytes_of_warc = bytearray(warc.read_bytes())
    bytes_of_warc[-5] ^= 1
    warc.write_bytes(bytes_of_warc)
    os.utime(warc, (5, 5))
    assert made_of(crawl, settings) != before


def test_a_run_folder_whose_name_is_no_text(tmp_path, capsys):
    run_dir = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        run_dir.mkdir()
    except OSError:
        pytest.skip("this file system takes only names that are UTF-8")
    scripts = (
        ("web/toyweb.py", "--pages", "150"), ("data.py", "--workers", "1"), ("bpe.py", "train"),
        ("bpe.py", "encode"),
    )
    for name, *args in scripts:
        done = run_script(name, *args, "--run", run_dir)
        assert done.returncode == 0, done.stderr
    assert documents(run_dir) and (run_dir / "tokens/train_000000.bin").exists()
    outside = tmp_path / "other"
    data.main([str(run_dir / "crawl"), "--run", str(outside), "--workers", "1"])
    assert documents(outside)[0]["file_path"].endswith("caf\\xe9/crawl/000000.warc.gz")


def test_documents_on_their_way_when_it_was_killed_are_refused_by_readers(
    crawl, monkeypatch, capsys
):
    run(crawl)
    replace, moved = os.replace, []

    def killed(old, new):
        if "/shards/" in str(old) and not str(old).endswith(".tmp"):
            moved.append(new)
            if len(moved) == 2:
                raise MemoryError("as if killed")
        return replace(old, new)

    monkeypatch.setattr(pipeline, "UNIT", 2)
    with monkeypatch.context() as m, pytest.raises(MemoryError):
        m.setattr(os, "replace", killed)
        run(crawl)
    assert not (crawl / "docs/report.json").exists()
    with pytest.raises(ValueError, match="its files were being replaced.*python data.py --run"):
        shards.input_files(crawl)
    run(crawl)
    assert sorted(files_of(crawl / "docs")) == DOCS


def test_a_run_that_is_killed_just_before_its_results_move(crawl, monkeypatch):
    """They stand beside the work of the run, which is complete but for that."""
    rename = os.rename

    def killed(old, new):
        rename(old, new)
        raise MemoryError("as if killed")

    with monkeypatch.context() as m, pytest.raises(MemoryError):
        m.setattr(os, "rename", killed)
        run(crawl)
    assert (crawl / "docs/.new/shards/moves.json").exists()
    assert not (crawl / "docs/report.json").exists()
    run(crawl)
    assert sorted(files_of(crawl / "docs")) == DOCS and len(documents(crawl)) == 2


def test_a_disk_that_is_full_at_the_last_byte_is_seen():
    class Disk(io.RawIOBase):
        def __init__(self, space):
            self.space, self.held = space, b""

        def writable(self):
            return True

        def write(self, some):
            if len(self.held) + len(some) > self.space:
                raise OSError(28, "No space left on device")
            self.held += some
            return len(some)

    def save(to):
        with disk.gzip_text(io.BufferedWriter(to)) as out:
            out.write("some words\n" * 100)
        return bytes(to.held)

    whole = save(Disk(10**6))
    assert gzip.decompress(whole) == b"some words\n" * 100 and save(Disk(len(whole))) == whole
    with pytest.raises(OSError, match="No space left"):
        save(Disk(len(whole) - 1))


SCRIPTS = Path(data.__file__).parent


@pytest.fixture
def interruptible():
    """Ctrl-C arrives here and in child processes, also if the tests were started with nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_is_one_line_and_leaves_nothing(tmp_path, interruptible):
    os.mkfifo(tmp_path / "endless.warc")  # data.py waits in it for a first record
    process = subprocess.Popen(
        [
            sys.executable, str(SCRIPTS / "data.py"), tmp_path / "endless.warc", "--run", tmp_path,
            "--workers", "2",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with open(tmp_path / "endless.warc", "wb", buffering=0):  # opens when data.py has
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"data.py: interrupted\n")
    assert not list((tmp_path / "docs").iterdir())


def test_no_interrupt_while_files_are_moved(crawl, monkeypatch, interruptible):
    def replace(old, new, replace=os.replace):
        if Path(new).parent.name == "docs":
            os.kill(os.getpid(), signal.SIGINT)
        return replace(old, new)

    monkeypatch.setattr(os, "replace", replace)
    run(crawl)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert sorted(files_of(crawl / "docs")) == DOCS


@pytest.mark.parametrize(
    "argv",
    [
        ["web/warc.py", "{}/a.warc"],
        ["data.py", "{}/a.warc", "--run", "{}", "--workers", "1"],
        ["web/extract.py", "{}/a.warc"],
    ],
)
def test_a_closed_pipe_ends_silently(argv, tmp_path):
    (tmp_path / "a.warc").write_bytes(b"".join(THREE))
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, *script(argv[0]), *(a.format(tmp_path) for a in argv[1:])],
        stdout=write_end,
        stderr=subprocess.PIPE,
        cwd=SCRIPTS,
    )
    os.close(write_end)
    assert done.returncode == 141 and b"rror" not in done.stderr


def test_shards(crawl, monkeypatch):
    monkeypatch.setattr(results, "SHARD_DOCUMENTS", 1)
    run(crawl)
    assert [p.name for p in sorted((crawl / "docs").glob("*.jsonl.gz"))] == [
        "000000.jsonl.gz",
        "000001.jsonl.gz",
    ]
    assert len(documents(crawl)) == 2


def test_dump_tokenizer_and_paths(crawl, tmp_path, monkeypatch):
    bpe = types.ModuleType("bpe")
    bpe.Tokenizer = types.SimpleNamespace(
        load=lambda path: types.SimpleNamespace(encode_ordinary=str.split)
    )
    monkeypatch.setitem(sys.modules, "bpe", bpe)
    named = tmp_path / "CC-MAIN-2024-10-x.warc.gz"
    named.write_bytes((crawl / "crawl" / "000000.warc.gz").read_bytes())
    data.main([str(named), "--run", str(tmp_path / "other"), "--workers", "1", "--tokenizer", "t"])
    first, *_ = documents(tmp_path / "other")
    assert (
        first["dump"] == "CC-MAIN-2024-10"
        and first["file_path"] == named.as_posix()
        and first["token_count"] == len(GOOD.split())
    )
    data.main(
        [str(crawl / "crawl"), "--run", str(tmp_path / "other"), "--workers", "1", "--dump", "mine"]
    )
    assert {d["dump"] for d in documents(tmp_path / "other")} == {"mine"}


def test_other_languages(crawl):
    run(crawl, "--language", "de", "fr")
    assert "http://a.com/german" not in [row[0] for row in dropped(crawl) if row[1] == "language"]


def test_nothing_kept_is_a_result_and_not_an_error(crawl, capsys):
    run(crawl, "--language", "xx")
    assert documents(crawl) == [] and "0 documents" in capsys.readouterr().out


@pytest.mark.parametrize(
    "setup, argv, says",
    [
        (
            None,
            ["--run", "{}/none"],
            r".*none/crawl: no WARC files; make the embedded crawl with: "
            r"python -m web\.toyweb --run .*none",
        ),
        (
            lambda d: (d / "r" / "crawl").mkdir(parents=True),
            ["--run", "{}/r"],
            r".*r/crawl: no WARC files; make .*",
        ),
        (lambda d: (d / "e").mkdir(), ["{}/e"], r".*/e: no \*\.warc, .* files in it"),
        (None, ["{}/missing.warc"], r".*missing\.warc: no such file"),
        (
            lambda d: (d / "a.warc").write_bytes(b"<html>"),
            ["{}/a.warc"],
            r".*a\.warc: not a WARC file: it begins with b'<html>', not with b'WARC/'",
        ),
        (
            lambda d: (d / "a.warc").write_bytes(b""),
            ["{}/a.warc"],
            r".*a\.warc: not a WARC file: it is empty",
        ),
        (
            lambda d: (d / "a.warc").write_bytes(record(b"", type="warcinfo")),
            ["{}/a.warc"],
            r".*a\.warc: no response records, so no documents",
        ),
        (
            lambda d: (d / "run").write_bytes(b"a file"),
            ["{}/missing.warc", "--run", "{}/other"],
            r".*missing\.warc: no such file",
        ),
        (
            lambda d: (d / "a.warc").write_bytes(THREE[0]),
            ["{}/a.warc", "--blocklist", "{}/none"],
            r".*/none: no block list; --blocklist takes .*",
        ),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_user_mistakes(setup, argv, says, workers, tmp_path, stub_language, capsys):
    if setup:
        setup(tmp_path)
    argv = [a.format(tmp_path) for a in argv]
    argv += [] if "--run" in argv else ["--run", str(tmp_path / "run")]
    done = run_main("data.py", *argv, "--workers", workers)
    assert done.returncode and re.fullmatch(r"data\.py: error: " + says + "\n", done.stderr)
    docs = Path(argv[argv.index("--run") + 1]) / "docs"
    assert not docs.exists() or not list(docs.iterdir())


def test_a_mistake_ends_the_program_with_2(tmp_path):
    done = run_script("data.py", tmp_path / "missing.warc", "--run", tmp_path)
    assert (
        done.returncode == 2
        and done.stderr == f"data.py: error: {tmp_path}/missing.warc: no such file\n"
        and not done.stdout
    )


def test_bad_flags(capsys):
    for argv in (["--workers", "0"], ["--workers", "two"], ["--nonsense"]):
        with pytest.raises(SystemExit) as stop:
            data.options.parse_args(argv)
        assert stop.value.code == 2 and "data.py: error: " in capsys.readouterr().err


def test_real_crawl_keeps_english_articles(tmp_path, capsys):
    """90 news pages, 150 declarations of human rights, of which at most the English one stays."""
    warc, model = DATA / "crawl-dev.warc.gz", DATA / "lid.176.ftz"
    if not warc.exists() or not model.exists():
        pytest.skip(f"no {warc} or {model}; LONGHAND_DATA names another folder")
    pytest.importorskip("web.language")
    data.main([str(warc), "--run", str(tmp_path), "--language-model", str(model)])
    kept = [d["url"] for d in documents(tmp_path)]
    assert 64 <= len(kept) <= 72 and sum("udhr" in url for url in kept) <= 1


# --------------------------------------------------------------------------------------------------
# Sources, and a run that is killed.


def test_wet_and_resources_become_documents(tmp_path, stub_language):
    wet = record(
        GOOD.encode(), type="conversion", url="http://a.com/wet", Content_Type="text/plain",
        WARC_Record_ID="<urn:uuid:w>",
    )
    res = record(
        html_of(prose(300, 1)), type="resource", url="http://a.com/res", Content_Type="text/html",
        WARC_Record_ID="<urn:uuid:r>",
    )
    (tmp_path / "x.warc.wet.gz").write_bytes(gzip.compress(wet) + gzip.compress(res))
    data.main([str(tmp_path), "--run", str(tmp_path / "run"), "--workers", "1"])
    assert [(d["url"], d["text"]) for d in documents(tmp_path / "run")] == [
        ("http://a.com/wet", GOOD),
        ("http://a.com/res", prose(300, 1)),
    ]


def filtered(folder, records, *options):
    """Takes a WARC of these records through data.py; returns the run folder."""
    (folder / "a.warc").write_bytes(b"".join(records))
    data.main([str(folder / "a.warc"), "--run", str(folder / "run"), "--workers", "1", *options])
    return folder / "run"


def pages_with_rights():
    """A page that reserves itself, and one with a licence."""
    head = b'<html><head><meta name="robots" content="noai"></head>'
    link = b'<a rel="license" href="https://a.com/by">CC</a>'
    licensed = html_of(prose(300, 1)).replace(b"</main>", b"</main>" + link)
    return [page(head + html_of(GOOD), "http://a.com/1"), page(licensed, "http://a.com/2")]


def licences(run_dir):
    """[(address, licence)] of the documents."""
    return [(d["url"], d["license"]) for d in documents(run_dir)]


def test_a_page_that_reserves_itself_and_one_with_a_licence(tmp_path, stub_language):
    run_dir = filtered(tmp_path, pages_with_rights())
    assert licences(run_dir) == [("http://a.com/2", "https://a.com/by")]
    assert dropped(run_dir)[1:] == [("http://a.com/1", "rights", "noai")]


def test_a_text_that_quotes_an_opt_out_is_none(tmp_path, stub_language):
    """A WET file holds texts, and a text has no tags."""
    text = GOOD.replace(
        "\n", '\nPut <meta name="robots" content="noai"> into the head of the page.\n', 1
    )
    assert text != GOOD
    wet = record(
        text.encode(), type="conversion", url="http://a.com/wet", Content_Type="text/plain"
    )
    (tmp_path / "x.warc.wet").write_bytes(wet)
    data.main([str(tmp_path), "--run", str(tmp_path / "run"), "--workers", "1"])
    assert [d["url"] for d in documents(tmp_path / "run")] == ["http://a.com/wet"]


def test_a_page_is_reserved_from_the_day_it_names(tmp_path, stub_language):
    """The day of the fetch decides, which is the record's date."""
    head = b'<meta name="robots" content="unavailable_after: 2024-06-30">'
    records = [
        page(head + html_of(prose(300, n)), f"http://a.com/{n}", WARC_Date=day + "T00:00:00Z")
        for n, day in enumerate(("2024-06-29", "2024-07-01"))
    ]
    run_dir = filtered(tmp_path, records)
    assert [d["url"] for d in documents(run_dir)] == ["http://a.com/0"]
    assert dropped(run_dir)[1:] == [("http://a.com/1", "rights", "unavailable_after")]


def test_no_rights_asks_no_page(tmp_path, stub_language):
    run_dir = filtered(tmp_path, pages_with_rights(), "--no-rights")
    assert licences(run_dir) == [("http://a.com/1", None), ("http://a.com/2", None)]
    report = report_of(run_dir)
    assert "rights" not in report["stages"] and report["settings"]["rights"] is False


def test_the_order_of_the_script_lets_a_page_stay_whose_earlier_copy_is_code(
    tmp_path, stub_language, capsys
):
    """minhash before c4: the copy goes, then the code page. c4 before minhash: only the latter."""
    code = page(html_of(GOOD + "\nfunction the of { it }"), "http://a.com/code",
                WARC_Date="2024-01-01T00:00:00Z")
    copy, of_code = page(html_of(GOOD), "http://a.com/text"), ("c4", "curly_bracket")
    of_copy = ("http://a.com/text", "minhash", "duplicate")
    for order, kept, gone in (
        ("paper", [], [of_copy, ("http://a.com/code", *of_code)]),
        ("script", ["http://a.com/text"], [("http://a.com/code", *of_code)]),
    ):
        run_dir = filtered(tmp_path, [code, copy], "--order", order)
        assert [d["url"] for d in documents(run_dir)] == kept and dropped(run_dir)[1:] == gone
        report = report_of(run_dir)
        assert list(report["stages"]) == data.ORDERS[order] and report["settings"]["order"] == order
        check_accounts(report["stages"], 2, len(kept))
        rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert rows == ["stage", *data.ORDERS[order], "data"]


def test_the_orders_are_of_the_same_stages():
    assert data.ORDERS["paper"] == list(data.STAGES)
    assert sorted(data.ORDERS["script"]) == sorted(data.STAGES)
    assert data.ORDERS["script"][-4:] == ["c4", "fineweb", "minhash", "pii"]
    assert set(data.ORDERS) == set(options.ORDERS)


def test_v1_reaches_every_stage(tmp_path, stub_language):
    quoted = prose(300, 1).replace(" of it.", ' of it."')  # no line ends in a full stop
    pages = {"quoted": quoted, "mail": prose(300, 2) + "\nwrite to the JO@SITE.COM now."}
    records = [page(html_of(text), f"http://a.com/{name}") for name, text in pages.items()]
    got = {}
    for version in ("0.10", "v1"):
        run_dir = filtered(tmp_path, records, "--fineweb", version)
        got[version] = {d["url"].rpartition("/")[2]: d["text"] for d in documents(run_dir)}
        assert report_of(run_dir)["settings"]["fineweb"] == version
    assert "quoted" in got["v1"] and "quoted" not in got["0.10"]
    assert "JO@SITE.COM" in got["v1"]["mail"] and MAIL in got["0.10"]["mail"]


@pytest.mark.parametrize(
    "more", [["--order", "script"], ["--fineweb", "v1"], ["--no-rights"], ["--pii"]]
)
def test_a_killed_run_of_other_options_is_not_gone_on_with(crawl, monkeypatch, more, capsys):
    run(crawl, *more)
    want = products(crawl)
    shutil.rmtree(crawl / "docs")
    monkeypatch.setattr(pipeline, "UNIT", 4)
    with monkeypatch.context() as m:
        m.setattr(data.pii, "redact", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(crawl)
    assert units_of(crawl)
    run(crawl, *more)
    assert "going on behind" not in capsys.readouterr().err
    assert products(crawl) == want


def test_a_list_edited_to_equal_size_begins_anew(crawl, monkeypatch):
    monkeypatch.setattr(pipeline, "UNIT", 4)
    block = crawl.parent / "block.txt"
    with monkeypatch.context() as m:
        m.setattr(data.pii, "redact", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(crawl)
    before = block.stat()
    block.write_text("  a.com\n", encoding="utf-8")
    os.utime(block, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert block.stat().st_size == before.st_size
    run(crawl)
    assert [d["url"] for d in documents(crawl)] == ["http://bad.com/"] and (
        "http://a.com/good",
        "url",
        "domain",
    ) in dropped(crawl)


def test_a_killed_run_of_another_program_is_not_gone_on_with(crawl, monkeypatch, tmp_path):
    settings = options.Settings()
    before = made_of(crawl, settings)
    assert made_of(crawl, settings) == before
    program = [name for name, _ in before[0]["program"]]
    assert {"web/words.py", "web/language.ftz"} <= set(program)
    monkeypatch.setattr(
        tasks.runs,
        "sha256_of",
        lambda path, digest=tasks.runs.sha256_of: (
            "other" if Path(path).name == "words.py" else digest(path)
        ),
    )
    assert made_of(crawl, settings) != before


def test_an_address_as_source(crawl, tmp_path):
    class Quiet(http_server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http_server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=crawl / "crawl")
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/000000.warc.gz"
    data.main([address, "--run", str(tmp_path / "net"), "--workers", "1"])
    data.main(
        [str(crawl / "crawl" / "000000.warc.gz"), "--run", str(tmp_path / "disk"), "--workers", "1"]
    )
    read = pipeline.Documents([address], tmp_path)
    parts = [read.share_read() for _ in read]
    assert 0 < parts[0] <= 1 and read.share_read() == 1
    server.shutdown()
    net, disk = documents(tmp_path / "net"), documents(tmp_path / "disk")
    assert [{**d, "file_path": 0} for d in net] == [{**d, "file_path": 0} for d in disk] and {
        d["file_path"] for d in net
    } == {address}


def test_the_part_that_was_read_grows_to_all(crawl):
    read = pipeline.Documents(sorted((crawl / "crawl").iterdir()), crawl)
    parts = [read.share_read() for _ in read]
    assert parts == sorted(parts) and 0 < parts[0] < parts[-1] and read.share_read() == 1


def test_an_index_of_an_earlier_crawl(crawl, tmp_path):
    run(crawl, "--save-index", str(tmp_path / "index.npy"))
    assert [d["url"] for d in documents(crawl)] == ["http://a.com/good", "http://a.com/mail"]
    run(crawl, "--index", str(tmp_path / "index.npy"))
    assert documents(crawl) == [] and ("http://a.com/good", "minhash", "duplicate") in dropped(
        crawl
    )
    (tmp_path / "index.npy").write_bytes(b"not an array")
    assert "index.npy: damaged" in fails(crawl, "--index", str(tmp_path / "index.npy"))


def test_an_index_of_other_rules_is_refused_both_ways(crawl, tmp_path, capsys):
    """Their signatures differ, so that no document would ever be found in it."""
    for made, asked in (("v1", "0.10"), ("0.10", "v1")):
        run(crawl, "--fineweb", made, "--save-index", str(tmp_path / "index.npy"))
        assert len(documents(crawl)) == 2
        said = fails(crawl, "--fineweb", asked, "--index", str(tmp_path / "index.npy"))
        assert (
            f"index.npy: signed by the rules of FineWeb {made}, "
            f"and these documents by those of {asked};"
            in said
        )
        run(crawl, "--fineweb", made, "--index", str(tmp_path / "index.npy"))
        assert documents(crawl) == []


def test_a_run_killed_at_random_moments_ends_the_same(tmp_path):
    """With the real language model, small units, two workers; killed LONGHAND_KILLS times."""
    subprocess.run(
        [sys.executable, "-m", "web.toyweb", "--run", str(tmp_path), "--pages", "150"], cwd=SCRIPTS,
        check=True, capture_output=True,
    )
    command = [
        sys.executable, "-c", "import sys, data; data.pipeline.UNIT = 8; data.main(sys.argv[1:])",
        "--run", str(tmp_path), "--workers", "2",
    ]
    subprocess.run(command, cwd=SCRIPTS, check=True, capture_output=True)
    want = products(tmp_path)
    shutil.rmtree(tmp_path / "docs")
    r, went_on = random.Random(0), 0

    def done():
        """How many units there are; none if a folder was removed while they were counted."""
        try:
            return len(units_of(tmp_path))
        except FileNotFoundError:
            return 0

    for _ in range(int(os.environ.get("LONGHAND_KILLS", 6))):
        wanted = done() + r.randint(0, 20)  # of 62 units; behind the last one it begins anew
        process = subprocess.Popen(
            command, cwd=SCRIPTS, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and not done() >= max(1, wanted):
            time.sleep(0.005)
        time.sleep(r.uniform(0, 0.2))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        went_on += b"going on behind" in process.communicate()[1]
    subprocess.run(command, cwd=SCRIPTS, check=True, capture_output=True)
    assert products(tmp_path) == want
    assert went_on  # it was killed in the middle at least once


# --------------------------------------------------------------------------------------------------
# Several tasks.

FEW = [(pages, f"http://{host}.com/") for pages, host in zip([3, 5, 0, 6, 1, 4], "abcdef")]


@pytest.fixture
def files(tmp_path, stub_language, monkeypatch):
    """A run folder whose crawl has six files, one without pages; copies stand in several files."""
    monkeypatch.setattr(pipeline, "UNIT", 2)
    monkeypatch.setattr(results, "SHARD_DOCUMENTS", 3)
    monkeypatch.setattr(tasks, "LONGEST_PAUSE_S", 0.02)
    (tmp_path / "run" / "crawl").mkdir(parents=True)
    (tmp_path / "block.txt").write_text("bad.com\n")
    n = 0
    for number, (n_pages, address) in enumerate(FEW):
        records = [record(b"", type="warcinfo")]
        for i in range(n_pages):
            body = [html_of(prose(300, n)), html_of(prose(300, n // 3)), PAGES[n % 14][1]][n % 3]
            date = f"2024-01-{20 - n:02}T00:00:00Z"
            records.append(page(body, f"{address}{i}", WARC_Date=date, WARC_Record_ID=f"<{n}>"))
            n += 1
        path = tmp_path / "run" / "crawl" / f"{number}.warc.gz"
        path.write_bytes(b"".join(gzip.compress(x, 1) for x in records))
    return tmp_path / "run"


def by_tasks(run_dir, n, *more):
    """The phases of n tasks, one after another."""
    for phase, who in options.PHASES.items():
        for i in range(n if who == tasks.ALL else 1):
            run(run_dir, "--task", f"{i}/{n}", "--phase", phase, *more)


def without_seconds(run_dir):
    """{name: bytes} of a run's files, with the report as text without seconds."""
    report = report_of(run_dir)
    for stage in report["stages"].values():
        del stage["seconds"]
    return {**products(run_dir), "report": json.dumps(report)}


def anew(run_dir):
    """The results of one task; removed, so that others can be made."""
    run(run_dir, "--save-index", str(run_dir / "index.npy"))
    want = without_seconds(run_dir), (run_dir / "index.npy").read_bytes()
    shutil.rmtree(run_dir / "docs")
    return want


def test_any_number_of_tasks_writes_the_same_bytes_as_one(files, capsys):
    want, index = anew(files)
    assert len(want) == 6               # four shards
    assert json.loads(want["report"])["stages"]["minhash"]["reasons"] == {"duplicate": 5}
    for n in (2, 3, 7):
        capsys.readouterr()
        by_tasks(files, n, "--save-index", str(files / "index.npy"))
        assert without_seconds(files) == want and (files / "index.npy").read_bytes() == index
        out = capsys.readouterr().out
        assert "task 1/2: its part is done" in out or n > 2
        assert out.splitlines()[-1].startswith("data  ")            # of task 0
        left = [path for path in (files / "docs" / ".new").rglob("*") if path.is_file()]
        assert {path.parent.name for path in left} == {"done", left[0].parent.parent.name} or all(
            path.name == "tasks.json" or path.parent.name == "done" for path in left)
        run(files, "--task", f"{n - 1}/{n}", "--save-index", str(files / "index.npy"))
        assert capsys.readouterr().out == f"task {n - 1}/{n}: its part is done\n"
        shutil.rmtree(files / "docs")


def test_tasks_at_once_wait_for_each_other(files):
    want, _ = anew(files)
    code = ("import sys, data; sys.path.insert(0, 'tests'); from web import pipeline, results; "
            "import types; pipeline.UNIT, results.SHARD_DOCUMENTS = 2, 3; "
            "data.language.load = lambda path=None: types.SimpleNamespace(predict=lambda texts: "
            "([('en' if ' the ' in f' {t} ' else 'de') for t in texts], "
            "[0.5 if 'unsure' in t else 0.9 for t in texts])); data.main(sys.argv[1:])")
    argv = ["--run", str(files), "--workers", "1", "--blocklist", str(files.parent / "block.txt")]
    environ = {**os.environ, "OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "3"}
    started = []
    for i in (2, 1, 0):                     # as mpirun would
        started.append(subprocess.Popen(
            [sys.executable, "-c", code, *argv], cwd=SCRIPTS, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={**environ, "OMPI_COMM_WORLD_RANK": str(i)}))
    for process in started:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert without_seconds(files) == want


@pytest.mark.parametrize("first", [1, 3])
def test_tasks_that_are_killed_write_the_same_bytes_as_one(files, monkeypatch, first):
    """Each phase is begun again and again, and killed after a few files, then after a few more."""
    want, _ = anew(files)
    replace, left, n_killed = disk.replace, 0, 0

    def killed(old, new):
        nonlocal left
        replace(old, new)
        left -= 1
        if not left:
            raise KeyboardInterrupt

    monkeypatch.setattr(disk, "replace", killed)
    argv = ["--save-index", str(files / "index.npy")]
    for phase, who in options.PHASES.items():
        for i in range(2 if who == tasks.ALL else 1):
            for attempt in itertools.count():
                left = first + 5 * attempt
                try:
                    run(files, "--task", f"{i}/2", "--phase", phase, *argv)
                    break
                except KeyboardInterrupt:
                    n_killed += 1
    assert n_killed > 15 and without_seconds(files) == want


def test_tasks_whose_results_were_deleted(files):
    """They do not say that all is done."""
    for phase, who in options.PHASES.items():
        for i in range(2 if who == tasks.ALL else 1):
            run(files, "--task", f"{i}/2", "--phase", phase)
    run(files, "--task", "0/2")
    (files / "docs" / "report.json").unlink()
    assert "made is no longer there; to begin anew" in fails(files, "--task", "0/2")


def test_tasks_whose_files_have_changed_or_whose_number_is_another(files):
    run(files, "--task", "0/2", "--phase", "pages")
    assert "begun by 2 tasks, and this is task 1/3" in fails(files, "--task", "1/3")
    assert "begun by 2 tasks, and this is task 0/1" in fails(files)
    path = files / "crawl" / "2.warc.gz"
    before = path.read_bytes()
    path.write_bytes((files / "crawl" / "1.warc.gz").read_bytes())
    said = fails(files, "--task", "0/2")
    assert "files of task 0/2 have changed since the run was begun" in said
    path.write_bytes(before)
    run(files, "--dump", "x")               # other work is left alone until it is complete
    assert len(list((files / "docs" / ".new").iterdir())) == 1
    shutil.rmtree(files / "docs")
    by_tasks(files, 2)
    run(files, "--dump", "x")               # and is cleared away then
    assert not (files / "docs" / ".new").exists()


def test_a_task_that_runs_twice_at_once(files, capsys):
    with tasks.locked(files / "docs", "data.py", tasks.Task(1, 2)):
        assert "another data.py-task-1-of-2 is writing there" in fails(files, "--task", "1/2")
        run(files, "--task", "0/2", "--phase", "pages")
    assert not (files / "docs" / ".tasks").exists()


def test_a_full_disk_a_half_file_and_clocks_that_differ(files):
    """A file may not exceed some bytes, as if the disk were full. Later it may again."""
    want, _ = anew(files)
    size = max(path.stat().st_size for path in (files / "crawl").iterdir())
    limits, r = resource.getrlimit(resource.RLIMIT_FSIZE), random.Random(0)
    n_full = 0
    for most in (10, 500, size, 40_000, limits[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            by_tasks(files, 2)
        except OSError as error:
            assert "File too large" in str(error) and str(files) in str(error)
            n_full += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        for path in list((files / "docs" / ".new").rglob("*")):
            os.utime(path, (time.time(), time.time() + r.choice([-3600, 3600])))
            if path.name.endswith(".rows.json"):            # half files of a killed process
                Path(f"{path}.999999-0123abcd.tmp").write_text('{"docu')
    assert n_full >= 3 and without_seconds(files) == want


def test_a_script_for_slurm(crawl, capsys):
    data.main(["--run", str(crawl), "--slurm", "4", "--order", "script"])
    said = capsys.readouterr().out
    assert 'data.py --run ' in said and '--order script --phase "$PHASE" --task' in said
    assert "for phase in pages pairs clusters rest shards publish; do" in said
    assert not (crawl / "docs").exists()


# --------------------------------------------------------------------------------------------------
# Whatever comes: LONGHAND_FUZZ_PAGES pages are damaged, and files of them.


def damaged(raw, r):
    """Some bytes after bits were flipped, pieces cut, doubled, swapped in or repeated."""
    raw = bytearray(raw)
    for _ in range(r.randint(1, 6)):
        a, b = sorted(r.randrange(len(raw) + 1) for _ in "ab")
        how = r.randrange(7)
        if how == 0:
            for _ in range(r.randint(1, 50)):
                raw[r.randrange(len(raw))] ^= 1 << r.randrange(8)
        elif how == 1:
            del raw[a : min(b, a + len(raw) // 2)]
        elif how == 2:
            raw[a:a] = raw[a:b][:5000]
        elif how == 3:
            raw[a:a] = r.choice(
                [
                    b"<table><tr><td>", b"<div>", b"<!--", b"<script>", b"&#x110000;", b"<a href='",
                    b"\xff\xfe", b"\0", b"]]>", b"</p>", b"<plaintext>",
                    b"<td colspan=9007199254740991>", "\u0301".encode(), b"a@b.", b"1.2.3.", b"{",
                    "é".encode("utf-16-le"),
                ]
            ) * r.choice([1, 2, 50, 3000])
        elif how == 4:
            del raw[r.randrange(len(raw)) + 1 :]
        elif how == 5:
            raw[a:b] = bytes(r.randrange(256) for _ in range(min(b - a, 300)))
        else:
            raw = raw.replace(
                r.choice([b"<p>", b" ", b"</", b"\n", b">"]),
                r.choice([b"", b"<", b"\n\n", b"\xa0", b"<br>"]),
            )
        raw = raw or bytearray(b"x")
    return bytes(raw[:2_000_000])


def test_damaged_pages_and_files_are_all_accounted_for(tmp_path, stub_language):
    r, n = (
        random.Random(int(os.environ.get("LONGHAND_FUZZ_PAGES_SEED", 0))),
        int(os.environ.get("LONGHAND_FUZZ_PAGES", 300)),
    )
    real = (
        [x.body for x in warc.read_warc(DATA / "crawl-dev.warc.gz") if x.type == "response"][:40]
        if (DATA / "crawl-dev.warc.gz").exists()
        else []
    )
    whole = [body for _, body, *_ in PAGES] + real
    hostile = [
        b"<div>" * 100_000 + b"the end of it", b"<table>" + b"<tr><td>a" * 300_000,
        b"<p>" + b"the word of it " * 60_000, b"<p>" + b"x" * 900_000, b"", b"\0" * 10_000,
    ]
    bodies = hostile + [damaged(r.choice(whole), r) for _ in range(n)]
    records = [
        page(body, f"http://a.com/{i}", WARC_Record_ID=f"<urn:uuid:{i}>")
        for i, body in enumerate(bodies)
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(gzip.compress(x, 1) for x in records))
    few = b"".join(gzip.compress(x, 1) for x in r.sample(records, 5))
    for i in range(n // 20):
        (tmp_path / f"b{i}.warc.gz").write_bytes(THREE_ZIPPED + damaged(few, r))
    start = time.process_time()
    data.main([str(tmp_path), "--run", str(tmp_path / "run"), "--workers", "2"])
    report = report_of(tmp_path / "run")
    count = lambda row: sum(row["reasons"].values())
    n_in = sum(report["reader"].get(kind, 0) for kind in ("response", "resource", "conversion"))
    for stage, row in report["stages"].items():
        assert row["documents_in"] == n_in and row["documents_out"] == n_in - count(row)
        assert not [why for why in row["reasons"] if why.startswith("error_")], (
            stage,
            row["reasons"],
        )
        n_in = row["documents_out"]
    assert n_in == len(documents(tmp_path / "run")) and len(dropped(tmp_path / "run")) - 1 == sum(
        map(count, report["stages"].values())
    )
    urls_seen = [row[0] for row in dropped(tmp_path / "run")[1:]] + [
        d["url"] for d in documents(tmp_path / "run")
    ]
    assert {f"http://a.com/{i}" for i in range(len(bodies))} <= set(
        urls_seen
    )  # of the whole file, every page
    assert time.process_time() - start < 60 + n / 5


THREE_ZIPPED = b"".join(map(gzip.compress, THREE))
