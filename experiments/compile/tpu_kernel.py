"""Cycles of the kernel of attention over prompts, from the schedule that a TPU's compiler makes.

The compiler estimates the time of no kernel of ours, but writes down its instructions: bundles that
take a cycle each. Those of one block of queries and one of keys are counted, times the pairs of
blocks that are not left out.
`python -m experiments.compile.tpu_kernel v6e 1 2048 2048 3072 1024 128 0 128` prints the cycles for
a tile of 2,048 tokens, in rows of 128, with queries of 3,072 and keys of 1,024 elements, in heads
of 128, and keys and values are not kept.

Import this module before JAX: it sets the environment for a machine without a TPU.
"""

import functools
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_WORKER_HOSTNAMES="localhost",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # a process may wait for another that compiles
)

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from tyro.conf import Positional

from cola_jax.attention import Labels, Seen
from cola_jax.errors import first_line
from cola_jax.kernels.attention import Rotated
from cola_jax.kernels.tpu_prompt import TpuPromptAttention, block_sizes
from experiments.compile.hlo import Instruction

NAME = "prompt_attention"


class Chip(NamedTuple):
    """A TPU: its topology, and peaks for bfloat16 and memory."""

    topology: str
    flops: float  # per second, by its maker
    compiler_flops: float  # by its compiler
    bandwidth: float  # bytes per second
    hertz: float  # that its cycles and its peak imply
    cores: int = 1  # of what JAX calls a device


CHIPS = {
    "v5e": Chip("v5e:2x2", 197e12, 197e12, 819e9, 1.503e9),
    "v5p": Chip("v5p:2x2x1", 459e12, 394e12, 2765e9, 1.751e9, cores=2),
    "v6e": Chip("v6e:2x2", 918e12, 918e12, 1640e9, 1.751e9),
}


def topology_of(chip: str) -> Any:
    """Return the devices that programs are compiled for; ends the process without a compiler."""
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=CHIPS[chip].topology)
    except (NotImplementedError, RuntimeError) as error:
        raise SystemExit(
            f"jax has no compiler for TPUs here ({first_line(error)}): pip install libtpu."
        ) from None


class Call(NamedTuple):
    """The sizes of a call of the kernel on one device."""

    rows: int
    reads: int
    tokens: int
    queries: int  # elements
    keys: int
    width: int  # of a head
    kept: int  # whether keys and values are returned
    row: int  # tokens of a row, of which one after the other sees those before it

    def pairs(self) -> int:
        """Count the blocks of queries and of keys that are not left out."""
        blocks = block_sizes(self.reads, self.tokens)
        keys = labels(np.arange(self.tokens), self.row)
        queries = labels(np.arange(self.tokens - self.reads, self.tokens), self.row)
        seen = Seen(queries, keys).padded(blocks.queries, blocks.chunk)
        return self.rows * int(seen.blocks(blocks.queries, blocks.keys).sum())

    def flops(self) -> float:
        """Count the operations of its two products."""
        blocks = block_sizes(self.reads, self.tokens)
        return 4.0 * self.pairs() * blocks.queries * blocks.keys * self.queries

    def bytes(self) -> float:
        """Count what it reads and writes of queries, keys, values and what they become."""
        seen = (2 + 2 * self.kept) * self.tokens * self.keys
        return 2.0 * self.rows * (2 * self.reads * self.queries + seen)


def labels(order: np.ndarray, row: int) -> Labels:
    """Label tokens of rows that lie end to end."""
    numbers = jnp.asarray(order // row)[None]
    zeros = jnp.zeros_like(numbers)
    return Labels(numbers, jnp.asarray(order)[None], zeros, zeros)


def call_in(body: list[Instruction], width: int, row: int) -> Call | None:
    """Return the call of the kernel in a compiled loop, if there is one."""
    arrays = {one.name: one.arrays() for one in body}
    for one in body:
        if one.target == "tpu_custom_call" and one.name.startswith(NAME):
            (_, q, _), (_, k, _) = (arrays[name][0] for name in one.operands[2:4])
            row = row if q[0] == 1 else k[1]
            return Call(q[0], q[1], k[1], q[2], k[2], width, int(len(one.arrays()) > 1), row)
    return None


@functools.cache
def cycles_of(chip: str, call: Call) -> int:
    """Compile the kernel in a process of its own, and count the cycles that a core takes."""
    blocks = block_sizes(call.reads, call.tokens)
    unit = call._replace(rows=1, reads=blocks.queries, tokens=blocks.keys, row=blocks.keys)
    if unit != call:
        return call.pairs() * cycles_of(chip, unit)
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text --xla_mosaic_dump_to={folder}"
        command = [sys.executable, "-m", "experiments.compile.tpu_kernel", chip, *map(str, call)]
        command += ["--compile-only"]
        subprocess.run(command, env=os.environ | {"LIBTPU_INIT_ARGS": flags}, check=True)
        (schedule,) = Path(folder).glob(f"*-{NAME}*-schedule-analysis_final_bundles.txt")
        (original,) = Path(folder).glob("*-mosaic-dump-*-original.txt")
        bundles = re.search(r"total scheduled bundles:\s+(\d+)", schedule.read_text())
        grid = re.search(r"iteration_bounds = array<i64: ([\d, ]+)>", original.read_text())
    assert bundles is not None
    assert grid is not None
    return int(bundles[1]) * math.prod(map(int, grid[1].split(","))) // CHIPS[chip].cores


def compile_kernel(chip: str, call: Call) -> None:
    """Compile the kernel alone."""
    topology = topology_of(chip)
    place = SingleDeviceSharding(topology.devices[0])

    def array(*shape: int, dtype: str = "bfloat16") -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=place)

    def of(tokens: int) -> Labels:
        return Labels(*[array(call.rows, tokens, dtype="int32")] * 4)

    def angles(tokens: int) -> Any:
        return (array(call.rows, tokens, call.width // 2, dtype="float32"),) * 2

    q = array(call.rows, call.reads, call.queries // call.width, call.width)
    k = array(call.rows, call.tokens, call.keys // call.width, call.width)
    tokens = Rotated(q, k, k, angles(call.reads), angles(call.tokens))
    run = functools.partial(TpuPromptAttention().over, keep=bool(call.kept))
    jax.jit(run).lower(tokens, Seen(of(call.reads), of(call.tokens))).compile()


def main(
    chip: Positional[str],
    sizes: Positional[tuple[int, int, int, int, int, int, int, int]],
    compile_only: bool = False,
) -> None:
    """Print the cycles of a call of the kernel.

    Args:
      chip: v5e, v5p or v6e.
      sizes: rows, reads, tokens, elements of queries and of keys, width of a head, 1 to keep
        keys and values, and the tokens of a row.
      compile_only: compile the kernel in this process, for the compiler's files.
    """
    call = Call(*sizes)
    if compile_only:
        compile_kernel(chip, call)
    else:
        print(cycles_of(chip, call))


if __name__ == "__main__":
    tyro.cli(main)
