"""Tables: the rows of files and of memory, each with its place for messages.

The suffix of a file says how it is read: .jsonl, .json, .csv, .tsv, .parquet or .xlsx, and each of
them with .gz; or a folder of `datasets`. A cell is text, as it is written: an option "None", "NA"
or "007" stays what it is. An empty cell has no value.
"""

import codecs
import csv
import functools
import gzip
import importlib.util
import io
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic_core import from_json

from cola_jax.errors import InputError, escaped, first_line, reading, shorten, shown
from cola_jax.files import parse_object, read_bytes, read_json
from cola_jax.storage import AnyPath, is_url, path_of
from cola_jax.tasks.pictures import has_scheme

# a file or folder, or rows in memory: dicts, a DataFrame or a `datasets.Dataset`
TableSource = Any
PlacedRow = tuple[str, str | None, Mapping[str, Any]]  # place for messages, default id, fields
ENCODINGS = {  # by the marks at the beginning of a file; that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# the first line of a text, where a quoted cell may have line breaks
HEADER = re.compile(r'(?:"[^"]*"|[^"\n])*')
QUOTED = re.compile(r'"[^"]*"')
SAVED = "state.json"  # of a folder that `Dataset.save_to_disk` has written
SAVED_SPLITS = "dataset_dict.json"  # likewise, of `DatasetDict.save_to_disk`


def read_rows(source: TableSource) -> Sequence[PlacedRow]:
    """Return the rows of a file, of a folder of `datasets`, or of memory."""
    return list(file_rows(source) if isinstance(source, str) else memory_rows(source))


def picture_folder(source: TableSource) -> AnyPath:
    """Return the folder in which a source may name pictures."""
    if not isinstance(source, str):
        return os.curdir
    return source if os.path.isdir(source) else path_of(source).parent


def is_table(name: str) -> bool:
    """Return whether a name is a file of questions, in storage as well, or a folder of `datasets`.

    InputError for a folder with several splits.
    """
    folder = Path(name)
    if (folder / SAVED_SPLITS).is_file():
        splits = sorted(str(file.parent) for file in folder.glob(f"*/{SAVED}"))
        raise InputError(f"{name} has several splits: give one, such as {shorten(splits)}.")
    return is_url(name) or folder.is_file() or (folder / SAVED).is_file()


def file_rows(file: str) -> Iterator[PlacedRow]:
    """Yield the rows of a file."""
    if os.path.isdir(file):
        yield from saved_rows(file)
        return
    suffix = PurePath(file).suffix.lower()
    with reading(file):
        content = read_bytes(file)
        if suffix == ".gz":
            content = decompress(content)
            suffix = PurePath(file).with_suffix("").suffix.lower()
        if suffix not in READERS:
            check_json(content, file)
        yield from READERS.get(suffix, json_rows)(content, file)


def check_json(content: bytes, file: str) -> None:
    """Raise InputError for a file of another suffix that is not JSON."""
    if not content.decode(encoding_of(content), "replace").lstrip().startswith(("{", "[")):
        raise InputError(
            f"{file} is not JSON, and its suffix is none of {', '.join(READERS)}: save it as one "
            "of these."
        )


def decompress(content: bytes) -> bytes:
    """Decompress the content of a .gz file."""
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"it is not whole, or not compressed by gzip ({error}).") from error


def encoding_of(content: bytes) -> str:
    """Return the encoding of a text by its byte order mark, UTF-8 without one."""
    marks = (encoding for mark, encoding in ENCODINGS.items() if content.startswith(mark))
    return next(marks, "utf-8")


def decode(content: bytes, file: str) -> str:
    """Decode a text; InputError that names the line."""
    encoding = encoding_of(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file}:{line} cannot be read as {encoding} ({error.reason} at "
            f"{content[error.start : error.start + 4]!r}): save the file as UTF-8."
        ) from error


