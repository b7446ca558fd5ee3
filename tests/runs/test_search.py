"""`search` of a tiny model, and what takes its outcomes."""

import numpy as np
import pytest

import cola_jax
from cola_jax.engine.local import LocalEngine
from cola_jax.engine.work import Failed
from cola_jax.errors import InputError, Unfinished
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.runs import search
from cola_jax.runs.run import Run
from cola_jax.scoring import Options
from tests import tiny
from tests.strategies.formula import formula, questions

MODEL = {"simulations": 16, "leaves": 4, "control": "none"}


def same(a, b):
    """Whether two outcomes are equal to the last bit."""
    arrays = [(*o.verdicts, o.wave, o.parent, o.edits) for o in (a, b)]
    equal = all(
        x.tolist() == y.tolist() if x.dtype == object else x.tobytes() == y.tobytes()
        for x, y in zip(*arrays, strict=True)
    )
    return equal and a.paths == b.paths and a.confirmed == b.confirmed


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return cola_jax.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def scorer(tiny_checkpoint):
    return Options(cola_jax.load_tokenizer(tiny_checkpoint))


@pytest.fixture(scope="module")
def searched(model, scorer):
    """The outcomes of seven questions, and how many evaluations were counted."""
    metrics, asked = cola_jax.Metrics(), tiny.questions(7)
    outcomes = cola_jax.search(model, asked, scorer=scorer, metrics=metrics, **MODEL)
    counted = metrics.evaluations
    assert all(outcome.confirmed is None for outcome in outcomes)
    return cola_jax.confirm(outcomes), counted


def test_search_of_model_depends_on_others_by_rounding_alone(model, scorer, searched, monkeypatch):
    """All batches show one progress bar."""
    chosen = [6, 2, 0, 5, 1]
    bars, show = [], search.metrics_bar
    monkeypatch.setattr(search, "metrics_bar", lambda *args: bars.append(args) or show(*args))
    asked = [tiny.questions(7)[i] for i in chosen]
    outcomes = cola_jax.search(model, asked, scorer=scorer, batch_size=1, **MODEL)
    outcomes = cola_jax.confirm(outcomes)
    assert len(bars) == 1
    for i, outcome in zip(chosen, outcomes, strict=True):
        expected = searched[0][i]
        assert np.abs(expected.verdicts.margin).min() > 1e-4  # else rounding may turn a verdict
        assert outcome.question == expected.question
        assert outcome.paths == expected.paths
        assert outcome.confirmed == expected.confirmed
        np.testing.assert_array_equal(outcome.verdicts.verdict, expected.verdicts.verdict)
        count = len(expected.question.options)
        ours, theirs = (o.verdicts.scores[:, :count] for o in (outcome, expected))
        np.testing.assert_allclose(ours, theirs, atol=1e-6 * np.abs(theirs).max())


def test_other_wordings_have_buffers_of_the_sizes_of_the_search(model, monkeypatch):
    sizes, make = [], PathEvaluator.__init__

    def init(self, worker, prompts, workload, **options):
        make(self, worker, prompts, workload, **options)
        sizes.append(self.sizes.slots)

    monkeypatch.setattr(PathEvaluator, "__init__", init)
    options = MODEL | {"simulations": 1, "prompts": 1, "batch_size": 3}
    cola_jax.search(model, tiny.questions(3), scorer="letter-strict", **options)
    assert len(sizes) == 2
    assert len({*sizes}) == 1


def test_search_of_model_is_counted_and_confirmed_in_float32(searched):
    assert searched[1] == sum(outcome.evaluations for outcome in searched[0]) == 7 * 17
    confirmed = [outcome.confirmed for outcome in searched[0]]
    assert True in confirmed
    assert confirmed == [True if o.verdicts.verdict.any() else None for o in searched[0]]


def test_outcomes_keep_no_buffers(searched):
    assert searched[0].searched.engine.made is None


def test_confirm_takes_sorted_outcomes_and_the_engine_of_their_search(model, scorer, monkeypatch):
    metrics, used, map_batches = cola_jax.Metrics(), [], LocalEngine.map
    options = {"memory_budget": 1 << 26, "tile_tokens": 64, "batch_size": 2, "metrics": metrics}
    outcomes = cola_jax.search(model, tiny.questions(4), scorer=scorer, **options, **MODEL)
    monkeypatch.setattr(
        LocalEngine, "map", lambda self, *args: used.append(self) or map_batches(self, *args)
    )
    expected, counted = cola_jax.confirm(outcomes), metrics.evaluations
    outcomes.reverse()
    outcomes.pop()
    again = cola_jax.confirm(outcomes)
    assert used == [outcomes.searched.engine] * 2
    assert (used[0].batch_size, used[0].devices.tile_tokens) == (2, 64)
    assert used[0].devices.budget == 1 << 26
    assert metrics.evaluations == counted
    assert [each.question.id for each in again] == ["q3", "q2", "q1"]
    assert [o.confirmed for o in again] == [o.confirmed for o in expected[:0:-1]]
    outcomes.append(outcomes[0])
    with pytest.raises(ValueError, match="question 'q3' is of another search, or there twice"):
        cola_jax.confirm(outcomes)


