"""What users install: the wheel, and the pages of the API that pdoc makes from docstrings."""

import inspect
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cola_jax

ROOT = Path(__file__).parents[1]
READ = (".jsonl", ".html", ".css", ".js")  # suffixes of files that the package reads


def test_wheel_holds_the_package_and_its_files_only(tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    package, metadata = sorted({name.split("/")[0] for name in names})
    assert package == "cola_jax"
    assert metadata.startswith("cola_jax-")  # and the version of the last tag
    assert not [name for name in names if name.endswith((".pyc", ".partial"))]
    assert {f"{metadata}/licenses/LICENSE", f"{metadata}/entry_points.txt"} <= names
    files = [file for file in (ROOT / "cola_jax").rglob("*") if file.suffix in (".py", *READ)]
    assert {file.relative_to(ROOT).as_posix() for file in files} <= names


WITHOUT_EXTRAS = """
import inspect, pydoc, sys
sys.modules.update(dict.fromkeys(["gcsfs", "lm_eval", "math_verify", "PIL", "ray", "s3fs"]))
import cola_jax
from cola_jax import *
members, page = dict(inspect.getmembers(cola_jax)), pydoc.plain(pydoc.render_doc(cola_jax))
assert all(name in globals() and name in members and name in page for name in cola_jax.__all__)
try:
    RayEngine()
except ValueError as error:
    print(error)
"""


def test_every_name_imports_without_extras():
    command = [sys.executable, "-c", WITHOUT_EXTRAS]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "many machines need Ray: pip install 'cola-jax[ray]'.\n"


# pydantic annotates the constructor of its dataclasses with a class that pdoc cannot import
API_PAGE = """
import pathlib, sys, warnings
import pdoc
warnings.simplefilter("error")
warnings.filterwarnings("ignore", ".*PydanticDataclass", UserWarning)
pdoc.render.configure(docformat="google")
pdoc.pdoc("cola_jax", output_directory=pathlib.Path(sys.argv[1]))
"""


def test_api_page_documents_every_name(tmp_path) -> None:
    for name in cola_jax.__all__:
        text = inspect.getdoc(getattr(cola_jax, name)) or ""
        assert text[:1].isupper(), name
        assert not text.startswith(f"{name}(")  # the docstring that dataclasses write
    pytest.importorskip("pdoc")
    # in a process of its own: it imports what annotations name, torch too, in its own way
    subprocess.run([sys.executable, "-c", API_PAGE, str(tmp_path)], check=True)
    page = (tmp_path / "cola_jax.html").read_text()
    assert all(f'id="{name}"' in page for name in cola_jax.__all__)
