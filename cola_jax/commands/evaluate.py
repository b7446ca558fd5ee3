"""`cola evaluate`."""

import dataclasses

from tyro.conf import OmitArgPrefixes

from cola_jax.commands.console import console
from cola_jax.commands.material import Material, show_use
from cola_jax.commands.paths import PathFlags
from cola_jax.commands.report import Report


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate given or random paths on every question."""

    material: OmitArgPrefixes[Material]
    path_flags: OmitArgPrefixes[PathFlags] = dataclasses.field(default_factory=PathFlags)

    def run(self) -> None:
        from cola_jax.checkpoint import read_metadata
        from cola_jax.runs.progress import Display

        num_layers = read_metadata(self.material.model)["config"]["num_layers"]
        paths = self.path_flags.collect(num_layers)
        if not paths:
            raise ValueError("there are no paths: give --paths, --paths-file or --random.")
        session = self.material.prepare()
        with Display(console, searches=False) as display:
            run = session.evaluate(
                self.material.out, paths, group=self.material.group, watch=display.watch
            )
        show_use(run)
        Report(self.material.out).run()
