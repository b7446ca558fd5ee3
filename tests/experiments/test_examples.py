"""The examples run on a tiny model, and print what `run_path` says."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import cola_jax
from cola_jax.path import pad_path
from tests import tiny

EXAMPLES = Path(__file__).parents[2] / "experiments" / "examples"


@pytest.fixture
def run(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(name: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [name, str(tiny_checkpoint)])
        return runpy.run_path(str(EXAMPLES / name))

    return run


def logprobs(model: cola_jax.Model, text: str, path: Any) -> np.ndarray:
    """Log-probabilities of every token [T, V] after each token of a text."""
    padded = pad_path(path, 2 * tiny.LAYERS)  # paths of any length share a compilation
    return np.asarray(jax.nn.log_softmax(cola_jax.run_path(model, text, padded)[0]))


def test_ablation_has_a_row_per_layer(run, capsys):
    names = run("ablation.py")
    model, question, table = names["model"], names["questions"][1], names["table"]
    assert [*table.index] == ["none", *range(tiny.LAYERS)]
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(table)
    verdicts = names["results"].verdicts.take((slice(None), 3))  # without layer 2
    assert table.loc[2, "margin"] == pytest.approx(verdicts.margin.mean())
    assert table.loc[2, "correct"] == verdicts.verdict.mean()
    prompt = f"Question: {question.text}\nAnswer:"
    tokenizer = cola_jax.load_tokenizer(model.checkpoint)
    before, ids = (tokenizer(x).input_ids for x in (prompt, f"{prompt} {question.gold}"))
    said = logprobs(model, f"{prompt} {question.gold}", (0, 1, 3, 4))
    score = sum(said[i - 1, ids[i]] for i in range(len(before), len(ids)))
    assert verdicts.scores[1, question.answer] == pytest.approx(score, abs=1e-4)


def test_own_metric_finds_paths_that_predict_a_text(run, capsys):
    names = run("own_metric.py")
    model, text, outcome = names["model"], names["TEXTS"][0], names["outcomes"][0]
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(names["TEXTS"])
    ids = cola_jax.load_tokenizer(model.checkpoint)(text).input_ids

    def metric(path):
        return logprobs(model, text, path)[np.arange(len(ids) - 1), ids[1:]].mean()

    best, found = outcome.shortest_correct, outcome.verdicts.margin
    assert best is not None
    assert outcome.lengths[best] == outcome.lengths[found >= 0].min()
    for i in (1, 2, 3, best):
        gain = metric(outcome.paths[i]) - metric(outcome.paths[0])
        assert found[i] == pytest.approx(gain + names["ALLOWED"], abs=1e-4)


def test_states_are_read_as_paths_that_end_there(run, capsys):
    names = run("states.py")
    table = names["table"]
    assert [*table.index] == ["embedding", *range(tiny.LAYERS)]
    assert len(capsys.readouterr().out.splitlines()) >= 2 + tiny.LAYERS
    for layer in range(tiny.LAYERS):
        said = logprobs(names["model"], names["PROMPT"], range(layer + 1))[-1]
        token, probability, of_answer, _ = table.loc[layer]
        assert token == repr(names["tokenizer"].decode([int(said.argmax())]))
        assert probability == pytest.approx(np.exp(said.max()), abs=1e-6)
        assert of_answer == pytest.approx(np.exp(said[names["answer"]]), abs=1e-6)


def test_readme_counts_the_lines_of_every_example():
    page = (EXAMPLES.parent / "README.md").read_text()
    rows = re.findall(r"\(examples/(\w+\.py)\) \|.*\| (\d+) \|", page)
    lines = {file.name: len(file.read_text().splitlines()) for file in EXAMPLES.glob("*.py")}
    assert {name: int(count) for name, count in rows} == lines
