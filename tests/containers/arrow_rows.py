"""Read small Parquet and Arrow files; print the rows, or why a file is refused, as JSON."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aligntune.data.sources import Source, read_rows
from aligntune.errors import DataError

GOOD = pa.table({"text": ["a", "b"], "score": [1, None]})
TWICE = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])


def write(table: pa.Table, path: Path, form: str) -> None:
    if form == "parquet":
        pq.write_table(table, path)
        return
    make = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table)


def read(path: Path) -> object:
    try:
        return list(read_rows(Source(path.name, path), "train"))
    except DataError as refused:
        return str(refused)


folder = Path(tempfile.mkdtemp())
found = {}
for form, suffix in (("parquet", "parquet"), ("file", "arrow"), ("stream", "arrow")):
    paths = {kind: folder / f"{form}-{kind}.{suffix}" for kind in ("good", "twice", "cut")}
    write(GOOD, paths["good"], form)
    write(TWICE, paths["twice"], form)
    content = paths["good"].read_bytes()
    paths["cut"].write_bytes(content[: len(content) // 2])
    found[form] = {kind: read(path) for kind, path in paths.items()}
print(json.dumps(found))
