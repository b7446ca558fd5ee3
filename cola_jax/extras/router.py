"""`Router`: a small network that names paths from the prompt alone (PoLar, arXiv 2606.06574).

A path is made of segments: up to four consecutive layers that are skipped, run once, or run twice
as a block. The network predicts where segments start, and their operations.
"""

import dataclasses
import logging
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Int
from pydantic import BaseModel, ConfigDict
from scipy.special import log_expit, log_softmax

from cola_jax.checkpoint import absolute, read_metadata
from cola_jax.config import Count
from cola_jax.errors import InputError, check_belongs, printed, reading
from cola_jax.execute import replicated, state_batches
from cola_jax.files import exists, inside, read_bytes, read_json, write_whole
from cola_jax.params import Model
from cola_jax.path import LayerPath, is_whole_path
from cola_jax.prompts import PromptsLike
from cola_jax.runs import CHOSEN_ON, MODEL, check_same

log = logging.getLogger(__name__)
SKIP, KEEP, REPEAT = range(3)  # how often a segment runs
NO_SEGMENT = -1  # in place of an operation where no segment starts
LONGEST_SEGMENT = 4  # layers
RECORD = "router.json"
WEIGHTS = "router.safetensors"


class Segment(NamedTuple):
    """Consecutive layers with one operation."""

    first: int
    size: int
    op: int

    @property
    def layers(self) -> LayerPath:
        """The layers that the segment adds to a path."""
        return tuple(range(self.first, self.first + self.size)) * self.op


def segments_at(first: int, num_layers: int) -> list[Segment]:
    """List the segments that may start at a layer, by their sizes."""
    sizes = range(1, min(LONGEST_SEGMENT, num_layers - first) + 1)
    return [Segment(first, size, op) for size in sizes for op in (SKIP, KEEP, REPEAT)]


def target_of_path(path: LayerPath, num_layers: int) -> np.ndarray | None:
    """Return the operation at each layer where a segment starts [L], NO_SEGMENT elsewhere.

    The segments are as few as possible, and the larger first. None for a path that segments cannot
    express, as one with parts or shares of layers.
    """
    if not is_whole_path(path):
        return None
    target = np.full(num_layers, NO_SEGMENT)
    first = 0
    position = 0
    counts = [path.count(layer) for layer in range(num_layers)]  # the operation of each layer
    while first < num_layers:
        fitting = [
            segment
            for segment in segments_at(first, num_layers)
            if counts[first : first + segment.size] == [segment.op] * segment.size
            and path[position : position + len(segment.layers)] == segment.layers
        ]
        if not fitting:
            return None
        target[first] = fitting[-1].op
        first = first + fitting[-1].size
        position = position + len(fitting[-1].layers)
    return target


def likeliest_paths(
    boundary: Float[np.ndarray, " L"], ops: Float[np.ndarray, "L O"], beams: int
) -> list[LayerPath]:
    """Return up to `beams` paths, the most likely first, each by its likeliest segments.

    A beam search over logits of `SegmentNetwork`. Beams are compared where they have reached the
    same layer, and equal paths merge, so it is exact. The path without a layer is left out.
    """
    starts = log_expit(boundary)
    runs_on = log_expit(-np.asarray(boundary))
    logprob = log_softmax(ops, axis=-1)
    num_layers = len(boundary)
    reached: list[dict[LayerPath, float]] = [{} for _ in range(num_layers + 1)]  # by the next layer
    reached[0][()] = 0.0

    def best(layer: int) -> list[tuple[LayerPath, float]]:
        order = sorted(reached[layer].items(), key=lambda item: (-item[1], len(item[0]), item[0]))
        return order[: beams + 1]  # one more: it may be the path without a layer

    for first in range(num_layers):
        for path, score in best(first):
            score += starts[first] if first else 0.0
            for segment in segments_at(first, num_layers):
                inside = runs_on[first + 1 : first + segment.size].sum()
                total = float(score + inside + logprob[first, segment.op])
                longer = path + segment.layers
                paths = reached[first + segment.size]
                paths[longer] = max(total, paths.get(longer, -np.inf))
    return [path for path, _ in best(num_layers) if path][:beams]


class SegmentNetwork(nn.Module):
    """One learned query a layer attends to a prompt's states, then the queries to each other.

    Returns the logit of a segment that starts at each layer, and those of its operations. Dropout
    is on where a key for it is given.
    """

    num_layers: int
    width: int = 256
    heads: int = 4
    blocks: int = 2
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, states: Float[Array, "B T D"], is_prompt: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B L"], Float[Array, "B L O"]]:
        off = not self.has_rng("dropout")

        def attend(x, tokens, mask=None):
            attention = nn.MultiHeadDotProductAttention(self.heads, dropout_rate=self.dropout)
            return attention(x, tokens, mask=mask, deterministic=off)

        def drop(x):
            return nn.Dropout(self.dropout, deterministic=off)(x)

        shape = (self.num_layers, self.width)
        queries = self.param("queries", nn.initializers.normal(1.0), shape)
        x = jnp.broadcast_to(queries, (len(states), *shape))
        tokens = nn.Dense(self.width)(states)
        x = nn.LayerNorm()(x + attend(x, tokens, is_prompt[:, None, None, :]))
        for _ in range(self.blocks):
            x = nn.LayerNorm()(x + drop(attend(x, x)))
            hidden = drop(nn.gelu(nn.Dense(4 * self.width)(x)))
            x = nn.LayerNorm()(x + drop(nn.Dense(self.width)(hidden)))
        return nn.Dense(1)(x)[..., 0], nn.Dense(len((SKIP, KEEP, REPEAT)))(x)


