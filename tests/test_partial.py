"""What is prepared beside a destination: complete or absent, and made by one process at a time."""

import os
import subprocess
import sys

import pytest

from cola_jax.partial import partial_file, partial_folder

BOTH = pytest.mark.parametrize("make", [partial_folder, partial_file])
HELD = """
import os, pathlib, sys
from cola_jax.partial import partial_folder
with partial_folder(pathlib.Path(sys.argv[1])) as partial:
    (partial / "half").write_text("half")
    os.kill(os.getpid(), 9)
"""


def is_empty(partial):
    return not (os.listdir(partial) if partial.is_dir() else partial.read_bytes())


@BOTH
def test_partial_is_empty_and_removed_at_the_end(make, tmp_path):
    with make(tmp_path / "a" / "made") as partial:
        assert partial.parent == tmp_path / "a"
        assert is_empty(partial)
    assert not os.listdir(tmp_path)


@BOTH
def test_partial_is_renamed_when_complete(make, tmp_path):
    with make(tmp_path / "made") as partial:
        partial.rename(tmp_path / "made")
        with make(tmp_path / "made"):  # of another process, which begins at once
            pass
    assert os.listdir(tmp_path) == ["made"]


@BOTH
@pytest.mark.parametrize("held", [partial_folder, partial_file])
def test_partial_is_made_by_one_process_at_a_time(make, held, tmp_path):
    with held(tmp_path / "made") as partial:
        with (
            pytest.raises(ValueError, match="made is being written by another process: wait"),
            make(tmp_path / "made"),
        ):
            pass
        assert partial.exists()


@BOTH
def test_partial_of_a_killed_process_is_removed(make, tmp_path):
    subprocess.run([sys.executable, "-c", HELD, str(tmp_path / "made")], check=False)
    assert os.listdir(tmp_path) == [".made.partial"]
    with make(tmp_path / "made") as partial:
        assert is_empty(partial)
    assert not os.listdir(tmp_path)


@BOTH
def test_partial_leaves_another_processes_alone(make, tmp_path):
    with make(tmp_path / "made") as partial:
        partial.rename(tmp_path / "made")
        (tmp_path / ".made.partial").write_text("theirs")
    assert (tmp_path / ".made.partial").read_text() == "theirs"


@BOTH
def test_partial_needs_a_folder(make, tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OSError, match=r"cannot be written .*: choose another"),
        make(tmp_path / "file" / "made"),
    ):
        pass
