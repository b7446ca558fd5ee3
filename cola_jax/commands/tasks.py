"""`cola tasks`."""

import dataclasses

from cola_jax.commands.flags import console


@dataclasses.dataclass(frozen=True)
class Tasks:
    """List the tasks, with their scorers, formats and shots."""

    json: bool = False
    """Print the list as JSON."""

    def run(self) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        from cola_jax.commands.report import print_json
        from cola_jax.tasks.catalogue import catalogue

        rows = catalogue()
        if self.json:
            print_json(rows)
            return
        table = Table(*rows[0], box=SIMPLE_HEAD)
        for row in rows:
            table.add_row(*map(str, row.values()))
        console.print(table)