@jax.jit
def segment_logits(
    params: Any,
    states: Float[Array, "B T D"],
    lengths: Int[Array, " B"],
    key: jax.Array | None = None,
) -> tuple[Float[Array, "B L"], Float[Array, "B L O"]]:
    """Apply the network to states of prompts of these lengths; a key turns dropout on."""
    is_prompt = jnp.arange(states.shape[1]) < lengths[:, None]
    network: Any = SegmentNetwork(len(params["queries"]))
    rngs = None if key is None else {"dropout": key}
    return network.apply({"params": params}, states.astype(jnp.float32), is_prompt, rngs=rngs)


@dataclasses.dataclass(frozen=True, eq=False)
class Router:
    """A trained network and the model whose states it reads."""

    model: Model
    params: Any  # on the devices of the model
    early_layers: int  # after which states are read

    def paths(self, prompts: PromptsLike, beams: int = 1) -> list[list[LayerPath]]:
        """Name up to `beams` paths for each prompt, best first; fewer where no more exist.

        `run_paths` and `generate` take the result. Raises and compiles as `state_batches`.
        """
        paths: dict[int, list[LayerPath]] = {}
        for rows, states, lengths in state_batches(self.model, prompts, self.early_layers):
            logits = jax.device_get(segment_logits(self.params, states, lengths))
            for b, boundary, ops in zip(rows.tolist(), *logits, strict=False):
                paths[b] = likeliest_paths(boundary, ops, beams)
        return [paths[b] for b in range(len(paths))]


class Record(BaseModel):
    """The file `router.json`: the model that a router is for, and how it was trained."""

    model_config = ConfigDict(strict=True)

    layout: Literal[3] = 3  # raised when older versions cannot read what is written
    model: str
    identity: str | None  # of the model's checkpoint
    num_layers: int
    width: int
    early_layers: Count
    settings: dict[str, Any]
    recommended: str = ""  # the router, or the model; "" of earlier versions
    weights: str = ""  # SHA-256 of the file
    chosen_on: dict[str, Any] | None = None  # None in earlier versions, which did not record it

    @classmethod
    def read(cls, directory: epath.PathLike) -> "Record":
        """Read the record of a router; InputError where there is none, or it cannot be read."""
        file = inside(absolute(directory), RECORD)
        if not exists(file):
            raise InputError(f"{directory} has no {RECORD}: train a router with `cola distill`.")
        with reading(file, "Train a router with `cola distill` in another directory."):
            return cls.model_validate(read_json(file))

    def check_free(self, directory: epath.PathLike) -> None:
        """Raise InputError for the directory of a router with other settings."""
        folder = absolute(directory)
        if exists(folder / RECORD):
            records = Record.read(folder), self
            left_out = {"weights", "recommended", CHOSEN_ON}
            check_same(folder, *(each.model_dump(exclude=left_out) for each in records))

    def save(self, directory: epath.PathLike, params: Any) -> None:
        """Write the weights of a trained network, then this record with their digest."""
        folder = absolute(directory)
        flat = {name: np.asarray(x) for name, x in flatten_dict(params, sep=".").items()}
        content = safetensors.numpy.save(flat)
        write_whole(folder / WEIGHTS, content)
        record = self.model_copy(update={"weights": sha256(content).hexdigest()})
        write_whole(folder / RECORD, record.model_dump_json(indent=2).encode() + b"\n")


def load_router(directory: epath.PathLike, model: Model) -> Router:
    """Load a router that `cola distill` trained for this model, in any dtype.

    Raises InputError for another directory, a router of another model, and other weights.
    """
    record = Record.read(directory)
    if record.recommended == MODEL:
        log.warning(
            "the router %s recommends the model as it is: it was not shown to be better on "
            "held-out questions",
            directory,
        )
    config = model.config
    known = None if model.checkpoint is None else read_metadata(model.checkpoint)["digest"]
    theirs = record.model_dump(include={"identity", "num_layers", "width"})
    ours = {"identity": known, "num_layers": config.num_layers, "width": config.width}
    action = f"load {printed(record.model)}, or train a router for this model"
    check_belongs(f"the router {directory}", theirs, "this model", ours, action)
    file = inside(absolute(directory), WEIGHTS)
    content = read_bytes(file)
    theirs = {"weights": record.weights}
    ours = {"weights": sha256(content).hexdigest()}
    check_belongs(f"the router {directory}", theirs, str(file), ours, "train it again")
    params = unflatten_dict(safetensors.numpy.load(content), sep=".")
    return Router(model, jax.device_put(params, replicated(model)), record.early_layers)
