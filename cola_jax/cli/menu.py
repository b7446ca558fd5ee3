"""`cola menu`."""

import dataclasses

from tyro.conf import OmitArgPrefixes

from cola_jax.cli.flags import (
    TaskFlags,
    check_one_task,
    console,
    run_with_metrics,
    write_config,
)
from cola_jax.cli.verbosity import log
from cola_jax.deploy.settings import MenuSettings
from cola_jax.tasks.task import ScorerName


@dataclasses.dataclass(frozen=True)
class Menu:
    """Choose a few paths that serve a task, and how to decide between them without the answer."""

    flags: OmitArgPrefixes[TaskFlags]
    runs: tuple[str, ...]
    """Searches or evaluations of training questions, whose correct paths are candidates."""
    settings: OmitArgPrefixes[MenuSettings] = dataclasses.field(default_factory=MenuSettings)
    try_scorer: ScorerName | None = None
    """Scorer with which candidates are tried on training questions, such as exact where answers
    are decoded; the task's own by default."""
    json: bool = False
    """Print the menu and its figures as JSON, as menu.json has them."""

    def run(self) -> None:
        check_one_task("menu", self.flags.task)
        import io

        import numpy as np
        from etils import epath

        from cola_jax.deploy.menu_file import MENU, SELECTOR
        from cola_jax.deploy.task_menu import find_menu
        from cola_jax.files import write_whole
        from cola_jax.report.deployed import menu_json, menu_table

        session = screen = self.flags.prepare(command=self)
        if self.try_scorer is not None:
            task = dataclasses.replace(
                self.flags.task, scorer=self.try_scorer, max_new_tokens=None, rule=None
            )
            screen = dataclasses.replace(self.flags, task=task).prepare(command=self)
            screen = dataclasses.replace(screen, whole=session)  # it shares the weights
        menu = run_with_metrics(
            lambda metrics: find_menu(
                session, screen, self.flags.out, self.runs, self.settings, metrics
            )
        )
        folder = epath.Path(self.flags.out)
        about = {
            "model": session.settings["model"],
            "num_layers": session.num_layers,
            "task": self.flags.task.task,
            "scorer": session.scorer.name,
        }
        file = io.BytesIO()
        np.savez(file, **menu.selector._asdict())
        write_whole(folder / SELECTOR, file.getvalue())
        content = menu_json(menu, about)
        write_whole(folder / MENU, content.encode())
        write_config(folder, self)
        if self.json:
            print(content, end="")
        else:
            console.print(menu_table(menu))
        log.info("menu: %s", folder / MENU)
