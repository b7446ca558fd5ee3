"""Comparing runs: what counts as a difference, and runs with the columns of earlier versions."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cola_jax.runs.directory import RunDirectory
from experiments.same_rows import SameRows, main

MARGINS = (0.5, -20.0)


def evaluation(node, **changes):
    row = {
        **{"question": "q", "path": [0, 1], "length": 2, "verdict": True, "node": node},
        **{"margin": MARGINS[node], "answer": 0, "scores": [0.25, np.nan], "finite": True},
        **{"wave": node, "text": " 4", "answer_text": "4", "finish": "stop", "truncated": False},
        **{"grade": "right", "tokens": [7, 2], "logprob": -0.5},
    }
    return row | changes


def question(**changes):
    row = {"question": "q", "text": "2 + 2", "options": ["4", "5"], "gold": 0, "num_tokens": 9}
    return row | {"metadata": [("level", "1")], "evaluations": 2} | changes


def make_run(folder, evaluations, questions):
    run = RunDirectory(folder)
    run.write_manifest({"settings": {}, "starts": []})
    run.write_part(evaluations, questions)
    return str(folder)


def compare(first, second, **flags):
    with pytest.raises(SystemExit) as ended:
        main(SameRows(first, second, **flags))
    return ended.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(
        tmp_path_factory.mktemp("runs") / "run", [evaluation(0), evaluation(1)], [question()]
    )


def test_same_rows_accepts_equal_runs(run, capsys):
    assert compare(run, run, bits=True) == 0
    assert "margin: 0 of 2 differ to the bit" in capsys.readouterr().out


def test_same_rows_compares_control_searches(tmp_path):
    gold = evaluation(0, target=0, control=False)
    runs = [
        make_run(
            tmp_path / name,
            [gold, evaluation(0, target=2, control=True, verdict=verdict), evaluation(1, target=0)],
            [question(control=1)],
        )
        for name, verdict in (("one", True), ("other", False))
    ]
    assert compare(runs[0], runs[0]) == 0
    assert compare(*runs) == 1


@pytest.mark.parametrize(
    ("margin", "code"),
    [(0.5 + 1.5e-4, 0), (0.5 + 2.5e-4, 1), (-np.inf, 1)],  # the largest margin is 20
)
def test_same_rows_allows_rounding(run, tmp_path, capsys, margin, code):
    other = make_run(tmp_path / "run", [evaluation(0, margin=margin), evaluation(1)], [question()])
    assert compare(run, other) == code
    assert compare(run, other, bits=True) == 1
    assert "margin: 1 of 2 differ to the bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"path": [0, 0]}, 2),
        ({"verdict": False}, 2),
        ({"answer_text": "5"}, 2),
        ({"tokens": [7, 3]}, 2),
        ({"scores": [0.3, np.nan]}, 2),
        ({"scores": [0.25, 0.25]}, 2),
        ({}, 1),
    ],
)
def test_same_rows_finds_differences(run, tmp_path, changes, count):
    rows = [evaluation(0, **changes), evaluation(1)][:count]
    assert compare(run, make_run(tmp_path / "run", rows, [question()])) == 1


def test_same_rows_compares_questions(run, tmp_path):
    rows = [evaluation(0), evaluation(1)]
    assert compare(run, make_run(tmp_path / "run", rows, [question(num_tokens=8)])) == 1


@pytest.mark.parametrize(("decoded", "code"), [(2, 0), (3, 1)])
def test_same_rows_reads_earlier_columns(run, tmp_path, decoded, code):
    """Earlier versions named columns differently, and recorded the number of tokens alone."""
    renamed = {"answer_text": "said", "truncated": "cut", "num_tokens": "tokens"}
    renamed["metadata"] = "facts"
    rows = {
        "evaluations": [evaluation(0), evaluation(1)],
        "questions": [question(metadata={"level": "1"}, num_tokens=9)],
    }
    for row in rows["evaluations"]:
        row["tokens"] = decoded
        del row["scores"]
    for kind, some in rows.items():
        (tmp_path / kind).mkdir()
        earlier = [{renamed.get(name, name): x for name, x in row.items()} for row in some]
        for row in earlier:
            if kind == "evaluations":
                row["decoded"] = row.pop("tokens")
            else:
                row["facts"] = [("level", "1")]
        schema = None
        if kind == "questions":
            inferred = pa.Table.from_pylist([{k: v for k, v in earlier[0].items() if k != "facts"}])
            schema = inferred.schema.append(pa.field("facts", pa.map_(pa.string(), pa.string())))
        table = pa.Table.from_pylist(earlier, schema=schema)
        pq.write_table(table, tmp_path / kind / "part-00000.parquet")
    assert compare(str(tmp_path), run) == code
    assert compare(run, str(tmp_path)) == code
