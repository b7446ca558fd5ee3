"""Compiles the device programs for TPUs on a machine that has none, and reads the results.

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
from jax.experimental import topologies
from jax.experimental.layout import Format
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cola_jax.config import ModelConfig
from cola_jax.execute.forward import Context, Launch, forward
from cola_jax.execute.kv_cache import KVBlocks, Past
from cola_jax.execute.placement import TPU_ORDER, split_along, worker_mesh
from cola_jax.execute.plan import Tiles
from cola_jax.execute.random_model import SHAPES, layer_flops
from cola_jax.execute.reference import path_readings
from cola_jax.execute.worker import CALL
from cola_jax.model import View
from cola_jax.params import Layer, Model, assemble, shapes, sharding
from cola_jax.prompts import Prompts
from experiments import hlo


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU: its topology, and its maker's peaks for bfloat16 and memory."""

    topology: str
    flops: float  # per second
    bandwidth: float  # bytes per second
    hertz: float  # that its cycles and its peak imply


CHIPS = {
    "v5e": Chip("v5e:2x2", 197e12, 819e9, 1.503e9),
    "v5p": Chip("v5p:2x2x1", 459e12, 2765e9, 1.751e9),
    "v6e": Chip("v6e:2x2", 918e12, 1640e9, 1.751e9),
}
TENSOR = {"llama-3.2-3b": 1, "llama-3-8b": 4}
QUESTIONS, READS, OUTPUTS = 64, 16, 1024
DECODE_ROWS, DECODE_SLOTS, POSITIONS, DECODED = 64, 128, 32, 64


@dataclasses.dataclass(frozen=True)
class TpuCompile:
    """Compile for every chip and model."""

    chips: tuple[str, ...] = tuple(CHIPS)
    """TPUs to compile for."""
    models: tuple[str, ...] = tuple(TENSOR)
    """Named shapes to compile."""
    tokens: int = 128
    """Tokens of a prompt, T."""
    rows: int = 16
    """States of a tile, R."""
    slots: int = 2048
    """State slots, S."""
    paths: int = 4
    """Paths of the `vmap` over `run_path` that is shown for comparison."""
    out: Path | None = None
    """JSON file for the table."""


