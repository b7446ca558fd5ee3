"""Inputs of the executors: prompts and paths, checked, padded, and rounded to few shapes."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import jax
import jax.core
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from cola_jax.checkpoint import tokenizer_of
from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, shown
from cola_jax.params import Model
from cola_jax.path import STOP, pad_lists, parse_path, unpad_path, validate
from cola_jax.prompts import (
    NO_READ,
    PADDING,
    Prompts,
    PromptsLike,
    Readings,
    as_integers,
    check_unpadded,
    is_split,
)
from cola_jax.steps import is_step

NO_TOKENIZER = (
    "this model was not loaded from a checkpoint with a tokenizer: give ids, and no stop strings."
)

PathInput = str | Sequence[int] | np.ndarray | Array
Paths = PathInput | Sequence[PathInput] | Sequence[Sequence[PathInput]]


def check_loaded(model: Any) -> None:
    """Raise InputError for what is not a model, such as its name."""
    if not isinstance(model, Model):
        raise InputError(
            f"the model is of type {type(model).__name__}, but must be what cola_jax.load returns."
        )


def prompts_for(model: Model, prompts: PromptsLike) -> Prompts:
    """Wrap prompts of any kind for a model: as `as_prompts` does, texts, or a single text."""
    check_loaded(model)
    texts = as_texts(prompts)
    if texts is None:
        return as_prompts(prompts, model.pad_token)
    if model.checkpoint is None:
        raise InputError(NO_TOKENIZER)
    rows = tokenizer_of(model.checkpoint)(texts)["input_ids"]
    if empty := [i for i, row in enumerate(rows) if not row]:
        raise InputError(f"prompt {empty[0]} has no tokens: give a text.")
    return Prompts.stack([Prompts.plain(np.array(row, np.int32)) for row in rows])


def as_texts(prompts: Any) -> list[str] | None:
    """Return prompts that are texts, a single one or several; None for prompts of another kind."""
    texts = [prompts] if isinstance(prompts, str) else prompts
    is_text = isinstance(texts, list | tuple) and texts and all(isinstance(x, str) for x in texts)
    return list(texts) if is_text else None


def decode_tokens(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode tokens as they are: nothing skipped, no spaces tidied."""
    return tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def as_prompts(prompts: PromptsLike, pad_token: int | None = None) -> Prompts:
    """Wrap ids [B, T] or a tokenizer's output.

    Raises InputError for rows without an attention mask that are visibly padded with `pad_token`;
    traced ids are not checked.
    """
    if isinstance(prompts, Mapping):
        return Prompts.from_encoding(prompts, pad_token)
    if isinstance(prompts, Prompts):
        if np.ndim(prompts.ids) != 2:
            shape = np.shape(prompts.ids)
            raise InputError(f"ids have shape {shape}, but a batch is [B, T]: add a batch axis.")
        return prompts
    ids = as_integers("ids", prompts)
    check_unpadded(ids, pad_token)
    return Prompts.plain(ids)


def padded_right(prompts: Prompts) -> Prompts:
    """Move padding at the beginning of rows [B, T] to their end; return numpy arrays."""
    prompts = jax.tree.map(np.asarray, prompts)
    start = (prompts.branch != PADDING).argmax(axis=1)[:, None]
    if not start.any():
        return prompts
    columns = (np.arange(prompts.ids.shape[1]) + start) % prompts.ids.shape[1]
    tokens = {name: getattr(prompts, name) for name in ("ids", "positions", "branch")}
    moved = {name: np.take_along_axis(x, columns, axis=1) for name, x in tokens.items()}
    for name in ("read", "places"):
        if (indices := getattr(prompts, name)) is not None:
            moved[name] = np.where(indices == NO_READ, NO_READ, indices - start)
    return prompts.replace(**moved)


