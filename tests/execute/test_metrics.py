"""Metrics: programs that are compiled, and the report of a run."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from cola_jax.execute import metrics
from cola_jax.execute.metrics import Metrics, compilations
from cola_jax.execute.plan import Cost


@pytest.fixture
def time(monkeypatch):
    """A clock that a test moves by hand."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: time.now))
    return time


def test_compilations_are_counted():
    before = compilations()
    jax.jit(lambda x: 3.5 * x)(jnp.ones(2))
    assert compilations() > before


def test_metrics_report_shares_and_rates(time, monkeypatch):
    monkeypatch.setattr(metrics, "compile_seconds", [2.0])
    counted = Metrics(total=50)
    metrics.compile_seconds.extend([1.0, 0.25, 0.25])
    cost = Cost(useful=100, unique=30, last=10, tokens=400, token_rows=500, hits=10, evicted=3)
    counted.add(evaluations=20, cost=cost, tokens=40, prefix_layers=8)
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
        "tokens": 40,
        "compilations": 3,
        "compilation_seconds": 1.5,
    }


def test_metrics_report_nothing_run(time):
    counted = Metrics()
    time.now += 1
    report = counted.report()
    assert report["evaluations"] == report["layer_evaluations"] == 0
    shares = ("prefix_sharing", "common_prefix_share", "hit_share", "padding_share")
    assert all(report[name] is None for name in shares)
