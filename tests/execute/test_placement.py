"""The placement of the arrays of a worker: views of the model's own, whole or split."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import cola_jax
from cola_jax.execute import placement
from cola_jax.execute.placement import layers_of, view_part
from cola_jax.execute.worker import Workers
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


def test_in_tpu_order_changes_no_values(found):
    layers = found.ours.layers
    ordered = placement.in_tpu_order(layers)
    assert ordered.q.format.layout.major_to_minor == (0, 2, 3, 1)
    jax.tree.map(np.testing.assert_array_equal, ordered, layers)


LAYERS = 4


def stack(*shape, dtype="float32"):
    return jnp.arange(LAYERS * np.prod(shape)).reshape(LAYERS, *shape).astype(dtype)


def offsets(parts, whole):
    """The places of arrays, in bytes from that of another."""
    return [part.unsafe_buffer_pointer() - whole.unsafe_buffer_pointer() for part in parts]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_view_shares_memory(dtype):
    whole = stack(128, 512, dtype=dtype)
    parts = [view_part(whole, i) for i in range(LAYERS)]
    assert offsets(parts, whole) == [i * whole.nbytes // LAYERS for i in range(LAYERS)]
    for i, part in enumerate(parts):
        assert part.dtype == whole.dtype
        np.testing.assert_array_equal(part, whole[i : i + 1])
    elsewhere = jax.device_put(whole, jax.devices()[5])
    assert view_part(elsewhere, 2).devices() == elsewhere.devices()
    np.testing.assert_array_equal(view_part(elsewhere, 2), whole[2:3])


@pytest.mark.parametrize("shape", [(3,), (127, 509)])
def test_view_copies_what_is_small_or_not_aligned(shape):
    whole = stack(*shape)
    parts = [view_part(whole, i) for i in range(LAYERS)]
    assert offsets(parts[1:], whole) != [i * whole.nbytes // LAYERS for i in range(1, LAYERS)]
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(part, whole[i : i + 1])


def test_view_holds_the_memory_of_a_deleted_stack():
    whole = stack(128, 512)
    expected, parts = np.array(whole), [view_part(whole, i) for i in range(LAYERS)]
    whole.delete()
    del whole
    gc.collect()
    others = [jnp.zeros((LAYERS, 128, 512)) for _ in range(4)]  # would take the memory
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    del others


@pytest.mark.parametrize("tensor", [1, 2])
def test_layers_of_a_model_are_where_it_is(pair, tensor):
    model = cola_jax.load(pair("qwen2-window").checkpoint, mesh=batches.mesh(1, tensor))
    layers = model.layers
    for i, part in enumerate(layers_of(layers)):
        for leaf, whole in zip(jax.tree.leaves(part), jax.tree.leaves(layers), strict=True):
            assert leaf.devices() == whole.devices()
            np.testing.assert_array_equal(leaf, whole[i : i + 1])
    (worker,) = Workers(model).workers  # several devices of a CPU run what a TPU does
    assert (worker.layers is None) == (tensor > 1)
