"""Compiles the device programs for TPUs on a machine that has none, and reads the results.

`pip install libtpu`, then `python -m experiments.compile.tpu`. Once libtpu is installed, everything
else needs JAX_PLATFORMS=cpu, so a virtual environment of its own is best. Exits with status 1 where
a program of ours copies a weight, or a whole slot buffer or cache.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

# before jax is imported
from experiments.compile.tpu_kernel import CHIPS, call_in, cycles_of, topology_of

# isort: split
import numpy as np
import tyro

from experiments.compile import hlo
from experiments.compile.programs import PROGRAMS, Abstract, Program, Sizes, lower_vmap, serves
from experiments.shapes import SHAPES

TENSOR = {"llama-3.2-3b": 1, "llama-3-8b": 4, "olmoe-1b-7b": 1, "hybrid-2b": 1}
# of a chip with neighbours in two directions, bytes a second that it sends in one of them
LINK = {"v5e": 45e9, "v5p": 90e9, "v6e": 90e9}
VMAP = "vmap"
SIZES = {"bf16": 2, "f32": 4}  # bytes


@dataclasses.dataclass(frozen=True)
class TpuCompile:
    """Compile for every chip and model."""

    chips: tuple[str, ...] = tuple(CHIPS)
    """TPUs to compile for."""
    models: tuple[str, ...] = tuple(TENSOR)
    """Named shapes to compile."""
    programs: tuple[str, ...] = (*PROGRAMS, VMAP)
    """Programs to compile; `vmap` is over `run_path`, for comparison."""
    tokens: int = 128
    """Tokens of a prompt, T."""
    rows: int = 16
    """States of a tile, R."""
    slots: int = 2048
    """State slots, S."""
    paths: int = 4
    """Paths of the `vmap`."""
    out: Path | None = None
    """JSON file for the table."""


def read(program: Program, make: Abstract, name: str) -> dict[str, Any]:
    """Compile a program, and read its memory, cost and copies of large arrays, per device."""
    chip, compiled = CHIPS[name], program.lowered.compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    text = compiled.as_text()
    parsed = hlo.parse(text)
    body = hlo.longest_body(parsed)
    copies = hlo.weight_copies(parsed, body, program.weights(), "bf16")
    flops, moved = program.flops / make.tensor, program.least_bytes(make)

    def roofline_of(peak: float) -> float:
        return max(flops / peak, moved / chip.bandwidth)

    roofline = roofline_of(chip.flops)
    kernel = kernel_seconds(parsed[body], program, make, name)
    together = collective_seconds(parsed[body], make, name)
    # a loop's body counts once; negative where the compiler has no estimate
    known = cost["optimal_seconds"] > 0
    seconds = cost["optimal_seconds"] + kernel
    cycles = sum(one.cycles for one in parsed[body]) / chip.hertz + kernel
    overlapped = any(one.op.endswith("-start") for one in parsed[body] if "all-" in one.op)
    return {
        "argument_gb": memory.argument_size_in_bytes / 1e9,
        "alias_gb": memory.alias_size_in_bytes / 1e9,
        "temporary_mb": memory.temp_size_in_bytes / 1e6,
        "gflop": flops / 1e9,
        "mb": moved / 1e6,
        "roofline_ms": 1e3 * roofline,
        "collectives_ms": 1e3 * together,
        "overlapped": overlapped,
        "cycles_and_collectives_over_roofline": (cycles + together) / roofline,
        "kernel_ms": 1e3 * kernel,  # in the next four too
        "compiler_ms": 1e3 * seconds if known else None,
        "compiler_over_roofline": seconds / roofline if known else None,
        "over_roofline_of_its_peak": (
            seconds / roofline_of(chip.compiler_flops) if known else None
        ),
        "cycles_over_roofline": cycles / roofline,
        "copied_in_memory": sorted({name for name, _, staged in copies if not staged}),
        "whole_copies": hlo.large_copies(text),
        "staged_on_chip": sorted({name for name, _, staged in copies if staged}),
    }


def kernel_seconds(
    body: list[hlo.Instruction], program: Program, make: Abstract, name: str
) -> float:
    """Return the time of our own kernels, of which the compiler counts no more than bytes.

    That of attention over prompts takes the cycles of its schedule, or what its bytes take.
    """
    chip, unseen = CHIPS[name], program.unseen
    seconds = max(unseen.flops / chip.flops, unseen.moved / chip.bandwidth) / make.tensor
    call = call_in(body, make.config.kinds[0].head_dim, program.row)
    if call is not None:
        seconds += max(cycles_of(name, call) / chip.hertz, call.bytes() / chip.bandwidth)
    return seconds


def collective_seconds(body: list[hlo.Instruction], make: Abstract, name: str) -> float:
    """Return what sums over devices take by arithmetic: a ring that sends in both directions."""
    moved = 0.0
    for one in body:
        size = sum(math.prod(dims) * SIZES.get(kind, 4) for kind, dims, _ in one.arrays())
        if one.op == "all-reduce":
            moved += size
        elif one.op == "all-gather":
            moved += size / 2
        elif (one.calls or "").startswith("all-reduce-scatter"):
            moved += size * make.tensor / 2
    return moved * (make.tensor - 1) / make.tensor / LINK[name]


def results_of(settings: TpuCompile, name: str, chip: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the results of each program of a model on a chip."""
    topology = topology_of(chip)
    make = Abstract(SHAPES[name], np.array(topology.devices[: TENSOR[name]]))
    sizes = Sizes(settings.tokens, settings.rows, settings.slots)
    for program in settings.programs:
        if not serves(program, name):
            continue
        if program == VMAP:
            results = read(lower_vmap(make, sizes, settings.paths), make, chip)
            # its copies are gathers, which the compiler's times do not cover
            yield program, {name: x for name, x in results.items() if "roofline" not in name}
        else:
            yield program, read(PROGRAMS[program](make, sizes), make, chip)


def main(settings: TpuCompile) -> None:
    versions = {name: version(name) for name in ("jax", "libtpu")}
    print(json.dumps(versions), flush=True)
    rows: list[dict[str, Any]] = []
    for name in settings.models:
        for chip in settings.chips:
            for program, results in results_of(settings, name, chip):
                rows.append({"model": name, "chip": chip, "program": program, **results})
                print(json.dumps(rows[-1]), flush=True)
    if settings.out is not None:
        sizes = {"tokens": settings.tokens, "rows": settings.rows, "slots": settings.slots}
        settings.out.write_text(json.dumps({**versions, **sizes, "table": rows}, indent=1) + "\n")
    ours = [row for row in rows if row["program"] != VMAP]
    sys.exit(any(row["copied_in_memory"] or row["whole_copies"] for row in ours))


if __name__ == "__main__":
    main(tyro.cli(TpuCompile, description=__doc__))
