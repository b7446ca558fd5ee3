"""Part files: joining thousands, and those refused in one line that names the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from cola_jax.errors import InputError
from cola_jax.runs.parts import (
    TOGETHER,
    by_question,
    check_counts,
    check_nodes,
    join,
    read_part,
    write_part,
)
from cola_jax.runs.run import WAVES
from cola_jax.runs.schema import EVALUATIONS, QUESTIONS

PLAIN = [0, 1, 2]
AGAIN = {"node": 0, "path": PLAIN, "holds": [True]}
CONTROL = {"target": 1, "best": [0], "robust": None, "again": None, "evaluations": 2, "shared": 1}
ASKED = {"again": [AGAIN], "variant_answers": [0], "baseline_answer": 0}


def evaluation(**changes: Any) -> dict[str, Any]:
    row = {"question": "q", "path": PLAIN, "length": 3, "margin": 1.0, "answer": 0, "finite": True}
    return row | {"node": 0, "verdict": True} | changes


def question(**changes: Any) -> dict[str, Any]:
    row = {"question": "q", "text": "?", "options": ["a", "b"], "gold": 0, "prompt_hash": "x"}
    return row | {"evaluations": 1, "controls": [CONTROL]} | ASKED | changes


def read(folder: Path, schema: pa.Schema, *rows: dict[str, Any]) -> pa.Table:
    file = folder / "part.parquet"
    file.write_bytes(write_part(schema, rows, "mark"))
    return read_part(epath.Path(file), schema, 3, "mark")


def test_rows_of_a_run_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, EVALUATIONS, evaluation()).to_pylist()[0]["path"] == PLAIN
    assert read(tmp_path, QUESTIONS, question()).num_rows == 1
    rows = evaluation(variant=0), evaluation(variant=1, verdict=False, margin=1e-6)
    assert read(tmp_path, WAVES, *rows).num_rows == 2


@pytest.mark.parametrize(
    ("schema", "changes", "message"),
    [
        (EVALUATIONS, {"question": None}, "a row has no question"),
        (
            EVALUATIONS,
            {"path": [0, 3], "length": 2},
            "a row's path has layer 3, the last is 2",
        ),
        (EVALUATIONS, {"path": [-1], "length": 1}, "a row's path is -1, less than 0"),
        (EVALUATIONS, {"path": [], "length": 0}, "a row's path has no entries"),
        (EVALUATIONS, {"path": [0, None], "length": 2}, "a row's path has an empty entry"),
        (EVALUATIONS, {"length": 2}, "a row's path and length contradict"),
        (EVALUATIONS, {"node": 1}, "a row's node is 1, beyond all evaluations"),
        (EVALUATIONS, {"node": None}, "a row has no node"),
        (EVALUATIONS, {"answer": -2}, "a row's answer is -2, less than -1"),
        (EVALUATIONS, {"grade": "good"}, "a row's grade is 'good'"),
        (EVALUATIONS, {"text": "a"}, "a row's text and finish contradict"),
        (EVALUATIONS, {"finish": "stop"}, "a row's finish and text contradict"),
        (EVALUATIONS, {"verdict": False}, "a row's verdict and margin contradict"),
        (EVALUATIONS, {"margin": -0.5}, "a row's verdict and margin contradict"),
        (WAVES, {"path": [7], "length": 1}, "a row's path has layer 7"),
        (QUESTIONS, {"options": None}, "a row has no options"),
        (QUESTIONS, {"gold": 2}, "a row's options and gold contradict"),
        (QUESTIONS, {"best": [3]}, "a row's best has layer 3"),
        (QUESTIONS, {"front": [[0], []]}, "a row's front has no entries"),
        (QUESTIONS, {"again": []}, "a row's again has no entries"),
        (QUESTIONS, {"variant_answers": None}, "a row's again and variant_answers contradict"),
        (QUESTIONS, {"metadata": [{"name": None, "value": "1"}]}, "a row has no metadata.name"),
        (QUESTIONS, {"controls": [CONTROL | {"best": [9]}]}, "a row's controls.best has layer 9"),
        (QUESTIONS, {"controls": [CONTROL | {"shared": None}]}, "a row has no controls.shared"),
    ],
)
def test_other_rows_are_refused(tmp_path: Path, schema: Any, changes: Any, message: str) -> None:
    row = question(**changes) if schema is QUESTIONS else evaluation(**changes)
    with pytest.raises(InputError, match=rf"part\.parquet: {message}") as error:
        read(tmp_path, schema, row)
    assert "Remove it, and its questions are evaluated again" in str(error.value)
    assert str(error.value).isprintable()


def test_other_columns_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "part.parquet"
    table = pa.Table.from_pylist([evaluation()], schema=EVALUATIONS)
    column = table["verdict"]
    for other, message in (
        (table.append_column("verdict", column), "it has a column twice"),
        (table.drop_columns("margin"), "it has no column margin"),
        (table.set_column(1, "path", pa.array(["0-2"])), "Unsupported cast|cast"),
    ):
        pq.write_table(other, file)
        with pytest.raises(InputError, match=message):
            read_part(epath.Path(file), EVALUATIONS, 3, None)


def test_parts_of_another_run_are_refused(tmp_path: Path) -> None:
    file = epath.Path(tmp_path / "part.parquet")
    file.write_bytes(write_part(EVALUATIONS, [evaluation()], "theirs"))
    for mark in ("theirs", None):  # runs of earlier versions have no mark
        assert read_part(file, EVALUATIONS, 3, mark).num_rows == 1
    with pytest.raises(InputError, match=r"part\.parquet: it is of another run\. Remove it"):
        read_part(file, EVALUATIONS, 3, "ours")


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    row = evaluation(question="a name that is found")
    content = bytearray(write_part(EVALUATIONS, [row], "mark"))
    content[content.index(b"a name") + 3] ^= 1
    (tmp_path / "part.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"part\.parquet: .*CRC"):
        read_part(epath.Path(tmp_path / "part.parquet"), EVALUATIONS, 3, "mark")


def test_check_counts_and_nodes_find_files_of_several_runs() -> None:
    questions = pa.table({"question": ["a", "b"], "evaluations": [2, 1]})
    rows = {"question": ["a", "b", "a", "a"], "control": [None, False, False, True]}
    check_counts("run", questions, pa.table(rows))
    with pytest.raises(ValueError, match="run has 0 evaluations of question 'b', but counts 1"):
        check_counts("run", questions, pa.table(rows).filter(pa.array([True, False, True, True])))
    with pytest.raises(ValueError, match="run has 1 evaluations of question 'c', but counts 0"):
        check_counts("run", questions, pa.table({"question": ["a", "a", "b", "c"]}))
    check_nodes("run", np.arange(3), 3)
    with pytest.raises(ValueError, match="run has evaluations of 3 paths, but its settings name 2"):
        check_nodes("run", np.arange(3), 2)


def test_join_keeps_the_order_and_has_few_chunks() -> None:
    tables = [pa.table({"n": [i], "path": [[i, i]]}) for i in range(3 * TOGETHER + 1)]
    joined = join(tables[:1], iter(tables[1:]))
    assert joined.to_pylist() == [{"n": i, "path": [i, i]} for i in range(len(tables))]
    assert joined["n"].num_chunks == 4


def test_by_question_keeps_the_order_of_rows() -> None:
    table = pa.table({"question": ["b", "a", "b", None, "a"], "path": [[0], [1], [2], [3], [4]]})
    tables = {name: rows["path"].to_pylist() for name, rows in by_question(table).items()}
    assert tables == {"b": [[0], [2]], "a": [[1], [4]], "": [[3]]}
    assert by_question(table.slice(0, 0)) == {}
