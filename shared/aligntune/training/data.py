"""Rows from files, folders, saved datasets and the hub, brought to one of a few canonical forms.

A source yields rows, each with its place (file and line) for messages; a format turns a row into
its canonical form or says what is wrong with it. Canonical rows are a ``datasets.Dataset`` with
one of these columns, and nothing else:

=================  ====================================================
``text``           ``text``: a string
``prompt_completion``  ``prompt``, ``completion``: strings, or both lists of messages
``chat``           ``messages``: a list of ``{role, content}``
=================  ====================================================

``instruction`` rows (instruction, optional input, output) become ``prompt_completion``: messages
where the tokenizer has a chat template, else Alpaca's prompt
(https://github.com/tatsu-lab/stanford_alpaca).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.errors import DataError
from aligntune.settings import nearest
from aligntune.spec import DatasetSpec

Values = Mapping[str, Any]
Row = tuple[str, Values]
"""Where a row stands (``train.jsonl, line 3``), and its columns."""

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
BATCH_ROWS = 1000

ALPACA_PROMPT = (
    "Below is an instruction that describes a task{also}. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n{input}### Response:\n"
)


@dataclass(frozen=True)
class Source:
    """Where rows come from: a local path, or the Arrow files a hub dataset was fetched into."""

    name: str
    path: Path | None = None
    arrow_files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Canonical rows and what they were: ``format`` as detected, ``source`` for the log."""

    dataset: Any
    format: str
    source: str


def load(source: Source, split: str, spec: DatasetSpec, limit: int | None, chat: bool) -> Rows:
    """Read rows and bring them to canonical form.

    Args:
        source: where they are.
        split: name of the split, with an optional slice (``train[:10%]``).
        spec: the request, for format, columns and system prompt.
        limit: read no more rows than this, after slicing.
        chat: whether the tokenizer has a chat template, which decides what instructions become.

    Raises:
        DataError: no such split or column, a malformed or empty row, no rows, mixed formats; the
            message names file and line.
    """
    name, bracket, rest = split.partition("[")
    rows = read_rows(source, name)
    read = None if bracket else limit
    format_name, canonical = canonicalise(rows, spec, chat, read)
    dataset = _dataset(canonical)
    if len(dataset) == 0:
        raise DataError(f"{source.name} has no rows in split {name!r}", "Name data that has rows")
    if bracket:
        dataset = _slice(dataset, name, f"{name}[{rest}")
        if limit is not None:
            dataset = dataset.select(range(min(limit, len(dataset))))
        if len(dataset) == 0:
            raise DataError(f"{source.name}: the slice {split!r} holds no rows")
    return Rows(dataset, format_name, f"{source.name}, split {split}")


def canonicalise(
    rows: Iterable[Row], spec: DatasetSpec, chat: bool, limit: int | None = None
) -> tuple[str, Iterator[dict[str, Any]]]:
    """The format of the rows (of the first one, where it is not named) and the canonical rows."""
    iterator = iter(rows)
    first = next(iterator, None)
    if first is None:
        return spec.format, iter(())
    known = spec.columns
    missing = [theirs for theirs in known.values() if theirs not in first[1]]
    if missing:
        raise DataError(
            f"{first[0]}: no column {missing[0]!r}; columns: {', '.join(first[1])}"
            f"{nearest(missing[0], list(first[1]))}",
            "Mend dataset.columns",
        )
    mapped = _rename(first[1], known)
    name = spec.format if spec.format != "auto" else detect(mapped, first[0])
    turn = FORMATS[name].turn
    conversational = {
        "chat": True,
        "instruction": chat,
        "prompt_completion": isinstance(mapped.get("prompt"), list),
        "text": False,
    }
    if spec.system_prompt and not conversational[name]:
        raise DataError(
            f"dataset.system_prompt is for conversations, and {first[0]} is {name}",
            "Leave it out, or use chat data",
        )

    def canonical() -> Iterator[dict[str, Any]]:
        shape: set[str] | None = None
        row: Row | None = first
        count = 0
        while row is not None:
            where, values = row[0], _rename(row[1], known)
            try:
                _require_columns(values, name)
                turned = turn(values, chat)
            except UnusableError as problem:
                alike = f"Every row has to be {name} like the first one" if count else ""
                raise DataError(f"{where}: {problem}", alike or "Mend that row") from None
            kinds = {f"{key} {type(value).__name__}" for key, value in turned.items()}
            if shape is None:
                shape = kinds
            elif kinds != shape:
                raise DataError(
                    f"{where}: a row of {', '.join(sorted(kinds))} among rows of "
                    f"{', '.join(sorted(shape))}",
                    "Rows of one dataset have to have one format",
                )
            yield _with_system(turned, spec.system_prompt) if spec.system_prompt else turned
            count += 1
            row = next(iterator, None) if count != limit else None

    return name, canonical()