def json_rows(content: bytes, file: str) -> Iterator[PlacedRow]:
    """Yield the objects on the lines of a text, or those of one JSON list or object."""
    text = decode(content, file)
    begin = text.lstrip()[:1]
    if begin == "[":
        for number, row in enumerate(from_json(text, allow_inf_nan=False), 1):
            if not isinstance(row, dict):
                raise InputError(f"{file}: row {number}: an object belongs here, not {shown(row)}.")
            yield f"{file}: row {number}", None, row
        return
    if begin == "{" and is_object(text):
        yield f"{file}:1", None, from_json(text)
        return
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            yield f"{file}:{number}", None, parse_object(line, f"{file}:{number}")


def lines_of(text: str) -> Iterator[str]:
    """Yield the lines of a text, of which there may be millions, one by one."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def is_object(text: str) -> bool:
    """Return whether a text of several lines is one JSON object."""
    first = text.strip().partition("\n")[0].rstrip()
    try:
        return not first.endswith("}") and isinstance(from_json(text, allow_inf_nan=False), dict)
    except ValueError:
        return False


def csv_rows(content: bytes, file: str, delimiter: str | None = None) -> Iterator[PlacedRow]:
    """Yield the rows of a text with one row on each line, and a cell may have several.

    The cells of a .csv file may be divided by semicolons or tabs, as some programs write it. Quotes
    in a text divided by tabs may be its own.
    """
    text = decode(content, file)
    if delimiter is None:
        header = QUOTED.sub("", HEADER.match(text.lstrip("\r\n"))[0])  # type: ignore[index]
        delimiter = max(",;\t", key=header.count)
    try:
        lines = split_cells(text, file, delimiter, csv.QUOTE_MINIMAL)
    except InputError:
        if delimiter != "\t":
            raise
        lines = split_cells(text, file, delimiter, csv.QUOTE_NONE)
        if has_quoted_cells([cells for _, cells in lines]):
            raise
    return table_rows(lines, file)


def split_cells(
    text: str, file: str, delimiter: str, quoting: Literal[0, 3]
) -> list[tuple[int, list[str]]]:
    """Return the cells of each row, after the number of the line in which it begins."""
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    limit = csv.field_size_limit(max(len(text), 1))  # of the whole process
    begin = 1
    try:
        for cells in reader:
            rows.append((begin, cells))
            begin = reader.line_num + 1
    except csv.Error as error:
        reason = escaped(str(error))
        raise InputError(
            f"{file}:{begin}: {reason}, in the row that begins here: look at its quotes."
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def has_quoted_cells(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether quotes around cells were taken for their text.

    Some cell is between quotes, or a row was divided at the line breaks of a cell.
    """
    filled = [cells for cells in rows if any(cells)]
    between = any(
        len(cell) > 1 and cell[0] == cell[-1] == '"' for cells in filled for cell in cells
    )
    return between or len({len(cells) for cells in filled}) > 1


def excel_rows(content: bytes, file: str) -> Iterator[PlacedRow]:
    """Yield the rows of the one sheet of a workbook that is not empty."""
    if importlib.util.find_spec("openpyxl") is None:
        raise InputError(f"{file} needs a package: pip install openpyxl.")
    import pandas

    options: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False}
    try:
        sheets = pandas.read_excel(
            io.BytesIO(content), sheet_name=None, engine="openpyxl", **options
        )
    except Exception as error:  # openpyxl and the readers of ZIP and XML raise many types
        raise InputError(
            f"{file} is not a whole .xlsx file ({first_line(error)}): save it again."
        ) from error
    filled = {name: sheet for name, sheet in sheets.items() if not sheet.empty}
    if len(filled) > 1:
        names = ", ".join(map(shown, filled))
        raise InputError(f"{file} has several sheets, {names}: save one as a file of its own.")
    for sheet in filled.values():
        yield from table_rows(enumerate(sheet.fillna("").itertuples(index=False), 1), file)


def table_rows(lines: Iterable[tuple[int, Sequence[str]]], file: str) -> Iterator[PlacedRow]:
    """Yield the rows of numbered lines of cells, the first of which has the names of columns."""
    header: list[str] = []
    for number, cells in lines:
        if not any(cells):
            continue
        if not header:
            header = list(cells)
            check_names([name for name in header if name], file)
            continue
        if any(cells[len(header) :]):
            raise InputError(f"{file}:{number}: the line has more cells than the first one.")
        row = {name: cell or None for name, cell in zip(header, cells, strict=False) if name}
        yield f"{file}:{number}", None, row


