"""The input and the output of a model: `Prompts` and `Readings`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from cola_jax.errors import InputError

PADDING = -1  # the branch of a padding token
NO_READ = -1  # pads the read positions
PROMPT = 0  # the branch of a token that every continuation of its row sees

USED = ("input_ids", "attention_mask")  # of a tokenizer's output
IGNORED = (  # the rest of it, which does not change the result of a decoder
    *("token_type_ids", "special_tokens_mask", "assistant_masks", "labels", "length"),
    *("offset_mapping", "overflowing_tokens", "overflow_to_sample_mapping", "num_truncated_tokens"),
)


class Prompts(struct.PyTreeNode):
    """A batch of padded token rows; continuations may be packed after each prompt.

    Token t sees token s when s <= t and `branch[s]` is 0 or `branch[t]`, so continuations see the
    prompt and themselves but not each other. A sliding window compares `positions`, which restart
    after the prompt in every continuation. Rows are padded on the right; `run_path` and `generate`
    take padding on the left as well.
    """

    ids: Int[Array | np.ndarray, "*B T"]
    positions: Int[Array | np.ndarray, "*B T"]  # rotary positions
    branch: Int[Array | np.ndarray, "*B T"]  # -1 padding, 0 the prompt, j > 0 the j-th continuation
    read: Int[Array | np.ndarray, "*B Q"] | None = None  # indices into T, -1 padding
    targets: Int[Array | np.ndarray, "*B Q"] | None = None  # the token scored at each read position
    # replace those of the tokens at `places`, such as a picture's; -1 pads the places
    embeddings: Float[Array | np.ndarray, "*B I D"] | None = None
    places: Int[Array | np.ndarray, "*B I"] | None = None  # indices into T

    def __repr__(self) -> str:
        return f"Prompts({shapes_of(self)})"

    @classmethod
    def plain(cls, ids: ArrayLike) -> "Prompts":
        """Wrap ids without padding, [B, T], or [T] for one row, all on the prompt's branch."""
        ids = jnp.asarray(ids)
        positions = jnp.broadcast_to(jnp.arange(ids.shape[-1], dtype=jnp.int32), ids.shape)
        return cls(ids=ids, positions=positions, branch=jnp.full(ids.shape, PROMPT, jnp.int32))

    @classmethod
    def from_encoding(cls, encoding: Mapping[str, Any], pad_token: int | None = None) -> "Prompts":
        """Wrap a Hugging Face tokenizer's output for a list of texts, padded on either side.

        Tokens stay in their columns; positions count from the first token of each row. Lists, and
        arrays of numpy, jax or torch are taken. Without a mask, rows that are visibly padded with
        `pad_token` are refused.

        Raises:
          ValueError: where the mask is not 1 at consecutive tokens and 0 elsewhere, rows are
            visibly padded without one, or other entries would change the result. Values traced by
            JAX are not checked.
        """
        entries = {key: value for key, value in encoding.items() if value is not None}
        if unknown := sorted(entries.keys() - {*USED, *IGNORED}):
            raise InputError(f"a tokenizer's output has {unknown}, which would be lost: omit them.")
        if "input_ids" not in entries:
            raise InputError(f"a tokenizer's output has input_ids, this one has {sorted(entries)}.")
        arrays = {key: as_integers(key, entries[key]) for key in USED if key in entries}
        ids = arrays["input_ids"]
        mask = arrays.get("attention_mask")
        traced = any(isinstance(array, jax.core.Tracer) for array in arrays.values())
        if mask is None:
            check_unpadded(ids, pad_token)
            mask = np.ones(ids.shape, np.int32)
        elif not traced:
            check_mask(mask, ids.shape)
        xp = jnp if traced else np
        positions = xp.where(mask == 1, xp.cumsum(mask, axis=-1) - 1, 0).astype(np.int32)
        return cls(ids, positions, xp.where(mask == 1, PROMPT, PADDING).astype(np.int32))

    @classmethod
    def stack(cls, rows: "Sequence[Prompts]") -> "Prompts":
        """Join unbatched prompts, with fields [T] and [Q], into one batch padded to the longest.

        Raises ValueError where some rows have read positions and targets and others have none.
        """
        if len({row.read is None for row in rows} | {row.targets is None for row in rows}) > 1:
            raise InputError("either all rows have read positions and targets, or none has.")
        fillers = {"ids": 0, "positions": 0, "branch": PADDING}
        if rows[0].read is not None:
            fillers |= {"read": NO_READ, "targets": 0}
        widths = [row.embeddings.shape[1] for row in rows if row.embeddings is not None]
        if widths:
            fillers |= {"embeddings": 0, "places": NO_READ}
            none = {"embeddings": np.zeros((0, widths[0])), "places": np.zeros(0)}
            rows = [row if row.places is not None else row.replace(**none) for row in rows]

        def join(name: str) -> np.ndarray:
            dtype = np.float32 if name == "embeddings" else np.int32
            values = [np.asarray(getattr(row, name), dtype) for row in rows]
            shape = len(values), max(map(len, values)), *values[0].shape[1:]
            batch = np.full(shape, fillers[name], dtype)
            for row, value in zip(batch, values, strict=True):
                row[: len(value)] = value
            return batch

        return cls(**{name: join(name) for name in fillers})


