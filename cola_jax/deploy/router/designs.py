"""Designs: what differs between routers in training and in use."""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cola_jax.config import STRICT
from cola_jax.deploy.router.features import WINDOWS, states_after, windows_along
from cola_jax.deploy.router.layer_router import LayerRouter, class_weights, decide, focal_loss
from cola_jax.deploy.router.segment_router import SegmentRouter, likeliest_paths, segment_loss
from cola_jax.deploy.router.targets import (
    CLASSES,
    NO_OP,
    Path,
    counts_of_path,
    path_of_counts,
    segment_target,
)
from cola_jax.errors import InputError
from cola_jax.params import Model
from cola_jax.prompts import PROMPT, Prompts

DesignName = Literal["drllm", "polar"]


@dataclasses.dataclass(frozen=True)
class Design(abc.ABC):
    """A kind of router for models of L layers and width D; hashable, so that it can be static."""

    __pydantic_config__ = STRICT

    num_layers: int
    width: int

    name: ClassVar[DesignName]
    follows_path: ClassVar[bool]  # whether its features depend on the path, or on the prompt alone
    class_names: ClassVar[dict[str, tuple[str, ...]]]  # of each kind of head

    @abc.abstractmethod
    def target(self, path: Path) -> np.ndarray | None:
        """Returns what is to be predicted [L]; None for a path that the design cannot name."""

    @abc.abstractmethod
    def features(self, model: Model, prompts: Prompts, targets: np.ndarray) -> Array:
        """Returns the features [B, A, ...] of prompts, along the paths that targets [B, L] say."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Any:
        """Returns untrained parameters."""

    @abc.abstractmethod
    def class_weights(self, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Returns the weight of each class for training examples [N, L] with weights [N]."""

    @abc.abstractmethod
    def losses(
        self, params: Any, batch: "Batch", class_weights: Array, key: jax.Array | None
    ) -> Array:
        """Returns the loss [B] of each example; a key turns dropout on."""

    @abc.abstractmethod
    def heads(self, params: Any, batch: "Batch") -> dict[str, tuple[Array, Array]]:
        """Returns targets and predicted classes by kind of head; targets < 0 are none.

        Features are those of the labelled path.
        """

    @abc.abstractmethod
    def paths(self, params: Any, model: Model, prompts: Prompts, beams: int) -> list[list[Path]]:
        """Returns up to `beams` paths of each prompt, best first."""

    @abc.abstractmethod
    def layers_run(self, path: Path) -> int:
        """Returns how many layers ran over the prompt to name one path."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Examples as a design's network takes them."""

    features: Array | np.ndarray  # [B, A, ...] float16
    lengths: Array | np.ndarray  # [B], tokens of the prompt
    targets: Array | np.ndarray  # [B, L]
    weights: Array | np.ndarray  # [B]