def detect(values: Values, where: str) -> str:
    """The format of a row by its columns.

    Raises:
        DataError: no format has these columns.
    """
    for name, known in FORMATS.items():
        if all(any(column in values for column in choice) for choice in known.columns):
            return name
    raise DataError(
        f"{where}: columns {', '.join(map(str, values))} are of no known format (messages; "
        "prompt and completion; instruction and output; text)",
        "Say which is which, e.g. --set dataset.columns.prompt=question "
        "--set dataset.columns.completion=answer",
    )


# --- formats: one function each, from a row's columns to its canonical form


class UnusableError(Exception):
    """What is wrong with a row, in words."""


@dataclass(frozen=True)
class Format:
    """Columns a row must have (each a choice of names), and how it becomes canonical."""

    columns: tuple[tuple[str, ...], ...]
    turn: Callable[[Values, bool], dict[str, Any]]


def _text(values: Values, chat: bool) -> dict[str, Any]:
    return {"text": _string(values, "text")}


def _prompt_completion(values: Values, chat: bool) -> dict[str, Any]:
    if isinstance(values["prompt"], list):
        return {key: _messages(values[key], key) for key in ("prompt", "completion")}
    return {key: _string(values, key) for key in ("prompt", "completion")}


def _chat(values: Values, chat: bool) -> dict[str, Any]:
    column = "messages" if "messages" in values else "conversations"
    if values.get("tools"):
        raise UnusableError("tools are not supported")
    return {"messages": _messages(values[column], column)}


def _instruction(values: Values, chat: bool) -> dict[str, Any]:
    instruction, output = _string(values, "instruction"), _string(values, "output")
    extra = values.get("input") or ""
    if not isinstance(extra, str):
        raise UnusableError(f"column 'input' is {_kind(extra)}, not text")
    if chat:
        question = f"{instruction}\n\n{extra}" if extra else instruction
        return {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": output}],
        }
    prompt = ALPACA_PROMPT.format(
        also=", paired with an input that provides further context" if extra else "",
        instruction=instruction,
        input=f"### Input:\n{extra}\n\n" if extra else "",
    )
    return {"prompt": prompt, "completion": output}


FORMATS = {
    "chat": Format((("messages", "conversations"),), _chat),
    "prompt_completion": Format((("prompt",), ("completion",)), _prompt_completion),
    "instruction": Format((("instruction",), ("output",)), _instruction),
    "text": Format((("text",),), _text),
}
"""In the order in which ``auto`` looks for them."""

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}
"""ShareGPT's names for the roles."""


def _require_columns(values: Values, name: str) -> None:
    for choice in FORMATS[name].columns:
        if not any(column in values for column in choice):
            there = ", ".join(map(str, values)) or "none"
            raise UnusableError(f"no column {choice[0]!r}; columns: {there}")


