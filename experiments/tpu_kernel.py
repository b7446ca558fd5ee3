"""Cycles of the kernel of attention over prompts, from the schedule that a TPU's compiler makes.

The compiler estimates the time of no kernel of ours, but writes down its instructions: bundles that
take a cycle each, in a loop over blocks. `python -m experiments.tpu_kernel v6e 16 128 128 3072 1024
128 0` prints the cycles for 16 prompts, of which 128 tokens attend to 128 with queries of 3,072 and
keys of 1,024 elements, in heads of 128, and keys and values are not kept.
"""

import functools
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from experiments.tpu_chips import CHIPS, topology_of  # before jax is imported

# isort: split
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from cola_jax.kernels.tpu_prompt import call_kernel
from experiments.hlo import Instruction

NAME = "prompt_attention"


class Call(NamedTuple):
    """The sizes of a call of the kernel on one device."""

    rows: int
    reads: int
    tokens: int
    queries: int  # elements
    keys: int
    width: int  # of a head
    kept: int  # whether keys and values are returned

    def flops(self) -> float:
        """Count the operations of its two products."""
        return 4.0 * self.rows * self.reads * self.tokens * self.queries

    def bytes(self) -> float:
        """Count what it reads and writes of queries, keys, values and what they become."""
        seen = (2 + 2 * self.kept) * self.tokens * self.keys
        return 2.0 * self.rows * (2 * self.reads * self.queries + seen)


def call_in(body: list[Instruction], width: int) -> Call | None:
    """Return the call of the kernel in a compiled loop, if there is one."""
    arrays = {one.name: one.arrays() for one in body}
    for one in body:
        if one.target == "tpu_custom_call" and one.name.startswith(NAME):
            (_, q, _), (_, k, _) = (arrays[name][0] for name in one.operands[:2])
            return Call(q[0], q[1], k[1], q[2], k[2], width, int(len(one.arrays()) > 1))
    return None


@functools.cache
def cycles_of(chip: str, call: Call) -> int:
    """Compile the kernel in a process of its own, and count the cycles that a core takes."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text --xla_mosaic_dump_to={folder}"
        command = [sys.executable, "-m", "experiments.tpu_kernel", "compile", chip, *map(str, call)]
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

    def array(*shape: int, dtype: str = "bfloat16") -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=place)

    q = array(call.rows, call.reads, call.queries)
    k = array(call.rows, call.tokens, call.keys)
    mask = array(call.rows, call.reads, call.tokens, dtype="int8")
    rotations = tuple(
        (array(call.rows, tokens, call.width // 2, dtype="float32"),) * 2
        for tokens in (call.reads, call.tokens)
    )
    static = {"width": call.width, "keep": bool(call.kept), "interpret": False}
    jax.jit(functools.partial(call_kernel, **static)).lower(q, k, k, mask, rotations).compile()


if __name__ == "__main__":
    if sys.argv[1] == "compile":
        compile_kernel(sys.argv[2], Call(*map(int, sys.argv[3:])))
    else:
        print(cycles_of(sys.argv[1], Call(*map(int, sys.argv[2:]))))
