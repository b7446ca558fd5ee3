"""The cluster files: their YAML and commands parse, and pyproject.toml knows what they install."""

import re
import shlex
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cola_jax.cli.commands import parse

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
TEXTS = {
    # a backslash continues a line, also of a comment
    file.name: re.sub(r"\\\n#?\s*", "", file.read_text())
    for file in (ROOT / "experiments" / "cluster").iterdir()
}


def test_files_parse():
    assert all(yaml.safe_load(text) for name, text in TEXTS.items() if name.endswith(".yaml"))
    commands = [line for text in TEXTS.values() for line in re.findall("cola search .*", text)]
    assert len(commands) == 4
    for command in commands:
        assert parse(shlex.split(command.rstrip('"'))[1:]).flags.run.engine == "ray"


def test_versions_and_extras_exist():
    text = "\n".join(TEXTS.values())
    installed = re.findall(r"(?:\.|cola-jax)\[([\w,]+)\]", text)
    assert len(installed) == 5
    assert {extra for extras in installed for extra in extras.split(",")} <= set(EXTRAS)
    pythons = re.findall(r"--python (3\.\d+) ", text) + ["3.12" for _ in re.findall("-py312", text)]
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(python) for python in pythons)
    (image,) = re.findall(r"rayproject/ray:([\d.]+)-", text)
    assert Requirement(EXTRAS["ray"][0]).specifier.contains(image)
