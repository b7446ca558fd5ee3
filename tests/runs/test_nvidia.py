"""Drivers of NVIDIA, and the packages that fit them."""

import jax
import pytest

from cola_jax.runs import nvidia
from cola_jax.runs.devices import Devices
from cola_jax.runs.nvidia import check_driver, driver_version

VERSION = """NVRM version: NVIDIA UNIX {}x86_64 Kernel Module  {}  Mon May  5 20:01:15 UTC 2026
GCC version:  gcc version 12.2.0
"""


@pytest.mark.parametrize(
    ("driver", "installed", "message"),
    [
        (535, (13,), r"driver 535 is too old .*cola-jax\[cuda13\].* need 580.*cola-jax\[cuda12\]"),
        (470, (12,), r"driver 470 is too old .*need 525: install a newer driver"),
        (470, (13, 12), r"driver 470 is too old .*need 580"),
    ],
)
def test_a_driver_that_is_too_old_is_refused(driver, installed, message):
    with pytest.raises(ValueError, match=message):
        check_driver(driver, installed)


@pytest.mark.parametrize(
    ("driver", "installed"),
    [(None, (13,)), (None, ()), (580, (13,)), (535, (13, 12)), (525, (12,))],
)
def test_a_driver_that_fits_or_is_not_there_is_fine(driver, installed, caplog):
    check_driver(driver, installed)
    assert not caplog.text


@pytest.mark.parametrize(("driver", "extra"), [(580, "cuda13"), (570, "cuda12")])
def test_a_gpu_without_packages_is_pointed_at(driver, extra, caplog):
    for _ in range(2):
        check_driver(driver, ())
    assert caplog.text.count(f"pip install 'cola-jax[{extra}]'") == 1


@pytest.mark.parametrize("kind", ["", "Open "])
def test_the_version_of_the_driver_is_read(kind, tmp_path, monkeypatch):
    file = tmp_path / "version"
    monkeypatch.setattr(nvidia, "DRIVER", file)
    assert driver_version() is None
    file.write_text(VERSION.format(kind, "580.65.06"))
    assert driver_version() == 580
    file.write_text("something else")
    assert driver_version() is None


def test_devices_name_it_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr("cola_jax.runs.devices.driver_version", lambda: 535)
    monkeypatch.setattr("cola_jax.runs.devices.cuda_packages", lambda: (13,))
    Devices().check_backend()  # JAX_PLATFORMS says cpu
    jax.config.update("jax_platforms", None)
    try:
        with pytest.raises(ValueError, match="driver 535 is too old"):
            Devices().check_backend()
        Devices(device="cpu").check_backend()
    finally:
        jax.config.update("jax_platforms", "cpu")
