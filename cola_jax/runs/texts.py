"""Texts: what prompts go on to along paths, one JSON line each, in a file that can be continued."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np

from cola_jax.execute import Stop, generate
from cola_jax.execute.generate import check_limit
from cola_jax.params import Model
from cola_jax.path import format_path
from cola_jax.prompts import PROMPT, Prompts
from cola_jax.scoring.encode import check_chat, render_chat
from cola_jax.tasks.readers import read_lines

BEGINNING = b'{"id": '  # of every line
PathOf = tuple[int, ...]


class Prompt(NamedTuple):
    """A prompt by its id, as text and as tokens."""

    id: str
    text: str
    row: Prompts


def encode_prompts(
    texts: Sequence[tuple[str, str]],
    tokenizer: Any,
    *,
    chat: bool,
    context: int,
    max_new_tokens: int,
) -> list[Prompt]:
    """Encodes (id, text) pairs.

    Raises ValueError where there is none, two have one id, or one is empty, too long or no text.
    """
    if not texts:
        raise ValueError("there are no prompts: give --prompt or --prompts-file.")
    check_chat(tokenizer, chat)
    found, names = [], set()
    for name, text in texts:
        if name in names:
            raise ValueError(
                f"two prompts have the id {name!r}: give the rows of the file ids of their own "
                "(a prompt of --prompt is named by its place, from 0)."
            )
        names.add(name)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"prompt {name} has half a character: {text!r}.") from None
        said = render_chat(tokenizer, text) if chat else text
        ids = tokenizer(said, add_special_tokens=not chat).input_ids
        if not ids:
            raise ValueError(f"prompt {name} is empty: there is nothing to go on from.")
        try:
            check_limit(len(ids), max_new_tokens, context)
        except ValueError as error:
            raise ValueError(f"prompt {name}: {error}") from None
        places = np.arange(len(ids), dtype=np.int32)
        row = Prompts(np.asarray(ids, np.int32), places, np.full_like(places, PROMPT))
        found.append(Prompt(name, said, row))
    return found


def read_prompts(file: Path) -> list[tuple[str, str]]:
    """Reads a JSONL file of prompts with ids of their own or their line's number."""
    found: dict[str, str] = {}
    for number, row in read_lines(str(file)):
        text, name = row.get("prompt"), str(row.get("id", number))
        if not isinstance(text, str):
            raise ValueError(f"{file}:{number}: the field 'prompt' must be a text, it is {text!r}.")
        if name in found:
            raise ValueError(f"{file}:{number}: the id {name!r} occurs twice.")
        found[name] = text
    return list(found.items())


def digest_of(settings: dict[str, Any]) -> str:
    """Returns what lines of the same settings have in common."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def decoded(
    model: Model,
    prompts: Sequence[Prompt],
    paths: Sequence[PathOf],
    *,
    stop: Stop,
    max_new_tokens: int,
    group: int,
    **options: Any,
) -> Iterator[list[dict[str, Any]]]:
    """Yields the lines of one group of prompts after another; `options` are those of `generate`."""
    for some in np.array_split(np.arange(len(prompts)), -(-len(prompts) // group)):
        mine = [prompts[i] for i in some]
        rows = Prompts.stack([prompt.row for prompt in mine])
        out = generate(
            model, rows, [paths] * len(mine), max_new_tokens=max_new_tokens, stop=stop, **options
        )
        lines = []
        for b, c in np.ndindex(out.length.shape):
            count = int(out.length[b, c])
            ids = out.tokens[b, c, :count].tolist()
            lines.append(
                {
                    "id": mine[b].id,
                    "path": format_path(paths[c]),
                    "text": stop.text(ids),
                    "finish": str(out.finish[b, c]),
                    "tokens": ids,
                    "logprob": round(float(out.logprob[b, c, :count].sum()), 5),
                }
            )
        yield lines


class TextFile:
    """A JSONL file of lines of the same settings; those that are there are not made again.

    A context manager, which keeps other processes from the file.
    """

    def __init__(self, file: Path, settings: dict[str, Any]):
        self.file, self.run = file, digest_of(settings)
        self.done: set[tuple[str, str]] = set()
        self.lock = filelock.FileLock(str(file.with_name(f".{file.name}.lock")))

    def __enter__(self) -> "TextFile":
        """Opens the file, new or to be continued.

        Raises ValueError where it is of other settings, not such a file, or another process has it;
        OSError where it cannot be written.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # the system drops the lock when the process ends, however it ends
            self.lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(
                f"another process writes to {self.file}: wait for it, or choose another file."
            ) from None
        try:
            self.file.open("a").close()
            self.read()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.release()

    def read(self) -> None:
        """Reads what is done, and cuts off half a line, which a kill may have left."""
        whole = self.file.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        half = whole[len(kept) :]
        lines = kept.decode("utf-8", "replace").splitlines()
        for number, text in enumerate(lines, start=1):
            try:
                line = json.loads(text)
                mine = line["run"] == self.run
                self.done.add((line["id"], line["path"]))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise self.foreign(number) from error
            if not mine:
                raise ValueError(
                    f"{self.file} was made from another model, prompts or settings: choose another "
                    "file, or repeat the old command to continue it."
                )
        if not (half.startswith(BEGINNING) or BEGINNING.startswith(half)):
            raise self.foreign(len(lines) + 1)
        if half:
            self.file.write_bytes(kept)

    def foreign(self, number: int) -> ValueError:
        """Makes the error of a line of somebody else."""
        return ValueError(
            f"{self.file}:{number} is no line that `cola generate` wrote: choose another file."
        )

    def left(self, prompts: Sequence[Prompt], paths: Sequence[PathOf]) -> list[Prompt]:
        """Returns the prompts of which a path is missing."""
        names = [format_path(path) for path in paths]
        return [p for p in prompts if any((p.id, name) not in self.done for name in names)]

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Adds lines that are not there yet, in one write."""
        new = [line for line in lines if (line["id"], line["path"]) not in self.done]
        text = "".join(json.dumps(line | {"run": self.run}) + "\n" for line in new)
        with self.file.open("a", encoding="utf-8") as out:
            out.write(text)
        self.done |= {(line["id"], line["path"]) for line in new}
