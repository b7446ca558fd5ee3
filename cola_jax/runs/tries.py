"""The ledger of tries: which claims were tried on which questions, by whatever command.

A line of JSON for each claim and task: one when a protocol is written, before anything is
evaluated, one when it has a verdict, and one for each path that is measured on held-out questions.
A later verdict on the same claim names the earlier tries. Lines are only ever appended.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cola_jax.errors import InputError, reason
from cola_jax.files import cache_directory, is_file
from cola_jax.progress import log
from cola_jax.runs.machine import command_line, git_commit

PLACE = "COLA_LEDGER"  # environment variable with another file
Event = Literal["protocol", "verdict", "measured"]


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Try:
    """A claim that was to be tried on a task, or was; see `Try.now`."""

    date: str  # UTC, ISO
    event: Event
    model: str  # digest
    claim: str  # the path as text, or the name of what was measured
    task: str
    protocol: str  # hash; of a measurement, the digest of what decided it
    questions: tuple[str, ...]  # keys
    outcome: str = ""  # "" of a protocol
    prompts: int = 1  # in which each question is asked
    tests: int = 1  # of the trial, which share one error budget
    source: str = ""  # the name of the model
    version: str = ""  # of cola-jax
    jax: str = ""
    command: str = ""
    commit: str | None = None

    @classmethod
    def now(cls, event: Event, **fields: Any) -> "Try":
        """Make a try by this process, with its date, versions, command and commit."""
        return cls(
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            event=event,
            version=version("cola-jax"),
            jax=version("jax"),
            command=command_line(),
            commit=git_commit(Path(__file__).parents[2]),
            **fields,
        )

    @property
    def identity(self) -> tuple[str, ...]:
        """What two lines share that are of one and the same try."""
        return self.event, self.protocol, self.model, self.claim, self.task, self.outcome

    def line(self) -> bytes:
        """Write the try as a line of the ledger."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode() + b"\n"


LINE = TypeAdapter(Try)


def ledger() -> Path:
    """Return the file of the ledger: COLA_LEDGER, or tries.jsonl in the folder of the cache."""
    chosen = os.environ.get(PLACE)
    return Path(chosen).expanduser() if chosen else cache_directory() / "tries.jsonl"


def read_tries() -> list[Try]:
    """Read the ledger, the oldest line first; lines that are broken are left out.

    A ledger that cannot be read is logged, and taken for an empty one.
    """
    file = ledger()
    try:
        content = file.read_bytes() if is_file(file) else b""
    except (OSError, InputError) as error:
        log.warning("the ledger of tries cannot be read (%s): none are counted.", error)
        return []
    tries = []
    for line in content.splitlines():
        try:
            tries.append(LINE.validate_json(line))
        except ValidationError as error:
            if line.strip():
                log.debug("a line of %s is skipped: %s", file, reason(error))
    return tries


def record(tries: Iterable[Try]) -> None:
    """Append tries that the ledger does not have yet, in one write of whole lines.

    A ledger that cannot be written is logged, and stops nothing.
    """
    known = {each.identity for each in read_tries()}
    content = b"".join(each.line() for each in tries if each.identity not in known)
    if not content:
        return
    file = ledger()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        append(file, content)
    except (OSError, InputError) as error:
        log.warning(
            "this try is not in the ledger (%s): name a file that can be written in %s.",
            error,
            PLACE,
        )


def append(file: Path, content: bytes) -> None:
    """Append lines, after the end of one that another process left broken."""
    is_broken = False
    if is_file(file) and file.stat().st_size:
        with file.open("rb") as old:
            old.seek(-1, os.SEEK_END)
            is_broken = old.read() != b"\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, b"\n" * is_broken + content)
    finally:
        os.close(descriptor)


def earlier(model: str, claim: str, protocol: str = "") -> list[Try]:
    """Return the tries of a claim on a model by other protocols, before this one was written.

    `protocol` is its hash, with which a trial that goes on finds the same ones again, with the
    outcomes that they had then. Of each protocol and task the last line counts.
    """
    return latest(each for each in before(protocol) if (each.model, each.claim) == (model, claim))


def earlier_on(model: str, questions: Iterable[str], protocol: str = "") -> list[Try]:
    """Return the tries of anything on a model that had some of these questions; see `earlier`."""
    keys = {*questions}
    return latest(
        each
        for each in before(protocol)
        if each.model == model and keys.intersection(each.questions)
    )


def before(protocol: str) -> list[Try]:
    """Read the tries that are in the ledger before the first line of a protocol."""
    tries = read_tries()
    place = next((i for i, each in enumerate(tries) if each.protocol == protocol), len(tries))
    return tries[:place]


def latest(tries: Iterable[Try]) -> list[Try]:
    """Return the last line of each protocol, claim and task."""
    last = {(each.protocol, each.claim, each.task): each for each in tries}
    return [*last.values()]


def seen(tries: Iterable[Try], questions: Iterable[str]) -> set[str]:
    """Return the keys of questions on which some of these tries had an outcome."""
    known = {key for each in tries if each.event != "protocol" for key in each.questions}
    return known.intersection(questions)
