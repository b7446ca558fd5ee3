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
from cola_jax.execute.worker import make_workers
from tests.execute import batches


@pytest.mark.parametrize(
    ("axes", "shape"),
    [(("data", "tensor"), (2, 4)), (("tensor", "data"), (2, 4)), (("tensor",), (4,))],
)
def test_model_devices_follow_the_axes(pair, axes, shape):
    grid = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    mesh = Mesh(grid, axes, axis_types=(AxisType.Auto,) * len(axes))
    model = cola_jax.load(pair("qwen2-window").checkpoint, mesh=mesh)
    expected = grid if axes[0] == "data" else np.atleast_2d(grid.T)
    assert (placement.model_devices(model) == expected).all()


def test_local_shares_the_shards_of_a_place(pair):
    """A worker's part of a weight is no copy, and means what the whole does."""

    def addresses(leaf):
        return {(s.device, s.data.unsafe_buffer_pointer()) for s in leaf.addressable_shards}

    model = cola_jax.load(pair("qwen2-window").checkpoint, mesh=batches.mesh(2, 2))
    for devices in placement.model_devices(model):
        for leaf in jax.tree.leaves(model):
            part = placement.local_shards(leaf, devices)
            assert part.devices() == set(devices.flat)
            assert addresses(part) <= addresses(leaf)
            np.testing.assert_array_equal(part, leaf)


def test_local_refuses_devices_without_the_model(model):
    with pytest.raises(ValueError, match="load it with the mesh that it runs on"):
        placement.local_shards(model.embedding, np.array(jax.devices()[1:2]))


def test_in_tpu_order_changes_no_values(model):
    (layers,) = model.layers
    ordered = placement.in_tpu_order(layers)
    assert ordered.q.format.layout.major_to_minor == (0, 2, 3, 1)
    jax.tree.map(np.testing.assert_array_equal, ordered, layers)


LAYERS = 4


@pytest.mark.parametrize(
    ("shape", "dtype", "shared"),
    [
        ((128, 512), "float32", True),
        ((128, 512), "bfloat16", True),
        ((128, 512), "float16", True),
        ((3,), "float32", False),  # small
        ((127, 509), "float32", False),  # not aligned
    ],
)
def test_view_shares_memory_of_large_aligned_parts(shape, dtype, shared):
    whole = jnp.arange(LAYERS * np.prod(shape)).reshape(LAYERS, *shape).astype(dtype)
    parts = [view_part(whole, i) for i in range(LAYERS)]
    start, size = whole.unsafe_buffer_pointer(), whole.nbytes // LAYERS
    views = [part.unsafe_buffer_pointer() == start + i * size for i, part in enumerate(parts)]
    assert views[1:] == [shared] * (LAYERS - 1)
    for i, part in enumerate(parts):
        assert part.dtype == whole.dtype
        np.testing.assert_array_equal(part, whole[i : i + 1])
    elsewhere = jax.device_put(whole, jax.devices()[5])
    assert view_part(elsewhere, 2).devices() == elsewhere.devices()
    np.testing.assert_array_equal(view_part(elsewhere, 2), whole[2:3])


def test_view_holds_the_memory_of_a_deleted_stack():
    whole = jnp.arange(LAYERS * 128.0 * 512).reshape(LAYERS, 128, 512)
    expected, parts = np.array(whole), [view_part(whole, i) for i in range(LAYERS)]
    whole.delete()
    del whole
    gc.collect()
    others = [jnp.zeros((LAYERS, 128, 512)) for _ in range(4)]  # would take the memory
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    del others


def test_layers_of_a_split_model_are_where_it_is(pair):
    model = cola_jax.load(pair("qwen2-window").checkpoint, mesh=batches.mesh(1, 2))
    for i, part in enumerate(layers_of(model)):
        for leaf, whole in zip(*map(jax.tree.leaves, (part, model.layers[0])), strict=True):
            assert leaf.devices() == whole.devices()
            np.testing.assert_array_equal(leaf, whole[i : i + 1])
    (worker,) = make_workers(model)  # several devices of a CPU run what a TPU does
    assert worker.layers is None