def check_prompts(model: Model, prompts: Prompts, *, either_side: bool = False) -> None:
    """Raise InputError for prompts that the model cannot read; traced values are not checked.

    Rows are padded on the right, or with `either_side` on the left as well.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(prompts)):
        return
    positions = np.asarray(prompts.positions)
    context = model.config.context
    check_tokens("token ids", prompts.ids, model.config.vocab_size)
    if prompts.targets is not None:
        check_tokens("targets", prompts.targets, model.config.vocab_size)
    tokens = np.asarray(prompts.branch) != PADDING
    if is_split(tokens).any():
        raise InputError("prompts have padding between two tokens: pad at one end of a row.")
    if not either_side and (tokens.argmax(axis=1) > 0).any():
        raise InputError("prompts have padding before a token: rows are padded on the right.")
    check_indices("read", prompts.read, tokens)
    check_embeddings(prompts, model.config.width)
    check_indices("given embeddings", prompts.places, tokens)
    if positions.size and positions.max() >= context:
        raise InputError(
            f"a prompt has {positions.max() + 1} tokens, but the model's context is {context}: "
            "shorten it."
        )


def check_tokens(name: str, ids: ArrayLike, vocab: int) -> None:
    """Raise InputError for ids outside the vocabulary, with their name."""
    ids = np.asarray(ids)
    if ids.size and (ids.min() < 0 or ids.max() >= vocab):
        raise InputError(
            f"{name} run from {ids.min()} to {ids.max()}, but the model's vocabulary is "
            f"0..{vocab - 1}: use the model's own tokenizer."
        )


def check_indices(use: str, indices: ArrayLike | None, tokens: np.ndarray) -> None:
    """Raise InputError for indices without a token, given the mask [B, T] of tokens."""
    if indices is None:
        return
    indices = np.asarray(indices)
    inside = (indices >= 0) & (indices < tokens.shape[1])
    at_token = inside & np.take_along_axis(tokens, np.where(inside, indices, 0), axis=1)
    if not (at_token | (indices == NO_READ)).all():
        raise InputError(
            f"prompts are {use} at {indices.tolist()}, but have {tokens.sum(axis=1).tolist()} "
            f"tokens: give indices of tokens, or {NO_READ} for padding."
        )


def check_embeddings(prompts: Prompts, width: int) -> None:
    """Raise InputError for embeddings of another shape than their places and the model's width."""
    if prompts.embeddings is None and prompts.places is None:
        return
    given: Any = prompts.embeddings, prompts.places
    shape, places = map(np.shape, given)
    if len(places) != 2 or places[0] != len(prompts.ids) or shape != (*places, width):
        raise InputError(
            f"prompts have embeddings {list(shape)} at places {list(places)}, but must have "
            f"[B, I, {width}] at [B, I] for {len(prompts.ids)} rows."
        )


def path_ids(path: PathInput, num_layers: int) -> np.ndarray:
    """Return a valid path as an integer array [P]; an array keeps its padding with STOP."""
    if isinstance(path, str):
        return np.array(parse_path(path, num_layers))
    try:
        ids = np.asarray(path)
    except ValueError:  # lists of unequal lengths
        raise InputError(f"a path is text or a list of ids, not {shown(path)}.") from None
    if ids.ndim != 1:
        raise InputError(f"path has shape {ids.shape}, but must be [P]: `run_paths` takes several.")
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"path holds {ids.dtype}, but ids are whole numbers: {ids.tolist()}")
    is_array = isinstance(path, np.ndarray | jax.Array)
    validate(ids if is_array else ids.tolist(), num_layers)
    return ids


def is_path(value: Any) -> bool:
    """Return whether a value is a path: text, or ids in a list, a range or an array."""
    if isinstance(value, str):
        return True
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim == 1
    return isinstance(value, Sequence) and len(value) > 0 and isinstance(value[0], Number)


def count_paths(paths: np.ndarray) -> int:
    """Count the paths of [B, C, P] that are not padding."""
    return int((paths[:, :, 0] != STOP).sum())


def pad_paths(paths: Paths, questions: int, num_layers: int) -> np.ndarray:
    """Return valid paths as int32 [B, C, P]; lists are padded with STOP, to a P in few buckets.

    A single path, or list of paths, is that of every question.
    """
    values: Any = [paths] if is_path(paths) else paths
    if isinstance(values, np.ndarray | jax.Array):
        padded = check_padded(np.asarray(values), num_layers)
    else:
        rows = list_of_paths(values)
        if not rows:
            raise InputError("there are no paths: give one or more.")
        rows = [rows] * questions if any(map(is_path, rows)) else map(list_of_paths, rows)
        ids = [[unpad_path(path_ids(path, num_layers)) for path in row] for row in rows]
        padded = pad_lists(ids, bucket(max((len(path) for row in ids for path in row), default=1)))
    if len(padded) != questions:
        raise InputError(f"there are paths for {len(padded)} questions, but {questions} prompts.")
    return padded


def check_padded(paths: np.ndarray, num_layers: int) -> np.ndarray:
    """Return an array of paths as int32; InputError unless each is valid, or STOP alone."""
    if paths.ndim != 3 or not np.issubdtype(paths.dtype, np.integer):
        raise InputError(
            f"paths are {paths.dtype} of shape {paths.shape}, but must be ids [B, C, P]."
        )
    paths = paths.astype(np.int64)
    padding = paths == STOP
    valid = padding | is_step(paths, num_layers)
    valid[..., 1:] &= padding[..., 1:] | ~padding[..., :-1]  # no step after padding
    for path in paths[~valid.all(axis=-1)]:
        validate(path, num_layers)  # raises
    return paths.astype(np.int32)


