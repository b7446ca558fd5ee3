"""Tables on a terminal of any width: nothing that is too wide is cut off."""

import re
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from cola_jax.errors import escaped
from cola_jax.report.tables import Row, Table

PATH = re.compile(r"[\d,()x-]+( \(identity\))?$")
LEAST = 14  # characters of a column of labels


class TerminalTable:
    """A table that fits the terminal: labels wrap, or else cells too, or else a row is a block."""

    def __init__(self, table: Table, caption: str = ""):
        self.table = visible_table(table)
        self.caption = caption

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        edges = 2 + 2 * len(self.table.columns) - 1  # of the table, and between its columns
        widths = fit([*self.columns()], options.max_width - edges)
        if widths is None:
            yield from self.blocks()
        else:
            yield self.build(widths)

    def columns(self) -> Iterator[list[str]]:
        """Yield the texts of each column, its name first."""
        labels = [label_of(row).plain for row in self.table.rows]
        cells = zip(*(row.cells for row in self.table.rows), strict=True)
        columns = [labels, *cells] if self.table.rows else [[] for _ in self.table.columns]
        for name, column in zip(self.table.columns, columns, strict=True):
            yield [name, *column]

    def build(self, widths: list[int]) -> RichTable:
        """Make a table of rich with columns of these widths."""
        out = RichTable(
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            title=Text(self.table.heading) if self.table.heading else None,
            title_justify="left",
            caption=Text(self.caption) if self.caption else None,
            caption_justify="left",
        )
        for place, (name, width) in enumerate(zip(self.table.columns, widths, strict=True)):
            justify = "right" if place and not self.table.texts else "left"
            out.add_column(Text(name), justify=justify, overflow="fold", width=width)
        for row in self.table.rows:
            out.add_row(label_of(row), *map(Text, row.cells), style=style_of(row))
        return out

    def blocks(self) -> RenderResult:
        """Yield a line for each row and each of its cells."""
        if self.table.heading:
            yield Text(self.table.heading, style="italic")
        names = self.table.columns[1:]
        for row in self.table.rows:
            yield Text.assemble(label_of(row), style=style_of(row) or "bold", overflow="fold")
            for name, cell in zip(names, row.cells, strict=True):
                if cell:
                    text = " ".join(cell.splitlines())
                    yield Text(f"  {name}: {text}" if name else f"  {text}", overflow="fold")
        if self.caption:
            yield Text(self.caption, style="dim italic")


def visible(text: str) -> str:
    """Escape characters of a text that would act on the terminal, but for ends of lines."""
    return "\n".join(map(escaped, text.split("\n")))


def visible_table(table: Table) -> Table:
    """Escape such characters in a table."""
    rows = [
        row._replace(label=visible(row.label), cells=tuple(map(visible, row.cells)))
        for row in table.rows
    ]
    columns = tuple(map(visible, table.columns))
    return table._replace(rows=rows, heading=visible(table.heading), columns=columns)


def fit(columns: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Return the widths of columns that fit into `width` without a cut in a word, or None.

    The first column, which may be cut anywhere, is made narrower before the others.
    """
    widths = [max(map(cell_len, lines(column)), default=0) for column in columns]
    least = [max(map(cell_len, words(column)), default=0) for column in columns]
    least[0] = min(widths[0], LEAST)
    for place in (0, None):
        while sum(widths) > width:
            spare = [have - need for have, need in zip(widths, least, strict=True)]
            widest = spare.index(max(spare)) if place is None else place
            if not spare[widest]:
                break
            widths[widest] -= 1
    return widths if sum(widths) <= width else None


def lines(texts: Sequence[str]) -> list[str]:
    """Split texts into their lines."""
    return [line for text in texts for line in text.split("\n")]


def words(texts: Sequence[str]) -> list[str]:
    """Split texts into their words."""
    return [word for text in texts for word in text.split()]


def label_of(row: Row) -> Text:
    """Write the label of a row; a path breaks after a comma, not within a number."""
    name = row.label.replace(",", ", ") if PATH.match(row.label) else row.label
    return Text(("↳ " if row.control else "") + name)


def style_of(row: Row) -> str:
    """Return the style of a row."""
    return "yellow" if row.control else "bold" if row.bold else ""
