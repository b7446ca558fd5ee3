"""Small runs written by hand, whose numbers are worked out by hand in the tests."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cola_jax.report.document import Document, terminal_report
from cola_jax.runs import schema
from cola_jax.runs.run import Run

Part = tuple[list[Any], list[Any]]  # evaluations, questions
WHOLE = (0, 1, 2, 3)  # the identity path of a model of four layers
SETTINGS = {"command": "search", "questions": 6, "simulations": 2, "leaves": 1, "seed": 0}
START = {"num_layers": 4, "model": "there", "origin": {"kind": "hub", "name": "someone/model"}}
SCORERS = {  # as runs record them
    "letter": {"open": False, "decodes": False},
    "exact": {"open": True, "decodes": False},
    "generation": {"open": True, "decodes": True},
}


def make_run(directory: Path, *parts: Part, start: Any = START, **settings: Any) -> Run:
    """Write a run of parts (evaluations, questions); a known scorer is recorded in its start."""
    run = Run(directory / "run")
    if settings.get("scorer") in SCORERS:
        start = start | {"scorer": SCORERS[settings["scorer"]]}
    asked = max(SETTINGS["questions"], sum(len(questions) for _, questions in parts))
    with run.open(SETTINGS | {"questions": asked} | settings, start):
        for evaluations, questions in parts:
            run.write(schema.Part(evaluations, questions))
    return run


def letters(name: str, rows: list[Any], **fields: Any) -> Part:
    """Make a question, and its evaluations of rows (path, answer, verdict, other columns)."""
    evaluations = []
    for node, (path, answer, verdict, *more) in enumerate(rows):
        columns = {"question": name, "path": path, "length": len(path), "answer": answer}
        columns |= {"verdict": verdict, "margin": 1.0 if verdict else -1.0, "finite": True}
        columns |= {
            "target": fields.get("gold", 0),
            "node": node,
            "wave": node,
            "scores": [],
            "parent": None,
            "edit": None,
        }
        if node:
            columns |= {"parent": 0, "edit": f"edit {node}"}
        evaluations.append(columns | dict(*more))
    return evaluations, [question(name, **{"evaluations": len(rows)} | fields)]


def answers(name: str, rows: list[Any], **fields: Any) -> Part:
    """Make an open question, and its evaluations that decoded rows (path, text, verdict, columns).

    A verdict of None is ungraded.
    """
    decoded = []
    for path, text, verdict, *more in rows:
        grade = {True: "right", False: "wrong", None: "ungraded"}[verdict]
        columns = {"verdict": verdict, "grade": grade, "answer_text": text, "text": f" so {text}\n"}
        columns |= {"finish": "stop", "truncated": False, "tokens": [5, 6, 7, 8], "logprob": -1.0}
        decoded.append((path, 0 if verdict else -1, bool(verdict), columns | dict(*more)))
    fields = {"options": ["7", "9"], "baseline_answer": -1, "control": 1} | fields
    return letters(name, decoded, **fields)


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
    asked = {"question": name, "text": f"What is {name}?", "options": ["a", "b", "c"], "gold": 0}
    asked |= {"num_tokens": 5, "prompt_hash": "0", "evaluations": 0}
    found = {"best": None, "confirmed": None, "front": [], "answers": 2}
    before = {"baseline": False, "baseline_answer": 1, "baseline_scores": [scores]}
    return asked | found | before | fields


RIGHT: dict[str, Any] = {"baseline": True, "baseline_answer": 0, "confirmed": True}
# fmt: off
MADE = [
    # C→C on three layers
    letters("q1", [(WHOLE, 0, True), ((0, 1, 3), 0, True, {"edit": "skip 1 at 2"}),
                   ((0, 3), 2, False, {"parent": 1})],
            best=(0, 1, 3), front=[(0, 1, 3), (0, 3)], **RIGHT),
    # W→C on five layers, not confirmed, its control not reached; one path is not finite
    letters("q2", [(WHOLE, 1, False), ((0, 1, 1, 2, 3), 0, True),
                   ((0, 2), -1, False, {"margin": -math.inf, "finite": False})],
            best=(0, 1, 1, 2, 3), confirmed=False, control=2),
    # W→W, its control reached
    letters("q3", [(WHOLE, 1, False), ((0, 1, 3), 1, False), ((0, 1, 3, 3, 3), 2, False)],
            control=2, control_reached=True, answers=3),
    # C→C that needs all layers, of two options and so without a control
    letters("q4", [(WHOLE, 0, True), ((0, 1, 2), 1, False)],
            options=["a", "b"], best=WHOLE, **RIGHT),
    # W→C on three layers, without a control
    letters("q5", [(WHOLE, 1, False), ((1, 2, 3), 0, True)],
            options=["a", "b"], best=(1, 2, 3), confirmed=True),
    # C→C on three layers, its control reached; a path is on the front, as it may be correct
    answers("g1", [(WHOLE, "7", True), ((0, 1, 3), "7", True), ((0, 3), "9", False, {"answer": 1}),
                   ((0,), "seven!", None, {"margin": -0.1})],
            best=(0, 1, 3), front=[(0, 1, 3), (0,)], control_reached=True, **RIGHT),
    # W→C
    answers("g2", [(WHOLE, None, False, truncated("no no")), ((0, 1, 1, 2, 3), "7", True)],
            best=(0, 1, 1, 2, 3), confirmed=False),
    # ungraded before and correct on some path: neither W→C nor C→C
    answers("g3", [(WHOLE, "x", None), ((0, 2), "7", True), ((0, 1), "9", False, {"answer": 1})],
            baseline=None, best=(0, 2), confirmed=True, control_reached=True),
    # W→W, as far as is known
    answers("g4", [(WHOLE, "8", False), ((1, 2), "7.0000", None)]),
]
# fmt: on


def merged(parts: Iterable[Part]) -> Part:
    lists = zip(*parts, strict=True)
    rows, questions = ([each for made in kind for each in made] for kind in lists)
    return rows, questions


def part(*names: str, **changes: Any) -> Part:
    """Return questions of `MADE` with their evaluations, with changed fields of the questions."""
    made = {questions[0]["question"]: (rows, questions) for rows, questions in MADE}
    rows, questions = merged(made[name] for name in names)
    return rows, [each | changes for each in questions]


PARTS = [part("q1", "q2"), part("q3", "q4", "q5")]
UNGRADED = (part("g3")[0][:1], part("g3", best=None, confirmed=None)[1])
ONE_EVALUATION = (part("q4")[0][:1], part("q4")[1])


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Five of six questions with options, in two parts."""
    return make_run(tmp_path_factory.mktemp("search"), *PARTS)


