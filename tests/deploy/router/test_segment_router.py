"""The segment router: its loss, its decoding against enumeration, and what it attends to."""

import jax
import numpy as np
import pytest

from cola_jax.deploy.router.segment_router import SegmentRouter, likeliest_paths, segment_loss
from cola_jax.deploy.router.targets import NO_OP, segments_at


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_segment_loss_is_the_formula():
    rng = np.random.default_rng(0)
    boundary, ops = rng.normal(size=(1, 4)), rng.normal(size=(1, 4, 3))
    targets = np.array([[1, NO_OP, 2, 0]])
    p, q = sigmoid(boundary[0]), np.exp(ops[0]) / np.exp(ops[0]).sum(-1, keepdims=True)
    at_boundary = -np.log([1 - p[1], p[2], p[3]]).mean()
    at_start = -np.log([q[0, 1], q[2, 2], q[3, 0]]).mean()
    np.testing.assert_allclose(
        segment_loss(np.float32(boundary), np.float32(ops), targets),
        [at_boundary + at_start],
        rtol=1e-5,
    )


def every_way(first, layers):
    """Lists all segmentations of the layers from `first` on."""
    if first == layers:
        return [[]]
    return [
        [segment, *rest]
        for segment in segments_at(first, layers)
        for rest in every_way(first + segment.size, layers)
    ]


def joined(way):
    """Return the path of segments."""
    return tuple(layer for segment in way for layer in segment.layers)


@pytest.mark.parametrize("seed", range(3))
def test_best_paths_are_those_of_enumeration(seed):
    layers, rng = 6, np.random.default_rng(seed)
    boundary, ops = rng.normal(size=layers), 2 * rng.normal(size=(layers, 3))
    logprob = ops - np.log(np.exp(ops).sum(-1, keepdims=True))
    scores = {}
    for way in every_way(0, layers):
        starts = {segment.first for segment in way}
        score = sum(logprob[segment.first, segment.op] for segment in way)
        score += sum(
            np.log(sigmoid(boundary[i] if i in starts else -boundary[i])) for i in range(1, layers)
        )
        path = joined(way)
        scores[path] = max(score, scores.get(path, -np.inf))
    del scores[()]
    expected = sorted(scores, key=lambda path: -scores[path])
    assert likeliest_paths(boundary, ops, 20) == expected[:20]


def test_best_paths_never_skip_every_layer():
    ops = np.tile([50.0, 0.0, -50.0], (3, 1))
    paths = likeliest_paths(np.zeros(3), ops, 100)
    assert () not in paths
    assert len(paths) == len(set(paths)) == len({joined(way) for way in every_way(0, 3)} - {()})
    assert len(likeliest_paths(np.zeros(3), ops, 1)[0]) < 3


def test_segment_router_does_not_see_padding():
    router, rng = SegmentRouter(5, width=16, heads=2, hidden=32), np.random.default_rng(0)
    states = rng.normal(size=(2, 6, 8)).astype(np.float32)
    mask = np.arange(6)[None] < np.array([[6], [4]])
    params = jax.jit(router.init)(jax.random.key(0), states, mask)
    apply = jax.jit(router.apply, static_argnames="train")
    other = np.where(mask[:, :, None], states, 7.0)
    for one, two in zip(apply(params, states, mask), apply(params, other, mask), strict=True):
        assert one.shape[:2] == (2, 5)
        np.testing.assert_allclose(one, two, rtol=1e-5)
    dropped = apply(params, states, mask, train=True, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(dropped[0], apply(params, states, mask)[0])
