"""Metrics: programs that are compiled, waiting for devices, and the report of a run."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from cola_jax import metrics
from cola_jax.metrics import Clock, Cost, Metrics, compilations


@pytest.fixture
def time(monkeypatch):
    """A clock that a test moves by hand."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: time.now))
    return time


def run(clock, time, events):
    """Dispatches (.) and waits (+ to -), a second after one another; a number is compilation."""
    waiting = []
    for event in events:
        if event == "+":
            waiting.append(clock.waiting())
            waiting[-1].__enter__()
        elif event == "-":
            waiting.pop().__exit__(None, None, None)
        else:
            with clock.dispatching():
                metrics.hear(metrics.COMPILED, float(event))
        time.now += 1


@pytest.mark.parametrize(
    ("events", "waited", "wall"),
    [
        ("", 0, 0),
        ("0+-", 1, 2),
        ("0+-0+-", 2, 5),  # no thread waits between the two
        ("00++--", 3, 5),  # two at once count once
        ("0+-+0+-+--", 7, 9),
        (["0.5", "+", "-"], 1, 1.5),  # without the compilation
    ],
)
def test_clock_adds_up_the_time_in_which_threads_wait(time, monkeypatch, events, waited, wall):
    monkeypatch.setattr(metrics, "compile_seconds", [])
    clock = Clock(on_cpu=False)
    run(clock, time, events)
    assert (clock.waited, clock.wall, clock.threads) == (waited, wall, 0)


def test_compilations_are_counted():
    before = compilations()
    jax.jit(lambda x: 3.5 * x)(jnp.ones(2))
    assert compilations() > before


def test_metrics_report_shares_and_rates(time, monkeypatch):
    monkeypatch.setattr(metrics, "compile_seconds", [2.0])
    counted = Metrics(total=50)
    metrics.compile_seconds.extend([1.0, 0.25, 0.25])
    counts = {"useful": 100, "unique": 30, "last": 10, "hits": 10, "evicted": 3, "again": 5}
    cost = Cost(tokens=400, token_rows=500, **counts)
    counted.add(evaluations=20, cost=cost, tokens=40, prefix_layers=8)
    clock = Clock(on_cpu=False)
    clock.first, clock.last, clock.waited = 100.0, 108.0, 5.0
    counted.clocks.append(clock)
    time.now += 10
    assert counted.report() == {
        "evaluations": 20,
        "seconds": 10.0,
        "evaluations_per_second": 2.0,
        "prefix_sharing": 3.125,  # of 32 layers on the prompts' own tokens
        "layer_evaluations": 40,
        "common_prefix_share": 0.2,
        "hit_share": 0.2,
        "padding_share": 0.2,
        "evicted": 3,
        "again_share": 0.2,
        "idle_share": 0.375,
        "tokens": 40,
        "compilations": 3,
        "compilation_seconds": 1.5,
    }


def test_metrics_report_nothing_run(time):
    counted = Metrics()
    time.now += 1
    report = counted.report()
    assert report["evaluations"] == report["layer_evaluations"] == 0
    shares = [value for name, value in report.items() if name.endswith(("_share", "_sharing"))]
    assert shares == [None] * 6
