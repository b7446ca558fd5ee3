"""Small runs written by hand, whose numbers are worked out by hand in the tests."""

import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cola_jax.report import summarise
from cola_jax.report.summary import Summary
from cola_jax.runs.run import Run

WHOLE = (0, 1, 2, 3)  # the identity path of a model of four layers
SETTINGS = {"command": "search", "questions": 6, "simulations": 2, "leaves": 1, "seed": 0}
START = {"num_layers": 4, "model": "there", "origin": {"kind": "hub", "name": "someone/model"}}
SCORERS = {  # as runs record them
    "letter": {"open": False, "decodes": False},
    "exact": {"open": True, "decodes": False},
    "generation": {"open": True, "decodes": True},
}
NASTY = """<script>alert(1)</script>&"'</script><!-- {{ 7 * 7 }}"""


def make_run(
    directory: Path, *parts: tuple[list[Any], list[Any]], start: Any = START, **settings: Any
) -> Run:
    """Write a run of parts (evaluations, questions); a known scorer is recorded in its start."""
    run = Run(directory / "run")
    if settings.get("scorer") in SCORERS:
        start = start | {"scorer": SCORERS[settings["scorer"]]}
    asked = max(SETTINGS["questions"], sum(len(questions) for _, questions in parts))
    with run.open(SETTINGS | {"questions": asked} | settings, start):
        for evaluations, questions in parts:
            run.write(evaluations, questions)
    return run


def evaluation(
    question: str, node: int, path: tuple[int, ...], answer: int, verdict: bool, **more: Any
) -> dict[str, Any]:
    return {
        "question": question,
        "path": path,
        "length": len(path),
        "verdict": verdict,
        "margin": 1.0 if verdict else -1.0,
        "answer": answer,
        "scores": [],
        "finite": True,
        "node": node,
        "wave": node,
        "parent": 0 if node else None,
        "edit": f"edit {node}" if node else None,
        **more,
    }


def decoded(
    name: str,
    node: int,
    path: tuple[int, ...],
    answer_text: str | None,
    verdict: bool | None,
    **more: Any,
) -> dict[str, Any]:
    """Make an evaluation that decoded an answer; a verdict of None is ungraded."""
    grade = {True: "right", False: "wrong", None: "ungraded"}[verdict]
    row = evaluation(name, node, path, 0 if verdict else -1, bool(verdict))
    completion = {
        "text": f" so {answer_text}\n",
        "answer_text": answer_text,
        "finish": "stop",
        "truncated": False,
        "tokens": [5, 6, 7, 8],
        "logprob": -1.0,
    }
    return row | completion | {"verdict": verdict, "grade": grade} | more


def truncated(text: str) -> dict[str, Any]:
    """Make the columns of a completion that the token limit ended."""
    limit = {"finish": "length", "truncated": True}
    return limit | {"text": f" {text}", "tokens": list(range(12))}


def question(name: str, **fields: Any) -> dict[str, Any]:
    """Make a question, with a search for the option `control` if that is given."""
    control, reached = fields.pop("control", None), fields.pop("control_reached", False)
    if control is not None:
        best = (0, 3) if reached else None
        search = {"target": control, "best": best, "evaluations": 3, "shared": 2}
        fields = {"controls": [search]} | fields
    options, answer = fields.get("options", "abc"), fields.get("baseline_answer", 1)
    scores = [-1.0 if j == answer else -2.0 - j for j in range(len(options))]
    return {
        "question": name,
        "text": f"What is {name}?",
        "options": ["a", "b", "c"],
        "gold": 0,
        "baseline": False,
        "baseline_answer": 1,
        "best": None,
        "confirmed": None,
        "front": [],
        "baseline_scores": [scores],
        "answers": 2,
        "num_tokens": 5,
        "prompt_hash": "0",
        "evaluations": 0,
        **fields,
    }


def open_question(name: str, **fields: Any) -> dict[str, Any]:
    return question(name, **{"options": ["7", "9"], "baseline_answer": -1} | fields)


# C→C on three layers
Q1 = question(
    "q1", baseline=True, baseline_answer=0, best=(0, 1, 3), confirmed=True,
    front=[(0, 1, 3), (0, 3)],
)  # fmt: skip
E1 = [
    evaluation("q1", 0, WHOLE, 0, True),
    evaluation("q1", 1, (0, 1, 3), 0, True),
    evaluation("q1", 2, (0, 3), 2, False, parent=1),
]
# W→C on five layers, not confirmed, its control not reached; one path is not finite
Q2 = question("q2", best=(0, 1, 1, 2, 3), confirmed=False, control=2, control_reached=False)
E2 = [
    evaluation("q2", 0, WHOLE, 1, False),
    evaluation("q2", 1, (0, 1, 1, 2, 3), 0, True),
    evaluation("q2", 2, (0, 2), -1, False, margin=-math.inf, finite=False),
]
# W→W, its control reached
Q3 = question("q3", control=2, control_reached=True, answers=3)
E3 = [
    evaluation("q3", 0, WHOLE, 1, False),
    evaluation("q3", 1, (0, 1, 3), 1, False),
    evaluation("q3", 2, (0, 1, 3, 3, 3), 2, False, parent=1),
]
# C→C that needs all layers, of two options and so without a control
Q4 = question(
    "q4", options=["a", "b"], baseline=True, baseline_answer=0, best=WHOLE, confirmed=True
)  # fmt: skip
E4 = [evaluation("q4", 0, WHOLE, 0, True), evaluation("q4", 1, (0, 1, 2), 1, False)]
# W→C on three layers, without a control
Q5 = question("q5", options=["a", "b"], best=(1, 2, 3), confirmed=True)
E5 = [evaluation("q5", 0, WHOLE, 1, False), evaluation("q5", 1, (1, 2, 3), 0, True)]

