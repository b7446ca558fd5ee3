"""What a run shows while it runs, and says when it ends."""

import io

import pytest
from rich.console import Console

from cola_jax.execute.metrics import Metrics
from cola_jax.runs import progress
from cola_jax.runs.progress import ProgressDisplay, describe_metrics


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def show(metrics, clock, seconds, *, searches=True, terminal=False):
    """What a display says in each stage of a run, some seconds after the one before."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    display = ProgressDisplay(console, metrics, searches=searches)
    steps = (
        {},
        {"to_load": 540_000_000},
        {"loaded": 270_000_000},
        {"loaded": 270_000_000, "to_compile": 3},
        {"compiled": 2},
        {"compiled": 1},
        {"evaluations": 100},
    )
    with display.bar:
        for step in steps:
            metrics.add(**step)
            display.show()
            clock[0] += seconds
        display.show()
    return display, text.getvalue()


def test_a_line_now_and_then_says_what_is_done_and_what_is_left(clock):
    metrics = Metrics(total=1200, earlier=1000, corrected=3, shortened=2)
    display, text = show(metrics, clock, 20)
    assert text.splitlines() == [
        "loading the weights: 0 of 540 MB",
        "loading the weights: 270 of 540 MB  40 s left",
        "compiling: 0 of 3 programs",
        "compiling: 2 of 3 programs  10 s left",
        "1,000/1,200 evaluations  W→C 3  shorter C→C 2",
        # those of earlier starts are done, but no part of the speed
        "1,100/1,200 evaluations  5.0/s  W→C 3  shorter C→C 2  20 s left",
        "1,100/1,200 evaluations  2.5/s  W→C 3  shorter C→C 2  40 s left",
    ]
    (task,) = display.bar.tasks
    assert (task.completed, task.total) == (1100, 1200)


def test_progress_of_an_evaluation_counts_no_answers(clock):
    _, text = show(Metrics(total=200), clock, 20, searches=False)
    assert "W→C" not in text


def test_a_decoding_run_counts_tokens_until_a_text_has_ended(clock):
    _, text = show(Metrics(total=200, tokens=1234), clock, 20, searches=False)
    assert text.startswith("0/200 evaluations  1,234 tokens decoded\n")


def test_progress_prints_a_line_now_and_then(clock):
    _, text = show(Metrics(total=200), clock, 0.9 * progress.SECONDS_BETWEEN_LINES / 7)
    assert text == ""


def test_progress_draws_a_bar_on_a_terminal(clock):
    _, text = show(Metrics(total=200, earlier=50), clock, 40, terminal=True)
    assert "150/200 evaluations" in text
    assert "s left\n" not in text  # no line of the other sort


def test_progress_shows_the_last_numbers_when_it_ends():
    metrics = Metrics(total=10)  # a bound, which a search does not reach
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with ProgressDisplay(console, metrics, searches=False) as display:
        assert display.thread.is_alive()
        metrics.add(evaluations=8)
    assert not display.thread.is_alive()
    assert display.bar.tasks[0].completed == display.bar.tasks[0].total == 8


def test_describe_metrics():
    metrics = {
        **{"evaluations": 5100, "seconds": 310.7, "evaluations_per_second": 16.4},
        **{"prefix_sharing": 1.904, "idle_share": 0.0299},
        **{"compilations": 60, "compilation_seconds": 11.2},
    }
    assert describe_metrics(metrics) == (
        "5,100 evaluations in 311 s (16.4/s); prefix sharing 1.90x; device idle 3.0%; "
        "60 compilations, 11 s"
    )
    none = {"prefix_sharing": None, "idle_share": None}
    assert describe_metrics(metrics | none) == (
        "5,100 evaluations in 311 s (16.4/s); 60 compilations, 11 s"
    )
