"""The wheel: the package and the files that it reads, and nothing else."""

import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Builds the wheel without a network and lists its files."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_only_the_package(names):
    tops = {name.split("/")[0] for name in names}
    assert tops == {"cola_jax", "cola_jax-0.1.0.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".partial"))]


def test_wheel_holds_every_file_of_the_package(names):
    for suffix in ("*.py", "*.jsonl", "*.html", "*.css", "*.js"):
        for file in (ROOT / "cola_jax").rglob(suffix):
            assert file.relative_to(ROOT).as_posix() in names
    assert "cola_jax/cli/demo.jsonl" in names
    assert "cola_jax-0.1.0.dist-info/licenses/LICENSE" in names
    assert "cola_jax-0.1.0.dist-info/entry_points.txt" in names


def test_wheel_holds_the_page_of_the_report(names):
    assets = {name.split("/")[-1] for name in names if name.startswith("cola_jax/report/assets/")}
    assert assets >= {"base.html", "page.html", "page.css", "charts.js", "questions.js"}