class Abstract:
    """Shapes and shardings of the programs' arguments on the devices of a chip's topology."""

    def __init__(self, config: ModelConfig, chip: Chip, tensor: int):
        self.config, self.chip, self.tensor = config, chip, tensor
        topology = topologies.get_topology_desc(platform="tpu", topology_name=chip.topology)
        self.devices = np.array(topology.devices[:tensor])
        axes = ("data", "tensor")
        self.mesh = Mesh(self.devices.reshape(1, -1), axes, axis_types=(AxisType.Auto,) * 2)
        self.worker = worker_mesh(self.devices)

    def array(self, *shape: int, dtype: Any = jnp.int32) -> Any:
        """An array that every device holds whole."""
        whole = NamedSharding(self.worker, PartitionSpec())
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    def buffer(self, *shape: int, split: int) -> Any:
        """A buffer, split over the devices along one axis as `Worker.buffer` does."""
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=split_along(self.devices, split))

    def blocks(self, tokens: int) -> KVBlocks:
        """The KV blocks of a decoder."""
        config = self.config
        shape = (DECODE_SLOTS * POSITIONS + 1, config.num_kv_heads, tokens, config.head_dim)
        k, v = (self.buffer(*shape, split=1) for _ in range(2))
        return KVBlocks(k=k, v=v)

    def weight(self, name: str, shape: tuple[int, ...], ordered: bool) -> Any:
        """A weight, split over `tensor`, in the memory order of a worker."""
        spec = getattr(sharding(name, shape, self.mesh), "spec")  # noqa: B009
        place: Any = NamedSharding(self.worker, spec)
        if ordered and name in ("q", "k", "v"):
            place = Format(TPU_ORDER, place)
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)

    def model(self, ordered: bool) -> Model:
        """All weights."""
        every = shapes(self.config).items()
        weights = {name: self.weight(name, shape, ordered) for name, shape in every}
        return assemble(self.config, weights)

    def view(self, rows: int, tokens: int) -> View:
        """The view of prompts, or of decode slots."""
        angles = self.array(1, rows, tokens, self.config.head_dim // 2, dtype=jnp.float32)
        place = self.array(rows, tokens)
        return View(positions=place, branch=place, cos=angles, sin=angles)

    def launch(self, layers: Layer, rows: int, *, block: bool, prompt_block: bool) -> Launch:
        """A call of `forward`, with the tile columns that it has."""
        tile, count = self.array(CALL, rows), self.array()
        blocks = tile if block else None, tile if prompt_block else None
        return Launch(layers, Tiles(self.array(CALL), tile, tile, tile, *blocks), count, count)


def compile_prefill(
    settings: TpuCompile, make: Abstract, *, cache: bool, last: bool
) -> dict[str, Any]:
    """Compiles tiles of prompts, with or without a KV cache, and reads the program.

    Without a cache these are the tiles of `run_paths`, with one those of `generate`. The last layer
    of a path is run at the positions read, which in `generate` is the end of the prompt.
    """
    config, tokens, rows = make.config, settings.tokens, settings.rows
    layers = make.model(ordered=True).layers
    launch = make.launch(layers, rows, block=cache, prompt_block=False)
    count = DECODE_SLOTS + 2 * rows if cache else settings.slots
    slots = make.buffer(count + 1, tokens, config.width, split=2)
    states, context, flops = (
        slots,
        Context(make.view(QUESTIONS, tokens)),
        layer_flops(config, tokens),
    )
    kv = config.num_kv_heads * config.head_dim
    if last:
        reads = 1 if cache else READS
        context = context._replace(source=slots, read=make.array(QUESTIONS, reads))
        states = make.buffer(OUTPUTS + 1, READS, config.width, split=2)
        if cache:
            states = make.array(DECODE_SLOTS + 1, config.width, dtype=jnp.bfloat16)
        flops = layer_flops(config, reads) + 4.0 * (tokens - reads) * config.width * kv
    blocks = make.blocks(tokens) if cache else None
    lowered = forward.lower(config, launch, states, blocks, context)
    written = 4 * rows * tokens * kv if cache else 0
    return read(lowered.compile(), make, rows * flops, rows * tokens, layers, written)


def compile_decode(settings: TpuCompile, make: Abstract) -> dict[str, Any]:
    """Compiles a decode step and reads the program."""
    config, tokens, rows = make.config, settings.tokens, DECODE_ROWS
    layers = make.model(ordered=True).layers
    counts = make.array(DECODE_SLOTS + 1)
    lowered = forward.lower(
        config,
        make.launch(layers, rows, block=True, prompt_block=True),
        make.array(DECODE_SLOTS + 1, config.width, dtype=jnp.bfloat16),
        make.blocks(DECODED),
        Context(make.view(DECODE_SLOTS + 1, 1), past=Past(make.blocks(tokens), counts, counts)),
        reach=DECODED,
    )
    past = rows * (tokens + DECODED) * config.num_kv_heads * config.head_dim  # of keys, or values
    flops = rows * layer_flops(config, 1)
    return read(lowered.compile(), make, flops, rows, layers, 4 * past)


def compile_vmap(settings: TpuCompile, make: Abstract) -> dict[str, Any]:
    """Compiles `vmap` over `run_path`, which gathers weights for every path."""
    config, paths = make.config, settings.paths
    row, read_at = make.array(1, settings.tokens), make.array(1, READS)
    prompts = Prompts(ids=row, positions=row, branch=row, read=read_at, targets=read_at)
    model = make.model(ordered=False)

    def run(model: Model, prompts: Prompts, padded: jax.Array):
        return jax.vmap(lambda path: path_readings(model, prompts, path))(padded)

    compiled = jax.jit(run).lower(model, prompts, make.array(paths, config.num_layers)).compile()
    flops = paths * layer_flops(config, settings.tokens)
    results = read(compiled, make, flops, paths * settings.tokens, model.layers)
    # its copies are gathers, which the compiler's times do not cover
    return {name: value for name, value in results.items() if not name.endswith("roofline")}


def read(
    compiled: Any, make: Abstract, flops: float, tokens: int, layers: Layer, cached: int = 0
) -> dict[str, Any]:
    """Reads memory, cost and copies of weights from a compiled program, per device.

    `flops`, `tokens` and `cached`, the bytes of the KV cache that are read or written, are those of
    one tile.
    """
    config, chip, tensor = make.config, make.chip, make.tensor
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    weights = {
        field.name: shard_shape(getattr(layers, field.name))[1:]
        for field in dataclasses.fields(Layer)
        if getattr(layers, field.name) is not None and getattr(layers, field.name).ndim > 2
    }
    program = hlo.parse(compiled.as_text())
    body = hlo.longest_body(program)
    copies = hlo.weight_copies(program, body, weights, "bf16")
    moved = 2 * sum(map(math.prod, weights.values())) + 4 * tokens * config.width + cached / tensor
    roofline = max(flops / tensor / chip.flops, moved / chip.bandwidth)
    # a loop's body counts once; negative where the compiler has no estimate
    seconds = cost["optimal_seconds"]
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


PROGRAMS = {
    "forward": lambda settings, make: compile_prefill(settings, make, cache=False, last=False),
    "forward, last layer": lambda settings, make: compile_prefill(
        settings, make, cache=False, last=True
    ),
    "prefill": lambda settings, make: compile_prefill(settings, make, cache=True, last=False),
    "prefill, last layer": lambda settings, make: compile_prefill(
        settings, make, cache=True, last=True
    ),
    "decode step": compile_decode,
    "vmap": compile_vmap,
}


def main(settings: TpuCompile) -> None:
    rows: list[dict[str, Any]] = []
    for name in settings.models:
        for chip in settings.chips:
            make = Abstract(SHAPES[name], CHIPS[chip], TENSOR[name])
            for program, compile_program in PROGRAMS.items():
                results = compile_program(settings, make)
                rows.append({"model": name, "chip": chip, "program": program, **results})
                print(json.dumps(rows[-1]), flush=True)
    if settings.out is not None:
        versions = {"jax": jax.__version__, "tokens": settings.tokens, "rows": settings.rows}
        settings.out.write_text(json.dumps({**versions, "table": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(TpuCompile, description=__doc__))
