"""`Devices`: meshes and memory, and the dtype of a backend."""

import pytest

from cola_jax.engine.devices import Devices, choose_dtype


def test_mesh_uses_every_device_by_default():
    assert Devices().mesh(100).shape == {"data": 8, "tensor": 1}
    assert Devices().mesh(3).shape == {"data": 3, "tensor": 1}
    assert Devices(tensor=4).mesh(100).shape == {"data": 2, "tensor": 4}
    assert Devices(data=1).mesh(100) is None
    assert Devices(data=3, tensor=2).mesh(100).shape == {"data": 3, "tensor": 2}


def test_mesh_refuses_devices_that_are_not_there():
    for fields, message in (
        ({"tensor": 3}, "tensor 3 does not fit the 8 devices"),
        ({"data": 4, "tensor": 4}, "data 4 times tensor 4 does not fit the 8 devices"),
        ({"data": 7}, "data 7 is more than the 5 questions"),
        ({"device": "tpu"}, "device is to be tpu, but JAX runs on cpu here"),
        ({"device": "gpu"}, r"install cola-jax\[cuda13\]"),
    ):
        with pytest.raises(ValueError, match=message):
            Devices(**fields).mesh(5)


def test_devices_refuse_bad_numbers_and_sizes():
    for fields in ({"data": 0}, {"tensor": -1}, {"tile_tokens": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            Devices(**fields)
    assert Devices(memory_budget="2GB").budget == 2 * 10**9
    assert Devices().budget is None
    half, most = (Devices(memory_budget=share).budget or 0 for share in ("50%", "99%"))
    assert 0 < half < most
    with pytest.raises(ValueError, match="'much' is not a size"):
        Devices(memory_budget="much")


def test_choose_dtype_is_float32_on_a_cpu_alone(monkeypatch):
    assert choose_dtype(None, "bfloat16") == "float32"
    assert choose_dtype(None, "int8") == "int8"
    assert choose_dtype("bfloat16", "float32") == "bfloat16"
    with pytest.raises(ValueError, match="a CPU does not run float16"):
        choose_dtype("float16", "float16")
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert choose_dtype(None, "bfloat16") == "bfloat16"
    assert choose_dtype("float16", "bfloat16") == "float16"
