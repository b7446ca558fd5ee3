"""The subcommands of `cola`: each is a frozen dataclass, its fields are the flags."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from tyro.conf import OmitArgPrefixes, Positional

from cola_jax.devices import Devices
from cola_jax.hosts import Hosts
from cola_jax.search.presets import PRESETS, Preset, PresetName
from cola_jax.tasks.asking import Asking

Dtype = Literal["float32", "bfloat16", "float16"]
console = Console()


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert pretrained weights into a checkpoint that every other command takes."""

    source: Positional[str]
    """A Hub id, a local directory in Hugging Face layout, or a .gguf file."""
    destination: Positional[Path]
    """The directory to make."""
    dtype: Dtype | None = None
    """Of the converted weights; the source's own by default, float32 for GGUF."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    overwrite: bool = False
    """Replace an existing destination."""

    def run(self) -> None:
        from cola_jax.convert import convert
        from cola_jax.progress import byte_bar

        with byte_bar(console) as on_progress:
            metadata = convert(
                self.source,
                self.destination,
                dtype=self.dtype,
                revision=self.revision,
                overwrite=self.overwrite,
                on_progress=on_progress,
            )
        config = metadata["config"]
        console.print(
            f"{self.destination}: {config['num_layers']} layers, width {config['width']}, "
            f"{metadata['dtype']}, digest {metadata['digest'][:12]}"
        )


@dataclasses.dataclass(frozen=True)
class Material:
    """What a search or an evaluation works on."""

    model: str
    """A checkpoint directory, as `cola convert` makes it."""
    asking: OmitArgPrefixes[Asking]
    out: str
    """The run directory: made, or continued where it was stopped."""
    dtype: Dtype | None = None
    """Of weights and activations; float32 on a CPU by default, else the checkpoint's own."""
    group: int | None = None
    """The most questions in step; what a kill can lose. By default 8 on a CPU, else 64."""
    devices: OmitArgPrefixes[Devices] = dataclasses.field(default_factory=Devices)
    shard: str | None = None
    """Take only a part of the questions, such as 0/4, the first of four; the others are for
    processes elsewhere."""
    hosts: OmitArgPrefixes[Hosts] = dataclasses.field(default_factory=Hosts)

    def prepare(self):
        from cola_jax.run import Shard
        from cola_jax.session import Session

        if self.shard is not None and self.hosts.distributed:
            raise ValueError(
                "give --shard or --distributed: the hosts that meet share by themselves."
            )
        shard = self.hosts.join() if self.shard is None else Shard.parse(self.shard)
        return Session.prepare(
            self.model,
            self.asking,
            dtype=self.dtype,
            devices=self.devices,
            hosts=self.hosts,
            shard=shard,
        )


@dataclasses.dataclass(frozen=True)
class Search:
    """Search, for every question, which layers to skip or repeat."""

    material: OmitArgPrefixes[Material]
    preset: PresetName = "cola"
    """The rules to start from."""
    rules: Preset = PRESETS["cola"]
    simulations: int = 100
    """Evaluations per question, beyond the baseline."""
    leaves: int = 16
    """Evaluations per question and wave; more of them are chosen knowing less."""
    seed: int = 0
    """With a question's id, the random key of its tree."""
    early_stop: bool = False
    """End a question's search at its first improvement."""

    def run(self) -> None:
        from cola_jax.progress import Display

        session = self.material.prepare()
        with Display(console, searches=True) as display:
            run = session.search(
                self.material.out,
                self.rules,
                simulations=self.simulations,
                leaves=self.leaves,
                seed=self.seed,
                early_stop=self.early_stop,
                group=self.material.group,
                watch=display.watch,
            )
        show_use(run)
        Report(self.material.out).show(draws=report_extra_installed())


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate given or random paths on every question."""

    material: OmitArgPrefixes[Material]
    paths: tuple[str, ...] = ()
    """Paths such as 0-5,7,7,8-29 or 0-5,(6-7)x2,8-29."""
    paths_file: Path | None = None
    """A file with a path on each line; # starts a comment."""
    random: int = 0
    """Add so many random paths of 1 to 3 edits."""
    seed: int = 0
    """Of the random paths."""
    max_length: int | None = None
    """The longest path allowed, in layers; twice the model's by default."""

    def run(self) -> None:
        from cola_jax.checkpoint import read_metadata
        from cola_jax.progress import Display

        num_layers = read_metadata(self.material.model)["config"]["num_layers"]
        paths = self.collect(num_layers)
        session = self.material.prepare()
        with Display(console, searches=False) as display:
            run = session.evaluate(
                self.material.out, paths, group=self.material.group, watch=display.watch
            )
        show_use(run)
        Report(self.material.out).run()

    def collect(self, num_layers: int) -> list[tuple[int, ...]]:
        """Reads all paths asked for, each once, in order; ValueError where there is none."""
        from cola_jax.path import parse_path, random_paths

        paths = [parse_path(text, num_layers, self.max_length) for text in self.paths]
        if self.paths_file is not None:
            for number, line in enumerate(read_lines(self.paths_file), start=1):
                if text := line.split("#")[0].strip():
                    try:
                        paths.append(parse_path(text, num_layers, self.max_length))
                    except ValueError as error:
                        raise ValueError(f"{self.paths_file}:{number}: {error}") from None
        if self.random:
            paths += random_paths(num_layers, self.random, self.seed, max_length=self.max_length)
        if not paths:
            raise ValueError("there are no paths: give --paths, --paths-file or --random.")
        return list(dict.fromkeys(paths))


