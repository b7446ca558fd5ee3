"""Part files: those refused in one line that names the file, and joining thousands."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from etils import epath

from cola_jax.errors import InputError
from cola_jax.runs.parts import TOGETHER, by_question, encode_part, join, part_name, read_part
from cola_jax.runs.schema import EVALUATIONS


def evaluation(**changes: Any) -> dict[str, Any]:
    row = {"question": "q", "path": [0, 1, 2], "length": 3, "verdict": True, "margin": 1.0}
    return row | changes


def write(folder: Path, *rows: dict[str, Any]) -> epath.Path:
    content = encode_part(EVALUATIONS, rows, "mark")
    file = epath.Path(folder / part_name("part-00000", content))
    file.write_bytes(content)
    return file


def refused(file: epath.Path, message: str) -> None:
    text = f"{re.escape(str(file))}: {message}. Remove it, and its questions are evaluated again"
    with pytest.raises(InputError, match=text):
        read_part(file, EVALUATIONS, "mark")


def test_rows_are_read(tmp_path: Path) -> None:
    file = write(tmp_path, evaluation(), evaluation(verdict=None, margin=-9.0))
    table = read_part(file, EVALUATIONS, "mark")
    assert table.schema == EVALUATIONS
    assert table["path"].to_pylist() == [[0, 1, 2]] * 2
    assert read_part(file, EVALUATIONS, "mark", ["margin", "path"]).column_names == [
        "margin",
        "path",
    ]


def test_changed_parts_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, evaluation())
    whole, other = file.read_bytes(), encode_part(EVALUATIONS, [evaluation(margin=2.0)], "mark")
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    for content in (other, bytes(flipped), whole[:-1], b""):
        file.write_bytes(content)
        refused(file, "it is damaged, or was changed or renamed after it was written")


@pytest.mark.parametrize(
    ("verdict", "margin", "fits"),
    [(True, -0.5, False), (False, 0.5, False), (False, 1e-6, True), (None, 0.5, True)],
)
def test_verdicts_that_their_margins_contradict_are_refused(
    tmp_path: Path, verdict: bool | None, margin: float, fits: bool
) -> None:
    file = write(tmp_path, evaluation(), evaluation(verdict=verdict, margin=margin))
    if fits:
        assert read_part(file, EVALUATIONS, "mark").num_rows == 2
    else:
        refused(file, "a row's verdict and margin contradict each other")


def test_join_keeps_the_order_and_has_few_chunks() -> None:
    tables = [pa.table({"n": [i], "path": [[i, i]]}) for i in range(3 * TOGETHER + 1)]
    joined = join(tables[:1], iter(tables[1:]))
    assert joined.to_pylist() == [{"n": i, "path": [i, i]} for i in range(len(tables))]
    assert joined["n"].num_chunks == 4


def test_by_question_keeps_the_order_of_rows() -> None:
    table = pa.table({"question": ["b", "a", "b", "c", "a"], "path": [[0], [1], [2], [3], [4]]})
    tables = {name: rows["path"].to_pylist() for name, rows in by_question(table).items()}
    assert tables == {"b": [[0], [2]], "a": [[1], [4]], "c": [[3]]}
    assert by_question(table.slice(0, 0)) == {}
