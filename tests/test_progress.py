"""Progress: what bars count, where they are drawn, and what is logged elsewhere."""

import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import cola_jax
from cola_jax import progress
from cola_jax.execute.metrics import Clock, Metrics
from cola_jax.execute.worker import Workers
from cola_jax.progress import MetricsBar, describe_metrics, metrics_bar

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show bars of short calls as well."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0.0)


def test_calls_show_bars_of_what_they_load_and_evaluate(
    tiny_checkpoint: Path, capsys: Captured
) -> None:
    model = cola_jax.load(tiny_checkpoint, progress=True)
    assert "loading: 100%" in capsys.readouterr().err
    cola_jax.generate(model, "Two words", ["0-3", "0"], max_new_tokens=2, progress=True)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("evaluating: 100%")
    assert "2/2" in last
    workers = Workers(model, progress=True)

    def fail(worker: object, batch: object) -> None:
        raise RuntimeError("in a batch")

    with pytest.raises(RuntimeError, match="in a batch"):
        list(workers.map(fail, [0], evaluations=3))
    assert "progress bar" not in {thread.name for thread in threading.enumerate()}


def test_bars_are_drawn_in_notebooks_and_lines_logged_elsewhere(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(shown: bool | None) -> None:
        metrics = Metrics(total=10, clocks=[Clock(on_cpu=False)])  # a bound
        with metrics_bar(metrics, shown):
            metrics.add(evaluations=8)

    monkeypatch.setattr(progress.log, "propagate", True)
    monkeypatch.setattr(progress.log, "handlers", [])  # of a command of another test
    caplog.set_level(logging.INFO, "cola_jax")
    run(None)
    assert capsys.readouterr().err == ""
    assert caplog.messages[-1].startswith("evaluating: 8/8 [00:")  # it has run out of paths
    caplog.clear()
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    run(None)
    assert "8/8" in capsys.readouterr().err.split("\r")[-1]
    monkeypatch.setattr(progress, "hidden", True)
    for shown in (None, False):
        run(shown)
    assert capsys.readouterr().err == ""
    assert caplog.messages == []


def shown(bar: MetricsBar, **amounts: Any) -> str:
    """Return what a bar shows after metrics have grown."""
    bar.metrics.add(**amounts)
    bar.show()
    return str(bar.bar)


def test_each_stage_has_a_bar(capsys: Captured) -> None:
    bar = MetricsBar(Metrics(total=1200), progress=True)
    assert shown(bar) == "None"  # nothing is known yet
    assert "loading:" in shown(bar, to_load=540_000_000)
    assert "270M/540M" in shown(bar, loaded=270_000_000)
    bar.metrics.compiled_before -= 7
    bar.metrics.clocks.append(Clock(on_cpu=False))
    assert "compiling: 7" in shown(bar)
    # what an earlier start evaluated is done, but no part of the speed
    text = shown(bar, earlier=1000, evaluations=100)
    assert "1100/1200" in text
    assert "0.00 evaluations/s" in text or "? evaluations/s" in text
    assert "W→C 3, shorter C→C 2" in shown(bar, corrected=3, shortened=2)
    bar.close()


def test_a_decoding_run_counts_tokens_until_a_text_is_complete() -> None:
    bar = MetricsBar(Metrics(total=200, clocks=[Clock(on_cpu=False)]), progress=True)
    assert "1,234 tokens decoded" in shown(bar, tokens=1234)
    assert "tokens" not in shown(bar, evaluations=1)
    bar.close()


def test_describe_metrics() -> None:
    metrics = {
        **{"evaluations": 5100, "seconds": 310.7, "evaluations_per_second": 16.4},
        **{"prefix_sharing": 1.904, "idle_share": 0.0299},
        **{"compilations": 60, "compilation_seconds": 11.2},
    }
    assert describe_metrics(metrics) == (
        "5,100 evaluations in 311 s (16.4/s); prefix sharing 1.90x; device idle at most 3.0%; "
        "60 compilations, 11 s"
    )
    assert "sharing" not in describe_metrics(metrics | {"prefix_sharing": None})
