"""Progress: what bars count, where they are drawn, and what is logged elsewhere."""

import logging
import sys
import threading

import pytest

import cola_jax
from cola_jax import progress
from cola_jax.metrics import Clock, Metrics
from cola_jax.progress import MetricsBar, metrics_bar


@pytest.fixture(autouse=True)
def no_delay(monkeypatch):
    """Show bars of short calls as well."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 0.0)


def test_calls_show_bars_of_what_they_load_and_evaluate(tiny_checkpoint, capsys):
    model = cola_jax.load(tiny_checkpoint, progress=True)
    assert "loading: 100%" in capsys.readouterr().err
    cola_jax.generate(model, "Two words", ["0-3", "0"], max_new_tokens=2, progress=True)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("evaluating: 100%")
    assert "2/2" in last


def test_the_thread_of_a_bar_ends_with_an_error():
    with pytest.raises(KeyError), metrics_bar(Metrics(total=3), progress=True):
        raise KeyError
    assert "progress bar" not in {thread.name for thread in threading.enumerate()}


def test_bars_are_drawn_in_notebooks_and_lines_logged_elsewhere(capsys, monkeypatch, caplog):
    def run(shown=None):
        """Return what is drawn and what is logged while metrics grow."""
        metrics = Metrics(total=10, clocks=[Clock(on_cpu=False)])  # a bound
        caplog.clear()
        with metrics_bar(metrics, shown):
            metrics.add(evaluations=8)
        return capsys.readouterr().err, "".join(caplog.messages[-1:])

    monkeypatch.setattr(progress.log, "propagate", True)
    monkeypatch.setattr(progress.log, "handlers", [])  # of a command of another test
    caplog.set_level(logging.INFO, "cola_jax")
    drawn, logged = run()
    assert drawn == ""
    assert logged.startswith("evaluating: 8/8 [00:")  # it has run out of paths
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    drawn, logged = run()
    assert "8/8" in drawn.split("\r")[-1]
    assert logged == ""
    monkeypatch.setattr(progress, "hidden", True)
    assert run() == run(shown=False) == ("", "")


def test_a_search_shows_the_share_of_its_steps(monkeypatch, caplog):
    """Its evaluations are not known before, as searches of a question share them."""
    monkeypatch.setattr(progress.log, "propagate", True)
    monkeypatch.setattr(progress.log, "handlers", [])
    caplog.set_level(logging.INFO, "cola_jax")
    metrics = Metrics(all_steps=40, clocks=[Clock(on_cpu=False)])
    bar = MetricsBar(metrics, progress=None)
    bar.show()
    metrics.add(steps=10, evaluations=1234, corrected=3)
    bar.show()
    bar.close()
    shown = caplog.messages[-1]
    assert shown.startswith("searching: 25% [")
    assert "1,234 evaluations, " in shown
    assert "W→C 3" in shown


def test_an_unknown_total_is_not_shown(monkeypatch, caplog):
    monkeypatch.setattr(progress.log, "propagate", True)
    monkeypatch.setattr(progress.log, "handlers", [])
    caplog.set_level(logging.INFO, "cola_jax")
    metrics = Metrics()
    metrics.compiled_before -= 17
    bar = MetricsBar(metrics, progress=None)
    metrics.clocks.append(Clock(on_cpu=False))
    bar.show()
    bar.close()
    assert caplog.messages[-1].startswith("compiling: 17 programs [")
    assert "/0" not in caplog.text


def shown(bar, **amounts):
    """Return what a bar shows after metrics have grown."""
    bar.metrics.add(**amounts)
    bar.show()
    return str(bar.bar)


def test_each_stage_has_a_bar(capsys):
    bar = MetricsBar(Metrics(total=1200), progress=True)
    assert shown(bar) == "None"  # nothing is known yet
    assert "loading:" in shown(bar, to_load=540_000_000)
    assert "270M/540M" in shown(bar, loaded=270_000_000)
    bar.metrics.compiled_before -= 7
    bar.metrics.clocks.append(Clock(on_cpu=False))
    assert "compiling: 7" in shown(bar)
    # what an earlier start evaluated is done, but no part of the speed
    text = shown(bar, earlier=1000, tokens=1234)
    assert "1000/1200" in text
    assert "1,234 tokens decoded" in text
    assert "0.00 evaluations/s" in text or "? evaluations/s" in text
    text = shown(bar, evaluations=100)
    assert "1100/1200" in text
    assert "tokens" not in text  # now that a text is complete
    assert "W→C 3, shorter C→C 2" in shown(bar, corrected=3, shortened=2)
    bar.close()