def list_of_paths(values: Any) -> list[Any]:
    """Return paths, or lists of paths, as a list; InputError for what is neither."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InputError(
            f"paths are {shown(values)}, but must be a path (text or ids), a list of paths, "
            "or a list of paths for each question."
        )
    return list(values)


def bucket(size: int, smallest: int = 8) -> int:
    """Round up to one of 8, 12, 16, 24, 32, 48, ...: few shapes, at most half again as large."""
    power = smallest
    while power < size:
        if power * 3 // 2 >= size:
            return power * 3 // 2
        power *= 2
    return power


def token_counts(prompts: Prompts) -> np.ndarray:
    """Return the tokens of each prompt [B]."""
    return (np.asarray(prompts.branch) != PADDING).sum(axis=1)


def distinct_reads(prompts: Prompts) -> list[int]:
    """Return the distinct positions at which each prompt is read, at least one."""
    reads = np.asarray(prompts.read).tolist()
    return [max(len(set(positions) - {NO_READ}), 1) for positions in reads]


def cut(prompts: Prompts, tokens: int, reads: int) -> Prompts:
    """Cut or pad prompts [B, T], [B, Q] to T = `tokens` and Q = `reads`; embeddings to a bucket."""

    def fit(values, size, fill):
        values = np.asarray(values)[:, :size]
        padding = (0, 0), (0, size - values.shape[1]), *[(0, 0)] * (values.ndim - 2)
        return np.pad(values, padding, constant_values=fill)

    plain = Prompts(
        ids=fit(prompts.ids, tokens, 0),
        positions=fit(prompts.positions, tokens, 0),
        branch=fit(prompts.branch, tokens, PADDING),
    )
    if prompts.places is not None:
        used = np.flatnonzero((np.asarray(prompts.places) != NO_READ).any(axis=0))
        size = bucket(int(used.max(initial=-1)) + 1)
        embeddings = fit(prompts.embeddings, size, 0)
        places = fit(prompts.places, size, NO_READ)
        plain = plain.replace(embeddings=embeddings, places=places)
    if prompts.read is None:
        return plain
    return plain.replace(
        read=fit(prompts.read, reads, NO_READ),
        targets=fit(prompts.targets, reads, 0),
    )


def check_batch(model: Model, prompts: PromptsLike, paths: Paths) -> tuple[Prompts, np.ndarray]:
    """Check the arguments of `run_paths`; return them as numpy, the paths [B, C, P]."""
    batch = jax.tree.map(np.asarray, prompts_for(model, prompts))
    if (batch.read is None) != (batch.targets is None):
        raise InputError(
            "run_paths reads the model at positions: give prompts both `read` and `targets`, or "
            "neither to read each token from those before it."
        )
    if batch.read is None:
        batch = next_tokens(padded_right(batch))
    check_prompts(model, batch)
    padded = pad_paths(paths, len(batch.ids), model.config.num_layers)
    check_keys(model.config, padded)
    return batch, padded


def check_keys(config: ModelConfig, paths: np.ndarray) -> None:
    """Raise InputError as `ModelConfig.check_keys` for paths [B, C, P]."""
    if config.keys_of:
        for path in np.unique(paths.reshape(-1, paths.shape[-1]), axis=0):
            config.check_keys(unpad_path(path))


def next_tokens(prompts: Prompts) -> Prompts:
    """Read prompts [B, T] at each token but the last, and ask about the next one."""
    ids = np.asarray(prompts.ids)
    branch = np.asarray(prompts.branch)
    if (branch > 0).any():
        raise InputError(
            "prompts with continuations have no default positions to read: give `read`."
        )
    if not (branch[:, 1:] == 0).any(axis=1).all():
        raise InputError("a prompt of one token has none after it to ask about: give a longer one.")
    read = np.broadcast_to(np.arange(ids.shape[1] - 1, dtype=np.int32), ids[:, 1:].shape)
    inside = branch[:, 1:] != PADDING
    targets = np.where(inside, ids[:, 1:], 0)
    return prompts.replace(read=np.where(inside, read, NO_READ), targets=targets)


def no_readings(paths: np.ndarray, reads: int, divergence: bool = False) -> Readings:
    """Return Readings [B, C, Q] of no evaluation: log-probabilities of -inf, and not finite."""
    shape = (*paths.shape[:2], reads)
    return Readings(
        logprob=np.full(shape, -np.inf, np.float32),
        token=np.full(shape, -1, np.int32),
        rival=np.full(shape, -np.inf, np.float32),
        finite=np.zeros(shape[:2], bool),
        divergence=np.full(shape, np.inf, np.float32) if divergence else None,
    )
