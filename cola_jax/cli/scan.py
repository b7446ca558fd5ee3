"""`cola scan`."""

import dataclasses
from typing import Literal

from tyro.conf import OmitArgPrefixes

from cola_jax.cli.flags import (
    TaskFlags,
    check_one_task,
    num_layers_of,
    run_with_progress,
)
from cola_jax.cli.report import Report
from cola_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Scan:
    """Skip, and repeat once, every block of layers, and map what that does."""

    flags: OmitArgPrefixes[TaskFlags]
    longest_block: int | None = None
    """Most layers of a block; all by default, about the square of the model's layers in paths."""
    edits: tuple[Literal["skip", "repeat"], ...] = ("skip", "repeat")
    """What is done to blocks: skip, repeat or both."""
    json: bool = False
    """Print every block as JSON."""

    def run(self) -> None:
        from cola_jax.deploy.scan import scan_paths

        check_one_task("scan", self.flags.task)
        self.flags.check()
        num_layers = num_layers_of(self.flags.model)
        paths = scan_paths(num_layers, self.longest_block, self.edits)
        session = self.flags.prepare(command=self)
        if session.settings["questions"] < 2:
            raise InputError("a map needs 2 or more questions, there is 1: raise --limit.")
        run_with_progress(
            lambda metrics: session.evaluate(self.flags.out, paths, metrics, command="scan"),
            searches=False,
        )
        Report((self.flags.out,), json=self.json).run()