@dataclasses.dataclass(frozen=True)
class Report:
    """Print what a run found, and write it as one HTML page that opens offline."""

    run_directory: Positional[str]
    """What `cola search` or `cola evaluate` made."""
    page: Path | None = None
    """Where to write the page of a search; report.html in the run directory by default."""

    def run(self) -> None:
        self.show(draws=True)

    def show(self, draws: bool) -> None:
        """Prints the table, and writes the page if it draws."""
        from cola_jax import report
        from cola_jax.run import RunDirectory

        run = RunDirectory(self.run_directory)
        if run.manifest()["settings"].get("command") == "evaluate":
            if self.page is not None:
                raise ValueError("--page belongs to a search: an evaluation has no page.")
            console.print(report.paths_table(run))
            return
        summary = report.summarise(run)
        console.print(report.summary_table(summary))
        if not draws:
            console.print(
                f"for the page: pip install 'cola-jax[report]' && cola report {self.run_directory}",
                soft_wrap=True,
                markup=False,
            )
            return
        page = self.page or run.directory / "report.html"
        report.write_page(run, summary, page)
        console.print(f"report: {page}", soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class Demo:
    """Search two dozen questions with a small real model, and write the report."""

    source: str | None = None
    """Another model: a Hub id, a directory or a .gguf file. SmolLM2-135M-Instruct by default."""
    out: str = "cola-demo"
    """The run directory."""
    simulations: int = 50
    """Evaluations per question, beyond the baseline."""

    def run(self) -> None:
        from cola_jax.demo import demo_model, demo_questions

        model = demo_model(self.source, console)
        material = Material(str(model), Asking(str(demo_questions())), self.out)
        Search(material, simulations=self.simulations, leaves=8).run()


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measure what the engine does on this machine, beside other ways to run the same paths."""

    model: str = "smollm2-135m"
    """A checkpoint directory, or a named shape with random weights: smollm2-135m, llama-3.2-1b,
    llama-3.2-3b, llama-3-8b, qwen3-8b."""
    out: Path | None = None
    """A JSON file for all that was measured."""
    tokens: int = 96
    """T, of one question."""
    paths: int = 64
    """C, random paths of 1 to 3 edits."""
    reads: int = 16
    """Q, places at which the model is read."""
    rounds: int = 5
    """How often everything is timed, in turns."""
    dtype: Dtype | None = None
    """Of weights and activations; float32 on a CPU by default, else bfloat16."""
    torch: bool = True
    """Compare with transformers, where torch is installed."""
    growth: float = 0.0
    """Also show how cost grows, with at most so many seconds for a point."""
    devices: OmitArgPrefixes[Devices] = dataclasses.field(default_factory=Devices)

    def run(self) -> None:
        from cola_jax.benchmark.benchmark import benchmark
        from cola_jax.benchmark.table import growth_table, ratio_table

        for name in ("tokens", "paths", "reads", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, it is {getattr(self, name)}.")
        measured = benchmark(
            self.load(),
            tokens=self.tokens,
            paths=self.paths,
            reads=self.reads,
            rounds=self.rounds,
            memory_budget=self.devices.budget,
            rows=self.devices.rows,
            torch=self.torch,
            growth=self.growth,
            tell=lambda line: console.print(line, soft_wrap=True),
        )
        found: dict[str, Any] = {
            "command": dataclasses.asdict(self) | {"out": str(self.out)}
        } | measured
        if self.out is not None:
            self.out.write_text(json.dumps(found, indent=1) + "\n")
        console.print(ratio_table(found))
        if "growth" in found:
            console.print(growth_table(found["growth"]))

    def load(self):
        """Loads or makes the model, on one copy's devices."""
        import jax

        from cola_jax import load
        from cola_jax.benchmark.shapes import SHAPES, random_model

        mesh = self.devices.mesh(self.devices.data or 1)
        dtype = self.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
        if self.model in SHAPES:
            return random_model(SHAPES[self.model], dtype, mesh)
        if not Path(self.model).exists() and "://" not in self.model:
            raise ValueError(f"{self.model} is neither a directory nor one of {', '.join(SHAPES)}.")
        return load(self.model, dtype=dtype, mesh=mesh)


def show_use(run: Any) -> None:
    """Prints what the last start of a run took, if it had anything to do."""
    from cola_jax.progress import describe_use

    mine = [s for s in run.manifest()["starts"] if s.get("shard") == str(run.shard)]
    if use := mine[-1].get("use"):
        console.print(describe_use(use), soft_wrap=True)


def read_lines(file: Path) -> list[str]:
    """Reads a text file's lines; ValueError where it is not text."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}).") from None


def report_extra_installed() -> bool:
    """Whether the page of a report can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None
