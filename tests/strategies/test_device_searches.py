"""Searches on the device: their trees are those of the host loop, and no path runs twice."""

import numpy as np
import pytest

import cola_jax
from cola_jax.execute.worker import make_workers
from cola_jax.question import open_question
from cola_jax.scoring import Options, StrictLetter
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.strategies.device_searches import DeviceBatch, DeviceSearches
from cola_jax.strategies.loop import search_batch
from cola_jax.strategies.rules import PRESETS, BeamRules, Settings
from tests import tiny
from tests.execute import batches
from tests.strategies.formula import formula, questions

BUDGET = {"simulations": 20, "leaves": 8}
ROUNDING = 1e-4  # of margins


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return cola_jax.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def words(tiny_checkpoint):
    return cola_jax.load_tokenizer(tiny_checkpoint)


@pytest.fixture(scope="module")
def asked():
    return tiny.questions(5)


def search(model, asked, scorer, **settings):
    """Search on the device, by default as all tests here do, so that few programs compile."""
    settings = {"on_device": True, "progress": False, **BUDGET, **settings}
    return cola_jax.search(model, asked, scorer=scorer, **settings)


def count_equal(ours, theirs):
    """Count the searches whose trees are equal, of all; their verdicts are, up to rounding."""
    equal = every = 0
    for left, right in zip(ours, theirs, strict=True):
        pairs = zip((left, *left.controls), (right, *right.controls), strict=True)
        for a, b in pairs:
            assert a.target == b.target
            every += 1
            if a.paths != b.paths:
                continue
            equal += 1
            for name in ("wave", "parent", "edits", "reused"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            np.testing.assert_array_equal(a.verdicts.verdict, b.verdicts.verdict)
            np.testing.assert_array_equal(a.verdicts.answer, b.verdicts.answer)
            np.testing.assert_allclose(a.verdicts.margin, b.verdicts.margin, atol=ROUNDING)
            options = len(left.question.options)  # others pad those of a batch
            scores = (each.verdicts.scores[:, :options] for each in (a, b))
            np.testing.assert_allclose(*scores, atol=ROUNDING)
    return equal, every


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("best", {}),  # rewards of margins, which a rounding changes
        ("cola-appendix", {}),  # draws of epsilon
        ("best", {"early_stop": True}),
        ("drllm", {"control": "none", "layer_costs": [1.0, 2.0, 1.0, 3.0, 1.0]}),
        ("parts", {"early_stop": True}),
        ("damped", {"layer_costs": [1.0, 2.0, 1.0, 3.0, 1.0]}),
    ],
)
def test_trees_are_those_of_the_host_loop(model, words, asked, preset, options):
    settings = {"preset": preset, **options}
    metrics = cola_jax.Metrics()
    ours = search(model, asked, Options(words), metrics=metrics, **settings)
    theirs = search(model, asked, Options(words), on_device=False, **settings)
    equal, every = count_equal(ours, theirs)
    assert equal == every
    ended = [outcome.evaluations < 21 for outcome in ours]
    assert any(ended) == ("early_stop" in options)
    # what one search of a question has evaluated, others take
    paths = {
        (outcome.question.id, path)
        for outcome in ours
        for each in (outcome, *outcome.controls)
        for path in each.paths
    }
    assert metrics.evaluations == len(paths)
    assert metrics.cost.useful == sum(len(path) for _, path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["options-norm", "letter", "letter-strict", "exact"])
def test_other_scorers_have_the_trees_of_the_host_loop(model, words, name, asked):
    if name == "exact":
        asked = [open_question(f"q{i}", f"{i} and {i}", str(2 * i)) for i in range(5)]
    ours = search(model, asked, name)
    theirs = search(model, asked, name, on_device=False)
    equal, every = count_equal(ours, theirs)
    assert equal >= 0.9 * every


