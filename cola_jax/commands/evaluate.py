"""`cola evaluate`."""

import dataclasses

from tyro.conf import OmitArgPrefixes

from cola_jax.commands.flags import PathFlags, TaskFlags, run_with_progress
from cola_jax.commands.report import Report


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate given or random paths on every question."""

    flags: OmitArgPrefixes[TaskFlags]
    path_flags: OmitArgPrefixes[PathFlags] = dataclasses.field(default_factory=PathFlags)

    def run(self) -> None:
        from cola_jax.checkpoint import read_metadata

        num_layers = read_metadata(self.flags.model)["config"]["num_layers"]
        paths = self.path_flags.collect(num_layers)
        if not paths:
            raise ValueError("there are no paths: give --paths, --paths-file or --random.")
        session = self.flags.prepare()
        run_with_progress(
            lambda metrics: session.evaluate(self.flags.out, paths, metrics), searches=False
        )
        Report(self.flags.out).run()
