"""`cola benchmark`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from cola_jax.commands.flags import Dtype, console
from cola_jax.runs.devices import Devices


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
