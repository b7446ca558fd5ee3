"""The examples run on a tiny model, and print what `run_path` says."""

import contextlib
import json
import runpy
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

import cola_jax
from cola_jax.formats.families import FAMILIES
from cola_jax.path import pad_path, unpad_path
from cola_jax.question import key_of
from cola_jax.strategies.rules import PRESETS
from cola_jax.strategies.walks import WALKS
from cola_jax.tasks import readers, registry
from experiments.examples import naive
from tests import oracle, tiny
from tests.strategies.formula import GOLD, checksum_answer

EXAMPLES = Path(__file__).parents[2] / "experiments" / "examples"
GOLDEN = Path(__file__).parents[1] / "strategies" / "golden.jsonl"
CARD = """---
configs:
- config_name: winogrande_xl
  data_files: [{split: validation, path: validation.jsonl}]
---
"""


@pytest.fixture
def run(tiny_checkpoint, monkeypatch):
    """Run an example on the tiny model or another one; what it adds to tables is removed."""
    monkeypatch.setattr(registry, "CHOICE", registry.CHOICE)

    def run(name, *arguments, model=tiny_checkpoint):
        monkeypatch.setattr(sys, "argv", [name, str(model), *map(str, arguments)])
        return runpy.run_path(str(EXAMPLES / name))

    with contextlib.ExitStack() as stack:
        for table in (PRESETS, WALKS, registry.TASKS, readers.KINDS, FAMILIES):
            stack.enter_context(mock.patch.dict(table))
        yield run


def logprobs(model, text, path):
    """Log-probabilities of every token [T, V] after each token of a text."""
    padded = pad_path(path, 2 * tiny.LAYERS)  # paths of any length share a compilation
    return np.asarray(jax.nn.log_softmax(cola_jax.run_path(model, text, padded)[0]))


def test_ablation_has_a_row_per_layer(run):
    names = run("ablation.py")
    table = names["table"]
    assert [*table.index] == ["none", *range(tiny.LAYERS)]
    verdicts = names["results"].verdicts.take((slice(None), 3))  # without layer 2
    assert table.loc[2, "margin"] == pytest.approx(verdicts.margin.mean())
    assert table.loc[2, "correct"] == verdicts.verdict.mean()


def test_own_metric_finds_paths_that_predict_a_text(run):
    names = run("own_metric.py")
    model, text, outcome = names["model"], names["TEXTS"][0], names["outcomes"][0]
    ids = cola_jax.load_tokenizer(model.checkpoint)(text).input_ids
    before, after = (
        logprobs(model, text, path)[np.arange(len(ids) - 1), ids[1:]].mean()
        for path in (outcome.paths[0], outcome.paths[outcome.shortest_correct])
    )
    margin = outcome.verdicts.margin[outcome.shortest_correct]
    assert margin == pytest.approx(after - before + names["ALLOWED"], abs=1e-4)


def test_states_are_read_as_paths_that_end_there(run):
    names = run("states.py")
    assert [*names["table"].index] == ["embedding", *range(tiny.LAYERS)]
    for layer in range(tiny.LAYERS):
        said = logprobs(names["model"], names["PROMPT"], range(layer + 1))[-1]
        token, probability, of_answer, _ = names["table"].loc[layer]
        assert token == repr(names["tokenizer"].decode([int(said.argmax())]))
        assert probability == pytest.approx(np.exp(said.max()), abs=1e-6)
        assert of_answer == pytest.approx(np.exp(said[names["answer"]]), abs=1e-6)


def test_strategy_scorer_and_task_extend_the_tables(run, tmp_path):
    (outcome,) = run("strategy.py")["outcomes"]
    searched = [path for path in outcome.paths if len(path) < tiny.LAYERS]
    assert searched == [(0, 1, 3, 4), (0, 3, 4), (0, 4), (4,)]
    margins = run("scorer.py")["margins"]
    # the path found for a question is at least as good for it as the other's
    assert (margins.diagonal() >= margins.min(axis=1)).all()
    row = {"sentence": "The sun is warm but the _ is not.", "option1": "moon", "option2": "fire"}
    rows = [row | {"answer": "1"}, row | {"sentence": "Ice melts near the _.", "answer": "2"}]
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    questions = run("task.py", tmp_path)["questions"]
    assert [question.gold for question in questions] == ["moon", "fire"]


def test_family_computes_what_transformers_does(run, tmp_path):
    theirs = oracle.random_model("hyperclovax", residual_multiplier=0.3, logits_scaling=2.0)
    theirs.save_pretrained(tmp_path)
    model = run("family.py", model=tmp_path)["model"]
    ids, path = oracle.random_ids(2), oracle.PATHS["reordered"]
    logits = cola_jax.run_path(model, ids, path), oracle.logits(theirs, ids, path)
    assert oracle.relative_error(*logits) < oracle.TOLERANCE


def test_naive_searches_as_the_library_does(tiny_checkpoint, tmp_path):
    questions = tiny.questions(12)[::3]  # of three options each, so that they share programs
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(json.dumps(tiny.row(question)) for question in questions))
    model = cola_jax.load(tiny_checkpoint)
    outcomes = cola_jax.search(
        model, questions, scorer="options", preset="cola", simulations=40, prompts=0, progress=False
    )
    targets = []
    for id, target, paths, answers in naive.main(str(tiny_checkpoint), str(file), simulations=40):
        (outcome,) = (outcome for outcome in outcomes if outcome.question.id == id)
        searches = {search.target: search for search in (outcome, *outcome.controls)}
        assert paths == searches[target].paths
        assert answers == searches[target].verdicts.answer.tolist()
        targets.append((id, target == outcome.question.answer))
    assert [id for id, is_gold in targets if is_gold] == [question.id for question in questions]
    assert not all(is_gold for _, is_gold in targets)


def test_naive_grows_the_golden_tree(monkeypatch):
    """That of tests/strategies, whose waves have seven leaves."""
    monkeypatch.setattr(naive, "LEAVES", 7)
    golden, *_ = map(json.loads, GOLDEN.read_text().splitlines())

    def run(paths):
        return np.array([checksum_answer(0, unpad_path(path)) for path in paths])

    key = jax.numpy.asarray(key_of(7, "q0"))
    paths, _ = naive.search(run, key, num_layers=6, target=GOLD, simulations=20)
    assert golden["preset"] == "cola"
    assert ["".join(map(str, path)) for path in paths] == golden["paths"].split()


def test_naive_refuses_other_families(pair):
    with pytest.raises(SystemExit, match="plain Llamas alone"):
        naive.main(str(pair("qwen3").checkpoint))
