"""Records of a run: JSON files with a digest of their content, among them one of each start."""

import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from cola_jax.errors import InputError, brief
from cola_jax.files import for_each, matching, read_json, readable_json
from cola_jax.question import digest

METRICS = ".metrics.json"  # of a start, beside its own file
START = re.compile(r"([0-9]{4,})-([0-9a-f]{8})")


class Start(NamedTuple):
    """The record of a start."""

    name: str
    settings: dict[str, Any]
    record: dict[str, Any]  # without the settings; with metrics once it has ended


def encode_record(content: Mapping[str, Any]) -> bytes:
    """Return the content of a JSON file that has a digest of the rest."""
    return readable_json({**content, "digest": digest(content)}).encode() + b"\n"


def read_record(file: epath.Path) -> dict[str, Any]:
    """Read a file of `encode_record`; InputError for a file that was changed since."""
    content = read_json(file)
    if content.pop("digest", None) != digest(content):
        raise InputError(
            f"{file} is damaged, or was changed or made by an earlier version: restore it, or make "
            "a new run."
        )
    return content


def start_order(name: str) -> tuple[int, str]:
    """Return the sort key of a start: its number, then its random suffix.

    Two that begin at the same moment may have the same number. A part without a start is of the
    first.
    """
    match = START.fullmatch(name)
    return (int(match[1]), match[2]) if match else (0, name)


def next_start(names: Iterable[str]) -> str:
    """Draw the name of a start after others."""
    number = max((start_order(name)[0] + 1 for name in names), default=0)
    return f"{number:04d}-{uuid.uuid4().hex[:8]}"


def read_starts(folder: epath.Path) -> list[Start]:
    """Read the starts of a run in their order."""
    files = matching(folder, "*.json")
    found = defaultdict[str, dict[str, dict]](dict)
    for file, record in zip(files, for_each(read_record, files), strict=True):
        name, _, kind = file.name.partition(".")
        found[name][f".{kind}"] = record
    starts = []
    for name in sorted(found, key=start_order):
        record = found[name].get(".json")
        if record is None:  # of a start whose own file was removed
            continue
        settings = record.pop("settings")
        if METRICS in found[name]:
            record["metrics"] = found[name][METRICS]
        starts.append(Start(name, settings, record))
    return starts


def check_models(directory: epath.Path, first: Mapping[str, Any], starts: Sequence[Start]) -> None:
    """Raise InputError where a start is of another model than the run's first settings."""
    for start in starts:
        ours = first.get("model")
        theirs = start.settings.get("model")
        if ours != theirs:
            source = start.record.get("model")
            raise InputError(
                f"{directory} is of model {brief(str(ours))}, and its start {start.name} of model "
                f"{brief(str(theirs))} ({source}): their rows do not belong together. Remove the "
                "file of that start, or choose another directory."
            )


def last_starts(starts: Sequence[Start]) -> list[Start]:
    """Return the last start, with those of the other processes of a distributed start."""
    together = starts[-1].record.get("together") if starts else None
    if not together:
        return list(starts[-1:])
    return [start for start in starts if start.record.get("together") == together]
