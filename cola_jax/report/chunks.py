"""The questions of a page: a list, and chunks of details that are loaded when they are opened."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
from markupsafe import Markup

from cola_jax.files import matching, write_whole
from cola_jax.report.question_data import question_entries
from cola_jax.report.summary import Summary
from cola_jax.runs.run import Run

CHUNK = 256_000  # characters of a chunk, about
LIST_BUDGET = 1_000_000  # characters of the questions' texts in the list of a page

Chunk = list[Markup]  # encoded details


class Questions(NamedTuple):
    """The list of questions, each with its run and the chunk and place of its details."""

    listed: list[dict[str, Any]]
    chunks: list[Chunk]

    @property
    def characters(self) -> int:
        """The size of all chunks."""
        return sum(len(one) for chunk in self.chunks for one in chunk)


def gather_questions(runs: Sequence[Run], summaries: Sequence[Summary]) -> Questions:
    """Reads the questions of all runs; a chunk has questions of one run."""
    questions = Questions([], [])
    for number, (run, summary) in enumerate(zip(runs, summaries, strict=True)):
        size = CHUNK
        for entry, detail in question_entries(run, summary, LIST_BUDGET // len(runs)):
            if size >= CHUNK:
                questions.chunks.append([])
                size = 0
            chunk = questions.chunks[-1]
            at = [len(questions.chunks) - 1, len(chunk)]
            questions.listed.append(entry | {"run": number, "at": at})
            chunk.append(script_json(detail))  # at once, as it is smaller than what it encodes
            size += len(chunk[-1])
    return questions


def script_json(value: Any) -> Markup:
    """Encodes JSON for a <script> element or file; no text in it can end the element or a line."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def write_chunks(folder: epath.Path, token: str, chunks: Sequence[Chunk]) -> None:
    """Writes each chunk as a script into the folder beside a page, and removes older ones."""
    for file in matching(folder, "questions-*.js"):
        file.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
    if not chunks:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for number, chunk in enumerate(chunks):
        content = f'colaQuestions("{token}",{number},[{",".join(chunk)}]);\n'
        write_whole(folder / chunk_name(number), content.encode())


def chunk_name(number: int) -> str:
    """Names the file of a chunk."""
    return f"questions-{number:03d}.js"
