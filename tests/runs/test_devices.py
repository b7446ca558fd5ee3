"""Which devices a session uses, and what is refused before anything runs."""

import pytest

from cola_jax.runs.devices import Devices, choose_dtype


def test_mesh_uses_every_device_by_default():
    assert Devices().mesh(100).shape == {"data": 8, "tensor": 1}
    assert Devices().mesh(3).shape == {"data": 3, "tensor": 1}
    assert Devices(tensor=4).mesh(100).shape == {"data": 2, "tensor": 4}
    assert Devices(data=1).mesh(100) is None
    assert Devices(data=3, tensor=2).mesh(100).shape == {"data": 3, "tensor": 2}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tensor": 3}, "tensor 3 does not divide the 8 devices"),
        ({"tensor": 16}, "tensor 16 does not divide the 8 devices"),
        ({"data": 4, "tensor": 4}, "needs 16 devices, this host has 8"),
        ({"data": 7}, "data 7 is more than the 5 questions"),
        ({"device": "tpu"}, "device asked for is tpu, but JAX runs on cpu here"),
        ({"device": "gpu"}, r"install cola-jax\[cuda13\]"),
    ],
)
def test_mesh_refuses_devices_that_are_not_there(fields, message):
    with pytest.raises(ValueError, match=message):
        Devices(**fields).mesh(5)


@pytest.mark.parametrize("fields", [{"data": 0}, {"tensor": -1}, {"rows": 0}])
def test_devices_refuse_numbers_below_one(fields):
    with pytest.raises(ValueError, match=r"must be at least 1|has 1 to 512 rows"):
        Devices(**fields)


def test_devices_refuse_a_budget_that_is_not_a_size():
    assert Devices(memory_budget="2GB").budget == 2 * 10**9
    assert Devices().budget is None
    with pytest.raises(ValueError, match="'much' is not a size"):
        Devices(memory_budget="much")


def test_choose_dtype_is_float32_on_a_cpu_alone(monkeypatch):
    assert choose_dtype(None, "bfloat16") == "float32"
    assert choose_dtype("bfloat16", "float32") == "bfloat16"
    with pytest.raises(ValueError, match="a CPU does not run float16"):
        choose_dtype("float16", "float16")
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert choose_dtype(None, "bfloat16") == "bfloat16"
    assert choose_dtype("float16", "bfloat16") == "float16"
