"""Trackers: metrics of training to TensorBoard or Weights & Biases, if asked for."""

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

from etils import epath

from cola_jax.errors import InputError

TrackerName = Literal["tensorboard", "wandb"]
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class Tracker(Protocol):
    """Where metrics go."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class NoTracker:
    """Keeps no metrics."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class TensorBoard:
    """Writes event files into a directory."""

    def __init__(self, module: Any, directory: epath.PathLike, settings: Mapping[str, Any]):
        self.writer = module.SummaryWriter(os.fspath(directory))
        self.writer.add_text("settings", repr(dict(settings)))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars of one step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self.writer.close()


class WeightsAndBiases:
    """Sends metrics to Weights & Biases, as its own environment variables say."""

    def __init__(self, module: Any, directory: epath.PathLike, settings: Mapping[str, Any]):
        self.run = module.init(
            project="cola-jax", dir=os.fspath(directory), config=dict(settings), job_type="distill"
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends scalars of one step."""
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        """Ends the run."""
        self.run.finish()


def check_tracker(name: TrackerName | None) -> None:
    """Raises ValueError where the package of a tracker is not installed."""
    if name is not None and importlib.util.find_spec(MODULES[name]) is None:
        raise InputError(
            f"--track {name} needs {MODULES[name]}: `pip install 'cola-jax[tracking]'`."
        )


@contextlib.contextmanager
def tracking(
    name: TrackerName | None, directory: epath.PathLike, settings: Mapping[str, Any]
) -> Iterator[Tracker]:
    """Opens a tracker, and closes it; None keeps no metrics."""
    check_tracker(name)
    tracker: Tracker = NoTracker()
    if name is not None:
        epath.Path(directory).mkdir(parents=True, exist_ok=True)
        make = TensorBoard if name == "tensorboard" else WeightsAndBiases
        tracker = make(importlib.import_module(MODULES[name]), directory, settings)
    try:
        yield tracker
    finally:
        tracker.close()
