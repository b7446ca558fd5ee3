"""Arrays on disk: whatever is in place of one gives one clear error."""

from pathlib import Path

import numpy as np
import pytest
from etils import epath

from cola_jax.deploy.array_file import open_array, read_arrays


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00\x02\x00{'", b"PK\3\4"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    for read in (lambda f: open_array(f, "do it"), lambda f: read_arrays(f, ("a",), "do it")):
        with pytest.raises(ValueError, match=r"a\.npy is damaged \(.*\): do it\.$") as error:
            read(epath.Path(tmp_path / "a.npy"))
        assert str(error.value).isprintable()


def test_archives_of_other_arrays_are_refused(tmp_path: Path) -> None:
    file = epath.Path(tmp_path / "a.npz")
    np.savez(str(file), a=np.ones(2), b=np.array([1.0, np.nan]), c=np.array(["x"]))
    assert [array.tolist() for array in read_arrays(file, ("a",), "do it")] == [[1, 1]]
    for name, message in (("b", "other values"), ("c", "other values"), ("d", "not a file")):
        with pytest.raises(ValueError, match=message):
            read_arrays(file, (name,), "do it")
    np.savez_compressed(str(file), a=np.zeros(10**6))
    with pytest.raises(ValueError, match="it is compressed"):
        read_arrays(file, ("a",), "do it")