def test_search_into_a_run_is_that_without_one(model, scorer, searched, tmp_path):
    """Confirmed, and searched again from the run's evaluations where it is resumed."""
    output = tmp_path / "run"
    first = cola_jax.search(model, tiny.questions(4), scorer=scorer, output=output, **MODEL)
    assert len(first) == 4
    for outcome, expected in zip(first, searched[0], strict=False):
        assert (outcome.paths, outcome.confirmed) == (expected.paths, expected.confirmed)
        # fewer questions fill other tiles, whose products may round differently
        scores = (each.verdicts.scores for each in (outcome, expected))
        np.testing.assert_allclose(*scores, rtol=1e-5)
    metrics = cola_jax.Metrics()
    both = cola_jax.search(
        model, tiny.questions(7), scorer=scorer, output=output, metrics=metrics, **MODEL
    )
    assert len(both) == 7
    assert metrics.evaluations == 3 * 17
    for outcome, expected in zip(both, searched[0], strict=True):
        assert outcome.paths == expected.paths
        np.testing.assert_array_equal(outcome.verdicts.verdict, expected.verdicts.verdict)
    rows = Run(output).questions().to_pylist()
    confirmed = {row["question"]: row["confirmed"] for row in rows}
    assert len(rows) == 7
    assert confirmed == {each.question.id: each.confirmed for each in searched[0]}


class Losing(LocalEngine):
    """An engine that sets every question aside."""

    def map(self, work, batches, metrics=None):
        for batch in batches:
            yield batch, Failed("its machine was lost", 3), None


def test_search_names_questions_that_are_set_aside(model, scorer):
    with pytest.raises(Unfinished, match=r"q1.*failed 3 times \(its machine was lost\)"):
        cola_jax.search(model, tiny.questions(4)[1:2], scorer=scorer, engine=Losing(), **MODEL)


def test_options_of_a_model_are_refused_with_a_function_or_an_engine(model, scorer):
    asked = questions(1)
    for options in ({"scorer": "options"}, {"batch_size": 2}, {"output": "run"}):
        (name,) = options
        with pytest.raises(InputError, match=f"{name}: this is for a model, not for a function"):
            cola_jax.search(formula(), asked, num_layers=6, **options)
    with pytest.raises(InputError, match="tile_tokens: this is for the model's own devices"):
        cola_jax.search(model, asked, scorer=scorer, engine=LocalEngine(), tile_tokens=8)
    with pytest.raises(InputError, match=r"must be a cola_jax\.RayEngine, not 'ray'"):
        cola_jax.search(model, asked, scorer=scorer, engine="ray")
    with pytest.raises(InputError, match="the model has 5 layers, not num_layers=6"):
        cola_jax.search(model, asked, scorer=scorer, num_layers=6)


def test_confirm_and_save_run_take_outcomes_first(tmp_path):
    together = cola_jax.search(formula(), questions(2), simulations=4, num_layers=6)
    for call in (cola_jax.confirm, lambda outcomes: cola_jax.save_run(outcomes, tmp_path)):
        with pytest.raises(ValueError, match=r"\(outcomes.* takes outcomes of a search of a model"):
            call(together)
        with pytest.raises(ValueError, match=r"\(outcomes.* is of type str"):
            call("run")


def test_a_search_asks_again_in_other_wordings(model, tmp_path):
    """And a finished run evaluates nothing for it."""
    asked = tiny.questions(3)
    options = {"scorer": "letter", "simulations": 2, "prompts": 1, "output": tmp_path / "run"}
    first = cola_jax.search(model, asked, **options)
    assert Run(tmp_path / "run").settings()["prompts"] == 1
    metrics = cola_jax.Metrics()
    del options["prompts"]  # the run keeps its number
    second = cola_jax.search(model, asked, metrics=metrics, **options)
    assert metrics.evaluations == 0
    for a, b in zip(first, second, strict=True):
        assert same(a, b)
        assert (a.again.plain, a.held) == (b.again.plain, b.held)
        assert a.again.holds.tolist() == b.again.holds.tolist()


def test_a_function_has_no_other_wordings():
    with pytest.raises(InputError, match="leave out prompts"):
        cola_jax.search(formula(), questions(1), num_layers=6, prompts=1)
