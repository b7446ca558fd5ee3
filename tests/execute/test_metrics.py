"""Metrics: what is counted from many threads, and how long threads wait for devices."""

import threading
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from cola_jax.execute import metrics
from cola_jax.execute.metrics import Clock, Compilations, Metrics, compilations
from cola_jax.execute.plan import Cost


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
                metrics.COUNTER.local.seconds = metrics.COUNTER.thread_seconds() + float(event)
        time.now += 1


@pytest.mark.parametrize(
    ("events", "waited", "wall"),
    [
        ("", 0, 0),
        ("0+-", 1, 2),
        ("0+-0+-", 2, 5),  # no thread waits between the two
        ("00++--", 3, 5),  # two at once count once
        ("0+-+0+-+--", 7, 9),
        (["0.5", "+", "-"], 1, 1.5),  # without what was compiled
    ],
)
def test_clock_adds_up_the_time_in_which_threads_wait(time, events, waited, wall):
    clock = Clock(on_cpu=False)
    run(clock, time, events)
    assert (clock.waited, clock.wall, clock.threads) == (waited, wall, 0)


def test_compilations_are_counted_on_the_thread_that_compiles():
    seconds, before = {}, compilations()

    def compile_here(name, scale):
        before = metrics.COUNTER.thread_seconds()
        if scale:
            jax.jit(lambda x: scale * x)(jnp.ones(2))
        seconds[name] = metrics.COUNTER.thread_seconds() - before

    for name, scale in (("compiles", 3.5), ("rests", 0)):
        thread = threading.Thread(target=compile_here, args=(name, scale))
        thread.start()
        thread.join()
    assert seconds["compiles"] > seconds["rests"] == 0
    compiled = compilations() - before
    assert compiled.count >= 1
    assert compiled.seconds > 0


def test_metrics_report_shares_and_rates(time, monkeypatch):
    compiled = [Compilations(4, 2.0), Compilations(7, 3.5)]
    monkeypatch.setattr(metrics, "compilations", lambda: compiled[0])
    counted = Metrics(total=50)
    compiled.pop(0)
    for events in ("0+-+-", "0++--"):  # two workers: threads wait for 2 and 3 of 4 seconds
        counted.clocks.append(Clock(on_cpu=False))
        run(counted.clocks[-1], time, events)
    cost = Cost(useful=100, unique=30, last=10, tokens=400, token_rows=500, hits=10, evicted=3)
    counted.add(evaluations=20, cost=cost, planning=0.25, tokens=40)
    counted.add(decode_layers=30, decode_rows=40, prefix_layers=8)
    report = counted.report()
    assert report == {
        "evaluations": 20,
        "seconds": 10.0,
        "evaluations_per_second": 2.0,
        "prefix_sharing": 3.125,  # of 32 layers on the prompts' own tokens
        "layer_evaluations": 40,
        "common_prefix_share": 0.2,
        "hit_share": 0.2,
        "padding_share": 0.2,
        "evicted": 3,
        "planning_seconds": 0.25,
        "idle_share": 0.375,
        "tokens": 40,
        "tokens_per_second": 4.0,
        "decode_padding_share": 0.25,
        "compilations": 3,
        "compilation_seconds": 1.5,
    }


def test_metrics_report_nothing_run(time):
    counted = Metrics()
    time.now += 1
    report = counted.report()
    assert report["evaluations"] == report["layer_evaluations"] == 0
    shares = ("prefix_sharing", "hit_share", "padding_share", "idle_share", "decode_padding_share")
    assert all(report[name] is None for name in shares)
