"""The fast executor against the reference: tiles, slots, budgets and devices."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cola_jax
from cola_jax.execute import memory
from cola_jax.execute.inputs import distinct_reads, token_counts
from cola_jax.execute.layout import layout_of
from cola_jax.execute.memory import parse_size
from cola_jax.execute.plan import Workload, take
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.execute.worker import make_workers
from cola_jax.metrics import compilations
from cola_jax.path import STOP
from cola_jax.prompts import Prompts
from tests import oracle
from tests.execute import batches
from tests.execute.one_by_one import run_reference

QUESTIONS, EACH, WIDTH = 8, 8, 12  # B, C and P of nearly all batches, so that they compile once
TOKENS = 96  # of a tile, likewise

# On one device a call has a stack of its layer; with weights split over several, it takes the layer
# out of the whole stack. "least" is room for two states and one output, so that a wave is cut into
# chunks, and states are evicted and computed again; 40kB is room for some, and None for all.
CASES = [  # variant, tokens of a tile, budget, the `data` and `tensor` axes, and whether of steps
    # biases split over heads, key/value heads replicated
    pytest.param("llama-biases", 150, "40kB", 1, 4, True, marks=pytest.mark.slow),
    pytest.param("qwen2-window", TOKENS, None, 1, 1, False, marks=pytest.mark.slow),  # windows
    ("qwen2-window", 1, "40kB", 4, 1, False),  # tiles of one row, two questions a worker
    ("gemma3", 48, "least", 1, 1, True),  # two rope tables
    ("gemma3", 72, "40kB", 2, 2, False),
    # experts, in tiles wider than what waits
    pytest.param("olmoe", 400, None, 1, 1, True, marks=pytest.mark.slow),
    # sinks and biases of experts, split
    pytest.param("gpt-oss", 72, "40kB", 1, 2, True, marks=pytest.mark.slow),
    ("qwen2-moe-window", 48, None, 2, 4, False),  # beside a shared one, on all devices
    ("qwen3.5", 72, "40kB", 1, 1, True),  # two kinds of layers
    pytest.param("qwen3.5", 48, None, 4, 2, True, marks=pytest.mark.slow),  # all devices
    ("gemma4-e", 72, "300kB", 1, 1, True),  # keys that are shared, embeddings of each layer
    pytest.param("gemma4-e", 48, None, 4, 2, True, marks=pytest.mark.slow),
    pytest.param("granite4-mamba-dense", 72, "40kB", 1, 2, True, marks=pytest.mark.slow),
    # heads of two widths, split and replicated
    pytest.param("gemma4-moe", 72, "40kB", 1, 2, True, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def prompts():
    """Questions of two to six branches, of 6 to 34 tokens: tiles have several shapes."""
    prompts = Prompts.stack([batches.packed(seed) for seed in range(QUESTIONS)])
    assert len(layout_of(prompts, memory.CPU, distinct_reads(prompts)).shapes) > 2
    return prompts


def draw(seed, each=EACH):
    """Draws paths [B, C, P], `each` for a question and no more."""
    return batches.pad(batches.paths_of(QUESTIONS, each, seed), WIDTH, EACH)


@pytest.fixture(autouse=True)
def room_for_every_state(monkeypatch):
    """So that only a budget evicts states."""
    monkeypatch.setattr(memory, "PATHS_KEPT", 16)


def run_in(budget, *arguments, **settings):
    """Runs paths within a budget of a case."""
    if budget == "least":
        budget = batches.least_budget(functools.partial(cola_jax.run_paths, *arguments))
    elif budget is not None:
        budget = parse_size(budget)
    return cola_jax.run_paths(*arguments, memory_budget=budget, **settings)


@pytest.mark.parametrize(("variant", "tokens", "budget", "data", "tensor", "of_steps"), CASES)
def test_run_paths_matches_reference(
    pair, prompts, variant, tokens, budget, data, tensor, of_steps
):
    """Of steps, half of the questions run parts and shares beside the whole layers of others."""
    found, metrics = pair(variant), cola_jax.Metrics()
    model, paths = found.ours, draw(seed=len(variant))
    if of_steps:
        paths[::2] = batches.of_steps(paths[::2], seed=len(variant))
    paths = batches.runnable(model.config, paths)
    if data * tensor > 1:
        model = cola_jax.load(found.checkpoint, mesh=batches.mesh(data, tensor))
    got = run_in(budget, model, prompts, paths, tile_tokens=tokens, metrics=metrics)
    batches.assert_agree(got, run_reference(found.ours, prompts, paths))
    assert metrics.evaluations == QUESTIONS * EACH
    assert metrics.cost.useful == (paths != STOP).sum()
    assert (metrics.cost.evicted > 0) == (budget is not None)


SIZES = st.lists(st.integers(1, 4), max_size=3)
LAYERS = st.lists(st.integers(0, oracle.LAYERS - 1), min_size=1, max_size=WIDTH)
QUESTION = st.tuples(st.integers(2, 48), SIZES, st.lists(LAYERS, min_size=1, max_size=4))


@pytest.mark.slow
@settings(max_examples=15)
@given(
    batch=st.lists(QUESTION, min_size=1, max_size=6),
    variant=st.sampled_from(["gemma3", "qwen2-moe-window"]),
    tile_tokens=st.sampled_from([1, TOKENS]),
    budget=st.sampled_from([None, "least"]),
)
def test_run_paths_matches_run_path_on_any_batch(pair, batch, variant, tile_tokens, budget):
    """Prompts of 2 to 60 tokens, some with branches, on paths that may repeat any layer.

    With windows, experts and evictions; one prompt always has 60, so that slots compile once.
    """
    batch, model = [*batch, (60, [], [[0, 5, 5]])], pair(variant).ours
    rows = [batches.branched(tokens, sizes, b) for b, (tokens, sizes, _) in enumerate(batch)]
    paths = batches.pad([drawn for _, _, drawn in batch], WIDTH, 4)
    prompts = Prompts.stack(rows)
    got = run_in(budget, model, prompts, paths, tile_tokens=tile_tokens)
    batches.assert_agree(got, run_reference(model, prompts, paths))


def evaluate(model, prompts, waves, **settings):
    """Runs waves on a PathEvaluator; returns their readings, and the worker's metrics."""
    (worker,) = make_workers(model, tile_tokens=TOKENS, **settings)
    run = PathEvaluator(worker, prompts, Workload(EACH, WIDTH))
    readings = [run(wave) for wave in waves]
    run.close()
    return readings, worker.metrics


