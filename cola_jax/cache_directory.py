"""Where what can be made again is kept between runs: converted models and compiled programs."""

import hashlib
import os
import platform
from pathlib import Path


def cache_directory() -> Path:
    """Returns COLA_CACHE, or cola-jax in the user's cache."""
    if chosen := os.environ.get("COLA_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cola-jax"


def programs_directory() -> Path:
    """Returns the folder of programs that were compiled on machines with this processor."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    kind = f"{platform.machine()} {platform.processor()} {features}"
    return cache_directory() / "programs" / hashlib.sha256(kind.encode()).hexdigest()[:12]


def keep_programs() -> None:
    """Lets JAX keep compiled programs, where the user has not told it what to do.

    To be called before JAX is imported, which reads the variables then.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(programs_directory()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