ONLY_RETAINED = (E4, [Q4])
ONLY_CORRECTED = (E2, [Q2])
ONLY_WRONG = (E3, [Q3])
ONE_EVALUATION = (E4[:1], [Q4])

# C→C on three layers; its control reached
G1 = open_question("g1", baseline=True, baseline_answer=0, best=(0, 1, 3), confirmed=True,
                   control=1, control_reached=True, front=[(0, 1, 3), (0,)])  # fmt: skip
F1 = [
    decoded("g1", 0, WHOLE, "7", True),
    decoded("g1", 1, (0, 1, 3), "7", True),
    decoded("g1", 2, (0, 3), "9", False, answer=1),
    decoded("g1", 3, (0,), "seven!", None, margin=-0.1),  # on the front, as not known to be correct
]
# W→C
G2 = open_question(
    "g2", best=(0, 1, 1, 2, 3), confirmed=False, control=1, control_reached=False
)  # fmt: skip
F2 = [
    decoded("g2", 0, WHOLE, None, False, **truncated("no no")),
    decoded("g2", 1, (0, 1, 1, 2, 3), "7", True),
]
# ungraded before and correct on some path: neither W→C nor C→C
G3 = open_question(
    "g3", baseline=None, best=(0, 2), confirmed=True, control=1, control_reached=True
)  # fmt: skip
F3 = [
    decoded("g3", 0, WHOLE, "x", None),
    decoded("g3", 1, (0, 2), "7", True),
    decoded("g3", 2, (0, 1), "9", False, answer=1),
]
# W→W, as far as is known
G4 = open_question("g4", control=1, control_reached=False)
F4 = [decoded("g4", 0, WHOLE, "8", False), decoded("g4", 1, (1, 2), "7.0000", None)]

OPEN_PARTS = [(F1 + F2, [G1, G2]), (F3 + F4, [G3, G4])]
UNGRADED = ([F3[0]], [G3 | {"best": None, "confirmed": None}])


PARTS = [(E1 + E2, [Q1, Q2]), (E3 + E4 + E5, [Q3, Q4, Q5])]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Five of six questions with options, in two parts."""
    return make_run(tmp_path_factory.mktemp("search"), *PARTS)


@pytest.fixture(scope="session")
def summary(run: Run) -> Summary:
    return summarise(run)


@pytest.fixture(scope="session")
def open_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four open questions, their answers decoded, in two parts."""
    directory = tmp_path_factory.mktemp("open")
    return make_run(directory, *OPEN_PARTS, scorer="generation", questions=4)


@pytest.fixture(scope="session")
def open_summary(open_run: Run) -> Summary:
    return summarise(open_run)


PATHS = [WHOLE, (0, 1, 2, 2, 3), (0, 3)]


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three paths on two questions; the last two are equally accurate, the last one is shorter."""
    rows = [
        ("q1", True, True, True, [2.0, 1.0, 4.0]),
        ("q2", False, True, True, [-1.0, 3.0, math.inf]),
    ]
    evaluations = [
        evaluation(
            name, node, PATHS[node], 0, right[node], margin=margins[node], parent=None,
            finite=math.isfinite(margins[node]),
        )
        for name, *right, margins in rows
        for node in range(3)
    ]  # fmt: skip
    parts = [([e for e in evaluations if e["question"] == q], [question(q)]) for q in ("q1", "q2")]
    settings = {"command": "evaluate", "questions": 2, "paths": [list(p) for p in PATHS]}
    return make_run(tmp_path_factory.mktemp("evaluated"), *parts, **settings)


@pytest.fixture(scope="session")
def open_evaluated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three paths on two open questions; the last path was never graded."""
    verdicts = {"q1": [True, True, None], "q2": [False, None, None]}
    margins = iter([6.0, 2.0, -50.0, -2.0, -50.0, -50.0])
    rows = [
        decoded(name, node, PATHS[node], "7", verdict, margin=next(margins))
        for name, column in verdicts.items()
        for node, verdict in enumerate(column)
    ]
    rows[3] |= truncated("7")
    empty = dict.fromkeys(["baseline", "baseline_answer", "front", "answers"])
    questions = [question(name, options=["7", "9"]) | empty for name in verdicts]
    settings = {"command": "evaluate", "scorer": "generation", "questions": 2}
    directory = tmp_path_factory.mktemp("open_evaluated")
    return make_run(directory, (rows, questions), **settings, paths=[list(p) for p in PATHS])


def printed(table: Any, width: int = 80) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
