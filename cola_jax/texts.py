"""Texts: what prompts go on to along paths, one JSON line each, in a file that can be continued."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cola_jax.execute import Stop, generate
from cola_jax.execute.generate import check_limit
from cola_jax.params import Model
from cola_jax.path import format_path
from cola_jax.prompts import PROMPT, Prompts
from cola_jax.tasks.prompt import check_chat, render_chat
from cola_jax.tasks.source import read_lines

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
    """Encodes (id, text) pairs; ValueError where there is none, or one is empty or too long."""
    if not texts:
        raise ValueError("there are no prompts: give --prompt or --prompts-file.")
    check_chat(tokenizer, chat)
    found = []
    for name, text in texts:
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
    """A JSONL file of lines of the same settings; those that are there are not made again."""

    def __init__(self, file: Path, settings: dict[str, Any]):
        """Opens a file, new or to be continued; ValueError where it is of other settings."""
        self.file, self.run = file, digest_of(settings)
        self.done: set[tuple[str, str]] = set()
        if not file.exists():
            return
        whole = file.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]  # a kill may have left half a line
        for number, text in enumerate(kept.decode("utf-8", "replace").splitlines(), start=1):
            try:
                line = json.loads(text)
                mine = line["run"] == self.run
                self.done.add((line["id"], line["path"]))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{file}:{number} is no line that `cola generate` wrote ({error!r}): choose "
                    "another file."
                ) from error
            if not mine:
                raise ValueError(
                    f"{file} was made from another model, prompts or settings: choose another "
                    "file, or repeat the old command to continue it."
                )
        if len(kept) < len(whole):
            file.write_bytes(kept)

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
