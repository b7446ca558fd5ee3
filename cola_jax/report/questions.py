"""The questions of a page: a list, and chunks of details that are loaded when they are opened."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from etils import epath
from markupsafe import Markup

from cola_jax.files import matching, write_whole
from cola_jax.report.layers import list_lengths
from cola_jax.report.summary import Summary
from cola_jax.report.tables import cut_middle
from cola_jax.runs.run import Run
from cola_jax.runs.schema import by_question

CHUNK = 256_000  # characters of a chunk, about
LIST_BUDGET = 1_000_000  # characters of the questions' texts in the list of a page
MIN_LISTED, MAX_LISTED = 40, 300  # of a question, within the budget
TEXT_BUDGET = 64_000_000  # characters of all completions of a run
MIN_TEXT, MAX_TEXT = 200, 4000  # of a completion, within the budget
MAX_ANSWER = 200  # characters of an answer, an id or an edit
MAX_QUESTION = 20_000  # characters of a question or an option

COMPLETION = ("answer_text", "text", "finish", "truncated", "tokens")
EVALUATION = ["question", "path", "length", "verdict", "margin", "answer", "node", "parent"]
EVALUATION += ["edit", "target", "control", *COMPLETION]
QUESTION = ["question", "text", "options", "gold", "best", "confirmed", "baseline"]
QUESTION += ["baseline_answer", "controls"]


class Questions(NamedTuple):
    """The list of questions, each with its run and the chunk and place of its details."""

    listed: list[dict[str, Any]]
    chunks: list[list[Markup]]  # of encoded details

    @property
    def characters(self) -> int:
        """The size of all chunks."""
        return sum(len(detail) for chunk in self.chunks for detail in chunk)

    @property
    def token(self) -> str:
        """The digest of all chunks, by which a page knows its own."""
        digest = hashlib.sha256()
        for chunk in self.chunks:
            digest.update("".join(chunk).encode())
        return digest.hexdigest()[:16]


def gather_questions(runs: Sequence[Run], summaries: Sequence[Summary]) -> Questions:
    """Read the questions of all runs; a chunk has questions of one run."""
    questions = Questions([], [])
    for number, (run, summary) in enumerate(zip(runs, summaries, strict=True)):
        size = CHUNK
        for entry, detail in question_entries(run, summary, LIST_BUDGET // len(runs)):
            if size >= CHUNK:
                questions.chunks.append([])
                size = 0
            chunk = questions.chunks[-1]
            place = [len(questions.chunks) - 1, len(chunk)]
            questions.listed.append(entry | {"run": number, "at": place})
            chunk.append(script_json(detail))  # at once, as it is smaller than what it encodes
            size += len(chunk[-1])
    return questions


def script_json(value: Any) -> Markup:
    """Encode JSON for a <script> element or file; no text in it can end the element or a line."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def write_chunks(folder: epath.Path, token: str, chunks: Sequence[Sequence[Markup]]) -> list[str]:
    """Write each chunk as a script into the folder beside a page, and remove older ones.

    Returns the addresses of the scripts from the page.
    """
    for file in matching(folder, "questions-*.js"):
        file.unlink()
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
    names = [f"questions-{number:03d}.js" for number in range(len(chunks))]
    for number, (name, chunk) in enumerate(zip(names, chunks, strict=True)):
        folder.mkdir(parents=True, exist_ok=True)
        content = f'colaQuestions("{token}",{number},[{",".join(chunk)}]);\n'
        write_whole(folder / name, content.encode())
    return [f"{folder.name}/{name}" for name in names]


