"""Runs whose files are sound: a search, one that decodes, evaluations that decode, and a scan."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cola_jax.deploy.scan import scan_paths
from cola_jax.question import Question
from cola_jax.runs.run import UNFINISHED, Run
from cola_jax.scoring import Encoded, Options
from cola_jax.strategies.rules import PRESETS, Settings
from tests import tiny
from tests.report import conftest as made

LAYERS = 4
QUESTIONS = 6  # q6 is not done
START = {
    "model": "there",
    "origin": {"kind": "hub", "name": "someone/model", "revision": "main"},
    "num_layers": LAYERS,
    "shard": "0/1",
    "date": "2026-01-01T00:00:00+00:00",
    "versions": {"jax": "0.10.2"},
    "python": "3.11.7",
    "device": "cpu cpu",
    "command_line": "cola search",
    "commit": None,
    "task": "arc-easy",
    "task_config": {"task": "arc-easy", "limit": None},
    "devices": 1,
}
SEARCH = {
    **{"model": "digest", "dtype": "float32", "scorer": "options", "questions": QUESTIONS},
    "prompt": {"format": "plain", "shots": ["s1"]},
    "variants": {"chat": "digest"},
    "strategy": "tree",
    **dataclasses.asdict(Settings(PRESETS["best"], 2, 1, 0)),
}
NAMES = ("search", "decoded", "evaluated", "scan")


def scorer() -> Options:
    """Returns the scorer of the questions of `search`."""
    return Options(tiny.tokenizer())


def encoded(scorer: Options) -> list[Encoded]:
    """Encodes the questions of `search`."""
    names = [f"q{i}" for i in range(1, QUESTIONS + 1)]
    options = {"q4": ("a", "b"), "q5": ("a", "b")}
    return [
        scorer.encode(Question(name, f"What is {name}?", options.get(name, ("a", "b", "c"))))
        for name in names
    ]


def make(folder: Path) -> None:
    """Makes each run in a folder of its name."""
    questions = encoded(scorer())
    parts = [
        ([with_scores(row) for row in rows], [known(row, questions) for row in some])
        for rows, some in made.PARTS
    ]
    run = made.make_run(folder, *parts, start=START, **SEARCH)
    run.write_rows(UNFINISHED, "wave", unfinished())
    move(run, folder / "search")
    run = made.make_run(folder, *made.OPEN_PARTS, start=START, scorer="generation", questions=4)
    move(run, folder / "decoded")
    move(make_evaluated(folder), folder / "evaluated")
    move(make_scan(folder), folder / "scan")


def move(run: Run, target: Path) -> None:
    """Gives a run that is made another name."""
    Path(run.directory).rename(target)


def with_scores(row: dict[str, Any]) -> dict[str, Any]:
    """Gives an evaluation the scores of its options."""
    return row | {"scores": [float(row["answer"] == j) for j in range(3)]}


def known(row: dict[str, Any], questions: Sequence[Encoded]) -> dict[str, Any]:
    """Gives a question the prompt that it has here, and what was asked again."""
    (one,) = (one for one in questions if one.question.id == row["question"])
    again = [{"node": 0, "path": made.WHOLE, "holds": [row["baseline"]]}]
    again += [{"node": 1, "path": row["best"], "holds": [True]}] if row["best"] else []
    controls = [one | {"again": again, "robust": None} for one in row.get("controls") or ()]
    return row | {
        "prompt_hash": one.prompt_hash,
        "metadata": made.named(math_level=row["question"][1:]),
        "again": again,
        "robust": row["best"],
        "variant_answers": [row["baseline_answer"]],
        "controls": controls,
    }


def unfinished() -> list[dict[str, Any]]:
    """Makes evaluations of the question that is not done."""
    paths = [made.WHOLE, (0, 1, 3)]
    return [
        with_scores(made.evaluation("q6", node, path, node, not node))
        for node, path in enumerate(paths)
    ]


def make_evaluated(folder: Path) -> Run:
    """Makes evaluations of three paths that decode answers, which serve as decoys."""
    rows = [
        made.decoded(name, node, made.PATHS[node], answer, answer == "7")
        for name in ("g1", "g2")
        for node, answer in enumerate(("8", "7", "9"))
    ]
    empty = dict.fromkeys(("baseline", "baseline_answer", "front", "answers"))
    questions = [made.open_question(name, 2) | empty for name in ("g1", "g2")]
    settings = {"command": "evaluate", "scorer": "generation", "questions": 2}
    paths = [list(path) for path in made.PATHS]
    return made.make_run(folder, (rows, questions), start=START, **settings, paths=paths)


def make_scan(folder: Path) -> Run:
    """Makes the scan of every block on eight questions."""
    draw, paths = random.Random(0), scan_paths(LAYERS)
    rows = [
        made.evaluation(f"q{i}", node, path, 0, draw.random() < 0.5, margin=draw.gauss(0, 1))
        for i in range(8)
        for node, path in enumerate(paths)
    ]
    questions = [made.question(f"q{i}") for i in range(8)]
    settings = {"command": "scan", "questions": 8, "paths": [list(path) for path in paths]}
    return made.make_run(folder, (rows, questions), start=START, **settings)
