"""Compiles the engine's programs for TPUs on a machine that has none, and reads what comes out.

`pip install libtpu`, then `python -m experiments.tpu_compile`. Once libtpu is installed, everything
else needs JAX_PLATFORMS=cpu, so a virtual environment of its own is best.
"""

import os

os.environ |= {  # before jax is imported
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from cola_jax.execute.rows import Cells, Seats, Turns, go_on
from jax.experimental import topologies
from jax.experimental.layout import Format
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cola_jax.benchmark.shapes import SHAPES, layer_flops
from cola_jax.config import ModelConfig
from cola_jax.execute.forward import advance, finish
from cola_jax.execute.plan import Tiles
from cola_jax.execute.reference import path_readings
from cola_jax.execute.worker import TPU_ORDER, split_along
from cola_jax.model import View
from cola_jax.params import Layer, Model, shapes, sharding
from cola_jax.prompts import Prompts
from experiments import hlo


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU: its topology, and its maker's peaks for bfloat16 and memory."""

    topology: str
    flops: float  # a second
    bandwidth: float  # bytes a second
    hertz: float  # that its cycles and its peak imply


CHIPS = {
    "v5e": Chip("v5e:2x2", 197e12, 819e9, 1.503e9),
    "v5p": Chip("v5p:2x2x1", 459e12, 2765e9, 1.751e9),
    "v6e": Chip("v6e:2x2", 918e12, 1640e9, 1.751e9),
}
TENSOR = {"llama-3.2-3b": 1, "llama-3-8b": 4}
QUESTIONS, READS, TILES = 64, 16, 1024


@dataclasses.dataclass(frozen=True)
class TpuCompile:
    """Compile for every chip and model."""

    chips: tuple[str, ...] = tuple(CHIPS)
    models: tuple[str, ...] = tuple(TENSOR)
    tokens: int = 128
    rows: int = 16
    slots: int = 2048
    paths: int = 4
    """Of the vmap over run_path that is shown for comparison."""
    out: Path | None = None
    """A JSON file for the table."""


class Abstract:
    """Shapes of the programs' arguments on the devices of a chip's topology."""

    def __init__(self, config: ModelConfig, chip: Chip, tensor: int):
        self.config = config
        found = topologies.get_topology_desc(platform="tpu", topology_name=chip.topology)
        devices = np.array(found.devices[:tensor])
        self.mesh = Mesh(
            devices.reshape(1, -1), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2
        )
        self.lane = Mesh(devices, ("tensor",), axis_types=(AxisType.Auto,))
        self.split = split_along(devices, 2)

    def array(self, *shape: int, dtype: Any = jnp.int32) -> Any:
        """Shapes an array that every device holds whole."""
        whole = NamedSharding(self.lane, PartitionSpec())
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    def weight(self, name: str, shape: tuple[int, ...], dtype: Any, ordered: bool) -> Any:
        """Shapes a weight, split over `tensor`, in the order in which a lane lays it out."""
        spec = getattr(sharding(name, shape, self.mesh), "spec")  # noqa: B009
        place: Any = NamedSharding(self.lane, spec)
        if ordered and name in ("q", "k", "v"):
            place = Format(TPU_ORDER, place)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    def model(self, ordered: bool) -> Model:
        """Shapes all weights."""
        dtype, every = jnp.bfloat16, shapes(self.config)
        made = {name: self.weight(name, shape, dtype, ordered) for name, shape in every.items()}
        fields: dict[str, Any] = {f.name: made.get(f.name) for f in dataclasses.fields(Layer)}
        return Model(
            config=self.config,
            layers=Layer(**fields),
            embedding=made["embedding"],
            norm=made["norm"],
            head=made.get("head"),
        )

    def view(self, tokens: int) -> View:
        half = self.config.head_dim // 2
        angles = self.array(1, QUESTIONS, tokens, half, dtype=jnp.float32)
        place = self.array(QUESTIONS, tokens)
        return View(positions=place, branch=place, cos=angles, sin=angles)

    def buffer(self, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=self.split)


def engine_row(settings: TpuCompile, name: str, chip: Chip, program: str) -> dict[str, Any]:
    """Compiles `advance` or `finish` and reads it."""
    config, tensor = SHAPES[name], TENSOR[name]
    make, tokens, rows = Abstract(config, chip, tensor), settings.tokens, settings.rows
    tile, count = make.array(TILES, rows), make.array()
    tiles = Tiles(make.array(TILES), tile, tile, tile)
    layers = make.model(ordered=True).layers
    slots = make.buffer(settings.slots + 1, tokens, config.width)
    common = (config, layers, slots, make.view(tokens))
    if program == "advance":
        lowered = advance.lower(*common, tiles, count, count)
        flops = layer_flops(config, tokens)
    else:
        outputs = make.buffer(1025, READS, config.width)
        reads = make.array(QUESTIONS, READS)
        lowered = finish.lower(*common, reads, outputs, tiles, count, count)
        kv = 2 * config.width * config.num_kv_heads * config.head_dim
        flops = layer_flops(config, READS) + 2.0 * (tokens - READS) * kv
    return read(lowered.compile(), config, chip, tensor, rows * flops, rows * tokens, layers)


def decode_row(settings: TpuCompile, name: str, chip: Chip) -> dict[str, Any]:
    """Compiles `go_on`, a step of decoding, and reads it."""
    config, tensor, rows = SHAPES[name], TENSOR[name], 64
    make, tokens, new, seats, positions = (
        Abstract(config, chip, tensor),
        settings.tokens,
        64,
        128,
        32,
    )
    split = split_along(make.lane.devices, 1)

    def cells(length: int) -> Cells:
        shape = (seats * positions + 1, config.num_kv_heads, length, config.head_dim)
        array: Any = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=split)
        return Cells(k=array, v=array)

    half, place = config.head_dim // 2, make.array(seats + 1, 1)
    angles = make.array(1, seats + 1, 1, half, dtype=jnp.float32)
    fact, table = make.array(seats + 1), make.array(seats + 1, positions)
    turn, count = make.array(TILES, rows), make.array()
    layers = make.model(ordered=True).layers
    lowered = go_on.lower(
        config,
        layers,
        make.array(seats + 1, config.width, dtype=jnp.bfloat16),
        cells(new),
        cells(tokens),
        View(positions=place, branch=place, cos=angles, sin=angles),
        Seats(fact, fact, table, table),
        Turns(make.array(TILES), turn, turn),
        count,
        count,
        reach=new,
    )
    flops = rows * layer_flops(config, 1)
    past = rows * (tokens + new) * config.num_kv_heads * config.head_dim  # of keys, as of values
    return read(lowered.compile(), config, chip, tensor, flops, rows, layers, 4 * past)


