"""A row of each kind, with the fields of its data set; a task of lm-evaluation-harness."""

import json
from pathlib import Path

from cola_jax.tasks.registry import MATH_SUBJECTS

ROWS = json.loads(Path(__file__).with_name("rows.json").read_text())
ARC, MMLU, GSM8K, MATH = ROWS["ARC"], ROWS["MMLU"], ROWS["GSM8K"], ROWS["MATH"]
MATH500, DART, PLAIN = ROWS["MATH500"], ROWS["DART"], ROWS["PLAIN"]
DECODED = ROWS["DECODED"]  # as lm-evaluation-harness defines GSM8K
ALIASES = DECODED | ROWS["ALIASES"]  # with several right answers
CHOICE = ROWS["CHOICE"]
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}


def changed(row: dict, **fields) -> dict:
    """Change fields of a row; None removes one."""
    return {name: value for name, value in (row | fields).items() if value is not None}


MATH_ROWS = {
    subject: [changed(MATH, problem=f"{subject} {i}?") for i in (1, 2)] for subject in MATH_SUBJECTS
}
