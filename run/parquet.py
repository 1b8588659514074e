"""parquet.py: files of documents, Parquet among them, and the way from one kind to the other.

    documents(path)             each document of a .parquet, .jsonl or .jsonl.gz file
    text_lines(path)            the same as lines of jsonl
    write(path, documents)      a Parquet file with FineWeb's columns

    python -m run.parquet out/demo/docs --to out/demo/parquet       .jsonl.gz -> .parquet
    python -m run.parquet 000_00000.parquet --to out/fineweb/docs   .parquet -> .jsonl.gz

A document is a dict. Its `text` is a string. FineWeb's own files are Parquet, as are most data sets
for language models: each column of a table is stored by itself and compressed. We read and write
them with pyarrow, which is imported only here and only when it is needed.

A Parquet file consists of row groups. Some writers make one group of millions of rows, so we read
no group whole: pyarrow unpacks a few pages of each column at a time.
"""

import argparse
import datetime
import gzip
import itertools
import json
import sys
import zlib
from pathlib import Path

from run import command, disk

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
COLUMNS = {                     # those of FineWeb, with its types, and those that data.py adds
    "text": "string",
    "id": "string",
    "dump": "string",
    "url": "string",
    "date": "string",
    "file_path": "string",
    "language": "string",
    "language_score": "float64",
    "token_count": "int64",
    "license": "string",        # ours
}
ROWS_READ = 128                 # at a time
BUFFER_BYTES = 1 << 20          # read of each column at a time
GROUP_ROWS = 1000               # of a row group that we write, as datatrove
GROUP_CHARACTERS = 1 << 25      # of its texts, about: books make smaller groups


def arrow():
    """The package pyarrow; ValueError, with the command that installs it, where it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"Parquet files need pyarrow ({error}); "
                         "install it with: pip install pyarrow") from None
    return pyarrow


def kind_of(path):
    """Which of SUFFIXES a file has; ValueError if none."""
    for suffix in SUFFIXES:
        if Path(path).name.endswith(suffix):
            return suffix
    raise ValueError(f"{path}: its name ends in none of {', '.join(SUFFIXES)}")


# --------------------------------------------------------------------------------- reading


def documents(path, columns=None, text_column="text", skip_null=False, opened=None):
    """Yields each document of a .parquet or .jsonl.gz file, or of any other file as jsonl.

    columns: of a Parquet file read only these (those that it has). Empty values are None.
    text_column: the column that becomes `text`. skip_null: leave out the documents whose text is
    null, and say how many they are. opened: is called with the file that is read. ValueError with
    the file and the line or row for what is damaged, and for a document without a text.
    """
    path, n_skipped = Path(path), 0
    is_parquet = path.suffix == ".parquet"
    for n, document in rows(path, columns, opened) if is_parquet else lines(path, opened):
        if text_column != "text" and text_column in document:
            if "text" in document:
                raise ValueError(f"{path}: has a column text besides {text_column}, which is to "
                                 "become text; leave --text away")
            document = {"text": document.pop(text_column), **document}
        if skip_null and document.get("text", "") is None:
            n_skipped += 1
            continue
        if not isinstance(document.get("text"), str):
            raise ValueError(without_text(path, n, document, is_parquet))
        yield document
    if n_skipped:
        print(f"{path}: {n_skipped:,} documents whose text is null are left out", file=sys.stderr)


def without_text(path, n, document, is_parquet):
    """What to say of a document that has no text."""
    again = f"python -m run.parquet {path} --to DIR"
    if not is_parquet:
        found = json.dumps(document)[:60]
        return f'{path}:{n}: cannot be read: expected {{"text": "..."}}, found {found}'
    if "text" not in document:
        return (f"{path}: no column text, but {', '.join(document)}; if one of these holds the "
                f"texts: {again} --text COLUMN")
    if document["text"] is None:
        return f"{path}: row {n}: its text is null; leave such rows out: {again} --skip-null"
    return f"{path}: row {n}: its text is {repr(document['text'])[:60]}, but texts are strings"


def lines(path, opened=None):
    """Yields (number from 1, dict) for each line of a .jsonl or .jsonl.gz file, blank ones apart.

    ValueError with the file and the line for one that is no JSON object.
    """
    n = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            if opened:
                opened(file)
            for n, line in enumerate(file, 1):
                if line.isspace():
                    continue
                document = json.loads(line)
                if not isinstance(document, dict):
                    raise ValueError(f'expected {{"text": "..."}}, found {line[:60]!r}')
                yield n, document
    except (ValueError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}:{n}: cannot be read: {error}") from None


def rows(path, columns=None, opened=None):
    """Yields (number from 1, dict) for each row of a Parquet file. columns: see documents."""
    pa = arrow()
    n = 0
    with open(path, "rb") as file:
        if opened:
            opened(file)
        try:
            with pa.parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_BYTES,
                                        page_checksum_verification=True) as table:
                names = table.schema_arrow.names
                if columns and "text" in names:     # else all: an error will list them
                    names = [name for name in names if name in columns]
                for batch in table.iter_batches(ROWS_READ, columns=names, use_threads=False):
                    for row in batch.to_pylist():
                        n += 1
                        yield n, row
                declared = table.metadata.num_rows
                if n != declared:
                    raise ValueError(f"it declares {declared} rows")
        except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
            reason = str(error).partition("\n")[0][:200]
            raise ValueError(f"{path}: cannot be read after row {n}: {reason}; it is damaged or "
                             "no Parquet file, fetch or make it again") from None


# --------------------------------------------------------------------------------- writing


def schema_of(names=tuple(COLUMNS)):
    """The columns of a Parquet file: those of COLUMNS with these names, as pyarrow's schema."""
    pa = arrow()
    return pa.schema([(name, pa.type_for_alias(COLUMNS[name])) for name in names])


