"""The rows of a JSONL file, and the fields of a row."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath


def read_lines(file: str) -> Iterator[tuple[int, dict]]:
    """Yields the rows of a JSONL file with their line numbers; blank lines are passed over."""
    with epath.Path(file).open("r", encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, parse_line(file, number, line)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text ({error}).") from None


def parse_line(file: str, number: int, line: str) -> dict:
    """Parses one line; ValueError where it is not a JSON object."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file}:{number}: not JSON ({error}).") from None
    if not isinstance(row, dict):
        raise ValueError(
            f"{file}:{number}: a row must be a JSON object, it is {line.strip()[:60]}."
        )
    if "\\u" in line:  # JSON can write half a character, which no tokenizer takes
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{file}:{number}: {error.object[error.start]!r} is half a character: write the "
                "row's text as UTF-8."
            ) from None
    return row


def text_of(row: Mapping[str, Any], *names: str) -> str:
    """Returns the text under the first of the names that the row has; ValueError if none does."""
    found = next((name for name in names if row.get(name) is not None), None)
    if found is None:
        raise ValueError(f"the field {' or '.join(map(repr, names))} is missing.")
    if not isinstance(row[found], str) or not row[found].strip():
        raise ValueError(f"the field {found!r} must be a text, it is {row[found]!r}.")
    return row[found]


def id_of(row: Mapping[str, Any], name: str, default: str) -> str:
    """Returns a row's own id where it has one, else the default."""
    if row.get(name) is None:
        return default
    if not isinstance(row[name], str | int) or not str(row[name]).strip():
        raise ValueError(f"the field {name!r} must be a text or a number, it is {row[name]!r}.")
    return str(row[name])


def hash_of(*texts: str) -> str:
    """Names texts by what they say, whatever line of whatever file they stand on."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
