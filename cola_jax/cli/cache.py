"""`cola cache`."""

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table

from cola_jax.cli.flags import console
from cola_jax.cli.report import print_json
from cola_jax.errors import InputError, count, did_you_mean

if TYPE_CHECKING:
    from cola_jax.formats.cache import Entry


@dataclasses.dataclass(frozen=True)
class Cache:
    """List the models that were converted on first use, or remove them."""

    remove: tuple[str, ...] = ()
    """Keys of models to remove, as the list has them, or their sources."""
    clear: bool = False
    """Remove all of them."""
    json: bool = False
    """Print the list as JSON."""

    def run(self) -> None:
        from cola_jax.formats import cache

        entries = cache.entries()
        named = {name for entry in entries for name in (entry.key, entry.source)}
        if unknown := [name for name in self.remove if name not in named]:
            raise InputError(
                f"{cache.root()} has no model {unknown[0]!r}{did_you_mean(unknown[0], named)}: "
                "`cola cache` lists those that it has."
            )
        chosen = [
            entry for entry in entries if self.clear or {entry.key, entry.source} & {*self.remove}
        ]
        for entry in chosen:
            cache.remove(entry)
            console.print(f"removed {entry.key}: {entry.source}", soft_wrap=True)
        if self.clear:
            cache.forget()
        if self.clear or self.remove:
            freed = sum(entry.bytes for entry in chosen)
            console.print(f"{count(len(chosen), 'model')} removed, {freed / 1e6:,.1f} MB freed")
            return
        if self.json:
            print_json({"directory": str(cache.root()), "models": list(map(describe, entries))})
            return
        table = Table("key", "source", "revision", "layers", "dtype", "MB", box=SIMPLE)
        table.columns[0].no_wrap = True
        table.columns[1].overflow = "fold"
        for about in map(describe, entries):
            cells = (
                about["key"],
                about["source"],
                (about["revision"] or "")[:12],
                str(about["layers"] or "?"),
                about["dtype"] or "?",
                f"{about['bytes'] / 1e6:,.1f}",
            )
            table.add_row(*cells)
        if entries:
            console.print(table)
        size = sum(entry.bytes for entry in entries)
        console.print(
            f"{cache.root()}: {count(len(entries), 'model')}, {size / 1e6:,.1f} MB", soft_wrap=True
        )


def describe(entry: "Entry") -> dict[str, Any]:
    """Returns what is listed of a model; None for what a damaged copy does not say."""
    return {
        "key": entry.key,
        "source": entry.source,
        "revision": entry.revision,
        "layers": entry.metadata.get("config", {}).get("num_layers"),
        "dtype": entry.metadata.get("dtype"),
        "bytes": entry.bytes,
    }