def question_entries(
    run: Run, summary: Summary, budget: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield for each question its entry in the list and its details, one part at a time.

    The list has about `budget` characters of the questions' texts.
    """
    listed = limit(budget, summary.done, MIN_LISTED, MAX_LISTED)
    shown = limit(TEXT_BUDGET, summary.completions, MIN_TEXT, MAX_TEXT)
    for part in run.parts():
        tables = by_question(run.evaluations(EVALUATION, [part]))
        for question in run.questions(QUESTION, [part]).to_pylist():
            table = tables.get(question["question"])
            rows = [] if table is None else readable_rows(table)
            yield list_entry(question, rows, listed), detail_entry(question, rows, shown)


def limit(budget: int, count: int, least: int, most: int) -> int:
    """Return the number of characters shown of each of many texts."""
    return min(max(budget // max(count, 1), least), most)


def readable_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Read evaluations with their paths as text and the number of tokens decoded."""
    tokens, texts = list_lengths(table["tokens"]).tolist(), path_texts(table["path"])
    rows = table.drop_columns(["path", "tokens"]).to_pylist()
    return [
        row | {"path": text, "tokens": count}
        for row, text, count in zip(rows, texts, tokens, strict=True)
    ]


def path_texts(paths: pa.ChunkedArray) -> list[str]:
    """Write a column of paths as ids and ascending ranges.

    Repeated blocks are written out, as finding them takes most of the time for millions of paths.
    """
    texts = []
    for chunk in paths.chunks:
        lengths = chunk.value_lengths().to_numpy()
        layers = chunk.flatten().to_numpy().astype(int)
        row = np.repeat(np.arange(len(lengths)), lengths)
        begins = np.r_[True, (np.diff(layers) != 1) | (np.diff(row) != 0)][: len(layers)]
        first = np.flatnonzero(begins)
        last = np.r_[first[1:], len(layers)][: len(first)] - 1
        parts: list[list[str]] = [[] for _ in lengths]
        ranges = row[first].tolist(), layers[first].tolist(), layers[last].tolist()
        for i, a, b in zip(*ranges, strict=True):
            parts[i].append(str(a) if a == b else f"{a}-{b}")
        texts += [",".join(part) for part in parts]
    return texts


def list_entry(question: dict[str, Any], rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Make the entry that the list of questions shows, sorts and filters."""
    best, text = question["best"], question["text"] or ""
    hits = [row["node"] for row in rows if row["verdict"] and not row["control"]]
    before = {True: "C", False: "W", None: "?"}[question["baseline"]]
    return {
        "id": question["question"],
        "text": text if len(text) <= limit else text[: limit - 1] + "…",
        "kind": f"{before}→{'W' if best is None else 'C'}",
        "best": None if best is None else len(best),
        "first": min(hits, default=None),
        "moved": int(best is not None and is_moved(best)),
    }


def is_moved(path: list[int]) -> bool:
    """Whether a path first runs some layer after a later one."""
    first = list(dict.fromkeys(path))
    return any(a > b for a, b in itertools.pairwise(first))


def detail_entry(
    question: dict[str, Any], rows: list[dict[str, Any]], limit: int
) -> dict[str, Any]:
    """Make the details of one question; completions are shortened to `limit` characters."""
    completions: dict[tuple[Any, ...], int] = {}  # many paths share one, which is stored once
    paths = []
    for row in rows:
        paths.append(path_entry(row))
        if row["text"] is not None:
            key = tuple(row[name] for name in COMPLETION)
            paths[-1].append(completions.setdefault(key, len(completions)))
    return {
        "id": cut_middle(question["question"], MAX_ANSWER),
        "text": cut_middle(question["text"] or "", MAX_QUESTION),
        "options": [cut_middle(text or "", MAX_QUESTION) for text in question["options"] or ()],
        "gold": question["gold"],
        "baseline": question["baseline_answer"],
        "controls": [
            [search["target"], search["best"] is not None]
            for search in question["controls"] or ()
            if search["target"] != question["baseline_answer"]
        ],
        "confirmed": question["confirmed"],
        "paths": paths,
        "completions": [completion_entry(*key, limit=limit) for key in completions],
    }


def path_entry(row: dict[str, Any]) -> list[Any]:
    """Make the entry of one evaluation; a list, as a run has millions of them."""
    margin, verdict = row["margin"], row["verdict"]
    return [
        row["path"],
        None if verdict is None else int(verdict),
        round(margin, 3) if margin is not None and math.isfinite(margin) else None,
        row["answer"],
        row["node"],
        row["parent"],
        row["edit"] and cut_middle(row["edit"], MAX_ANSWER),
        row["target"] if row["control"] else None,
    ]


def completion_entry(
    answer: str | None, text: str, finish: str, truncated: bool, num_tokens: int, *, limit: int
) -> list[Any]:
    """Make the entry of one completion: its answer, its text, and how it ended."""
    shown = None if answer is None else cut_middle(answer, MAX_ANSWER)
    return [shown, cut_middle(text, limit), finish, int(truncated), num_tokens]
