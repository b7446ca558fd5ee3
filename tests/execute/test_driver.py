"""Prompts that begin alike: the prefix run once gives the readings of whole prompts."""

import contextlib

import jax
import numpy as np
import pytest

from cola_jax.execute import driver, memory
from cola_jax.execute.plan import Workload
from cola_jax.execute.run_paths import PathEvaluator
from cola_jax.execute.worker import make_workers, on_threads
from cola_jax.metrics import Metrics, compilations
from cola_jax.path import STOP
from tests.execute import batches
from tests.execute.one_by_one import run_reference

SHARED, POSITIONS = 37, 12


def same_paths(count, each=6, seed=0):
    return batches.pad(batches.paths_of(1, each, seed) * count, POSITIONS)


def own_paths(count, seed):
    return batches.pad(batches.paths_of(count, 3, seed), POSITIONS)


def on_worker(model, function, **options):
    """Call a function with the worker of a model."""
    (worker,) = make_workers(model, **options)
    return function(worker)


@contextlib.contextmanager
def opened(worker, batch, wave, **workload):
    """Open an evaluator of prompts that share a prefix."""
    workload = Workload(wave, POSITIONS, prefix=SHARED, **workload)
    with contextlib.closing(PathEvaluator(worker, batch, workload)) as evaluate:
        yield evaluate


def run(model, batch, waves, **options):
    """Run waves with one evaluator, and return its prefix and readings.

    After the first wave it compiles no more than tiles of other heights.
    """

    def each(worker):
        with opened(worker, batch, waves[0].shape[1], same=True) as evaluate:
            readings = [evaluate(waves[0])]
            before = compilations()
            readings += [evaluate(paths) for paths in waves[1:]]
            assert compilations() - before < len(evaluate.layout.shapes)
            return evaluate.driver.prefix, readings

    return on_worker(model, each, **options)


@pytest.mark.parametrize(
    ("variant", "blocks"),
    [
        *(("gemma3", 16), ("qwen3.5", None)),
        *(
            pytest.param(name, None, marks=pytest.mark.slow)
            for name in ("gemma4-e", "granite4-mamba")
        ),
    ],
)
def test_shared_prefix_matches_reference(pair, monkeypatch, variant, blocks):
    """With few blocks the paths run in several groups; a second wave finds states of the first."""
    if blocks is not None:
        monkeypatch.setattr(driver, "count_blocks", lambda *_: blocks)
    model, batch = pair(variant).ours, batches.alike(SHARED)
    waves = [batches.runnable(model.config, same_paths(4, seed=seed)) for seed in (0, 1)]
    waves[1][:, 0] = waves[0][:, 0]
    waves[1][2, 3] = STOP  # an entry that is not a path
    prefix, readings = run(model, batch, waves)
    assert (len(list(prefix.groups(waves[0][0]))) > 1) == (blocks is not None)
    for paths, got in zip(waves, readings, strict=True):
        batches.assert_agree(got, run_reference(model, batch, paths))


@pytest.mark.parametrize("blocks", [None, 40])
def test_batches_that_begin_alike_run_the_prefix_once(model, monkeypatch, blocks):
    """Earlier batches decide which states are run again, and no bit of the readings."""
    whole, metrics = batches.alike(SHARED), Metrics()
    waves = [same_paths(2, seed=seed) for seed in (0, 1, 0)]
    parts = [jax.tree.map(lambda x, i=i: np.asarray(x)[i : i + 2], whole) for i in (0, 2)]
    if blocks is not None:
        monkeypatch.setattr(driver, "count_blocks", lambda *_: blocks)

    def evaluate(worker, part, paths):
        before = metrics.cost
        with opened(worker, part, 6, same=True) as run:
            assert run.driver.prefix is not None
            readings = run(paths)
        return readings, metrics.cost.unique + metrics.cost.last - before.unique - before.last

    every = [(part, paths) for part in parts for paths in waves]
    together = on_worker(model, lambda w: [evaluate(w, *each) for each in every], metrics=metrics)
    alone = [
        on_worker(model, lambda w, each=each: evaluate(w, *each), metrics=metrics) for each in every
    ]
    for (ours, _), (theirs, _) in zip(together, alone, strict=True):
        batches.assert_identical(ours, theirs)
    ran, ran_alone = ([layers for _, layers in results] for results in (together, alone))
    assert ran[0] == ran_alone[0]
    if blocks is None:  # the first two waves fit, and all states are there from the third on
        assert all(a < b for a, b in zip(ran[2:], ran_alone[2:], strict=True))


def test_states_are_kept_while_others_come_and_go(model, monkeypatch):
    """Each question has paths of its own; with few blocks, states make room for those of others."""
    batch, ran = batches.alike(SHARED), []
    waves = [own_paths(4, seed) for seed in (0, 1, 2, 3, 4, 0)]
    for most in (1024, 32):
        monkeypatch.setattr(memory, "CPU", memory.CPU._replace(prefix_states=most))
        metrics = Metrics()

        def each(worker, most=most):
            with opened(worker, batch, 3) as evaluate:
                assert evaluate.driver.prefix.blocks == most
                return [evaluate(paths) for paths in waves]

        got = on_worker(model, each, metrics=metrics, memory_budget=40_000_000)
        for paths, readings in zip(waves, got, strict=True):
            batches.assert_agree(readings, run_reference(model, batch, paths))
        ran.append(metrics.cost.unique)
    assert ran[0] < ran[1]


def test_batches_at_the_same_time_share_a_prefix(model):
    whole = batches.alike(SHARED)
    parts = [jax.tree.map(lambda x, i=i: np.asarray(x)[i:], whole) for i in (0, 1, 2)] * 2
    waves = [
        [own_paths(len(part.ids), 10 * number + seed) for seed in range(4)]
        for number, part in enumerate(parts)
    ]

    def run(worker, number):
        with opened(worker, parts[number], 3) as evaluate:
            return evaluate.driver.prefix, [evaluate(paths) for paths in waves[number]]

    threads = make_workers(model, sharing=2) * 2
    got = dict(on_threads(threads, run, range(len(parts))))
    assert len({id(prefix) for prefix, _ in got.values()}) == 1
    for number, (_, readings) in got.items():
        for paths, each in zip(waves[number], readings, strict=True):
            batches.assert_agree(each, run_reference(model, parts[number], paths))


def test_a_small_budget_runs_whole_prompts(model):
    batch, paths = batches.alike(SHARED), same_paths(4)
    budget = batches.least_budget(lambda **least: run(model, batch, [paths], **least))
    prefix, (got,) = run(model, batch, [paths], memory_budget=budget)
    assert prefix is None
    batches.assert_agree(got, run_reference(model, batch, paths))
