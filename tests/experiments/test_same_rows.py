"""Comparing runs: what counts as a difference."""

import numpy as np
import pytest

from cola_jax.runs.run import Run
from experiments.same_rows import SameRows, main

MARGINS = {(0, 1): 0.5, (0,): -20.0, (1,): 5e-4}


def evaluation(path, margin, **changes):
    row = {"question": "q", "path": path, "length": len(path), "margin": margin, "answer": 0}
    return row | {"verdict": margin > 0, "finite": True, "node": 0, "control": False} | changes


def make_run(folder, *rows):
    question = {"question": "q", "text": "?", "options": ["4", "5"], "gold": 0, "prompt_hash": "x"}
    with Run(folder).open({}, {"num_layers": 2}) as run:
        run.write(rows, [question | {"evaluations": len(rows)}])
    return str(folder)


def compare(*runs):
    with pytest.raises(SystemExit) as ended:
        main(SameRows(*runs))
    return ended.value.code


ROWS = [evaluation(*pair) for pair in MARGINS.items()]
CONTROL = evaluation((0, 1), -1.0, control=True, target=1)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        (ROWS[::-1], 0),
        ([evaluation((0, 1), 0.5 + 1.5e-3), *ROWS[1:]], 0),  # the largest margin is 20
        ([evaluation((0, 1), 0.5 + 2.5e-3), *ROWS[1:]], 1),
        ([evaluation((0, 1), -np.inf), *ROWS[1:]], 1),
        ([*ROWS[:2], evaluation((1,), -4e-4)], 0),  # a verdict turned by rounding
        ([evaluation((0, 1), 0.5, verdict=None), *ROWS[1:]], 1),
        (ROWS[:2], 1),
        ([*ROWS, CONTROL], 1),
    ],
)
def test_same_rows_compares_paths_margins_and_verdicts(tmp_path, capsys, rows, code):
    runs = [make_run(tmp_path / "run", *ROWS), make_run(tmp_path / "other", *rows)]
    assert compare(*runs) == compare(*runs[::-1]) == code
    assert f"{code} differences" in capsys.readouterr().out
