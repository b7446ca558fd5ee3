"""Tables on terminals of several widths: nothing is cut off."""

import pytest

from cola_jax.report.tables import Row, Table
from cola_jax.report.terminal import TerminalTable
from tests.small_runs import printed

COLUMNS = ("", "value", "interval", "p", "n")
CELLS = ("−100.0", "−100.0 to +100.0", "uncorrected 0.123", "1,000,000")
LABEL = "[b]a label that is longer than the terminal is wide " * 3


def lines_of(table: Table, width: int, caption: str = "") -> list[str]:
    lines = printed(TerminalTable(table, caption), width).splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    return lines


def test_labels_wrap_before_cells():
    table = Table([Row(LABEL, CELLS, control=True)], "Heading", COLUMNS)
    text = "\n".join(lines_of(table, 80))
    assert all(cell in text for cell in CELLS)
    assert "[b]" in text
    assert text.startswith("Heading")


@pytest.mark.parametrize("width", [40, 60, 80])
def test_narrow_terminals_lose_no_letters(width: int):
    """Of a path, of words in many columns, and of an interval below its value."""
    path = "0-45," + ",".join(["46"] * 30)
    cells = (
        "80",
        "depends on\nthe prompt",
        "+1.0\n−10.0 to +12.0",
        "median −12.0\nbest +1.2",
        "x" * 9,
    )
    columns = ("claim", "layers", "verdict", "points more", "random", "hundredths of a nat")
    lines = lines_of(Table([Row(path, cells)], "", columns), width, "explained below")
    text = "".join("".join(lines).split())
    assert path.count("46") == text.count("46")
    for word in ("depends", "prompt", "+12.0", "median", "hundredths", "xxxxxxxxx", "below"):
        assert any(word in line for line in lines), word


def test_rows_become_blocks_where_columns_do_not_fit():
    cells = "a" * 30, "", "b c"
    table = Table([Row("name", cells, control=True)], "Heading", ("", "first", "second", ""))
    assert [line.rstrip() for line in lines_of(table, 40)] == [
        "Heading", "↳ name", f"  first: {'a' * 30}", "  b c",
    ]  # fmt: skip
