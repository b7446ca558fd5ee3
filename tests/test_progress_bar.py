"""Bars of library calls: what they count, and where they are shown."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cola_jax
from cola_jax import progress_bar
from cola_jax.execute.worker import Workers
from tests import tiny

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> cola_jax.Model:
    return cola_jax.load(tiny_checkpoint)


@pytest.fixture(autouse=True)
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows bars of short calls as well."""
    monkeypatch.setattr(progress_bar, "DELAY", 0.0)


def search(model: cola_jax.Model, progress: bool | None) -> None:
    evaluate = cola_jax.evaluator(model, tiny.questions(3), "options", progress=progress)
    cola_jax.search(evaluate, tiny.questions(3), simulations=4, control="none")


CALLS: dict[str, tuple[Callable[..., object], int]] = {
    "evaluate": (
        lambda model, progress: cola_jax.evaluate(
            model, tiny.questions(3), ["0-3", "0,2-3"], scorer="options", progress=progress
        ),
        6,
    ),
    "search": (search, 12),  # a wave after the identity path
    "generate": (
        lambda model, progress: cola_jax.generate(
            model, "Two words", ["0-3", "0"], max_new_tokens=2, progress=progress
        ),
        2,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bar_counts_evaluations(model: cola_jax.Model, name: str, capsys: Captured) -> None:
    call, count = CALLS[name]
    call(model, progress=True)
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("evaluating: 100%")
    assert f"{count}/{count}" in last


def test_loading_shows_a_bar_of_bytes(tiny_checkpoint: Path, capsys: Captured) -> None:
    cola_jax.load(tiny_checkpoint, progress=True)
    assert "loading: 100%" in capsys.readouterr().err


def test_bars_are_for_notebooks_and_terminals(
    model: cola_jax.Model, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, _ = CALLS["evaluate"]
    call(model, progress=None)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    call(model, progress=None)
    assert "evaluating" in capsys.readouterr().err
    call(model, progress=False)
    assert capsys.readouterr().err == ""


def test_an_error_ends_a_bar(model: cola_jax.Model, capsys: Captured) -> None:
    def fail(worker: object, batch: object) -> None:
        raise RuntimeError("in a batch")

    workers = Workers(model, progress=True)
    with pytest.raises(RuntimeError, match="in a batch"):
        list(workers.map(fail, [0], evaluations=3))
    assert "0/3" in capsys.readouterr().err
