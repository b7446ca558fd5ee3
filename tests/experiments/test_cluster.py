"""The cluster files: YAML and commands parse, and versions and extras are pyproject.toml's."""

import re
import shlex
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

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
    assert len(commands) == 3
    for command in commands:
        assert parse(shlex.split(command.rstrip('"'))[1:]).flags.run.engine == "ray"


def test_versions_and_extras_exist():
    text = "\n".join(TEXTS.values())
    installed = re.findall(r"(?:\.|cola-jax)\[([\w,]+)\]", text)
    assert len(installed) == 3
    assert {extra for extras in installed for extra in extras.split(",")} <= set(EXTRAS)
    pythons = re.findall(r"--python (3\.\d+) ", text) + ["3.12" for _ in re.findall("-py312", text)]
    assert all(SpecifierSet(PROJECT["requires-python"]).contains(python) for python in pythons)


def test_machines_that_join_later_have_the_same_versions():
    pinned = dict(line.split("==") for line in TEXTS["versions.txt"].splitlines() if line[0] != "#")
    needed = [Requirement(text) for text in PROJECT["dependencies"] + EXTRAS["ray"] + EXTRAS["gcs"]]
    for each in needed:
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each
    texts = [text for name, text in TEXTS.items() if name != "versions.txt"]
    installing = [line for text in texts for line in text.splitlines() if "pip install" in line]
    assert all("versions.txt" in line for line in installing if "[ray," in line)
    rays = re.findall(r"(?:rayproject/ray:|rayVersion: )([\d.]+)", "".join(texts))
    assert rays == [pinned["ray"]] * 2
