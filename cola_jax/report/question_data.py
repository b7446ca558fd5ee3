"""Questions with all their paths, as the page's script expects them."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from cola_jax.report.columns import list_lengths
from cola_jax.report.details import cut_middle
from cola_jax.report.summary import Summary
from cola_jax.runs.run import Run
from cola_jax.runs.stored import by_question

MIN_LISTED, MAX_LISTED = 40, 300  # of a question, within the budget
TEXT_BUDGET = 64_000_000  # characters of all completions of a run
MIN_TEXT, MAX_TEXT = 200, 4000  # of a completion, within the budget
MAX_ANSWER = 200  # characters of an answer, an id or an edit
MAX_QUESTION = 20_000  # characters of a question or an option

COMPLETION = ("answer_text", "text", "finish", "truncated", "tokens")
SHOWN = ("question", "path", "length", "verdict", "margin", "answer", "node", "parent", "edit")
COLUMNS = (*SHOWN, "target", "control", *COMPLETION)
ASKED = ["question", "text", "options", "gold", "best", "confirmed"]  # the columns of questions
ASKED += ["baseline", "baseline_answer", "controls"]


def question_entries(
    run: Run, summary: Summary, budget: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields for each question its entry in the list and its details, one part at a time.

    The list has about `budget` characters of the questions' texts.
    """
    listed = limit(budget, summary.done, MIN_LISTED, MAX_LISTED)
    shown = limit(TEXT_BUDGET, summary.completions, MIN_TEXT, MAX_TEXT)
    for part in run.parts():
        questions = run.questions(ASKED, [part])
        tables = by_question(run.evaluations(COLUMNS, [part]))
        for question in questions.to_pylist():
            own = tables.get(question["question"])
            rows = [] if own is None else readable_rows(own)
            yield list_entry(question, rows, listed), detail_entry(question, rows, shown)


def readable_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Reads evaluations with their paths as text and the number of tokens decoded."""
    tokens = list_lengths(table["tokens"]).tolist()
    texts = path_texts(table["path"])
    rows = table.drop_columns(["path", "tokens"]).to_pylist()
    return [
        row | {"path": text, "tokens": count}
        for row, text, count in zip(rows, texts, tokens, strict=True)
    ]


def path_texts(paths: pa.ChunkedArray) -> list[str]:
    """Writes a column of paths as ids and ascending ranges.

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
        ranges = zip(
            row[first].tolist(), layers[first].tolist(), layers[last].tolist(), strict=True
        )
        for i, a, b in ranges:
            parts[i].append(str(a) if a == b else f"{a}-{b}")
        texts += [",".join(part) for part in parts]
    return texts


def limit(budget: int, count: int, least: int, most: int) -> int:
    """Returns the number of characters shown of each of many texts."""
    return min(max(budget // max(count, 1), least), most)


def verdict_change(question: dict[str, Any]) -> str:
    """Names the verdicts before and after, such as W→C."""
    before = {True: "C", False: "W", None: "?"}[question["baseline"]]
    return before + "→" + ("W" if question["best"] is None else "C")


def list_entry(question: dict[str, Any], rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Makes what the list of questions shows, sorts by and filters."""
    best, text = question["best"], question["text"] or ""
    hits = [row["node"] for row in rows if row["verdict"] and not row["control"]]
    return {
        "id": question["question"],
        "text": text if len(text) <= limit else text[: limit - 1] + "…",
        "kind": verdict_change(question),
        "best": None if best is None else len(best),
        "paths": len(rows),
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
    """Makes the details of one question; completions are shortened to `limit` characters."""
    # many paths share a completion, so each is stored once
    completions: dict[tuple[Any, ...], int] = {}
    own = [row for row in rows if not row["control"]]
    shortest = {False: None, True: None} | {
        verdict: min((row for row in own if row["verdict"] is verdict), key=order, default=None)
        for verdict in (False, True)
    }
    paths = [path_entry(row, [one is row for one in shortest.values()]) for row in rows]
    for path, row in zip(paths, rows, strict=True):
        if row["text"] is not None:
            path.append(completions.setdefault(completion_key(row), len(completions)))
    return {
        "id": cut_middle(question["question"], MAX_ANSWER),
        "text": cut_middle(question["text"] or "", MAX_QUESTION),
        "options": [cut_middle(one or "", MAX_QUESTION) for one in question["options"] or ()],
        "gold": question["gold"],
        "baseline": question["baseline_answer"],
        "controls": [
            [one["target"], one["best"] is not None]
            for one in question["controls"] or ()
            if one["target"] != question["baseline_answer"]
        ],
        "confirmed": question["confirmed"],
        "paths": paths,
        "completions": [completion_entry(*key, limit=limit) for key in completions],
    }


def order(row: dict[str, Any]) -> tuple[int, float]:
    """Orders paths by layers, and equal ones by margin."""
    return row["length"], -row["margin"]


def path_entry(row: dict[str, Any], marks: list[bool]) -> list[Any]:
    """Makes the entry of one evaluation; a list, as a run has millions of them.

    `marks` says whether it is the shortest wrong one and the shortest correct one.
    """
    margin, verdict = row["margin"], row["verdict"]
    return [
        row["path"],
        None if verdict is None else int(verdict),
        round(margin, 3) if margin is not None and math.isfinite(margin) else None,
        row["answer"],
        row["node"],
        row["parent"],
        row["edit"] and cut_middle(row["edit"], MAX_ANSWER),
        marks.index(True) if any(marks) else None,
        row["target"] if row["control"] else None,
    ]


def completion_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what distinguishes completions."""
    return tuple(row[name] for name in COMPLETION)


def completion_entry(
    answer: str | None, text: str, finish: str, truncated: bool, num_tokens: int, *, limit: int
) -> list[Any]:
    """Makes the entry of one completion: the answer found, the text, how it ended."""
    shown = None if answer is None else cut_middle(answer, MAX_ANSWER)
    return [shown, cut_middle(text, limit), finish, int(truncated), num_tokens]
