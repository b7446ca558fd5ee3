"""Where the arrays of a worker lie: views of the model's own, whole or split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import cola_jax
from cola_jax.execute import placement
from cola_jax.execute.reference import run_reference
from cola_jax.prompts import Prompts
from tests.execute import batches


@pytest.fixture(scope="module")
def found(pair):
    return pair("qwen2-window")


def test_model_devices_follow_the_axes(found):
    devices = jax.devices()
    assert placement.model_devices(found.ours).tolist() == [[devices[0]]]
    for data, tensor in ((2, 4), (1, 2), (8, 1)):
        model = cola_jax.load(found.checkpoint, mesh=batches.mesh(data, tensor))
        expected = np.array(devices[: data * tensor]).reshape(data, tensor)
        assert (placement.model_devices(model) == expected).all()
    # whatever their order, and where there is only one
    axes = {("tensor", "data"): (2, 4), ("tensor",): (4,)}
    for names, shape in axes.items():
        grid = np.array(devices[: np.prod(shape)]).reshape(shape)
        mesh = Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))
        model = cola_jax.load(found.checkpoint, mesh=mesh)
        assert (placement.model_devices(model) == np.atleast_2d(grid.T)).all()


def addresses(leaf):
    return {shard.device: shard.data.unsafe_buffer_pointer() for shard in leaf.addressable_shards}


@pytest.mark.parametrize(("data", "tensor"), [(4, 1), (2, 2)])
def test_local_shares_the_shards_of_a_place(found, data, tensor):
    """A worker's part of a weight is no copy, and means what the whole does."""
    model = cola_jax.load(found.checkpoint, mesh=batches.mesh(data, tensor))
    for devices in placement.model_devices(model):
        for leaf in jax.tree.leaves(model):
            part = placement.local_shards(leaf, devices)
            assert part.devices() == set(devices.flat)
            assert addresses(part).items() <= addresses(leaf).items()
            np.testing.assert_array_equal(part, leaf)


def test_local_refuses_devices_without_the_model(found):
    with pytest.raises(ValueError, match="load it with the mesh that it runs on"):
        placement.local_shards(found.ours.embedding, np.array(jax.devices()[1:2]))


@pytest.mark.parametrize("axis", [0, 2])
def test_split_along_an_axis(axis):
    devices = np.array(jax.devices()[:2])
    array = jnp.zeros((4, 3, 6), device=placement.split_along(devices, axis))
    expected = [4, 3, 6]
    expected[axis] //= 2
    assert {shard.data.shape for shard in array.addressable_shards} == {tuple(expected)}
    alone = jnp.zeros(3, device=placement.split_along(devices[:1], 0))
    assert alone.devices() == {devices[0]}


def test_in_tpu_order_changes_no_values(found):
    """The order in memory changes; no TPU is here to profit from it."""
    model = found.ours
    ordered = model.replace(layers=placement.in_tpu_order(model.layers))
    assert ordered.layers.q.format.layout.major_to_minor == (0, 2, 3, 1)
    np.testing.assert_array_equal(ordered.layers.k, model.layers.k)
    prompts = Prompts.stack([batches.packed(seed) for seed in range(2)])
    paths = batches.paths_of(2, 2, 0)
    expected = run_reference(model, prompts, paths)
    batches.assert_agree(run_reference(ordered, prompts, paths), expected)
