"""Check what is asked of vLLM before it reads any weights."""

# pyright: reportMissingImports=false

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

from cola_jax.deploy.serve.architectures import ARCHITECTURES, LAYERS_FIELD, PATH_FIELD, name_of
from cola_jax.steps import LETTERS, MLP, THOUSANDTHS, Step, check_share

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

STEP = re.compile(r"(?P<layer>[0-9]{1,9})(?P<part>[am]?)(?:\*(?P<share>[0-9]*\.?[0-9]+))?")
# ways to load that give each tensor to the model under its name in the checkpoint
LOAD_FORMATS = {"auto", "hf", "safetensors", "fastsafetensors", "pt", "npcache", "dummy"}
OWN_LOADERS = {"gguf", "bitsandbytes"}  # quantization that names tensors by the layers of the base


class PathError(ValueError):
    """What is asked of vLLM cannot be run along a path."""


def path_in(model_config: "ModelConfig") -> tuple[Step, ...]:
    """Return the steps of the path that a config carries; PathError where they do not fit it.

    A whole layer is its id; another step is a text such as `8a` or `7*0.5`.
    """
    given = getattr(model_config.hf_config, PATH_FIELD, None)
    if given is None:
        raise PathError(
            f"--hf-overrides has no {PATH_FIELD}, the layers to run in order: take the whole of "
            "what `cola export --format vllm` prints."
        )
    num_layers = model_config.hf_text_config.num_hidden_layers
    meant = getattr(model_config.hf_config, LAYERS_FIELD, None)
    if meant != num_layers:
        raise PathError(
            f"the path is one of a model with {meant!r} layers ({LAYERS_FIELD}), and "
            f"{model_config.model} has {num_layers}: give the model that it was exported for, "
            "and leave num_hidden_layers as it is."
        )
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise PathError(f"{PATH_FIELD} must be a list of layers or other steps, not {given!r}.")
    steps = tuple(map(read_step, given))
    for step in steps:
        if not 0 <= step.layer < num_layers:
            raise PathError(
                f"{PATH_FIELD} has the layer {step.layer}, but {model_config.model} has the layers "
                f"0 to {num_layers - 1}."
            )
    if all(step.part == MLP for step in steps):
        raise PathError(f"{PATH_FIELD} has no attention, and vLLM runs no model without a cache.")
    return steps


def read_step(given: object) -> Step:
    """Read a step; PathError for other than an id, or a text of a layer with a part or a share."""
    if type(given) is int:
        return Step(given)
    match = STEP.fullmatch(given) if isinstance(given, str) else None
    if match is None or not (match["part"] or match["share"]):
        raise PathError(
            f"{PATH_FIELD} has the step {given!r}, but steps are ids of layers, or texts such as "
            "'8a', '9m' and '7*0.5'."
        )
    try:
        share = check_share(float(match["share"] or 1)) / THOUSANDTHS
    except ValueError as error:
        raise PathError(f"{PATH_FIELD} has the step {given!r}: {error}") from None
    return Step(int(match["layer"]), LETTERS.index(match["part"]), share)


def check(vllm_config: "VllmConfig") -> None:
    """Raise PathError for a path or a setting with which vLLM would compute something else."""
    path_in(vllm_config.model_config)
    parallel = vllm_config.parallel_config
    quantization = vllm_config.model_config.quantization
    load_format = str(vllm_config.load_config.load_format)
    if parallel.pipeline_parallel_size > 1:
        raise refusal(
            f"--pipeline-parallel-size {parallel.pipeline_parallel_size}",
            "a layer that runs in two places would need its weights on two devices: use "
            "--tensor-parallel-size",
        )
    if parallel.enable_eplb:
        raise refusal("--enable-eplb", "it counts the experts of each layer once: leave it out")
    if vllm_config.lora_config is not None:
        raise refusal("--enable-lora", "an adapter changes each layer once: merge it into the base")
    if vllm_config.speculative_config is not None:
        raise refusal("--speculative-config", "drafts were not tested with paths: leave it out")
    if vllm_config.kv_transfer_config is not None:
        raise refusal(
            "--kv-transfer-config",
            "keys and values of another path of the model would be taken for its own: leave it out",
        )
    if quantization in OWN_LOADERS or load_format not in LOAD_FORMATS:
        raise refusal(
            f"quantization {quantization} with load format {load_format}",
            "layers are shared where each tensor comes under its name in the checkpoint, as with "
            f"{', '.join(sorted(LOAD_FORMATS))}: serve the safetensors of the model, or export the "
            "path with --format hf or gguf",
        )


def refusal(asked: str, reason: str) -> PathError:
    """Return the error for a setting that no path is served with."""
    return PathError(f"{asked} cannot serve a path: {reason}.")


def add_checks() -> None:
    """Have vLLM check paths where it checks configs, beside what the architecture checks."""
    for architecture in ARCHITECTURES:
        base = MODELS_CONFIG_MAP.get(architecture, VerifyAndUpdateConfig)
        MODELS_CONFIG_MAP[name_of(architecture)] = checked(base)


def checked(base: type[VerifyAndUpdateConfig]) -> type[VerifyAndUpdateConfig]:
    """Return the checks of an architecture, and those of a path before them."""

    class PathConfig(base):
        @classmethod
        def verify_and_update_config(cls, vllm_config: "VllmConfig", *rest: Any) -> None:
            check(vllm_config)
            base.verify_and_update_config(vllm_config, *rest)

    return PathConfig
