"""What a device has, under the limits of containers, and what of it a run takes by default."""

import os
from types import SimpleNamespace

import jax
import pytest

from cola_jax.execute import device_memory
from cola_jax.execute.device_memory import default_budget

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device(platform, **stats):
    return SimpleNamespace(platform=platform, memory_stats=lambda: stats)


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """Returns a machine's memory under control groups: the text of a process, and of limits."""

    def of(own, limits):
        for name, limit in limits.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(limit)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(device_memory, "OWN_GROUPS", tmp_path / "own")
        monkeypatch.setattr(device_memory, "GROUPS", tmp_path)
        devices = jax.local_devices()
        return device_memory.device_memory(devices[0]) * len(devices)

    return of


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": "1000000\n"}, 10**6),
        ("0::/a/b\n", {"a/memory.max": "2000000", "a/b/memory.max": "max"}, 2 * 10**6),
        ("0::/a/b\n", {"a/memory.max": "2000000", "a/b/memory.max": "1000000"}, 10**6),
        ("5:cpu,memory:/a\n", {"memory/a/memory.limit_in_bytes": "1000000"}, 10**6),
        ("5:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "1000000"}, MACHINE),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("", {}, MACHINE),
    ],
)
def test_device_memory_is_within_the_limits_of_containers(memory, own, limits, expected):
    assert expected - 8 <= memory(own, limits) <= expected  # shared by up to eight devices


def test_default_budget_is_half_of_what_the_weights_leave(memory):
    assert default_budget(device("gpu", bytes_limit=1000, bytes_in_use=600), weights=500) == 200
    total = memory("0::/\n", {"memory.max": "8000000"}) // len(jax.local_devices())
    assert default_budget(jax.local_devices()[0], weights=0) == total // 2
    assert default_budget(jax.local_devices()[0], weights=total // 2) == total // 4
    assert default_budget(jax.local_devices()[0], weights=2 * total) == total // 8


def test_device_memory_needs_a_device_that_reports_it():
    with pytest.raises(ValueError, match="does not report its memory: give a memory budget"):
        default_budget(device("tpu"), weights=0)
