"""Data of the page's question browser: each question with a selection of its paths."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath
from markupsafe import Markup

from cola_jax.path import format_path
from cola_jax.report.statistics import is_false, is_null, is_true
from cola_jax.runs.directory import RunDirectory, read_parts
from cola_jax.runs.schema import EVALUATIONS

MAX_QUESTIONS = 5000  # bounds the size of the page
MAX_PATHS = 14  # per question
MAX_CORRECT = 8  # beyond these, wrong paths are more informative
NO_CONTROL = -2  # differs from every answer
UNRANKED = 1 << 30

TEXT_BUDGET = 16_000_000  # characters of all completions in a page
MIN_TEXT, MAX_TEXT = 200, 4000  # characters of a completion, within the budget
MAX_ANSWER = 200  # characters of an answer

RANKED_BY = ("question", "length", "verdict", "margin", "answer", "node")
SHOWN = ("question", "path", "verdict", "margin", "answer", "node", "parent", "edit")
COMPLETION = ("answer_text", "text", "finish", "truncated", "tokens")


def browser_questions(run: RunDirectory) -> list[dict[str, Any]]:
    """Lists the first questions of a search run as the page's script expects them."""
    questions = run.questions().slice(0, MAX_QUESTIONS)
    files = run.parts("evaluations")  # listed once, as an unfinished run adds parts
    selected = select_rows(read_parts(files, EVALUATIONS, RANKED_BY), questions)
    rows = read_rows(files, (*SHOWN, *COMPLETION), selected).to_pylist()
    limit = text_limit(len({(row["question"], row["text"]) for row in rows}))
    by_question: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_question.setdefault(row["question"], []).append(row)
    return [
        question_entry(question, by_question.get(question["question"], []), limit)
        for question in questions.to_pylist()
    ]


def read_rows(files: Sequence[epath.Path], columns: Sequence[str], rows: np.ndarray) -> pa.Table:
    """Reads the given rows of part files, one part at a time, which bounds the memory taken."""
    order = np.sort(rows)
    tables = [read_parts([], EVALUATIONS, columns)]
    start = 0
    for file in files:
        part = read_parts([file], EVALUATIONS, columns)
        inside = order[(order >= start) & (order < start + part.num_rows)] - start
        tables.append(part.take(pa.array(inside)))
        start += part.num_rows
    return pa.concat_tables(tables).take(pa.array(np.searchsorted(order, rows)))


def text_limit(texts: int) -> int:
    """Returns the number of characters shown of each text, given how many there are."""
    return min(max(TEXT_BUDGET // max(texts, 1), MIN_TEXT), MAX_TEXT)


def select_rows(rows: pa.Table, questions: pa.Table) -> np.ndarray:
    """Selects the evaluations shown, as row numbers sorted by question and order of display.

    In order: the identity path, the shortest correct path, the shortest wrong one, the shortest
    one that reached the control, an ungraded one, more correct paths by length, then near misses.
    """
    ids = pc.SetLookupOptions(questions["question"].combine_chunks())
    question = pc.call_function("index_in", [rows["question"]], ids).fill_null(-1).to_numpy()
    control = questions["control"].fill_null(NO_CONTROL).to_numpy()
    length, loss = rows["length"].to_numpy(), -rows["margin"].to_numpy()
    wrong, ungraded = is_false(rows["verdict"]), is_null(rows["verdict"])
    is_identity = rows["node"].to_numpy() == 0
    reached = rows["answer"].to_numpy() == control[question]

    def rank(mask: np.ndarray, *keys: np.ndarray) -> np.ndarray:
        return rank_within(question, mask & ~is_identity, keys)

    correct = rank(is_true(rows["verdict"]), length, loss)
    priorities = [
        np.where(is_identity, 0, UNRANKED),
        np.where(correct == 0, 1, UNRANKED),
        np.where(rank(wrong, length, loss) == 0, 2, UNRANKED),
        np.where(rank(reached, length, loss) == 0, 3, UNRANKED),
        np.where(rank(ungraded, length) == 0, 4, UNRANKED),
        np.where(correct < MAX_CORRECT, 10 + correct, UNRANKED),
        100 + rank(wrong, loss, length),
        UNRANKED // 2 + correct // 2,
    ]
    place = rank_within(question, question >= 0, (np.minimum.reduce(priorities),))
    selected = np.flatnonzero(place < MAX_PATHS)
    return selected[np.lexsort((place[selected], question[selected]))]


def rank_within(question: np.ndarray, mask: np.ndarray, keys: tuple[np.ndarray, ...]) -> np.ndarray:
    """Ranks the masked rows within their question by keys, from 0; other rows are UNRANKED."""
    rows = np.flatnonzero(mask)
    order = rows[np.lexsort((*(key[rows] for key in reversed(keys)), question[rows]))]
    number = np.arange(len(order))
    starts = np.r_[True, np.diff(question[order]) != 0][: len(order)]
    ranks = np.full(len(question), UNRANKED)
    ranks[order] = number - np.maximum.accumulate(np.where(starts, number, 0))
    return ranks


def question_entry(
    question: dict[str, Any], rows: list[dict[str, Any]], limit: int
) -> dict[str, Any]:
    """Makes the entry of one question; completions are shortened to `limit` characters."""
    best = question["best"]
    before = {True: "C", False: "W", None: "?"}[question["baseline"]]
    # many paths share a completion, so each is stored once
    completions: dict[tuple[Any, ...], int] = {}
    paths = [path_entry(row, question) for row in rows]
    for path, row in zip(paths, rows, strict=True):
        if row["text"] is not None:
            path.append(completions.setdefault(completion_key(row), len(completions)))
    return {
        "id": question["question"],
        "text": question["text"],
        "options": question["options"],
        "gold": question["gold"],
        "baseline": question["baseline_answer"],
        "control": question["control"],
        "control_reached": question["control_reached"],
        "kind": before + "→" + ("W" if best is None else "C"),
        "best": None if best is None else len(best),
        "confirmed": question["confirmed"],
        "evaluations": question["evaluations"],
        "paths": paths,
        "completions": [completion_entry(*key, limit=limit) for key in completions],
    }


def path_entry(row: dict[str, Any], question: dict[str, Any]) -> list[Any]:
    """Makes the entry of one evaluation; a list, as a page holds thousands of them."""
    margin, verdict = row["margin"], row["verdict"]
    return [
        format_path(row["path"]),
        None if verdict is None else int(verdict),
        round(margin, 3) if math.isfinite(margin) else None,
        row["answer"],
        row["node"],
        row["parent"],
        row["edit"],
        int(row["path"] == question["best"]),
        int(row["path"] in (question["front"] or [])),
    ]


def completion_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what distinguishes completions: COMPLETION, with the number of tokens."""
    return *(row[name] for name in COMPLETION[:-1]), len(row["tokens"])


def completion_entry(
    answer: str | None, text: str, finish: str, truncated: bool, num_tokens: int, *, limit: int
) -> list[Any]:
    """Makes the entry of one completion: the answer found, the text, how it ended."""
    shown = None if answer is None else shorten(answer, MAX_ANSWER)
    return [shown, shorten(text, limit), finish, int(truncated), num_tokens]


def shorten(text: str, limit: int) -> str:
    """Removes the middle of a long text, as the answer is often at the end."""
    if len(text) <= limit:
        return text
    head, tail = limit // 3, limit - limit // 3
    return f"{text[:head]} […{len(text) - limit:,} characters left out…] {text[-tail:]}"


def script_json(value: Any) -> Markup:
    """Encodes JSON for a <script> element; no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
