"""Runs whose paths have parts and shares of layers, beside runs of whole layers."""

import dataclasses
import json

import pyarrow.parquet as pq
import pytest

import cola_jax
from cola_jax.cli.main import main
from cola_jax.errors import InputError
from cola_jax.files import matching
from cola_jax.layer_costs import part_fractions
from cola_jax.metrics import Metrics
from cola_jax.path import format_path, is_whole_path, parse_path
from cola_jax.report.page import question_entries
from cola_jax.runs.path_results import LAYERS
from cola_jax.runs.run import Run
from cola_jax.runs.stored import polar_samples, read_labels
from cola_jax.strategies.rules import PRESETS, InfluenceRules
from tests import tiny
from tests.runs.test_output import check_equal

QUESTIONS = tiny.questions(4)
RULES = dataclasses.replace(PRESETS["best"], parts=True, shares=(0.5,))
SEARCH = {"simulations": 12, "leaves": 4, "scorer": "options", "control": "one", "progress": False}
STEPS = ("0-4", "0-1,2a,3*0.5,4", "0,1m,3-4")


@pytest.fixture(scope="module")
def searched(model, tmp_path_factory):
    """A run of parts and shares, and the outcomes that were returned with it."""
    folder = tmp_path_factory.mktemp("steps") / "run"
    return Run(folder), cola_jax.search(model, QUESTIONS, preset=RULES, output=folder, **SEARCH)


def test_a_search_over_parts_is_recorded_and_resumed(searched, model):
    run, outcomes = searched
    alone = cola_jax.search(model, QUESTIONS, preset=RULES, **SEARCH)
    check_equal(outcomes, cola_jax.confirm(alone))
    tried = {path for outcome in outcomes for path in outcome.paths}
    assert any(map(is_whole_path, tried))
    assert not all(map(is_whole_path, tried))
    for outcome, other in zip(outcomes, alone, strict=True):
        assert outcome.lengths.tolist() == other.lengths.tolist()
        assert outcome.edits.tolist() == other.edits.tolist()
    metrics = Metrics()
    again = cola_jax.search(
        model, QUESTIONS, preset=RULES, output=run.directory, metrics=metrics, **SEARCH
    )
    assert metrics.evaluations == 0
    check_equal(again, outcomes)


def test_the_files_of_a_run_have_texts_and_lengths_of_parts(searched, model):
    run, _ = searched
    settings = run.settings()
    assert settings["steps"] is True
    assert settings["part_costs"] == [list(both) for both in part_fractions(model.config)]
    rows = []
    for file in matching(run.place("evaluations"), "*.parquet"):
        rows += pq.read_table(file).to_pylist()
    costs = run.facts().costs
    for row in rows:
        path = parse_path(row["steps"], 5, 100)
        assert row["path"] == (list(path) if is_whole_path(path) else None)
        assert row["length"] == pytest.approx(costs.layers(path), abs=1e-5)
    assert any(row["length"] % 1 for row in rows)
    read = {(row["question"], tuple(row["path"])) for row in run.evaluations().to_pylist()}
    assert read == {(row["question"], parse_path(row["steps"], 5, 100)) for row in rows}


def test_results_and_pages_count_parts(searched):
    run, outcomes = searched
    best = [float(each.lengths[i]) for each in outcomes if (i := each.shortest_correct) is not None]
    lengths = [row["best"] for row, _ in question_entries(run) if row["best"] is not None]
    assert sorted(lengths) == pytest.approx(sorted(best), abs=0.01)
    missing = len(outcomes) - len(best)
    mean = (sum(best) + 5 * missing) / len(outcomes)
    assert run.summary().value("mean layers of the best paths") == pytest.approx(mean)
    texts = {path[0] for _, detail in question_entries(run) for path in detail["paths"]}
    assert {parse_path(text, 5, 100) for text in texts} >= {p for o in outcomes for p in o.paths}
    for label in read_labels(run):
        costs = [run.facts().costs.layers(path) for path in label.correct]
        assert costs == sorted(costs)
    with pytest.raises(
        InputError, match=r"parts or shares of layers, such as .*, and PoLar's files"
    ):
        polar_samples(run)


