"""The lock of a run directory: one command, or the processes of one distributed start."""

import contextlib

import pytest
from etils import epath

from cola_jax.errors import InputError
from cola_jax.runs.lock import locked


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_locked_refuses_a_second_process_but_where_both_share(tmp_path, first, second):
    folder = epath.Path(tmp_path / "run")
    expected = (
        contextlib.nullcontext()
        if first and second
        else pytest.raises(InputError, match=r"another process is filling .*run: wait for it")
    )
    with locked(folder, shared=first), expected, locked(folder, shared=second):
        pass
    with locked(folder, shared=second):
        pass
