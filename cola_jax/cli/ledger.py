"""`cola verify --ledger`: the tries of claims that this machine has recorded."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cola_jax.cli.flags import Printing, console
from cola_jax.cli.report import print_json
from cola_jax.progress import log

if TYPE_CHECKING:
    from cola_jax.report.tables import Table
    from cola_jax.runs.tries import Try

FLAG = "--ledger"
COLUMNS = ("claim", "date", "model", "task", "questions x prompts", "outcome")


@dataclasses.dataclass(frozen=True)
class Ledger(Printing):
    """List the tries of claims on this machine, the oldest first; nothing is run."""

    def run(self) -> None:
        from cola_jax.report.terminal import TerminalTable
        from cola_jax.runs.tries import latest, ledger, read_tries

        tries = latest(read_tries())
        if self.json:
            print_json([record_of(each) for each in tries])
            return
        if tries:
            console.print(TerminalTable(table_of(tries)))
        log.info("%d in %s", len(tries), ledger())


def record_of(each: "Try") -> dict[str, Any]:
    """Return a try as JSON has it, with the number of its questions in place of their keys."""
    return dataclasses.asdict(each) | {"questions": len(each.questions)}


def table_of(tries: "Sequence[Try]") -> "Table":
    """Make a table with a row for each try."""
    from cola_jax.deploy.verify.earlier_tries import NO_OUTCOME
    from cola_jax.report.document import title
    from cola_jax.report.tables import Row, Table

    rows = []
    for each in tries:
        outcome = each.outcome or NO_OUTCOME
        if each.event == "measured":
            outcome = f"measured: {outcome}"
        model = title(each.source.rpartition("/")[2] or each.model[:12])
        size = f"{len(each.questions):,} x {each.prompts}"
        cells = (each.date[:10], model, title(each.task), size, title(outcome))
        rows.append(Row(title(each.claim), cells))
    return Table(rows, columns=COLUMNS, texts=True)
