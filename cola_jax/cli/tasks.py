"""`cola tasks`."""

import dataclasses

from cola_jax.cli.flags import console


@dataclasses.dataclass(frozen=True)
class Tasks:
    """List the tasks, with their scorers, formats and shots."""

    json: bool = False
    """Print the list as JSON."""

    def run(self) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        from cola_jax.cli.report import print_json
        from cola_jax.tasks.registry import catalogue

        rows = catalogue()
        if self.json:
            print_json(rows)
            return
        columns = ("task", "data set", "split", "formats", "shots")
        table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
        table.columns[1].overflow = "fold"
        for row in rows:
            table.add_row(*(row[column] for column in columns))
        fitting: dict[str, list[str]] = {}
        for row in rows:
            fitting.setdefault(row["scorers"], []).append(row["task"])
        lines = (f"{scorers}: for {', '.join(names)}." for scorers, names in fitting.items())
        parts = (Padding(Text(line), (0, 0, 0, 2)) for line in lines)
        # at once, so that a pipe that ends early, as that of `grep -q`, has read all of it
        console.print(Group(table, "Scorers, the default first:", *parts), highlight=False)
