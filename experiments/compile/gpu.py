"""Compiles the device programs for an H100 on a machine that has none, and reads the results.

`pip install "jax[cuda13]"`, then `python -m experiments.compile.gpu`, with JAX_PLATFORMS=cpu as
everything else once these packages are installed. A compiler without a GPU times no kernels, so
matrix products are shown by both libraries between which it would choose. Exits with status 1
where a program copies a weight.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from experiments.compile import hlo
from experiments.compile.programs import PROGRAMS, Abstract, Program, Sizes, serves
from experiments.shapes import SHAPES

TARGET = Path(__file__).with_name("h100.txtpb")  # of XLA, which describes the card so
FLOPS, BANDWIDTH = 989e12, 3.352e12  # per second: bfloat16 and memory, by its maker
# JAX 0.12 asks this, not the devices of a program, which card a kernel is for
CARD = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H100", None, "gpu"))
PRODUCTS = {"Triton": True, "cuBLAS": False}  # whether Triton makes matrix products
FUSED = "fmha"  # in the names of calls of cuDNN's attention


@dataclasses.dataclass(frozen=True)
class GpuCompile:
    """Compile every program of some models."""

    models: tuple[str, ...] = ("llama-3.2-3b", "llama-3-8b", "olmoe-1b-7b", "hybrid-2b")
    """Named shapes to compile."""
    programs: tuple[str, ...] = tuple(PROGRAMS)
    """Programs to compile."""
    products: tuple[str, ...] = tuple(PRODUCTS)
    """Libraries of matrix products."""
    tokens: int = 128
    """Tokens of a prompt, T."""
    rows: int = 16
    """States of a tile, R."""
    slots: int = 512
    """State slots, S."""
    out: Path | None = None
    """JSON file for the table."""


def devices() -> np.ndarray:
    """Return the H100 that programs are compiled for; ends the process without its compiler."""
    try:
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=TARGET.read_text(),
            topology="1x1x1",
        )
    except (NotImplementedError, RuntimeError) as error:
        raise SystemExit(
            f'jax has no compiler for GPUs here ({error}): pip install "jax[cuda13]".'
        ) from None
    return np.array(topology.devices[:1])


def read(program: Program, make: Abstract, triton: bool) -> dict[str, Any]:
    """Compile a program, and read its memory, kernels and copies of weights."""
    options = {"xla_gpu_enable_triton_gemm": triton}
    compiled = program.lowered.compile(compiler_options=options)
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    parsed = hlo.parse(text)
    body = hlo.entry(parsed)
    copies = hlo.weight_reads(parsed, body, program.weights(), "bf16")
    kernels = hlo.kernels(parsed, body)
    moved = program.least_bytes(make)
    return {
        "argument_gb": memory.argument_size_in_bytes / 1e9,
        "alias_gb": memory.alias_size_in_bytes / 1e9,
        "temporary_mb": memory.temp_size_in_bytes / 1e6,
        "gflop": program.flops / 1e9,
        "mb": moved / 1e6,
        "roofline_ms": 1e3 * max(program.flops / FLOPS, moved / BANDWIDTH),
        "copied_mb": sum(copies.values()) / 1e6,
        "copied": sorted(copies),
        "kernels": len(kernels),
        # for each step of which the host would wait
        "loops": text.count(" while("),
        "fused_attention": any(FUSED in (one.target or "") for one in kernels),
    }


def main(settings: GpuCompile) -> None:
    rows: list[dict[str, Any]] = []
    card = devices()
    for model in settings.models:
        make = Abstract(SHAPES[model], card)
        for name in settings.programs:
            if not serves(name, model):
                continue
            with use_abstract_mesh(CARD):
                sizes = Sizes(settings.tokens, settings.rows, settings.slots)
                program = PROGRAMS[name](make, sizes)
            for products in settings.products:
                results = read(program, make, PRODUCTS[products])
                rows.append({"model": model, "program": name, "products": products, **results})
                print(json.dumps(rows[-1]), flush=True)
    if settings.out is not None:
        versions = {"jax": jax.__version__, **dataclasses.asdict(settings), "out": None}
        settings.out.write_text(json.dumps({**versions, "table": rows}, indent=1) + "\n")
    sys.exit(any(row["copied_mb"] for row in rows))


if __name__ == "__main__":
    main(tyro.cli(GpuCompile, description=__doc__))
