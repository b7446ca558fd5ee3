"""Batches that the executor's tests run, meshes to run them on, and how results are compared."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.execute.memory import parse_size
from cola_jax.params import Model
from cola_jax.path import STOP, pad_lists, pad_path, random_paths, unpad_path
from cola_jax.prompts import Prompts, Readings
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step
from tests import oracle

TOLERANCE = 1e-5  # relative to the largest log-probability
ROUNDING = 1e-6  # likewise; what the composition of a batch may change
QUESTIONS = [(12, 2), (40, 3), (5, 1)]  # tokens and reads: rows of different shapes


def mesh(data: int, tensor: int) -> Mesh:
    """Makes a mesh of fake devices."""
    devices = np.array(jax.devices()[: data * tensor]).reshape(data, tensor)
    return Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


def question(tokens: int, reads: int, seed: int) -> Prompts:
    """Makes a question that is read at its last positions."""
    return Prompts(
        ids=oracle.random_ids(1, tokens, seed)[0],
        positions=np.arange(tokens),
        branch=np.zeros(tokens, np.int32),
        read=np.arange(tokens - reads, tokens),
        targets=oracle.random_ids(1, reads, seed + 1)[0],
    )


def packed(seed: int, shared: int = 0) -> Prompts:
    """Makes a question of two or three continuations after a prompt, longer than `shared`."""
    generator = np.random.default_rng(seed)
    prompt = shared + int(generator.integers(3, 30))
    return branched(prompt, generator.integers(1, 4, 2 + seed % 2).tolist(), seed)


def branched(prompt: int, sizes: list[int], seed: int) -> Prompts:
    """Makes a question of these continuations after a prompt, of so many tokens."""
    generator = np.random.default_rng(seed)
    ids = oracle.random_ids(1, prompt + sum(sizes), seed)[0]
    branch = np.repeat(np.arange(len(sizes) + 1), [prompt, *sizes])
    positions = np.concatenate([np.arange(prompt), *(prompt + np.arange(n) for n in sizes)])
    read = np.concatenate([np.full(len(sizes) or 1, prompt - 1), np.arange(prompt, len(ids))])
    targets = generator.integers(0, oracle.VOCAB, len(read))
    return Prompts(ids=ids, positions=positions, branch=branch, read=read, targets=targets)


def alike(shared: int, count: int = 4) -> Prompts:
    """Makes questions with packed continuations that begin with the same tokens."""
    rows = [packed(seed, shared) for seed in range(count)]
    for seed, row in enumerate(rows):
        row.ids[:shared] = oracle.random_ids(1, shared, 99)[0]
        row.ids[shared] = seed  # the questions differ from here on
    return Prompts.stack(rows)


def plain(*lengths: int, shared: int = 0) -> Prompts:
    """Makes prompts of these lengths, padded on the right, after tokens that all of them share."""
    rows = []
    for seed, length in enumerate(lengths):
        ids = oracle.random_ids(1, shared + length, seed)[0]
        ids[:shared] = oracle.random_ids(1, shared, 99)[0]
        rows.append(Prompts(ids=ids, positions=np.arange(len(ids)), branch=np.zeros(len(ids))))
    return Prompts.stack(rows)


def with_embeddings(model: Model, prompts: Prompts, first: int) -> Prompts:
    """Replaces tokens from `first` on by others that carry the embeddings of those before."""
    ids, rows = np.array(prompts.ids), np.arange(len(prompts.ids))[:, None]
    places = first + rows + np.arange(6)  # of the first row half are padding
    places[0, 3:] = -1
    places = np.where(np.asarray(prompts.branch)[rows, places] < 0, -1, places)
    embeddings = np.asarray(model.embedding, np.float32)[ids[rows, places]]
    embeddings[places < 0] = np.nan
    used = np.nonzero(places >= 0)
    ids[used[0], places[used]] = (ids[used[0], places[used]] + 7) % oracle.VOCAB
    return prompts.replace(ids=ids, embeddings=embeddings, places=places)


def pad(rows: Sequence[Sequence[Sequence[int]]], width: int, count: int = 0) -> np.ndarray:
    """Pads lists of paths to [B, C, P], and C to at least a count."""
    every = max(count, *map(len, rows))
    return pad_lists([[*row, *[()] * (every - len(row))] for row in rows], width)


def runnable(config: ModelConfig, paths: np.ndarray) -> np.ndarray:
    """Puts the identity in place of paths [B, C, P] with layers that lack the keys they share."""
    paths = paths.copy()
    for b, c in np.argwhere(paths[:, :, 0] != STOP):
        try:
            config.check_keys(unpad_path(paths[b, c]))
        except InputError:
            paths[b, c] = pad_path(range(config.num_layers), paths.shape[2])
    return paths


def paths_of(questions: int, each: int, seed: int) -> list[list[tuple[int, ...]]]:
    """Draws paths for each question."""
    drawn = random_paths(oracle.LAYERS, questions * each, seed)
    return [drawn[b * each : (b + 1) * each] for b in range(questions)]


def of_steps(paths: np.ndarray, seed: int) -> np.ndarray:
    """Draws a part, a share or both for about half of the steps of paths of whole layers."""
    generator = np.random.default_rng(seed)
    shares = generator.choice([1.0, 0.5, 0.125, 1.75], paths.shape)
    parts = generator.choice([WHOLE, ATTENTION, MLP], paths.shape)
    drawn = (generator.random(paths.shape) < 0.5) & (paths != STOP)
    steps = paths.astype(np.int32)
    for place in zip(*np.nonzero(drawn), strict=True):
        steps[place] = Step(int(paths[place]), int(parts[place]), float(shares[place])).id
    return steps


def assert_agree(ours: Readings, theirs: Readings, tolerance: float = TOLERANCE) -> None:
    """Compares readings; the tolerance is relative to the largest log-probability."""
    values = np.concatenate([theirs.logprob.ravel(), theirs.rival.ravel()])
    largest = np.abs(values[np.isfinite(values)]).max()
    for name in ("logprob", "rival"):
        left, right = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_array_equal(np.isfinite(left), np.isfinite(right))
        real = np.isfinite(right)
        assert np.abs(left[real] - right[real]).max() <= tolerance * largest
    np.testing.assert_array_equal(ours.token, theirs.token)
    np.testing.assert_array_equal(ours.finite, theirs.finite)


def assert_identical(ours: Any, theirs: Any) -> None:
    """Compares pytrees of arrays to the bit."""
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def least_budget(run: Callable[..., Any]) -> int:
    """Reads the smallest budget that works out of the error for one that does not."""
    with pytest.raises(ValueError, match="give at least") as error:
        run(memory_budget=1)
    size = re.search(r"at least (\S+)\.", str(error.value))
    assert size is not None
    return int(parse_size(size[1]))