# Prompts, ids [B, T] without padding, a tokenizer's output, or texts for the model's own tokenizer
PromptsLike = Prompts | ArrayLike | Mapping[str, Any] | str | Sequence[str]


def shapes_of(tree: Any) -> str:
    """Write the names and shapes of the arrays of a structure."""
    fields = ((field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree))
    return ", ".join(f"{name} {[*np.shape(x)]}" for name, x in fields if x is not None)


def as_integers(name: str, value: Any) -> Any:
    """Return lists or an array as int32 [B, T], traced values as such; InputError otherwise."""
    try:
        array = value if isinstance(value, jax.core.Tracer) else np.asarray(value)
    except ValueError:
        raise InputError(
            f"the rows of {name} differ in length: tokenize with padding=True."
        ) from None
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise InputError(
            f"{name} is {array.dtype} of shape {array.shape}, but must be integers [B, T]: "
            "tokenize a list of texts, or add a batch axis."
        )
    return array.astype(np.int32)


def check_unpadded(ids: ArrayLike, pad_token: int | None) -> None:
    """Raise InputError for ids [B, T] without an attention mask that are visibly padded.

    Padding is visible where a row begins or ends with two pad tokens, or with one where another
    row does not. One in every row may belong to the texts: some models begin or end them with it.
    """
    if pad_token is None or isinstance(ids, jax.core.Tracer):
        return
    ids = np.asarray(ids)
    for edge, columns in (("begins", ids), ("ends", ids[:, ::-1])):
        padded = columns[:, :2] == pad_token
        suspect = padded[:, :1].all(axis=1)
        if suspect.all():
            suspect = padded.sum(axis=1) == 2
        if suspect.any():
            raise InputError(
                f"row {int(suspect.argmax())} {edge} with the pad token {pad_token}, but has no "
                "attention mask: pass all that the tokenizer returns, or Prompts.plain(ids) if "
                "these tokens belong to the text."
            )


def check_mask(mask: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise InputError for an attention mask that does not select one run of tokens a row."""
    if mask.shape != shape:
        raise InputError(f"attention_mask has shape {mask.shape}, but input_ids have {shape}.")
    wrong = ~np.isin(mask, (0, 1)).all(axis=1) | ~mask.any(axis=1) | is_split(mask == 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"row {row} of attention_mask is {mask[row].tolist()}, but must be 1 at tokens and 0 "
            "at padding: pad at the beginning or at the end of a row that has tokens."
        )


def is_split(tokens: Bool[np.ndarray, "B T"]) -> Bool[np.ndarray, "B"]:  # noqa: F821
    """Tell for each row of a mask whether padding lies between two tokens."""
    return (np.diff(tokens.astype(np.int8), axis=1, prepend=0) == 1).sum(axis=1) > 1


class Readings(struct.PyTreeNode):
    """The model's predictions at the read positions; log-probabilities are natural, float32."""

    logprob: Float[Array | np.ndarray, "*B Q"]  # of the target
    token: Int[Array | np.ndarray, "*B Q"]  # the token with the highest logit
    rival: Float[Array | np.ndarray, "*B Q"]  # log-probability of the best other token
    finite: Bool[Array | np.ndarray, "*B"]  # whether every logit of the path was finite
    # of the next token's distribution from the identity path's, where a scorer asks for it
    divergence: Float[Array | np.ndarray, "*B Q"] | None = None

    def __repr__(self) -> str:
        return f"Readings({shapes_of(self)})"


def readings(logits: Float[Array, "*B Q V"], targets: Int[Array, "*B Q"]) -> Readings:
    """Reduce logits to readings; the definition that every executor shares."""
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    is_target = jax.nn.one_hot(targets, logits.shape[-1], dtype=jnp.bool_)
    return Readings(
        logprob=jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0],
        token=jnp.argmax(logits, axis=-1).astype(jnp.int32),
        rival=jnp.max(jnp.where(is_target, -jnp.inf, logprobs), axis=-1),
        finite=jnp.all(jnp.isfinite(logits), axis=(-2, -1)),
    )


def kl_divergence(p: Float[Array, "*B V"], q: Float[Array, "*B V"]) -> Float[Array, "*B"]:
    """Return KL(p || q) in nats of the distributions that logits give."""
    p = jax.nn.log_softmax(p, axis=-1)
    q = jax.nn.log_softmax(q, axis=-1)
    return jnp.maximum(jnp.sum(jnp.exp(p) * (p - q), axis=-1), 0)  # rounding may leave less
