"""The questions of a run as the page's script draws them, each with a few telling paths."""

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
from cola_jax.report.summary import flags, nulls, refusals
from cola_jax.runs.directory import RunDirectory, read_parts
from cola_jax.runs.schema import EVALUATIONS

MOST_QUESTIONS = 5000  # more would make a page that no browser likes to open
MOST_PATHS = 14  # of a question: identity, shortest right, shortest wrong, control, and ten more
MOST_RIGHT = 8  # beyond these, paths that fail are worth more to see

NO_CONTROL = -2  # no answer has this number
LAST = 1 << 30

TEXT_BUDGET = 16_000_000  # characters of all decoded texts in a page
SHORTEST, LONGEST = 200, 4000  # a decoded text is cut to something between, as the budget allows
SAID = 200  # characters of an answer

CHOICE = ("question", "length", "verdict", "margin", "answer", "node")
SHOWN = ("question", "path", "verdict", "margin", "answer", "node", "parent", "edit")
REPLY = ("text", "said", "finish", "cut", "decoded")


def browse(run: RunDirectory) -> list[dict[str, Any]]:
    """Lists the first questions of a search run with what the page shows of them."""
    questions = run.questions().slice(0, MOST_QUESTIONS)
    files = run.parts("evaluations")  # once: a run that goes on gets new ones
    shown = choose_rows(read_parts(files, EVALUATIONS, CHOICE), questions)
    rows = take_rows(files, (*SHOWN, *REPLY), shown).to_pylist()
    limit = text_limit(len({(row["question"], row["text"]) for row in rows}))
    paths: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        paths.setdefault(row["question"], []).append(row)
    return [
        browse_question(question, paths.get(question["question"], []), limit)
        for question in questions.to_pylist()
    ]


def take_rows(files: Sequence[epath.Path], columns: Sequence[str], rows: np.ndarray) -> pa.Table:
    """Reads the given rows of part files, one part at a time: all texts may exceed the memory."""
    order = np.sort(rows)
    tables = [read_parts([], EVALUATIONS, columns)]
    start = 0
    for file in files:
        part = read_parts([file], EVALUATIONS, columns)
        mine = order[(order >= start) & (order < start + part.num_rows)] - start
        tables.append(part.take(pa.array(mine)))
        start += part.num_rows
    return pa.concat_tables(tables).take(pa.array(np.searchsorted(order, rows)))


def text_limit(texts: int) -> int:
    """Says to how many characters each of so many texts is cut."""
    return min(max(TEXT_BUDGET // max(texts, 1), SHORTEST), LONGEST)


def choose_rows(rows: pa.Table, questions: pa.Table) -> np.ndarray:
    """Picks the evaluations shown, as row numbers ordered by question and then as drawn."""
    ids = pc.SetLookupOptions(questions["question"].combine_chunks())
    question = pc.call_function("index_in", [rows["question"]], ids).fill_null(-1).to_numpy()
    control = questions["control"].fill_null(NO_CONTROL).to_numpy()
    length, verdict = rows["length"].to_numpy(), flags(rows["verdict"])
    wrong, ungraded = refusals(rows["verdict"]), nulls(rows["verdict"])
    loss = -rows["margin"].to_numpy()
    first = rows["node"].to_numpy() == 0
    reached = rows["answer"].to_numpy() == control[question]

    def rank(mask: np.ndarray, *keys: np.ndarray) -> np.ndarray:
        return rank_within(question, mask & ~first, keys)

    right = rank(verdict, length, loss)
    choices = [
        np.where(first, 0, LAST),
        np.where(right == 0, 1, LAST),
        np.where(rank(wrong, length, loss) == 0, 2, LAST),
        np.where(rank(reached, length, loss) == 0, 3, LAST),
        np.where(rank(ungraded, length) == 0, 4, LAST),
        np.where(right < MOST_RIGHT, 10 + right, LAST),
        100 + rank(wrong, loss, length),
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


def browse_question(
    question: dict[str, Any], rows: list[dict[str, Any]], limit: int = LONGEST
) -> dict[str, Any]:
    """Makes what the page shows of one question; decoded texts are cut to `limit` characters."""
    best = question["best"]
    before = {True: "C", False: "W", None: "?"}[question["baseline"]]
    # many paths say the same: each text stands in the page once
    replies: dict[tuple[Any, ...], int] = {}
    paths = [browse_path(row, question) for row in rows]
    for path, row in zip(paths, rows, strict=True):
        if row["text"] is not None:
            path.append(replies.setdefault(tuple(row[name] for name in REPLY), len(replies)))
    return {
        "id": question["question"],
        "text": question["text"],
        "options": question["options"],
        "gold": question["gold"],
        "first": question["baseline_answer"],
        "control": question["control"],
        "reached": question["control_reached"],
        "kind": before + "→" + ("W" if best is None else "C"),
        "best": None if best is None else len(best),
        "confirmed": question["confirmed"],
        "evaluations": question["evaluations"],
        "paths": paths,
        "replies": [browse_reply(*reply, limit=limit) for reply in replies],
    }


def browse_path(row: dict[str, Any], question: dict[str, Any]) -> list[Any]:
    """Makes what the page shows of one evaluation; a list, as the page holds thousands of them."""
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


def browse_reply(
    text: str, said: str | None, finish: str, cut: bool, decoded: int, *, limit: int
) -> list[Any]:
    """Makes what the page shows of a decoded text: the answer in it, the text, how it ended."""
    answer = None if said is None else shorten(said, SAID)
    return [answer, shorten(text, limit), finish, int(cut), decoded]


def shorten(text: str, limit: int) -> str:
    """Leaves out the middle of a long text: the answer is often at its end."""
    if len(text) <= limit:
        return text
    head, tail = limit // 3, limit - limit // 3
    return f"{text[:head]} […{len(text) - limit:,} characters left out…] {text[-tail:]}"


def script_json(value: Any) -> Markup:
    """Writes JSON that can stand in a <script> element: no text in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
