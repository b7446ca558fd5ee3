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
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        from cola_jax.commands.report import print_json
        from cola_jax.tasks.catalogue import catalogue

        rows = catalogue()
        if self.json:
            print_json(rows)
            return
        columns = ("task", "data set", "split", "formats", "shots")
        table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
        table.columns[1].overflow = "fold"
        for row in rows:
            table.add_row(*(row[column] for column in columns))
        console.print(table)
        fitting: dict[str, list[str]] = {}
        for row in rows:
            fitting.setdefault(row["scorers"], []).append(row["task"])
        console.print("Scorers, the default first:")
        for scorers, names in fitting.items():
            text = Text(f"{scorers}: for {', '.join(names)}.")
            console.print(Padding(text, (0, 0, 0, 2)), highlight=False)
