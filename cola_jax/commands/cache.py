"""`cola cache`."""

import dataclasses

from rich.box import SIMPLE
from rich.table import Table

from cola_jax.commands.flags import console


@dataclasses.dataclass(frozen=True)
class Cache:
    """List the models that were converted on first use, or remove them."""

    remove: tuple[str, ...] = ()
    """Keys of models to remove, as the list has them, or their sources."""
    clear: bool = False
    """Remove all of them."""

    def run(self) -> None:
        from cola_jax.convert import cache

        entries = cache.entries()
        named = {name for entry in entries for name in (entry.key, entry.source)}
        if unknown := [name for name in self.remove if name not in named]:
            raise ValueError(
                f"{cache.root()} has no model {unknown[0]!r}: `cola cache` lists those that it has."
            )
        chosen = [
            entry for entry in entries if self.clear or {entry.key, entry.source} & {*self.remove}
        ]
        for entry in chosen:
            cache.remove(entry)
            console.print(f"removed {entry.key}: {entry.source}", soft_wrap=True, markup=False)
        if self.clear:
            cache.forget()
        if self.clear or self.remove:
            freed = sum(entry.bytes for entry in chosen)
            console.print(f"{len(chosen)} models removed, {freed / 1e6:,.1f} MB freed")
            return
        table = Table("key", "source", "revision", "layers", "dtype", "MB", box=SIMPLE)
        table.columns[0].no_wrap = True
        table.columns[1].overflow = "fold"
        for entry in entries:
            config = entry.metadata.get("config", {})
            cells = (
                entry.key,
                entry.source,
                (entry.revision or "")[:12],
                str(config.get("num_layers", "?")),
                str(entry.metadata.get("dtype", "?")),
                f"{entry.bytes / 1e6:,.1f}",
            )
            table.add_row(*cells)
        if entries:
            console.print(table)
        size = sum(entry.bytes for entry in entries)
        console.print(
            f"{cache.root()}: {len(entries)} models, {size / 1e6:,.1f} MB", soft_wrap=True
        )
