"""`cola static`."""

import dataclasses

from tyro.conf import OmitArgPrefixes

from cola_jax.cli.flags import TaskFlags, check_one_task, console, run_with_metrics
from cola_jax.cli.verbosity import log
from cola_jax.deploy.settings import StaticSettings

RESULT = "static.json"


@dataclasses.dataclass(frozen=True)
class Static:
    """Search one path for all questions of a task, and measure it on held-out ones."""

    flags: OmitArgPrefixes[TaskFlags]
    settings: OmitArgPrefixes[StaticSettings] = dataclasses.field(default_factory=StaticSettings)
    json: bool = False
    """Print the path and its figures as JSON, as static.json has them."""

    def run(self) -> None:
        check_one_task("static", self.flags.task)
        from etils import epath

        from cola_jax.deploy.task_path import find_path
        from cola_jax.files import write_whole
        from cola_jax.identity import question_digest, set_digest
        from cola_jax.report.deployed import static_json, static_table

        session = self.flags.prepare(command=self)
        found = run_with_metrics(
            lambda metrics: find_path(session, self.flags.out, self.settings, metrics)
        )
        file = epath.Path(self.flags.out) / RESULT
        about = {
            "model": session.settings["model"],
            "num_layers": session.num_layers,
            "scorer": session.scorer.name,
            "questions": set_digest(question_digest(x.question) for x in session.encoded),
        }
        content = static_json(found, self.flags.task.task, about)
        write_whole(file, content.encode())
        if self.json:
            print(content, end="")
        else:
            console.print(static_table(found))
        log.info("path and figures: %s", file)
