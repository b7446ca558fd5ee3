"""Trackers: off by default, and named where they are not installed."""

import sys
import types

import pytest

from cola_jax.deploy.router import tracking


def test_tracking_is_off_by_default(tmp_path):
    with tracking.tracking(None, tmp_path, {}) as tracker:
        tracker.log(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(tracking.MODULES, "wandb", "no_such_package")
    with pytest.raises(ValueError, match=r"pip install 'cola-jax\[tracking\]'"):
        tracking.check_tracker("wandb")


class Recorder:
    """Stands for a tracker's package: notes what is called."""

    def __init__(self, *arguments, **settings):
        self.calls = [("made", arguments, settings)]

    def __getattr__(self, name):
        return lambda *arguments, **more: self.calls.append((name, arguments, more))


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        (
            "tensorboard",
            [
                ("made", ("DIRECTORY",), {}),
                ("add_text", ("settings", "{'seed': 1}"), {}),
                ("add_scalar", ("loss", 0.5, 3), {}),
                ("close", (), {}),
            ],
        ),
        (
            "wandb",
            [
                (
                    "made",
                    (),
                    {
                        "project": "cola-jax",
                        "dir": "DIRECTORY",
                        "config": {"seed": 1},
                        "job_type": "distill",
                    },
                ),
                ("log", ({"loss": 0.5},), {"step": 3}),
                ("finish", (), {}),
            ],
        ),
    ],
)
def test_trackers_are_told(name, calls, monkeypatch, tmp_path):
    made = []

    def make(*arguments, **settings):
        made.append(Recorder(*arguments, **settings))
        return made[-1]

    module = types.SimpleNamespace(SummaryWriter=make, init=make)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "check_tracker", lambda name: None)
    monkeypatch.setitem(sys.modules, tracking.MODULES[name], module)  # pyright: ignore
    with tracking.tracking(name, "DIRECTORY", {"seed": 1}) as tracker:
        tracker.log(3, {"loss": 0.5})
    assert made[0].calls == calls