@pytest.fixture(scope="session")
def open_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four open questions, their answers decoded, in two parts."""
    parts = part("g1", "g2"), part("g3", "g4")
    return make_run(tmp_path_factory.mktemp("open"), *parts, scorer="generation", questions=4)


FIRST, SECOND, THIRD = PATHS = [WHOLE, (0, 1, 2, 2, 3), (0, 3)]
EVALUATE = {"command": "evaluate", "questions": 2, "paths": [list(path) for path in PATHS]}


@pytest.fixture(scope="session")
def evaluated_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three paths on two questions; the last two are equally accurate, the last one is shorter."""
    columns = [{"margin": 4.0}, {"margin": math.inf, "finite": False}]
    rows = [(FIRST, 0, True, {"margin": 2.0}), (SECOND, 0, True), (THIRD, 0, True, columns[0])]
    one = letters("q1", rows)
    rows = [(FIRST, 0, False), (SECOND, 0, True, {"margin": 3.0}), (THIRD, 0, True, columns[1])]
    return make_run(tmp_path_factory.mktemp("evaluated"), one, letters("q2", rows), **EVALUATE)


@pytest.fixture(scope="session")
def open_evaluated(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three paths on two open questions; the last path was never graded."""
    ungraded = [(path, "7", None, {"margin": -50.0}) for path in PATHS]
    right = [(path, "7", True, {"margin": m}) for path, m in ((FIRST, 6.0), (SECOND, 2.0))]
    wrong = (FIRST, "7", False, {"margin": -2.0} | truncated("7"))
    parts = answers("q1", [*right, ungraded[2]]), answers("q2", [wrong, *ungraded[1:]])
    settings = EVALUATE | {"scorer": "generation"}
    return make_run(tmp_path_factory.mktemp("open_evaluated"), *parts, **settings)


def printed(table: Any, width: int = 80) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def text_of(run: Run, *, whole: bool = True) -> str:
    """Print the report of a run in 80 columns, which loses no letters there or in 60."""
    document = Document.of(run.summary())
    texts = {width: printed(terminal_report(document, whole=whole), width) for width in (60, 80)}
    for width, text in texts.items():
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
    assert "nan" not in texts[80]
    return texts[80]


def words_of(run: Run) -> str:
    """Print the whole report of a run in one line."""
    return " ".join(text_of(run).split())