def parquet_rows(content: bytes, file: str) -> Iterator[PlacedRow]:
    """Yield the rows of a Parquet file."""
    import pyarrow.parquet

    yield from arrow_rows(pyarrow.parquet.read_table(io.BytesIO(content)), file)


def arrow_rows(table: Any, file: str, start: int = 1) -> Iterator[PlacedRow]:
    """Yield the rows of a table of Arrow, whose lengths and offsets are checked first."""
    table.validate(full=True)
    check_names(table.column_names, file)
    for number, row in enumerate(table.to_pylist(), start):
        yield f"{file}:{number}", None, row


READERS = {
    **dict.fromkeys((".json", ".jsonl"), json_rows),
    ".csv": csv_rows,
    ".tsv": functools.partial(csv_rows, delimiter="\t"),
    ".parquet": parquet_rows,
    ".xlsx": excel_rows,
}
SUFFIXES = (*READERS, ".gz")


def saved_rows(folder: str) -> Iterator[PlacedRow]:
    """Yield the rows of a folder that `Dataset.save_to_disk` has written.

    Its files are named in one of them, so they are read here: `datasets` reads any file.
    """
    import pyarrow

    with reading(folder, "Write it again with `Dataset.save_to_disk`."):
        names = [entry["filename"] for entry in read_json(Path(folder) / SAVED)["_data_files"]]
        start = 1
        for name in names:
            if PurePath(name).name != name or Path(folder, name).is_symlink():
                raise InputError(f"it names the file {shown(name)}, which is not in the folder.")
            try:
                table = pyarrow.ipc.open_stream(read_bytes(Path(folder, name))).read_all()
            except OSError as error:
                reason = error.strerror or first_line(error)
                raise InputError(f"its file {shown(name)} cannot be read ({reason}).") from error
            yield from arrow_rows(table, folder, start)
            start += table.num_rows


def memory_rows(source: TableSource) -> Iterator[PlacedRow]:
    """Yield the rows of memory."""
    if hasattr(source, "to_dict") and hasattr(source, "notna"):  # a DataFrame
        check_names(list(map(str, source.columns)), "the DataFrame")
        source = source.astype(object).where(source.notna(), None).to_dict("records")
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        what = type(source).__name__ if isinstance(source, Mapping) else shown(source)
        raise InputError(
            f"questions are a file, a list of dicts or a table, not {what}; of data with several "
            "splits give one, such as data['test']."
        )
    pictures = picture_columns(source)
    for number, row in enumerate(undecoded(source)):
        if not isinstance(row, Mapping):
            raise InputError(f"row {number}: a dict belongs here, not {shown(row)}.")
        own = {name: own_picture(row[name]) for name in pictures}
        yield f"row {number}", None, plain_value({**row, **own})


def undecoded(rows: Any) -> Any:
    """Return rows of `datasets` whose pictures are the content of their files; others as is."""
    for name in picture_columns(rows):
        rows = rows.cast_column(name, sys.modules["datasets"].Image(decode=False))
    return rows


def picture_columns(rows: Any) -> list[str]:
    """Return the names of the columns of pictures that rows of `datasets` have."""
    datasets = sys.modules.get("datasets")
    if datasets is None or not isinstance(rows, datasets.Dataset | datasets.IterableDataset):
        return []
    features = rows.features or {}
    return [name for name, feature in features.items() if isinstance(feature, datasets.Image)]


def own_picture(image: Any) -> Any:
    """Return the `Path` of a picture of the user's own `datasets` that has a path alone."""
    if not isinstance(image, Mapping) or image.get("bytes") or not image.get("path"):
        return image
    return image if has_scheme(image["path"]) else Path(image["path"])


def plain_value(value: Any) -> Any:
    """Convert numpy values to Python's, and tuples to lists, also in dicts and lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain_value(inner) for name, inner in value.items()}
    return [plain_value(inner) for inner in value] if isinstance(value, list | tuple) else value


def check_names(names: Sequence[str], table: str) -> None:
    """Raise InputError where two columns have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{table}: two columns are named {shown(twice[0])}: rename one.")
