"""Labels of a run: the paths found to be right, and those that hold in all variants."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cola_jax.runs.directory import MANIFEST, RunDirectory
from cola_jax.runs.labels import read_labels
from cola_jax.runs.schema import EVALUATIONS, QUESTIONS


def evaluation(path: list[int], verdict: bool | None, control: bool = False) -> dict[str, Any]:
    return {
        **{"question": "a", "path": path, "length": len(path), "verdict": verdict},
        **{
            "margin": 0.5 if verdict else -0.5,
            "answer": 0,
            "finite": True,
            "node": 0,
            "control": control,
        },
    }


def write(folder: Any, evaluations: list[dict[str, Any]], questions: list[dict[str, Any]]) -> Any:
    for kind, schema, rows in (
        ("evaluations", EVALUATIONS, evaluations),
        ("questions", QUESTIONS, questions),
    ):
        (folder / kind).mkdir(parents=True)
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, folder / kind / "part-00000.parquet")
    (folder / MANIFEST).write_text('{"settings": {}, "starts": [{}]}')
    return RunDirectory(folder)


QUESTION = {"question": "a", "text": "1 + 1", "options": [], "prompt_hash": "x", "metadata": []}
QUESTION |= {"evaluations": 4}
ASKED = {"variant_answers": [0, 0], "baseline_answer": 0}
ROWS = [
    evaluation([0, 1, 2], False),
    evaluation([0, 1, 1, 2], True),
    evaluation([0, 2], True),
    evaluation([1, 2], None),
    evaluation([2], True, control=True),
]


def test_labels_leave_out_control_searches_and_ungraded_paths(tmp_path: Any) -> None:
    (labels,) = read_labels(write(tmp_path, ROWS, [QUESTION]))
    assert labels.paths == ((0, 1, 2), (0, 1, 1, 2), (0, 2), (1, 2))
    assert labels.correct == labels.held == [(0, 2), (0, 1, 1, 2)]
    assert labels.gold is None
    assert labels.robust is None


def test_held_paths_are_right_in_all_variants(tmp_path: Any) -> None:
    again = [
        {"node": 1, "path": [0, 1, 1, 2], "holds": [True, True]},
        {"node": 2, "path": [0, 2], "holds": [True, False]},
    ]
    (labels,) = read_labels(write(tmp_path, ROWS, [QUESTION | ASKED | {"again": again}]))
    assert labels.held == [(0, 1, 1, 2)]


def test_a_run_without_questions_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="no question done yet"):
        read_labels(write(tmp_path, [], []))
