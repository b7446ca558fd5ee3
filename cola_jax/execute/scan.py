"""`run_path`, the definition of running a path, and `run_paths`, which applies it path by path."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from cola_jax.model import block, embed, unembed, view
from cola_jax.params import Model
from cola_jax.path import STOP, pad_path, validate
from cola_jax.prompts import NO_READ, PADDING, Prompts, Readings, readings

Path = Sequence[int] | np.ndarray | Array


def run_path(
    model: Model, prompts: Prompts | ArrayLike, path: Path, *, dtype: DTypeLike | None = None
) -> Float[Array, "B Q V"]:
    """Runs every prompt along one path; this is what a path means.

    Args:
      model: the pretrained model.
      prompts: a batch of Prompts, or plain ids [B, T].
      path: layer ids in order; an array may be padded with STOP behind its end. Paths of the
        same padded length share one compilation.
      dtype: that of the activations; the weights' own when None.

    Returns:
      float32 logits [B, T, V], or [B, Q, V] at the positions read where `prompts.read` is given.

    Raises:
      ValueError: where the path or a token id is out of range, the prompts are longer than the
        model's context, or arrays have other ranks. Under a transformation of JAX there are no
        values to check, and ids out of range clamp.
    """
    prompts = as_prompts(prompts)
    if not isinstance(path, jax.core.Tracer):
        path = path_ids(path)
        validate(path.tolist(), model.config.num_layers)
    check_prompts(model, prompts)
    return logits(model, prompts, jnp.asarray(path, jnp.int32), dtype)


def run_paths(
    model: Model,
    prompts: Prompts,
    paths: np.ndarray | Array | Sequence[Sequence[Path]],
    *,
    dtype: DTypeLike | None = None,
    on_progress: Callable[[int], None] = lambda evaluations: None,
) -> Readings:
    """Runs the candidate paths of each question and reads the model at the positions asked about.

    Args:
      model: the pretrained model.
      prompts: a batch of B Prompts with `read` and `targets` [B, Q].
      paths: [B, C, P] padded with STOP, or for each question a list of paths of any lengths and
        number. An entry of STOP alone is no path and is not evaluated.
      dtype: that of the activations; the weights' own when None.
      on_progress: called with the number of evaluations done since the last call.

    Returns:
      Readings [B, C, Q] as numpy; entries without a path read -inf and are not finite.

    Raises:
      ValueError: as `run_path`, and where the prompts do not say what to read.

    Paths run one at a time, each question cut to its own token bucket, so that what a question
    yields does not depend on its batch. Compiles once for each bucket of T, Q and P.
    """
    if prompts.read is None or prompts.targets is None:
        raise ValueError(
            "run_paths reads the model at positions: give prompts `read` and `targets`."
        )
    prompts = jax.tree.map(np.asarray, prompts)
    reads = np.asarray(prompts.read)
    check_prompts(model, prompts)
    padded = pad_paths(paths, len(prompts.ids), model.config.num_layers)
    shape = (*padded.shape[:2], reads.shape[1])
    out = Readings(
        logprob=np.full(shape, -np.inf, np.float32),
        token=np.full(shape, -1, np.int32),
        rival=np.full(shape, -np.inf, np.float32),
        finite=np.zeros(shape[:2], bool),
    )
    # one compilation for the weights' own dtype, however it was asked for
    dtype = None if dtype == model.embedding.dtype else dtype
    for b, candidates in enumerate(padded):
        row = cut_to_bucket(jax.tree.map(lambda x, b=b: x[b : b + 1], prompts))
        present = np.flatnonzero(candidates[:, 0] != STOP)
        # dispatch all before fetching any, so that the host never waits between paths
        pending = [path_readings(model, row, jnp.asarray(candidates[c]), dtype) for c in present]
        for c, result in zip(present, pending, strict=True):
            result = jax.device_get(result)
            for name in ("logprob", "token", "rival"):
                values = getattr(result, name)[0, : shape[2]]
                getattr(out, name)[b, c, : len(values)] = values
            out.finite[b, c] = result.finite[0]
            on_progress(1)
    return out


@functools.partial(jax.jit, static_argnames="dtype")
def logits(
    model: Model, prompts: Prompts, path: Int[Array, " P"], dtype: DTypeLike | None = None
) -> Float[Array, "B Q V"]:
    """The compiled part of `run_path`: a scan over the path, one slice of the stack a step."""
    h = embed(model, jnp.asarray(prompts.ids), dtype)
    here = view(model.config, prompts)

    def step(h, i):
        def run(h):
            # indexed inside the body: gathering all layers first would copy the path's weights
            layer = jax.tree.map(lambda leaf: leaf[jnp.maximum(i, 0)], model.layers)
            return block(model.config, layer, h, here)

        # a branch skips the work of padding; under vmap it becomes a select
        return jax.lax.cond(i == STOP, lambda h: h, run, h), None

    h, _ = jax.lax.scan(step, h, path)
    if prompts.read is not None:
        # padding repeats the first read, so that it cannot be what is not finite
        read = jnp.where(prompts.read == NO_READ, prompts.read[:, :1], prompts.read)
        h = jnp.take_along_axis(h, jnp.maximum(read, 0)[:, :, None], axis=1)
    return unembed(model, h)


@functools.partial(jax.jit, static_argnames="dtype")
def path_readings(
    model: Model, prompts: Prompts, path: Int[Array, " P"], dtype: DTypeLike | None = None
) -> Readings:
    """The compiled part of `run_paths`: one path, from prompts to readings."""
    return readings(logits(model, prompts, path, dtype), jnp.asarray(prompts.targets))


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


def pad_paths(
    paths: np.ndarray | Array | Sequence[Sequence[Path]], questions: int, num_layers: int
) -> np.ndarray:
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


def cut_to_bucket(row: Prompts) -> Prompts:
    """Cuts or pads one question [1, T], [1, Q] to buckets of its own tokens and reads."""
    tokens = bucket(int((row.branch != PADDING).sum()), 32)
    reads = bucket(int((row.read != NO_READ).sum()), 16)

    def fit(values, size, fill):
        values = values[:, :size]
        return np.pad(values, ((0, 0), (0, size - values.shape[1])), constant_values=fill)

    return Prompts(
        ids=fit(row.ids, tokens, 0),
        positions=fit(row.positions, tokens, 0),
        branch=fit(row.branch, tokens, PADDING),
        read=fit(row.read, reads, NO_READ),
        targets=fit(row.targets, reads, 0),
    )
