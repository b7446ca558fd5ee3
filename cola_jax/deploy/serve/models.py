"""The models that vLLM runs along a path, named Cola<Architecture>, made when they are first used.

Each is the class of the base model. Its layers are those of the base, put in the order of the path:
a layer that runs again shares all weights, and has an attention of its own for its keys and values.
"""

# pyright: reportMissingImports=false

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn
from vllm import ModelRegistry
from vllm.logger import init_logger
from vllm.model_executor.models.transformers.base import Base as TransformersModel

from cola_jax.deploy.serve import layers
from cola_jax.deploy.serve.architectures import ARCHITECTURES, architecture_of
from cola_jax.deploy.serve.plugin import version_error

if TYPE_CHECKING:
    from vllm.config import VllmConfig

if error := version_error():
    raise ImportError(error)

from cola_jax.deploy.serve.checks import path_in

logger = init_logger(f"vllm.{__name__}")  # other loggers are silent in vLLM's processes


class PathModel(nn.Module):
    """What is added to the class of a base model."""

    def __init__(self, *, vllm_config: "VllmConfig", prefix: str = ""):
        """Build the base model, and put its layers in the order of the path."""
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.cola_path = path_in(vllm_config.model_config)
        self.cola_layers = vllm_config.model_config.hf_text_config.num_hidden_layers
        is_transformers = isinstance(self, TransformersModel)
        self.cola_base = layers.put_in_order(
            self,
            self.cola_layers,
            self.cola_path,
            vllm_config.compilation_config,
            is_transformers=is_transformers,
        )
        if is_transformers:
            config = vllm_config.model_config.hf_text_config
            layers.put_kinds_in_order(config, self.cola_path)
        logger.info(
            "cola-jax: the path has %d positions of %d layers",
            len(self.cola_path),
            self.cola_layers,
        )

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load the tensors of the layers that run, by their names in the base model, each once."""
        with layers.named_by_layer(self, self.cola_base):
            loaded = super().load_weights(  # pyright: ignore[reportAttributeAccessIssue]
                layers.of_path(weights, self.cola_layers, self.cola_path)
            )
        return {layers.named_by_position(name, self.cola_path) for name in loaded}


def __getattr__(name: str) -> type:
    """Make the class of an architecture, and keep it."""
    architecture = architecture_of(name)
    if architecture == name or architecture not in ARCHITECTURES:
        raise AttributeError(name)
    base = ModelRegistry.models[architecture].load_model_cls()
    made = type(name, (PathModel, base), {"__module__": __name__})
    globals()[name] = made
    return made