def test_runs_of_whole_layers_and_of_steps_do_not_resume_each_other(searched, model, tmp_path):
    run, _ = searched
    plain = tmp_path / "plain"
    cola_jax.search(model, QUESTIONS[:1], output=plain, **SEARCH)
    assert not {"steps", "part_costs"} & Run(plain).settings().keys()
    assert not {"parts", "shares"} & Run(plain).settings()["preset"].keys()
    for folder, preset, there in (
        (plain, RULES, "whole layers alone"),
        (run.directory, "best", ""),
    ):
        with pytest.raises(
            InputError, match=rf"has paths .*{there}.*, with --reuse .* for its eval"
        ):
            cola_jax.search(model, QUESTIONS, preset=preset, output=folder, **SEARCH)
    other = dataclasses.replace(RULES, shares=(0.25,))
    with pytest.raises(InputError, match=r"\(--shares: \[0.5\] there, \[0.25\] here\)"):
        cola_jax.search(model, QUESTIONS, preset=other, output=run.directory, **SEARCH)


def test_given_paths_of_steps_are_recorded_as_texts(model, tmp_path):
    folder = str(tmp_path / "run")
    given = {"scorer": "options", "output": folder, "progress": False}
    evaluation = cola_jax.evaluate(model, QUESTIONS, STEPS, **given)
    run = Run(folder)
    facts = run.facts()
    assert facts.settings["paths"] == list(STEPS)
    assert facts.paths == [parse_path(text, 5) for text in STEPS]
    alone = cola_jax.evaluate(model, QUESTIONS, facts.paths, scorer="options", progress=False)
    assert alone.verdicts.margin == pytest.approx(evaluation.verdicts.margin, abs=1e-5)
    attention, mlp = part_fractions(model.config)[2]
    lengths = [5, 4 + attention, 3 + mlp]
    assert alone.to_pandas()["length"].tolist()[:3] == pytest.approx(lengths)
    for results in (run.summary(), alone.summary()):
        layers = {each.group: each.value for each in results if each.name == LAYERS}
        assert sorted(layers.values()) == pytest.approx(sorted(lengths))
    cola_jax.evaluate(model, QUESTIONS, [*STEPS, "0a,1-4"], **given)  # more paths
    with pytest.raises(InputError, match="has paths with parts or shares"):
        cola_jax.evaluate(model, QUESTIONS, ["0-4"], **given)


def test_commands_search_over_parts_with_the_evaluations_of_a_run(
    checkpoint, task, tmp_path, capsys
):
    command = ["search", "--model", checkpoint, "--task", task, "--prompts", "0", "--control"]
    command += ["none", "--simulations", "20", "--limit", "2", "--quiet", "--seed", "3"]
    plain, steps = str(tmp_path / "plain"), str(tmp_path / "steps")
    main([*command, "--output", plain])
    flags = ["--parts", "--shares", "0.5,0.25", "--rules.max-skip", "2", "--json"]
    main([*command, *flags, "--reuse", plain, "--output", steps])
    json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    rows = Run(steps).evaluations().to_pylist()
    known = Run(plain).evaluations(["question", "path"]).to_pylist()
    reused = [{name: row[name] for name in ("question", "path")} for row in rows if row["reused"]]
    assert len(reused) > 2
    assert all(row in known for row in reused)
    assert not any(row["reused"] for row in rows if not is_whole_path(row["path"]))
    assert Run(steps).settings()["preset"]["shares"] == [0.5, 0.25]
    assert (tmp_path / "steps" / "report.html").read_text().count('"parts":[[')
    main(["search", "--config", f"{steps}/config.yaml"])  # the same command


def test_shortgpt_removes_parts_by_their_influence(model):
    rules = InfluenceRules(parts=True, min_length=0.0)
    from cola_jax.runs.evaluate import session_in_memory
    from cola_jax.runs.session import fitted
    from cola_jax.strategies.rules import Settings

    session, metrics, _ = session_in_memory(model, QUESTIONS, "options", {})
    settings = fitted(session, "/nowhere", Settings(rules, 10, 4, 0), metrics)
    order = settings.preset.order
    assert sorted(order) == sorted(parse_path("(0-4)a,(0-4)m", 5))
    (outcome,) = cola_jax.search(
        model, QUESTIONS[:1], preset=settings.preset, scorer="options", control="none",
        progress=False,
    )  # fmt: skip
    removed = [
        {(layer, part) for layer in range(5) for part in "am"}
        - {
            (int(text.rstrip("am")), part)
            for step in path
            for text in [format_path([step])]
            for part in ("am" if text.isdigit() else text[-1])
        }
        for path in outcome.paths
    ]
    named = [format_path([step]) for step in order]
    for n, gone in enumerate(removed):
        assert gone == {(int(text[:-1]), text[-1]) for text in named[:n]}
