"""`cola static`."""

import dataclasses

from tyro.conf import OmitArgPrefixes

from cola_jax.commands.flags import TaskFlags, console, run_with_metrics
from cola_jax.deploy.settings import StaticSettings

RESULT = "static.json"


@dataclasses.dataclass(frozen=True)
class Static:
    """Search one path for all questions of a task, and measure it on held-out ones."""

    flags: OmitArgPrefixes[TaskFlags]
    settings: OmitArgPrefixes[StaticSettings] = dataclasses.field(default_factory=StaticSettings)

    def run(self) -> None:
        from etils import epath

        from cola_jax.deploy.task_path import find_path
        from cola_jax.report.static import static_json, static_table
        from cola_jax.runs.directory import write_whole

        session = self.flags.prepare()
        found = run_with_metrics(
            lambda metrics: find_path(session, self.flags.out, self.settings, metrics)
        )
        file = epath.Path(self.flags.out) / RESULT
        about = {
            "model": session.settings["model"],
            "num_layers": session.num_layers,
            "scorer": session.scorer.name,
        }
        write_whole(file, static_json(found, self.flags.task.task, about).encode())
        console.print(static_table(found))
        console.print(f"path and figures: {file}", soft_wrap=True)
