"""The questions of a run as the page's script draws them, each with a few telling paths."""

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from cola_jax.path import format_path
from cola_jax.report.summary import flags
from cola_jax.run import RunDirectory

MOST_QUESTIONS = 5000  # more would make a page that no browser likes to open
MOST_PATHS = 14  # of a question: identity, shortest right, shortest wrong, control, and ten more
MOST_RIGHT = 8  # beyond these, paths that fail are worth more to see

NO_CONTROL = -2  # no answer has this number
LAST = 1 << 30


def browse(run: RunDirectory) -> list[dict[str, Any]]:
    """Lists the first questions of a search run with what the page shows of them."""
    questions = run.questions().slice(0, MOST_QUESTIONS)
    rows = run.evaluations(
        ["question", "path", "length", "verdict", "margin", "answer", "node", "parent", "edit"]
    )
    shown = choose_rows(rows, questions)
    paths: dict[str, list[dict[str, Any]]] = {}
    for row in rows.take(pa.array(shown)).to_pylist():
        paths.setdefault(row["question"], []).append(row)
    return [
        browse_question(question, paths.get(question["question"], []))
        for question in questions.to_pylist()
    ]


def choose_rows(rows: pa.Table, questions: pa.Table) -> np.ndarray:
    """Picks the evaluations shown, as row numbers ordered by question and then as drawn."""
    ids = pc.SetLookupOptions(questions["question"].combine_chunks())
    question = pc.call_function("index_in", [rows["question"]], ids).fill_null(-1).to_numpy()
    control = questions["control"].fill_null(NO_CONTROL).to_numpy()
    length, verdict = rows["length"].to_numpy(), flags(rows["verdict"])
    loss = -rows["margin"].to_numpy()
    first = rows["node"].to_numpy() == 0
    reached = rows["answer"].to_numpy() == control[question]

    def rank(mask: np.ndarray, *keys: np.ndarray) -> np.ndarray:
        return rank_within(question, mask & ~first, keys)

    right = rank(verdict, length, loss)
    choices = [
        np.where(first, 0, LAST),
        np.where(right == 0, 1, LAST),
        np.where(rank(~verdict, length, loss) == 0, 2, LAST),
        np.where(rank(reached, length, loss) == 0, 3, LAST),
        np.where(right < MOST_RIGHT, 10 + right, LAST),
        100 + rank(~verdict, loss, length),
        LAST // 2 + right // 2,
    ]
    priority = np.minimum.reduce(choices)
    place = rank_within(question, question >= 0, (priority,))
    shown = np.flatnonzero(place < MOST_PATHS)
    return shown[np.lexsort((place[shown], question[shown]))]


def rank_within(question: np.ndarray, mask: np.ndarray, keys: tuple[np.ndarray, ...]) -> np.ndarray:
    """Numbers the rows of the mask from 0 within each question, in the order of keys; else LAST."""
    rows = np.flatnonzero(mask)
    order = rows[np.lexsort((*(key[rows] for key in reversed(keys)), question[rows]))]
    number = np.arange(len(order))
    starts = np.r_[True, np.diff(question[order]) != 0][: len(order)]
    ranks = np.full(len(question), LAST)
    ranks[order] = number - np.maximum.accumulate(np.where(starts, number, 0))
    return ranks


def browse_question(question: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Makes what the page shows of one question."""
    best, baseline = question["best"], question["baseline"]
    return {
        "id": question["question"],
        "text": question["text"],
        "options": question["options"],
        "gold": question["gold"],
        "first": question["baseline_answer"],
        "control": question["control"],
        "reached": question["control_reached"],
        "kind": ("C" if baseline else "W") + "→" + ("W" if best is None else "C"),
        "best": None if best is None else len(best),
        "confirmed": question["confirmed"],
        "evaluations": question["evaluations"],
        "paths": [browse_path(row, question) for row in rows],
    }


def browse_path(row: dict[str, Any], question: dict[str, Any]) -> list[Any]:
    """Makes what the page shows of one evaluation; a list, as the page holds thousands of them."""
    margin = row["margin"]
    return [
        format_path(row["path"]),
        int(row["verdict"]),
        round(margin, 3) if math.isfinite(margin) else None,
        row["answer"],
        row["node"],
        row["parent"],
        row["edit"],
        int(row["path"] == question["best"]),
        int(row["path"] in (question["front"] or [])),
    ]


def script_json(value: Any) -> Markup:
    """Writes JSON that can stand in a <script> element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
