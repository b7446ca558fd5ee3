"""`Summary`: the numbers of a search run, each with what it takes to judge it."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.report.shape import LayerUse, Shape, count_distinct, layer_use, tree_shape
from cola_jax.report.share import Difference, Share
from cola_jax.runs.directory import RunDirectory

RIGHT, CORRECTED, ALL = "C→C", "W→C", "all"
OPEN = ("exact", "generate")  # the scorers of open questions


class Level(NamedTuple):
    """What a search found on the questions of one level."""

    fact: str  # such as math_level
    value: str
    before: Share
    after: Share


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """What a search found on the questions that are done; means over nothing are NaN.

    Where the grader failed on the identity path's answer, nothing is known about the question
    before the search: it is in none of the shares of questions but `confirmed`.
    """

    directory: str
    scorer: str | None  # None where it was not recorded
    done: int  # questions
    left_out: int  # of them: those whose first answer is ungraded
    planned: int
    num_layers: int  # L, also every length before the search

    before: Share  # right with the identity path
    after: Share  # right with some path
    shortened: Share  # of those right before: right on fewer layers too
    corrected: Share  # of those wrong before: right with some path (W→C)
    # The control: a fixed wrong answer that is not the baseline's answer either, and whether the
    # same evaluations answered it. `net` pairs it with W→C on the questions of `control_wrong`.
    control: Share
    control_wrong: Share  # among the questions wrong before
    net: Difference
    confirmed: Share  # of the shortest correct paths: right in float32 too; decodes the same there
    levels: tuple[Level, ...]  # of each fact of which the questions have more than one level

    length: float  # of the shortest correct path, L where there is none
    length_right: float  # of C→C
    length_corrected: float  # of W→C

    evaluations: int
    answers: float  # distinct options answered per question; distinct answers of decoded texts
    options: float  # options offered per question
    ungraded: Share  # evaluations on which the grader failed
    not_finite: Share
    cut: Share  # evaluations ended by the token limit; 0 of 0 where nothing is decoded
    decoded: float  # tokens per evaluation
    duplicates: Share  # evaluations of a path that its question already had
    shape: Shape

    # How many paths have each length, by group; index is the length
    best_lengths: dict[str, np.ndarray]
    correct_lengths: np.ndarray  # of all evaluations that are right
    layers: dict[str, LayerUse]

    @property
    def open(self) -> bool:
        """Whether the questions are open: they have no options to choose from."""
        return self.scorer in OPEN

    @property
    def decodes(self) -> bool:
        """Whether answers were decoded."""
        return self.scorer == "generate"

    @property
    def per_question(self) -> float:
        """Evaluations per question."""
        return self.evaluations / self.done


def summarise(run: RunDirectory) -> Summary:
    """Counts what a search run found so far.

    Raises ValueError for a run that is not a search or has no question done yet.
    """
    manifest = run.manifest()
    check_search(run, manifest["settings"])
    num_layers = int(manifest["starts"][-1]["num_layers"])
    questions = run.questions()
    if not questions.num_rows:
        raise ValueError(f"{run.directory} has no question done yet: let the search run first.")
    tree = ["question", "path", "length", "verdict", "finite", "node", "parent"]
    rows = run.evaluations([*tree, "said", "cut", "decoded"])
    return Summary(
        directory=str(run.directory),
        scorer=manifest["settings"].get("scorer"),
        done=questions.num_rows,
        planned=int(manifest["settings"]["questions"]),
        num_layers=num_layers,
        **summarise_questions(questions, num_layers),
        **summarise_evaluations(rows),
        answers=count_answers(questions, rows, manifest["settings"].get("scorer")),
        layers=summarise_layers(questions, rows["path"], num_layers),
    )


def check_search(run: RunDirectory, settings: dict[str, Any]) -> None:
    """Raises ValueError for a run that is not a search."""
    command = settings.get("command")
    if command == "evaluate":
        raise ValueError(
            f"{run.directory} holds an evaluation of given paths, not a search, so nothing was "
            "searched that could be summed up: use paths_table for it, or give a directory that "
            "`cola search` made."
        )
    if command != "search":
        raise ValueError(
            f"{run.directory} was made by {command!r}, not by a search: give a directory that "
            "`cola search` made."
        )


def summarise_questions(questions: pa.Table, num_layers: int) -> dict[str, Any]:
    """Makes the fields that the questions alone decide."""
    right, wrong = flags(questions["baseline"]), refusals(questions["baseline"])
    graded = right | wrong
    found = ~nulls(questions["best"])
    lengths = np.where(found, list_lengths(questions["best"]), num_layers)
    has_control = ~nulls(questions["control"])
    reached = flags(questions["control_reached"])
    compared = has_control & wrong
    return {
        "left_out": int(np.count_nonzero(~graded)),
        "before": Share.of(right[graded]),
        "after": Share.of(found[graded]),
        "shortened": Share.of(lengths[right] < num_layers),
        "corrected": Share.of(found[wrong]),
        "control": Share.of(reached[has_control & graded]),
        "control_wrong": Share.of(reached[compared]),
        "net": Difference.of(found[compared], reached[compared]),
        "confirmed": Share.of(flags(questions["confirmed"])[~nulls(questions["confirmed"])]),
        "levels": tuple(count_levels(questions["metadata"], right, found, graded)),
        "length": mean(lengths[graded]),
        "length_right": mean(lengths[right]),
        "length_corrected": mean(lengths[found & wrong]),
        "options": mean(list_lengths(questions["options"])),
        "best_lengths": {
            RIGHT: np.bincount(lengths[right & found]),
            CORRECTED: np.bincount(lengths[found & wrong]),
        },
    }


def count_levels(
    facts: pa.ChunkedArray, right: np.ndarray, found: np.ndarray, graded: np.ndarray
) -> Iterator[Level]:
    """Counts the questions of each level, fact by fact; none where all are of one level."""
    rows = [dict(row or ()) for row in facts.to_pylist()]
    for fact in sorted({name for row in rows for name in row if name.endswith("_level")}):
        levels = [row.get(fact) for row in rows]
        present = {level for level in levels if level is not None}
        if len(present) < 2:
            continue
        for level in sorted(present, key=lambda x: (int(x) if x.isdecimal() else math.inf, x)):
            mine = graded & np.array([x == level for x in levels])
            yield Level(fact, level, Share.of(right[mine]), Share.of(found[mine]))


def summarise_evaluations(rows: pa.Table) -> dict[str, Any]:
    """Makes the fields that the evaluations decide, but for the use of layers."""
    verdict = flags(rows["verdict"])
    question = rows["question"].combine_chunks().dictionary_encode().indices.to_numpy()
    parent = rows["parent"].fill_null(-1).to_numpy()
    return {
        "evaluations": rows.num_rows,
        "ungraded": Share.of(nulls(rows["verdict"])),
        "not_finite": Share.of(~flags(rows["finite"])),
        "cut": Share.of(flags(rows["cut"].drop_null())),
        "decoded": mean(rows["decoded"].drop_null().to_numpy()),
        "duplicates": Share(
            rows.num_rows - count_distinct(rows["question"], rows["path"]), rows.num_rows
        ),
        "shape": tree_shape(question, rows["node"].to_numpy(), parent),
        "correct_lengths": np.bincount(rows["length"].to_numpy()[verdict]),
    }


def count_answers(questions: pa.Table, rows: pa.Table, scorer: str | None) -> float:
    """Counts the distinct answers per question, of those that the scorer tells apart."""
    if scorer != "generate":
        return mean(questions["answers"].drop_null().to_numpy())
    said = rows.select(["question", "said"]).filter(pc.field("said").is_valid())
    return said.group_by(["question", "said"]).aggregate([]).num_rows / questions.num_rows


def summarise_layers(
    questions: pa.Table, evaluated: pa.ChunkedArray, num_layers: int
) -> dict[str, LayerUse]:
    """Counts how the best paths use the layers, and for contrast all evaluated paths."""
    right, wrong = flags(questions["baseline"]), refusals(questions["baseline"])
    found = ~nulls(questions["best"])
    best = questions["best"]
    return {
        RIGHT: layer_use(best.filter(pa.array(right & found)), num_layers),
        CORRECTED: layer_use(best.filter(pa.array(wrong & found)), num_layers),
        ALL: layer_use(evaluated, num_layers),
    }


def flags(column: pa.ChunkedArray) -> np.ndarray:
    """Reads a boolean column, null as False."""
    return column.fill_null(False).to_numpy()


def refusals(column: pa.ChunkedArray) -> np.ndarray:
    """Says where a boolean column is False: a verdict that is null is no refusal."""
    return ~column.fill_null(True).to_numpy()


def nulls(column: pa.ChunkedArray) -> np.ndarray:
    """Says where a column is null."""
    return column.is_null().to_numpy()


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Counts the items of every list, 0 for null."""
    chunks = [chunk.value_lengths().fill_null(0).to_numpy() for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int32)


def mean(values: np.ndarray) -> float:
    """Averages, NaN for nothing."""
    return float(np.mean(values)) if values.size else math.nan
