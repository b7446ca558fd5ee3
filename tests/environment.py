"""The environment of a test run, set before anything imports JAX or transformers."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

# The suite compiles some ten thousand small programs and runs each a few times, so it asks XLA for
# code that is quick to make: a quarter of the time. tests/test_optimised.py runs what users do.
QUICK = (
    "--xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
FIXED = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "8",
    "JAX_DEFAULT_MATMUL_PRECISION": "highest",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
CACHE = {  # of every program, however small
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

# A compiled program holds some ten memory mappings, each with some 200 kB. Linux gives a process
# 65,530 mappings, and XLA aborts where it gets no more. Far below that all programs are dropped;
# until then they are kept, since tests of several files run the same ones.
MAPPINGS = Path("/proc/self/maps")  # a line for each; Linux alone has it
MAX_MAPPINGS = 10_000
SECONDS_BETWEEN_COUNTS = 2  # a count takes milliseconds, and so do most tests
last_count = time.monotonic()


def set_variables(cache: str) -> None:
    """Set what the workers and subprocesses of this run inherit.

    `cache` is an empty folder for compiled programs. Set XLA_FLAGS to test with other ones.
    """
    os.environ |= FIXED | CACHE | {"JAX_COMPILATION_CACHE_DIR": cache}
    os.environ["COLA_CACHE"] = os.path.join(cache, "models")  # not the user's
    os.environ["COLA_LEDGER"] = os.path.join(cache, "ledgers", "tries.jsonl")  # nor theirs
    if "XLA_FLAGS" not in os.environ and knows(QUICK):
        os.environ["XLA_FLAGS"] = QUICK


def knows(flags: str) -> bool:
    """Return whether this XLA knows the flags: it aborts the process where it does not."""
    code = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    return done.returncode == 0


def share_programs() -> None:
    """Let the eight fake devices share the programs of the cache, as JAX does on a GPU.

    The key of a program names its devices otherwise, though those are given anew when it is read.
    """
    from jax._src import cache_key

    hash_options = cache_key._hash_serialized_compile_options
    cache_key._hash_serialized_compile_options = lambda sha, options, **_: hash_options(
        sha, options, strip_device_assignment=True
    )


def drop_programs() -> None:
    """Drop all compiled programs; the folder of compiled programs still has them."""
    import jax  # not above: it reads the variables once

    jax.clear_caches()
    gc.collect()  # of programs that a reference cycle holds


def drop_many_programs() -> None:
    """Drop all compiled programs if this process has many memory mappings."""
    global last_count
    if time.monotonic() - last_count < SECONDS_BETWEEN_COUNTS:
        return
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MAX_MAPPINGS:
        drop_programs()
    last_count = time.monotonic()