def write(path, documents, schema=None):
    """Write documents (dicts) to a Parquet file, whole; returns how many they were.

    schema: of pyarrow, by default FineWeb's columns. What a document does not have is null.
    ValueError for a key that is no column, or a value of another type.
    """
    pa = arrow()
    schema = schema or schema_of()
    n, known = 0, set(schema.names)
    with (disk.whole_file(Path(path)) as file,
          pa.parquet.ParquetWriter(file, schema, compression="zstd",
                                   write_page_checksum=True) as writer):
        for group in groups_of(documents):
            for i, document in enumerate(group, n + 1):
                if not known.issuperset(document):
                    raise ValueError(f"{path}: document {i} has {set(document) - known}, and the "
                                     f"columns are {', '.join(schema.names)}")
            writer.write_batch(batch_of(pa, group, schema))
            n += len(group)
    return n


def batch_of(pa, group, schema):
    """Documents as one of pyarrow's batches; ValueError if a value does not fit its column."""
    arrays = []
    for field in schema:
        values = [document.get(field.name) for document in group]
        try:
            arrays.append(pa.array(values, field.type))
        except UnicodeEncodeError:
            print(f"column {field.name}: a half of a surrogate pair, which UTF-8 cannot hold, is "
                  "written as U+FFFD", file=sys.stderr)
            arrays.append(pa.array(map(well_formed, values), field.type))
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(f"column {field.name}: {error}") from None
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def well_formed(value):
    """A string without lone surrogates, as tokens/added.py makes them; other values unchanged."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def groups_of(documents):
    """Yields lists of documents, each to become a row group."""
    group, size = [], 0
    for document in documents:
        group.append(document)
        size += len(document.get("text") or "")
        if len(group) == GROUP_ROWS or size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def common_schema(paths, **options):
    """The columns of all documents of some files, in the order in which they are met.

    They have the types that pyarrow finds for the values. A column of COLUMNS without any value, or
    with whole numbers only, has the type it has there. options: see documents.
    """
    pa = arrow()
    schema = pa.schema([])
    for path in paths:
        for group in groups_of(documents(path, **options)):
            names = dict.fromkeys(itertools.chain.from_iterable(group))
            arrays = [pa.infer_type([document.get(name) for document in group]) for name in names]
            try:
                schema = pa.unify_schemas([schema, pa.schema(list(zip(names, arrays)))],
                                          promote_options="permissive")
            except pa.ArrowException as error:
                raise ValueError(f"{path}: {error}") from None
    for i, field in enumerate(schema):
        usual = pa.type_for_alias(COLUMNS.get(field.name, "string"))
        is_whole = pa.types.is_integer(field.type) and pa.types.is_floating(usual)
        if pa.types.is_null(field.type) or is_whole:
            schema = schema.set(i, field.with_type(usual))
    return schema


def line_of(document):
    """A document as a line of jsonl. Dates are written as in ISO 8601."""
    return json.dumps(document, ensure_ascii=False, default=in_json) + "\n"


def text_lines(path, errors="strict"):
    """The lines of a jsonl file, or what they would be of a Parquet file. errors: as for open()."""
    if Path(path).suffix == ".parquet":
        return map(line_of, documents(path))
    return disk.read_lines(path, errors)


def in_json(value):
    """What json.dumps asks for a value that is no JSON; ValueError for bytes and the like."""
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    raise ValueError(f"{repr(value)[:60]} is {type(value).__name__}, which JSON does not have")


def write_lines(path, documents):
    """Write documents to a .jsonl.gz file, whole; returns how many they were."""
    n = 0
    with disk.whole_file(Path(path)) as file, disk.gzip_text(file) as text:
        for n, document in enumerate(documents, 1):
            text.write(line_of(document))
    return n


# ---------------------------------------------------------------------------- from one to the other


def files_in(paths):
    """The files of documents that paths name; of a folder all that are in it."""
    files = []
    for path in paths:
        if not path.is_dir():
            kind_of(path)
            files.append(path)
            continue
        found = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES))
        if not found:
            raise FileNotFoundError(f"{path}: has no file whose name ends in "
                                    f"{', '.join(SUFFIXES)}")
        files += found
    return files


def target_of(path, to):
    """The file in the folder `to` that a file becomes."""
    suffix = kind_of(path)
    other = ".jsonl.gz" if suffix == ".parquet" else ".parquet"
    return to / (path.name.removesuffix(suffix) + other)


def convert(files, to, **options):
    """Write each file as one of the other kind into the folder `to`. options: see documents.

    All Parquet files get the same columns. Yields (file, new file, number of documents).
    """
    targets = [target_of(path, to) for path in files]
    for target in targets:
        if targets.count(target) > 1 or target in files:
            raise ValueError(f"{target}: would be written over by another of the files; give --to "
                             "another folder, or convert them one at a time")
    of_lines = [path for path in files if kind_of(path) != ".parquet"]
    schema = common_schema(of_lines, **options) if of_lines else None
    to.mkdir(parents=True, exist_ok=True)
    for path, target in zip(files, targets):
        found = documents(path, **options)
        try:
            n = write(target, found, schema) if path in of_lines else write_lines(target, found)
        except ValueError as error:
            named = str(path) in str(error)
            raise ValueError(str(error) if named else f"{path}: {error}") from None
        yield path, target, n


def parse_args(argv=None):
    """The options of `python -m run.parquet`."""
    parser = argparse.ArgumentParser(
        prog="python -m run.parquet",
        description="Turn .jsonl and .jsonl.gz files of documents into Parquet, and Parquet into "
                    ".jsonl.gz.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH",
                        help="files, or folders of such files")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR",
                        help="folder for the new files (required)")
    parser.add_argument("--text", default="text", metavar="COLUMN",
                        help="the column that becomes `text` (default: %(default)s)")
    parser.add_argument("--skip-null", action="store_true",
                        help="leave out documents whose text is null, and say how many")
    return parser.parse_args(argv)


def main(argv=None):
    """Convert the files that the command line names."""
    args = parse_args(argv)
    options = {"text_column": args.text, "skip_null": args.skip_null}
    for path, target, n in convert(files_in(args.paths), args.to, **options):
        print(f"{path} -> {target}: {n:,} documents, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    command.run(main)
