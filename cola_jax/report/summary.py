"""`Summary`: the numbers of a search run, each with what it takes to judge it."""

import dataclasses
import math
from typing import Any

import numpy as np
import pyarrow as pa

from cola_jax.report.shape import LayerUse, Shape, count_distinct, layer_use, tree_shape
from cola_jax.report.share import Difference, Share
from cola_jax.run import RunDirectory

RIGHT, CORRECTED, ALL = "C→C", "W→C", "all"


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """What a search found on the questions that are done; means over nothing are NaN."""

    directory: str
    done: int  # questions
    planned: int
    num_layers: int  # L, also every length before the search

    before: Share  # right with the identity path
    after: Share  # right with some path
    shortened: Share  # of those right before: right on fewer layers too
    corrected: Share  # of those wrong before: right with some path (W→C)
    # The control: a fixed wrong option that is not the baseline's answer either, and whether the
    # same evaluations answered it. `net` pairs it with W→C on the questions of `control_wrong`.
    control: Share
    control_wrong: Share  # among the questions wrong before
    net: Difference
    confirmed: Share  # of the shortest correct paths: right in float32 too

    length: float  # of the shortest correct path, L where there is none
    length_right: float  # of C→C
    length_corrected: float  # of W→C

    evaluations: int
    answers: float  # distinct options answered per question
    options: float  # options offered per question
    not_finite: Share
    duplicates: Share  # evaluations of a path that its question already had
    shape: Shape

    # How many paths have each length, by group; index is the length
    best_lengths: dict[str, np.ndarray]
    correct_lengths: np.ndarray  # of all evaluations that are right
    layers: dict[str, LayerUse]

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
    rows = run.evaluations(["question", "path", "length", "verdict", "finite", "node", "parent"])
    return Summary(
        directory=str(run.directory),
        done=questions.num_rows,
        planned=int(manifest["settings"]["questions"]),
        num_layers=num_layers,
        **summarise_questions(questions, num_layers),
        **summarise_evaluations(rows),
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
    right = flags(questions["baseline"])
    found = ~nulls(questions["best"])
    lengths = np.where(found, list_lengths(questions["best"]), num_layers)
    has_control = ~nulls(questions["control"])
    reached = flags(questions["control_reached"])
    compared = has_control & ~right
    return {
        "before": Share.of(right),
        "after": Share.of(found),
        "shortened": Share.of(lengths[right] < num_layers),
        "corrected": Share.of(found[~right]),
        "control": Share.of(reached[has_control]),
        "control_wrong": Share.of(reached[compared]),
        "net": Difference.of(found[compared], reached[compared]),
        "confirmed": Share.of(flags(questions["confirmed"])[~nulls(questions["confirmed"])]),
        "length": mean(lengths),
        "length_right": mean(lengths[right]),
        "length_corrected": mean(lengths[found & ~right]),
        "answers": mean(questions["answers"].to_numpy()),
        "options": mean(list_lengths(questions["options"])),
        "best_lengths": {
            RIGHT: np.bincount(lengths[right & found]),
            CORRECTED: np.bincount(lengths[found & ~right]),
        },
    }


def summarise_evaluations(rows: pa.Table) -> dict[str, Any]:
    """Makes the fields that the evaluations decide, but for the use of layers."""
    verdict = flags(rows["verdict"])
    question = rows["question"].combine_chunks().dictionary_encode().indices.to_numpy()
    parent = rows["parent"].fill_null(-1).to_numpy()
    return {
        "evaluations": rows.num_rows,
        "not_finite": Share.of(~flags(rows["finite"])),
        "duplicates": Share(
            rows.num_rows - count_distinct(rows["question"], rows["path"]), rows.num_rows
        ),
        "shape": tree_shape(question, rows["node"].to_numpy(), parent),
        "correct_lengths": np.bincount(rows["length"].to_numpy()[verdict]),
    }


def summarise_layers(
    questions: pa.Table, evaluated: pa.ChunkedArray, num_layers: int
) -> dict[str, LayerUse]:
    """Counts how the best paths use the layers, and for contrast all evaluated paths."""
    right = flags(questions["baseline"])
    found = ~nulls(questions["best"])
    best = questions["best"]
    return {
        RIGHT: layer_use(best.filter(pa.array(right & found)), num_layers),
        CORRECTED: layer_use(best.filter(pa.array(~right & found)), num_layers),
        ALL: layer_use(evaluated, num_layers),
    }


def flags(column: pa.ChunkedArray) -> np.ndarray:
    """Reads a boolean column, null as False."""
    return column.fill_null(False).to_numpy()


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