@dataclasses.dataclass(frozen=True)
class LayerDesign(Design):
    """A head for each layer on the states before it, along the path decided so far."""

    name = "drllm"
    follows_path = True
    class_names: ClassVar = {"layers": CLASSES}

    def target(self, path: Path) -> np.ndarray | None:
        return counts_of_path(path, self.num_layers)

    def features(self, model: Model, prompts: Prompts, targets: np.ndarray) -> Array:
        return windows_along(model, prompts, jnp.asarray(targets))

    def init(self, key: jax.Array) -> Any:
        return LayerRouter().init(key, jnp.zeros((1, self.num_layers, WINDOWS, self.width)))[
            "params"
        ]

    def class_weights(self, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return class_weights(targets, weights)

    def logits(self, params: Any, batch: Batch) -> Any:
        return LayerRouter().apply({"params": params}, jnp.asarray(batch.features, jnp.float32))

    def losses(
        self, params: Any, batch: Batch, class_weights: Array, key: jax.Array | None
    ) -> Array:
        targets = jnp.asarray(batch.targets, jnp.int32)
        return focal_loss(self.logits(params, batch), targets, class_weights)

    def heads(self, params: Any, batch: Batch) -> dict[str, tuple[Array, Array]]:
        predicted = jnp.argmax(self.logits(params, batch), axis=-1)
        return {"layers": (jnp.asarray(batch.targets), predicted)}

    def paths(self, params: Any, model: Model, prompts: Prompts, beams: int) -> list[list[Path]]:
        counts, score = jax.device_get(decide(params, model, prompts, beams))
        return [
            [path_of_counts(c) for c, s in zip(*row, strict=True) if np.isfinite(s)]
            for row in zip(counts, score, strict=True)
        ]

    def layers_run(self, path: Path) -> int:
        return len(path)


@dataclasses.dataclass(frozen=True)
class SegmentDesign(Design):
    """Queries of the layers on the states after the model's own early layers."""

    early_layers: int

    name = "polar"
    follows_path = False
    class_names: ClassVar = {"boundaries": ("inside", "start"), "operations": CLASSES}

    def target(self, path: Path) -> np.ndarray | None:
        return segment_target(path, self.num_layers)

    def features(self, model: Model, prompts: Prompts, targets: np.ndarray) -> Array:
        return states_after(model, prompts, self.early_layers)

    def init(self, key: jax.Array) -> Any:
        one = jnp.zeros((1, 1, self.width)), jnp.ones((1, 1), bool)
        return SegmentRouter(self.num_layers).init(key, *one)["params"]

    def class_weights(self, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.ones(len(CLASSES), np.float32)

    def logits(self, params: Any, batch: Batch, key: jax.Array | None = None) -> Any:
        states = jnp.asarray(batch.features, jnp.float32)
        is_prompt = jnp.arange(states.shape[1]) < jnp.asarray(batch.lengths)[:, None]
        rngs = None if key is None else {"dropout": key}
        router: Any = SegmentRouter(self.num_layers)
        return router.apply({"params": params}, states, is_prompt, key is not None, rngs=rngs)

    def losses(
        self, params: Any, batch: Batch, class_weights: Array, key: jax.Array | None
    ) -> Array:
        targets = jnp.asarray(batch.targets, jnp.int32)
        boundary, ops = self.logits(params, batch, key)
        return segment_loss(boundary, ops, targets)

    def heads(self, params: Any, batch: Batch) -> dict[str, tuple[Array, Array]]:
        boundary, ops = self.logits(params, batch)
        targets = jnp.asarray(batch.targets)
        starts = (targets != NO_OP).astype(jnp.int32).at[:, 0].set(-1)  # the first always starts
        return {
            "boundaries": (starts, (boundary > 0).astype(jnp.int32)),
            "operations": (targets, jnp.argmax(ops, axis=-1)),
        }

    def paths(self, params: Any, model: Model, prompts: Prompts, beams: int) -> list[list[Path]]:
        lengths = (jnp.asarray(prompts.branch) == PROMPT).sum(axis=1)
        states = states_after(model, prompts, self.early_layers)
        batch = Batch(states, lengths, lengths, lengths)
        boundary, ops = jax.device_get(segment_logits(self, params, batch))
        return [likeliest_paths(*row, beams) for row in zip(boundary, ops, strict=True)]

    def layers_run(self, path: Path) -> int:
        return self.early_layers


def make_design(name: str, num_layers: int, width: int, early_layers: int | None = None) -> Design:
    """Makes a design; `early_layers` is a quarter of the model's by default.

    Raises ValueError for another name, and for early layers that the design or the model lacks.
    """
    if name == LayerDesign.name:
        if early_layers is not None:
            raise InputError("early layers are a setting of the design polar: leave them out.")
        return LayerDesign(num_layers, width)
    if name != SegmentDesign.name:
        raise InputError(f"the designs of routers are drllm and polar, not {name!r}.")
    early = max(num_layers // 4, 1) if early_layers is None else early_layers
    if not 0 <= early <= num_layers:
        raise InputError(
            f"the router would read the states after {early} layers, but the model has "
            f"{num_layers}."
        )
    return SegmentDesign(num_layers, width, early)


@functools.partial(jax.jit, static_argnames="design")
def segment_logits(design: SegmentDesign, params: Any, batch: Batch) -> tuple[Array, Array]:
    """The compiled part of naming paths by segments."""
    return design.logits(params, batch)
