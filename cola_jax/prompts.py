"""What goes into a model and what comes back: `Prompts` and `Readings`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

PADDING = -1  # the branch of a token that pads a row
NO_READ = -1  # pads the positions read
PROMPT = 0  # the branch of a token that every continuation of its row sees


class Prompts(struct.PyTreeNode):
    """A batch of right-padded token rows; continuations may be packed behind each prompt.

    Token t sees token s when s <= t and `branch[s]` is 0 or `branch[t]`, so continuations see the
    prompt and themselves but not each other. A sliding window compares `positions`, which restart
    behind the prompt in every continuation.
    """

    ids: Int[Array | np.ndarray, "*B T"]
    positions: Int[Array | np.ndarray, "*B T"]  # rotary positions
    branch: Int[Array | np.ndarray, "*B T"]  # -1 padding, 0 the prompt, j > 0 the j-th continuation
    read: Int[Array | np.ndarray, "*B Q"] | None = None  # indices into T, -1 padding
    targets: Int[Array | np.ndarray, "*B Q"] | None = None  # the token asked about at each read

    @classmethod
    def plain(cls, ids: ArrayLike) -> "Prompts":
        """Wraps ids [B, T] without padding: positions 0..T-1, all on the prompt's branch."""
        ids = jnp.asarray(ids)
        positions = jnp.broadcast_to(jnp.arange(ids.shape[-1], dtype=jnp.int32), ids.shape)
        return cls(ids=ids, positions=positions, branch=jnp.full(ids.shape, PROMPT, jnp.int32))

    @classmethod
    def stack(cls, rows: "Sequence[Prompts]") -> "Prompts":
        """Joins unbatched rows ([T] and [Q] fields) into one numpy batch, padded to the longest."""
        if len({row.read is None for row in rows} | {row.targets is None for row in rows}) > 1:
            raise ValueError("either all rows say what to read and ask about there, or none does.")
        tokens = max(np.shape(row.ids)[0] for row in rows)
        reads = max(0 if row.read is None else np.shape(row.read)[0] for row in rows)

        def pad(values, length, fill):
            values = np.asarray(values, np.int32)
            return np.pad(values, (0, length - len(values)), constant_values=fill)

        def field(name, length, fill):
            return np.stack([pad(getattr(row, name), length, fill) for row in rows])

        batch = cls(
            ids=field("ids", tokens, 0),
            positions=field("positions", tokens, 0),
            branch=field("branch", tokens, PADDING),
        )
        if not reads:
            return batch
        return batch.replace(read=field("read", reads, NO_READ), targets=field("targets", reads, 0))


class Readings(struct.PyTreeNode):
    """What the model says at the positions read; the log-probabilities are float32 and natural."""

    logprob: Float[Array | np.ndarray, "*B Q"]  # of the target
    token: Int[Array | np.ndarray, "*B Q"]  # the token with the highest logit
    rival: Float[Array | np.ndarray, "*B Q"]  # log-probability of the best other token
    finite: Bool[Array | np.ndarray, "*B"]  # whether every logit of the path was finite


def readings(logits: Float[Array, "*B Q V"], targets: Int[Array, "*B Q"]) -> Readings:
    """Reduces logits to readings; the definition that every executor shares."""
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    is_target = jax.nn.one_hot(targets, logits.shape[-1], dtype=jnp.bool_)
    return Readings(
        logprob=jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0],
        token=jnp.argmax(logits, axis=-1).astype(jnp.int32),
        rival=jnp.max(jnp.where(is_target, -jnp.inf, logprobs), axis=-1),
        finite=jnp.all(jnp.isfinite(logits), axis=(-2, -1)),
    )