@pytest.mark.parametrize(("budget", "keeps"), [(None, True), (60_000, False)])
def test_path_evaluator_reuses_states_of_earlier_waves(model, prompts, budget, keeps):
    """Later waves extend earlier paths; readings are those of one call, and fewer layers run."""
    waves = [draw(seed, each=each) for seed, each in ((0, 3), (1, 3), (2, 2))]
    readings, metrics = evaluate(model, prompts, waves, memory_budget=budget)
    for wave, got in zip(waves, readings, strict=True):
        batches.assert_agree(got, run_reference(model, prompts, wave))
    cost = metrics.cost
    assert cost.useful == sum((wave != STOP).sum() for wave in waves)
    assert cost.unique + cost.last < cost.useful
    assert (cost.hits > 0) >= keeps
    assert (cost.evicted == 0) == keeps
    assert metrics.report()["evaluations"] == 8 * QUESTIONS


def test_path_evaluator_repeats_to_the_bit(model, prompts):
    """An interrupted search runs the same waves again: what they read must not change."""
    waves = [draw(seed, each=3) for seed in range(2)]
    waves.insert(1, np.full_like(waves[0], STOP))  # a wave of nothing
    first, again = (evaluate(model, prompts, waves)[0] for _ in range(2))
    batches.assert_identical(first, again)
    assert not first[1].finite.any()


def test_path_evaluator_compiles_once(model, prompts):
    """Neither a new plan nor a smaller batch of shorter prompts compiles anything."""
    evaluate(model, prompts, [draw(0)])
    few = np.flatnonzero(token_counts(prompts) == token_counts(prompts).max())[:1]
    evaluate(model, take(prompts, few), [draw(0)[few]])
    before = compilations()
    for seed in range(3):
        evaluate(model, prompts, [draw(seed, each=2 + seed)])
        evaluate(model, take(prompts, few), [draw(seed, each=1)[few]])
    assert compilations() == before


def test_path_evaluator_compiles_a_form_of_steps_once(model, prompts):
    """A layer by half of its update, and then others by other shares; the MLPs of two layers."""

    def run(*texts):
        paths = [cola_jax.parse_path(text, oracle.LAYERS) for text in texts]
        evaluate(model, prompts, [batches.pad([paths] * QUESTIONS, WIDTH, EACH)])

    run("0,1,2*0.5,3", "0,1m,2")
    before = compilations()
    run("0,1*0.25,2*1.5,3", "0,3m,4")
    assert compilations() == before
    run("0,1,2*0.5", "0,1m")  # as last steps, which are read
    assert compilations() > before


def test_run_paths_cuts_large_batches_and_long_plans(model, prompts, monkeypatch):
    paths = draw(0)
    together = cola_jax.run_paths(model, prompts, paths, tile_tokens=TOKENS)
    made = []

    class Spy(PathEvaluator):
        def __init__(self, worker, prompts, workload):
            made.append(len(prompts.ids))
            super().__init__(worker, prompts, workload)

    monkeypatch.setattr("cola_jax.execute.run_paths.PathEvaluator", Spy)
    monkeypatch.setattr("cola_jax.execute.worker.CALL", 3)
    monkeypatch.setattr(memory, "CPU", memory.CPU._replace(questions=1))
    apart = cola_jax.run_paths(model, prompts, paths, tile_tokens=TOKENS)
    batches.assert_agree(apart, together, batches.ROUNDING)
    assert made == [1] * QUESTIONS


def test_run_paths_in_bfloat16(pair, prompts):
    """Buffers of bfloat16 hold bits on a CPU; weights are converted where dtypes differ."""
    model = cola_jax.load(pair("llama-gqa").checkpoint, dtype="bfloat16")
    paths = draw(0, each=4)
    got, expected = (run(model, prompts, paths) for run in (cola_jax.run_paths, run_reference))
    real = np.isfinite(expected.logprob)
    assert np.abs(got.logprob[real] - expected.logprob[real]).mean() < 0.02
    wide = cola_jax.run_paths(model, prompts, paths, dtype="float32")
    exact = run_reference(model, prompts, paths, dtype=np.dtype("float32"))
    batches.assert_agree(wide, exact, 1e-4)


def test_run_paths_refuses_more_workers_than_questions(pair, prompts):
    model = cola_jax.load(pair("llama-gqa").checkpoint, mesh=batches.mesh(8, 1))
    few = take(prompts, np.arange(3))
    with pytest.raises(ValueError, match="3 questions for 8 places on the 'data' axis"):
        cola_jax.run_paths(model, few, [[(0, 1)]] * 3)
