"""Run the JAX models of tpu-inference along a path, on TPUs.

These models are given the keys and values of each position of their list of layers, and keep none
themselves: a layer that runs again is the same object at another place of that list. The number of
caches follows `num_hidden_layers`, which is the length of the path once the config is checked.
"""

# pyright: reportMissingImports=false

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import torch
from tpu_inference.models.common.model_loader import register_model
from tpu_inference.models.jax.llama3 import LlamaForCausalLM
from tpu_inference.models.jax.qwen3 import Qwen3ForCausalLM
from tpu_inference.models.jax.utils.weight_utils import StandardWeightLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

from cola_jax.deploy.serve import checks
from cola_jax.deploy.serve.architectures import PATH_FIELD
from cola_jax.deploy.serve.layers import match_layer, named_by_position
from cola_jax.steps import Step

if TYPE_CHECKING:
    from vllm.config import VllmConfig

Weights = Iterable[tuple[str, torch.Tensor]]


class PathConfig(VerifyAndUpdateConfig):
    """Check a path, and ask for as many caches as it has positions."""

    @classmethod
    def verify_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """Raise PathError where the path cannot run; else set the number of layers."""
        checks.check(vllm_config)
        for step in checks.path_in(vllm_config.model_config):
            if step != Step(step.layer):
                raise checks.PathError(
                    "models of tpu-inference run whole layers alone: serve a path with parts or "
                    "shares of layers on a GPU."
                )
        model_config = vllm_config.model_config
        model_config.hf_text_config.num_hidden_layers = len(checked_path(vllm_config))
        model_config.model_arch_config = model_config.get_model_arch_config()


def checked_path(vllm_config: "VllmConfig") -> tuple[int, ...]:
    """Return the path of a config that was checked."""
    return tuple(getattr(vllm_config.model_config.hf_config, PATH_FIELD))


def share_layers(model: Any, path: Sequence[int]) -> None:
    """Make all runs of a layer the same object; nothing is allocated yet."""
    layers = model.model.layers
    for position, layer in enumerate(path):
        layers[position] = layers[path.index(layer)]


def renamed(weights: Weights, path: Sequence[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of the layers that run, named by the first position that runs each.

    Those of other layers are left out, also of layers after the last, which predict further tokens.
    """
    steps = [Step(layer) for layer in path]
    for name, weight in weights:
        match = match_layer(name)
        if match is None or int(match[2]) in path:
            yield named_by_position(name, steps), weight


class PathWeightLoader(StandardWeightLoader):
    """Give a model the tensors of a checkpoint under the names of the positions that run them."""

    def load_weights(self, model: Any, mappings: Any, *rest: Any) -> None:
        """Read all files of the checkpoint, whatever the number of positions."""
        config = self.vllm_config.model_config
        weights = DefaultModelLoader(self.vllm_config.load_config).get_all_weights(config, model)
        # from here tpu-inference takes tensors that it does not read from files itself
        config.runai_model_weights_iterator = renamed(weights, checked_path(self.vllm_config))
        super().load_weights(model, mappings, *rest)
        del config.runai_model_weights_iterator


class ColaLlamaForCausalLM(LlamaForCausalLM):
    """Llama along a path."""

    WeightLoader = PathWeightLoader

    def __init__(self, vllm_config: "VllmConfig", rng_key: jax.Array, mesh: jax.sharding.Mesh):
        """Build a layer for each position, and keep one for each layer."""
        super().__init__(vllm_config, rng_key, mesh)
        share_layers(self, checked_path(vllm_config))


class ColaQwen3ForCausalLM(Qwen3ForCausalLM):
    """Qwen 3 along a path."""

    def __init__(self, vllm_config: "VllmConfig", rng_key: jax.Array, mesh: jax.sharding.Mesh):
        """Build a layer for each position, and keep one for each layer."""
        super().__init__(vllm_config, rng_key, mesh)
        share_layers(self, checked_path(vllm_config))

    def load_weights(self, weights: Weights) -> set[str]:
        """Load tensors by their names in the checkpoint of the base model, each once."""
        loaded = super().load_weights(renamed(weights, checked_path(self.vllm_config)))
        parameters = list(self.named_parameters())
        filled = {id(parameter) for name, parameter in parameters if name in loaded}
        # vLLM looks for all names of a parameter, and a repeated layer has several
        return {name for name, parameter in parameters if id(parameter) in filled}


MODELS = (ColaLlamaForCausalLM, ColaQwen3ForCausalLM)


def register() -> None:
    """Add the models to the registries of tpu-inference and vLLM, in place of those of PyTorch."""
    for model in MODELS:
        register_model(model.__name__, model)
        MODELS_CONFIG_MAP[model.__name__] = PathConfig
