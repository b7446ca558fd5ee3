"""What goes into the executors: prompts and paths, checked, padded, and put into buckets."""

from collections.abc import Sequence

import jax
import jax.core
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from cola_jax.execute.memory import ceil_power
from cola_jax.params import Model
from cola_jax.path import STOP, pad_path, validate
from cola_jax.prompts import NO_READ, PADDING, Prompts, Readings

Path = Sequence[int] | np.ndarray | Array
Paths = np.ndarray | Array | Sequence[Sequence[Path]]


def as_prompts(prompts: Prompts | ArrayLike) -> Prompts:
    """Wraps plain ids [B, T] and checks ranks."""
    prompts = prompts if isinstance(prompts, Prompts) else Prompts.plain(prompts)
    if np.ndim(prompts.ids) != 2:
        raise ValueError(
            f"ids have shape {np.shape(prompts.ids)}, but a batch is [B, T]: add a batch axis."
        )
    return prompts


def check_prompts(model: Model, prompts: Prompts) -> None:
    """Raises ValueError for prompts that the model cannot read; traced values are not checked."""
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(prompts)):
        return
    positions, context = np.asarray(prompts.positions), model.config.context
    check_tokens("token ids", prompts.ids, model.config.vocab_size)
    if prompts.targets is not None:
        check_tokens("targets", prompts.targets, model.config.vocab_size)
    check_places(prompts)
    if positions.size and positions.max() >= context:
        raise ValueError(
            f"a prompt has {positions.max() + 1} tokens, but the model's context is {context}: "
            "shorten it."
        )


def check_tokens(what: str, ids: ArrayLike, vocab: int) -> None:
    ids = np.asarray(ids)
    if ids.size and (ids.min() < 0 or ids.max() >= vocab):
        raise ValueError(
            f"{what} run from {ids.min()} to {ids.max()}, but the model's vocabulary is "
            f"0..{vocab - 1}: is this the model's own tokenizer?"
        )


def check_places(prompts: Prompts) -> None:
    """Raises ValueError for padding before a token, and for reads where there is no token."""
    padding = np.asarray(prompts.branch) == PADDING
    if (padding[:, :-1] & ~padding[:, 1:]).any():
        raise ValueError("prompts have padding before a token: rows are padded on the right.")
    if prompts.read is None:
        return
    read, lengths = np.asarray(prompts.read), (~padding).sum(axis=1, keepdims=True)
    if ((read < NO_READ) | (read >= lengths)).any():
        raise ValueError(
            f"prompts are read at {read.tolist()}, but have {lengths[:, 0].tolist()} tokens: read "
            f"at indices of tokens, or at {NO_READ} for nothing."
        )


def path_ids(path: Path) -> np.ndarray:
    """Returns one path as an integer array [P]; ValueError for other shapes and fractions."""
    ids = np.asarray(path)
    if ids.ndim != 1:
        raise ValueError(f"path has shape {ids.shape}, but is [P]: `run_paths` takes many.")
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"path holds {ids.dtype}, but layer ids are whole numbers: {ids.tolist()}")
    return ids


def pad_paths(paths: Paths, questions: int, num_layers: int) -> np.ndarray:
    """Returns paths as int32 [B, C, P], lists validated and padded, P in a bucket."""
    if isinstance(paths, (np.ndarray, jax.Array)):
        padded = np.asarray(paths)
        if padded.ndim != 3 or not np.issubdtype(padded.dtype, np.integer):
            raise ValueError(
                f"paths are {padded.dtype} of shape {padded.shape}, but must be ids [B, C, P]."
            )
        rows = [[c.tolist() for c in row if (c != STOP).any()] for row in padded]
    else:
        rows = [[path_ids(path).tolist() for path in row] for row in paths]
        padded = None
    if len(rows) != questions:
        raise ValueError(f"there are paths for {len(rows)} questions, but {questions} prompts.")
    checked = [[validate(path, num_layers) for path in row] for row in rows]
    if padded is not None:
        return padded.astype(np.int32)
    width = max((len(row) for row in checked), default=0)
    longest = max((len(path) for row in checked for path in row), default=1)
    out = np.full((questions, width, bucket(longest)), STOP, np.int32)
    for b, row in enumerate(checked):
        for c, path in enumerate(row):
            out[b, c] = pad_path(path, out.shape[2])
    return out


def bucket(size: int, smallest: int = 8) -> int:
    """Rounds up to one of 8, 12, 16, 24, 32, 48, ...: few shapes, at most half again as large."""
    power = smallest
    while power < size:
        if power * 3 // 2 >= size:
            return power * 3 // 2
        power *= 2
    return power


def buckets(prompts: Prompts) -> list[tuple[int, int]]:
    """Returns T and Q of each question: its tokens and places read, rounded up to few values."""
    tokens = (np.asarray(prompts.branch) != PADDING).sum(axis=1)
    reads = [()] * len(tokens) if prompts.read is None else np.asarray(prompts.read)
    places = [len(set(np.asarray(read).tolist()) - {NO_READ}) for read in reads]
    return [
        (bucket(int(t), 32), ceil_power(max(q, 16))) for t, q in zip(tokens, places, strict=True)
    ]


def cut(prompts: Prompts, tokens: int, reads: int) -> Prompts:
    """Cuts or pads prompts [B, T], [B, Q] to so many tokens and reads."""

    def fit(values, size, fill):
        values = np.asarray(values)[:, :size]
        return np.pad(values, ((0, 0), (0, size - values.shape[1])), constant_values=fill)

    plain = Prompts(
        ids=fit(prompts.ids, tokens, 0),
        positions=fit(prompts.positions, tokens, 0),
        branch=fit(prompts.branch, tokens, PADDING),
    )
    if prompts.read is None:
        return plain
    return plain.replace(
        read=fit(prompts.read, reads, NO_READ),
        targets=fit(prompts.targets, reads, 0),
    )


def question_of(prompts: Prompts, b: int) -> tuple[Prompts, np.ndarray]:
    """Takes one question [1, T'], [1, Q'] in buckets of its own tokens and reads.

    Returns it and which of the Q reads of the batch are its own; in it they stand in front.
    """
    row = jax.tree.map(lambda x: np.asarray(x)[b : b + 1], prompts)
    mine = row.read[0] != NO_READ
    row = row.replace(read=row.read[:, mine], targets=row.targets[:, mine])
    tokens = bucket(int((row.branch != PADDING).sum()), 32)
    return cut(row, tokens, bucket(int(mine.sum()), 16)), mine


def check_batch(model: Model, prompts: Prompts, paths: Paths) -> tuple[Prompts, np.ndarray]:
    """Checks what `run_paths` takes; returns it as numpy, the paths [B, C, P]."""
    if prompts.read is None or prompts.targets is None:
        raise ValueError(
            "run_paths reads the model at positions: give prompts `read` and `targets`."
        )
    prompts = jax.tree.map(np.asarray, prompts)
    check_prompts(model, prompts)
    return prompts, pad_paths(paths, len(prompts.ids), model.config.num_layers)


def no_readings(paths: np.ndarray, reads: int) -> Readings:
    """Returns Readings [B, C, Q] of nothing: log-probabilities of -inf, and not finite."""
    shape = (*paths.shape[:2], reads)
    return Readings(
        logprob=np.full(shape, -np.inf, np.float32),
        token=np.full(shape, -1, np.int32),
        rival=np.full(shape, -np.inf, np.float32),
        finite=np.zeros(shape[:2], bool),
    )
