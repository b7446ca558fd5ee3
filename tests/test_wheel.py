"""The wheel: the package and the files that it reads, and nothing else."""

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READ = (".jsonl", ".html", ".css", ".js")  # suffixes of files that the package reads


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Builds the wheel without a network and lists its files."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_only_the_package(names):
    package, metadata = sorted({name.split("/")[0] for name in names})
    assert package == "cola_jax"
    assert metadata.startswith("cola_jax-")  # and the version of the last tag
    assert metadata.endswith(".dist-info")
    assert not [name for name in names if name.endswith((".pyc", ".partial"))]
    assert {f"{metadata}/licenses/LICENSE", f"{metadata}/entry_points.txt"} <= names


def test_wheel_holds_every_file_of_the_package(names):
    files = [file for file in (ROOT / "cola_jax").rglob("*") if file.suffix in (".py", *READ)]
    assert {file.relative_to(ROOT).as_posix() for file in files} <= names