def vmap_row(settings: TpuCompile, name: str, chip: Chip) -> dict[str, Any]:
    """Compiles `vmap` over `run_path`, which gathers weights for every path."""
    config, tensor, paths = SHAPES[name], TENSOR[name], settings.paths
    make = Abstract(config, chip, tensor)
    row, read_at = make.array(1, settings.tokens), make.array(1, READS)
    prompts = Prompts(ids=row, positions=row, branch=row, read=read_at, targets=read_at)
    model = make.model(ordered=False)

    def run(model: Model, prompts: Prompts, padded: jax.Array):
        return jax.vmap(lambda path: path_readings(model, prompts, path))(padded)

    compiled = jax.jit(run).lower(model, prompts, make.array(paths, config.num_layers)).compile()
    flops = paths * layer_flops(config, settings.tokens)
    found = read(compiled, config, chip, tensor, flops, paths * settings.tokens, model.layers)
    # its copies are gathers, of which the compiler's times know nothing
    return {name: value for name, value in found.items() if not name.endswith("roofline")}


def read(
    compiled: Any,
    config: ModelConfig,
    chip: Chip,
    tensor: int,
    flops: float,
    tokens: int,
    layers: Layer,
    more: int = 0,
) -> dict[str, Any]:
    """Reads memory, cost and copies of weights from a compiled program, each on one device."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    weights = {
        field.name: shard_shape(getattr(layers, field.name))[1:]
        for field in dataclasses.fields(Layer)
        if getattr(layers, field.name) is not None and getattr(layers, field.name).ndim > 2
    }
    program = hlo.parse(compiled.as_text())
    body = hlo.longest_body(program)
    copies = hlo.weight_copies(program, body, weights, "bf16")
    moved = 2 * sum(map(math.prod, weights.values())) + 4 * tokens * config.width + more / tensor
    roofline = max(flops / tensor / chip.flops, moved / chip.bandwidth)
    seconds = cost["optimal_seconds"]  # a loop's body counts once; negative where it knows nothing
    cycles = sum(one.cycles for one in program[body]) / chip.hertz
    return {
        "argument_gb": memory.argument_size_in_bytes / 1e9,
        "alias_gb": memory.alias_size_in_bytes / 1e9,
        "temporary_mb": memory.temp_size_in_bytes / 1e6,
        "gflop": flops / tensor / 1e9,
        "mb": moved / 1e6,
        "roofline_ms": 1e3 * roofline,
        "compiler_ms": 1e3 * seconds if seconds > 0 else None,
        "compiler_over_roofline": seconds / roofline if seconds > 0 else None,
        "cycles_over_roofline": cycles / roofline,
        "copied_in_memory": sorted({name for name, _, staged in copies if not staged}),
        "staged_on_chip": sorted({name for name, _, staged in copies if staged}),
    }


def shard_shape(leaf: Any) -> tuple[int, ...]:
    """Returns the shape of one device's part."""
    place: Any = leaf.sharding
    inner: Any = place.sharding if isinstance(place, Format) else place
    return inner.shard_shape(leaf.shape)


def main(settings: TpuCompile) -> None:
    rows: list[dict[str, Any]] = []
    for name in settings.models:
        for chip in settings.chips:
            for program in ("advance", "finish", "go_on", "vmap"):
                if program == "vmap":
                    found = vmap_row(settings, name, CHIPS[chip])
                elif program == "go_on":
                    found = decode_row(settings, name, CHIPS[chip])
                else:
                    found = engine_row(settings, name, CHIPS[chip], program)
                rows.append({"model": name, "chip": chip, "program": program, **found})
                print(json.dumps(rows[-1]), flush=True)
    if settings.out is not None:
        versions = {"jax": jax.__version__, "tokens": settings.tokens, "rows": settings.rows}
        settings.out.write_text(json.dumps({**versions, "table": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(TpuCompile, description=__doc__))
