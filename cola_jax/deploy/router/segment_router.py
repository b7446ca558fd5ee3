"""`SegmentRouter`: predicts segments of layers and their operations (PoLar, arXiv 2606.06574)."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int
from scipy.special import log_expit, log_softmax

from cola_jax.deploy.router.targets import CLASSES, NO_OP, Path, Segment, segments_at


class EncoderBlock(nn.Module):
    """A post-norm encoder block over the layers' queries."""

    heads: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "B L d"], train: bool) -> Float[Array, "B L d"]:
        attention = nn.MultiHeadDotProductAttention(self.heads, dropout_rate=self.dropout)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = nn.LayerNorm()(x + drop(attention(x, deterministic=not train)))
        hidden = drop(nn.gelu(nn.Dense(self.hidden)(x)))
        return nn.LayerNorm()(x + drop(nn.Dense(x.shape[-1])(hidden)))


class SegmentRouter(nn.Module):
    """One learned query a layer attends to a prompt's states, then the queries to each other.

    Returns the logit of a segment that starts at each layer, and those of its operations.
    """

    num_layers: int
    width: int = 256
    heads: int = 4
    blocks: int = 2
    hidden: int = 1024
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, states: Float[Array, "B T D"], is_prompt: Bool[Array, "B T"], train: bool = False
    ) -> tuple[Float[Array, "B L"], Float[Array, "B L O"]]:
        tokens = nn.Dense(self.width)(states)
        shape = (self.num_layers, self.width)
        queries = self.param("queries", nn.initializers.normal(1.0), shape)
        x = jnp.broadcast_to(queries, (len(states), *shape))
        attention = nn.MultiHeadDotProductAttention(self.heads, dropout_rate=self.dropout)
        mask = is_prompt[:, None, None, :]
        x = nn.LayerNorm()(x + attention(x, tokens, mask=mask, deterministic=not train))
        for _ in range(self.blocks):
            x = EncoderBlock(self.heads, self.hidden, self.dropout)(x, train)
        return nn.Dense(1)(x)[..., 0], nn.Dense(len(CLASSES))(x)


def segment_loss(
    boundary: Float[Array, "B L"], ops: Float[Array, "B L O"], targets: Int[Array, "B L"]
) -> Float[Array, " B"]:
    """Returns the loss of each example: of its boundaries, and of operations where segments start.

    Binary cross-entropy, a mean over layers 1..L-1 (a segment always starts at layer 0), plus
    cross-entropy, a mean over the segments.
    """
    starts = targets != NO_OP
    at_boundary = optax.losses.sigmoid_binary_cross_entropy(boundary, starts)[:, 1:]
    at_start = optax.losses.softmax_cross_entropy_with_integer_labels(ops, jnp.maximum(targets, 0))
    return at_boundary.mean(axis=-1) + jnp.mean(at_start, axis=-1, where=starts)


def likeliest_paths(boundary: np.ndarray, ops: np.ndarray, beams: int) -> list[Path]:
    """Returns the most likely paths by their likeliest segments, best first, at most `beams`.

    A beam search from segment to segment, with `boundary` [L] and `ops` [L, 3]. The beams of one
    layer are compared with each other alone, and there only the best way to say a path is kept, so
    the search is exact. The path that skips all layers is not one.
    """
    starts, runs_on = log_expit(boundary), log_expit(-np.asarray(boundary))
    logprob, layers = log_softmax(ops, axis=-1), len(boundary)
    kept: list[dict[Path, float]] = [{} for _ in range(layers + 1)]  # by the next layer
    kept[0][()] = 0.0
    for first in range(layers):
        # one beam more than asked for: it may be the path without a layer
        for path, score in best(kept[first], beams + 1):
            score += starts[first] if first else 0.0
            for segment in segments_at(first, layers):
                inside = runs_on[first + 1 : first + segment.size].sum()
                total = float(score + inside + logprob[first, segment.op])
                add(kept[first + segment.size], path, segment, total)
    return [path for path, _ in best(kept[layers], beams + 1) if path][:beams]


def add(kept: dict[Path, float], path: Path, segment: Segment, score: float) -> None:
    """Adds a path with one more segment, unless it is there with a better score."""
    longer = path + segment.layers
    kept[longer] = max(score, kept.get(longer, -np.inf))


def best(kept: dict[Path, float], beams: int) -> list[tuple[Path, float]]:
    """Returns the best paths with their scores; of equals, the first by length and layers."""
    order = sorted(kept.items(), key=lambda item: (-item[1], len(item[0]), item[0]))
    return order[:beams]
