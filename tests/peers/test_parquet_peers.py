"""run/parquet.py beside datatrove and Hugging Face's datasets: they read what we write, we read
what they write. The tests of tests/test_parquet.py run here too, because pyarrow is here.
"""

import pytest

from test_parquet import *  # noqa: F403  its tests
from test_parquet import some_documents
from run import parquet

pytest.importorskip("datatrove", exc_type=ImportError)
pytest.importorskip("pyarrow", exc_type=ImportError)


def document_of(row):
    """A row as a document of datatrove."""
    from datatrove.data import Document
    metadata = {name: value for name, value in row.items() if name not in ("text", "id")}
    return Document(text=row["text"], id=row["id"], metadata=metadata)


def row_of(document):
    """A document of datatrove as a row."""
    metadata = {name: value for name, value in document.metadata.items() if name != "file_path"}
    return {"text": document.text, "id": document.id, **metadata}


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", None])
def test_we_read_what_datatrove_writes(tmp_path, compression):
    from datatrove.pipeline.writers import ParquetWriter
    found = some_documents()[1:]            # the first has no text, and datatrove writes none
    writer = ParquetWriter(str(tmp_path), output_filename="${rank}.parquet",
                           compression=compression, batch_size=7, expand_metadata=True)
    with writer:
        for row in found:
            writer.write(document_of(row), rank=0)
    [path] = tmp_path.glob("*.parquet")
    read = [{name: row[name] for name in found[0]} for row in parquet.documents(path)]
    assert read == found


def test_datatrove_reads_what_we_write(tmp_path):
    from datatrove.pipeline.readers import ParquetReader
    found = [row for row in some_documents() if row["text"]]        # it leaves out empty texts
    parquet.write(tmp_path / "a.parquet", found)
    read = [row_of(document) for document in ParquetReader(str(tmp_path)).run()]
    expected = [{**row, "license": None} for row in found]
    for row in expected:
        del row["file_path"]                                        # datatrove writes its own there
    assert read == expected


def test_datasets_reads_what_we_write(tmp_path):
    datasets = pytest.importorskip("datasets")
    found = some_documents()
    parquet.write(tmp_path / "a.parquet", found)
    read = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path))
    assert {name: value.dtype for name, value in read.features.items()} == parquet.COLUMNS
    assert read.to_list() == [{**row, "license": None} for row in found]