def _string(values: Values, key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise UnusableError(f"column {key!r} is {_kind(value)}, not text")
    _require_characters(value, f"column {key!r}")
    return value


def _require_characters(text: str, what: str) -> None:
    """Refuse half a character, like JSON's ``\\ud83d`` alone: no tokenizer or file can take it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusableError(f"{what} holds half a character ({text[error.start]!a})") from None


def _messages(value: Any, key: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise UnusableError(f"column {key!r} is {_kind(value)}, not a list of messages")
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise UnusableError(f"message {number} of {key!r} is {_kind(message)}, not an object")
        if message.get("tool_calls"):
            raise UnusableError(f"message {number} of {key!r} calls tools, which is not supported")
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if isinstance(content, list):
            content = _joined(content, number, key)
        if not isinstance(role, str) or not isinstance(content, str):
            raise UnusableError(f"message {number} of {key!r} needs a role and a content of text")
        _require_characters(role + content, f"message {number} of {key!r}")
        messages.append({"role": ROLES.get(role, role), "content": content})
    return messages


def _joined(parts: list[Any], number: int, key: str) -> str:
    found = (part.get("text") if isinstance(part, dict) else None for part in parts)
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) != len(parts):
        raise UnusableError(
            f"message {number} of {key!r} holds more than text, which is not supported"
        )
    return "".join(texts)


def _with_system(row: dict[str, Any], prompt: str) -> dict[str, Any]:
    key = "messages" if "messages" in row else "prompt"
    if any(message["role"] == "system" for message in row[key]):
        return row
    return {**row, key: [{"role": "system", "content": prompt}, *row[key]]}


def _rename(values: Values, known: Mapping[str, str]) -> dict[str, Any]:
    """Columns under their canonical names; a named one wins over one that has the name already."""
    named = {ours: values[theirs] for ours, theirs in known.items() if theirs in values}
    used = {*known, *known.values()}
    return {key: value for key, value in values.items() if key not in used} | named


def _kind(value: Any) -> str:
    names = {"NoneType": "empty", "dict": "an object", "list": "a list", "str": "text"}
    kind = type(value).__name__
    return "an empty list" if value == [] else names.get(kind, f"a {kind}")


# --- sources: where rows come from


def read_rows(source: Source, split: str) -> Iterator[Row]:
    """The rows of a source's split, as they stand there.

    Raises:
        DataError: there is no such source or split, or what is there cannot be read.
    """
    if source.path is None:
        return _arrow_rows(source)
    if not source.path.exists():
        raise DataError(f"no such dataset: {source.name}")
    if source.path.is_dir():
        return _folder_rows(source.path, source.name, split)
    if source.path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{source.name}: {source.path.suffix or 'a file without suffix'} is not a known format",
            f"Use one of {', '.join(SUFFIXES)}",
        )
    if split not in ("train", ""):
        raise DataError(f"{source.name} is one file and has no split {split!r}", "Leave it out")
    return _file_rows(source.path, source.path.name)


def _file_rows(path: Path, name: str) -> Iterator[Row]:
    reader = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    try:
        yield from reader[path.suffix.lower()](path, name)
    except UnicodeDecodeError:
        line = _first_undecodable(path)
        raise DataError(f"{name}, line {line}: not UTF-8 text", "Save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from error


def _first_undecodable(path: Path) -> int:
    """The line that is not UTF-8 (what the decoder reports counts from the start of its buffer)."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _jsonl(path: Path, name: str) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{name}, line {number}"
                yield where, _object(_parse(line, where), where)


def _json(path: Path, name: str) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        if _is_object(text) and "\n" in text.strip():
            raise DataError(
                f"{name} is one JSON object", "Make it a list of rows, or one object a line"
            )
        yield from _jsonl(path, name)
        return
    for number, row in enumerate(_parse(text, name), 1):
        where = f"{name}, row {number}"
        yield where, _object(row, where)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.lineno > 1 else ""
        problem = f"{error.msg} at {place}column {error.colno}"
    except (ValueError, RecursionError):  # a number of thousands of digits, a bracket too many
        problem = "a number too long or lists too deep"
    raise DataError(f"{where}: not valid JSON ({problem})", "Mend that line")


def _object(row: Any, where: str) -> Values:
    if not isinstance(row, dict):
        raise DataError(f"{where}: {_kind(row)}, not an object of columns", "Mend that row")
    return row


def _csv(path: Path, name: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{name}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: not as many fields as columns", "Mend that line")
                yield where, row
        except csv.Error as error:
            line = reader.reader.line_num  # the dictionary reader's own lags behind
            raise DataError(f"{name}, line {line}: not valid CSV ({error})") from None


def _parquet(path: Path, name: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}, row {number}", row
    except pyarrow.ArrowException as error:
        raise DataError(f"{name} is not a valid Parquet file: {error}") from None


def _arrow_rows(source: Source) -> Iterator[Row]:
    from datasets import Dataset

    number = 0
    for path in source.arrow_files:
        for row in Dataset.from_file(str(path)):
            number += 1
            yield f"{source.name}, row {number}", row


SPLIT_REMEDY = "Set dataset.split, or dataset.eval_split where it is the evaluation set"

FILLER = ("of", "data", "dataset", "set", "split")
"""Words beside a split's name that say nothing: ``train-00000-of-00002``, ``my_training_set``."""

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def _folder_rows(folder: Path, name: str, split: str) -> Iterator[Row]:
    if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
        yield from _saved_rows(folder, name, split)
        return
    found = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)
    files = [path for path in found if path.is_file() and not _is_hidden(path, folder)]
    if not files:
        raise DataError(
            f"{name} holds no {', '.join(SUFFIXES)} files", "Name a file or another folder"
        )
    by_split: dict[str, list[Path]] = {}
    for path in files:
        by_split.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    unnamed = by_split.pop("", [])
    if unnamed and by_split:
        others = ", ".join(str(path.relative_to(folder)) for path in unnamed[:3])
        raise DataError(
            f"{name} holds splits ({', '.join(sorted(by_split))}), and files that tell none "
            f"by their name: {others}{', ...' if len(unnamed) > 3 else ''}",
            "Move these away, or name the file to train on itself",
        )
    by_split = by_split or {"train": unnamed}
    wanted = next((main for main, also in SPLIT_NAMES.items() if split in also), split)
    if wanted not in by_split:
        there = ", ".join(sorted(by_split))
        raise DataError(f"{name} has no split {split!r}; splits: {there}", SPLIT_REMEDY)
    for path in by_split[wanted]:
        yield from _file_rows(path, str(path.relative_to(folder)))


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _split_of(path: Path) -> str:
    """The split that a file's name or a folder above it tells; none is the empty text.

    A name tells it by its last word, as ``my_test.json`` and ``train-00000-of-00002.parquet``, or
    by the split's own name in front, as ``train_sft.jsonl``; ``dev_tools.jsonl`` tells none.
    """
    for part in (path.stem, *reversed(path.parts[:-1])):
        words = [word for word in re.findall("[a-z]+", part.lower()) if word not in FILLER]
        for split, also in SPLIT_NAMES.items():
            if words and (words[-1] in also or words[0] == split):
                return split
    return ""


def _saved_rows(folder: Path, name: str, split: str) -> Iterator[Row]:
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{name} is not a whole saved dataset: {error}") from None
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise DataError(
                f"{name} has no split {split!r}; splits: {', '.join(saved)}", SPLIT_REMEDY
            )
        saved = saved[split]
    for number, row in enumerate(saved, 1):
        yield f"{name}, row {number}", row


def _slice(dataset: Any, name: str, split: str) -> Any:
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(dataset)})
    except (ValueError, AssertionError) as error:
        raise DataError(
            f"split {split!r}: {error}", "For example train[:10%] or train[100:200]"
        ) from None
    return dataset.select([index for part in parts for index in range(part.from_, part.to)])


def _dataset(rows: Iterator[dict[str, Any]]) -> Any:
    """Canonical rows as Arrow, a batch at a time, so that Python objects do not pile up."""
    import pyarrow
    from datasets import Dataset

    batches, batch, schema = [], [], None
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH_ROWS:
            batches.append(pyarrow.Table.from_pylist(batch, schema=schema))
            schema, batch = batches[0].schema, []
    if batch:
        batches.append(pyarrow.Table.from_pylist(batch, schema=schema))
    return Dataset(pyarrow.concat_tables(batches)) if batches else Dataset.from_list([])
