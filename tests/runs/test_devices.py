"""The devices of a session, those that are refused before anything runs, and the record."""

import contextlib
import json
import re
import sys
from pathlib import Path

import jax
import pytest

from cola_jax.errors import InputError
from cola_jax.runs import devices
from cola_jax.runs.devices import Devices, check_driver, choose_dtype


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
        ({"device": "tpu"}, "device is to be tpu, but JAX runs on cpu here"),
        ({"device": "gpu"}, r"install cola-jax\[cuda13\]"),
    ],
)
def test_mesh_refuses_devices_that_are_not_there(fields, message):
    with pytest.raises(ValueError, match=message):
        Devices(**fields).mesh(5)


def test_devices_refuse_bad_numbers_and_sizes():
    for fields in ({"data": 0}, {"tensor": -1}, {"tile_tokens": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            Devices(**fields)
    assert Devices(memory_budget="2GB").budget == 2 * 10**9
    assert Devices().budget is None
    assert (
        0 < (Devices(memory_budget="50%").budget or 0) < (Devices(memory_budget="99%").budget or 0)
    )
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


VERSION = """NVRM version: NVIDIA UNIX {}x86_64 Kernel Module  {}  Mon May  5 20:01:15 UTC 2026
GCC version:  gcc version 12.2.0
"""


def with_driver(monkeypatch, folder, driver, installed):
    """Give this machine a driver, and JAX packages for versions of CUDA."""
    file = folder / "version"
    if driver is not None:
        file.write_text(VERSION.format("Open ", driver))
    monkeypatch.setattr(devices, "DRIVER", file)
    monkeypatch.setattr(
        devices.importlib.util,
        "find_spec",
        lambda name: any(str(cuda) in name for cuda in installed) or None,
    )


@pytest.mark.parametrize(
    ("driver", "installed", "message"),
    [
        ("535.1", (13,), r"driver 535 is too old .*cuda13\].* need 580.*cola-jax\[cuda12\]"),
        ("470.1", (13, 12), r"driver 470 is too old .*need 580: install a newer driver"),
        *((None, (13,), None), (None, (), None), ("580.65.06", (13,), None)),
        *(("535.1", (13, 12), None), ("no version", (13,), None)),
    ],
)
def test_check_driver_refuses_old_drivers(monkeypatch, tmp_path, driver, installed, message):
    with_driver(monkeypatch, tmp_path, driver, installed)
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        check_driver()


def test_devices_name_the_driver_before_anything_is_loaded(monkeypatch, tmp_path):
    with_driver(monkeypatch, tmp_path, "535.1", (13,))
    Devices().check_backend()  # JAX_PLATFORMS says cpu
    jax.config.update("jax_platforms", None)
    try:
        with pytest.raises(InputError, match="driver 535 is too old"):
            Devices().check_backend()
        Devices(device="cpu").check_backend()
    finally:
        jax.config.update("jax_platforms", "cpu")


def test_machine_records_the_command_and_versions(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cola", "search", "--model", "a b"])
    record = devices.machine()
    assert record["command_line"] == "cola search --model 'a b'"
    assert record["versions"].keys() >= {"cola-jax", "jax"}
    assert json.loads(json.dumps(record)) == record


def test_git_commit_is_that_of_a_checkout(tmp_path):
    commit = devices.git_commit(Path(devices.__file__).parents[2])
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)
    assert devices.git_commit(tmp_path) is None