def device_outcomes(model, scorer, asked, resumed=None, early_stop=False):
    """Search a batch; returns the outcomes, the new rows of each call, and evaluations run."""
    metrics = cola_jax.Metrics()
    (worker,) = make_workers(model, metrics=metrics)
    encoded = list(map(scorer.encode, asked))
    settings = Settings(PRESETS["best"], *BUDGET.values(), seed=0, early_stop=early_stop)
    device = DeviceBatch(worker, scorer, encoded, settings.leaves)
    calls = []

    def write(paths, verdicts):
        for b, row in enumerate(paths):
            for c, path in enumerate(row):
                calls.append((b, path, verdicts.take((b, slice(c, c + 1)))))

    evaluations = Evaluations(device, asked, resumed=resumed, write=write)
    start = device.start(evaluations, settings, tiny.LAYERS)
    outcomes = search_batch(evaluations, tiny.LAYERS, settings, start=start)
    return outcomes, calls, metrics.evaluations


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_known_verdicts_are_replayed(model, words, asked, share):
    """Whole waves, and what is known of the first wave that is not."""
    whole, rows, count = device_outcomes(model, Options(words), asked)
    assert len(rows) == count
    resumed = [{} for _ in asked]
    for b, path, verdict in rows[: int(share * len(rows))]:
        resumed[b][path] = verdict
    again, more, run = device_outcomes(model, Options(words), asked, resumed)
    assert run == len(more)
    equal, every = count_equal(again, whole)
    assert equal == every
    assert run <= (1 - share) * count + len(asked) * BUDGET["leaves"]
    assert (run == 0) == (share == 1)


def test_state_is_carried_from_call_to_call(model, words, asked, monkeypatch):
    calls = []
    call = DeviceSearches.call

    def one_wave(self):
        self.waves = 1
        calls.append(self.state.trees.size)
        call(self)

    whole, *_ = device_outcomes(model, Options(words), asked)
    monkeypatch.setattr(DeviceSearches, "call", one_wave)
    again, *_ = device_outcomes(model, Options(words), asked)
    assert len(calls) == 3
    equal, every = count_equal(again, whole)
    assert equal == every


@pytest.mark.slow
def test_questions_are_divided_over_devices(tiny_checkpoint, words, asked):
    whole = search(cola_jax.load(tiny_checkpoint), asked, Options(words))
    model = cola_jax.load(tiny_checkpoint, mesh=batches.mesh(2, 2))
    equal, every = count_equal(search(model, asked, Options(words)), whole)
    assert equal == every


@pytest.mark.slow
def test_run_is_resumed(model, words, asked, tmp_path):
    settings = {"output": str(tmp_path), "control": "none"}
    first = search(model, asked[:3], Options(words), **settings)
    metrics = cola_jax.Metrics()
    more = search(model, asked, Options(words), metrics=metrics, **settings)
    equal, every = count_equal(more[:3], first)
    assert equal == every
    assert metrics.evaluations == 2 * 21


class Own(StrictLetter):
    """Verdicts of its own."""

    name = "own"

    def verdicts(self, readings, encoded):
        return super().verdicts(readings, encoded)


def test_what_cannot_run_on_the_device_is_refused(model, words, asked):
    for rules in ("stochastic-beam", "random", BeamRules()):
        with pytest.raises(ValueError, match=r"grows trees, which the strategy '(beam|random)'"):
            search(model, asked, Options(words), preset=rules)
    with pytest.raises(ValueError, match="scorer 'own' makes its verdicts on the host"):
        search(model, asked, Own(words))
    opened = [open_question("q", "one and one", "2")]
    with pytest.raises(ValueError, match="scorer 'generation' makes its verdicts on the host"):
        search(model, opened, "generation")
    with pytest.raises(ValueError, match="a function of your own runs on the host: leave out"):
        cola_jax.search(formula(), questions(1), num_layers=6, on_device=True)
    with pytest.raises(ValueError, match="memory budget of 10kB is too small to search 8"):
        search(model, asked, Options(words), memory_budget=10_000)
