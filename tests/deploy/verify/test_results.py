"""What a trial reads of its earlier results."""

from types import SimpleNamespace
from typing import Any

import pytest

from cola_jax.deploy.verify.results import earlier_seconds
from cola_jax.errors import InputError
from cola_jax.runs.results import RESULTS, Results, write_results


def test_earlier_seconds_refuses_results_without_their_groups(tmp_path):
    trial: Any = SimpleNamespace(protocol={"hash": "1", "num_layers": 4}, tasks=[])
    assert earlier_seconds(str(tmp_path), trial) is None
    write_results(Results([], {"settings": {"hash": "2"}}), tmp_path / RESULTS)
    assert earlier_seconds(str(tmp_path), trial) is None
    for run in ({}, {"settings": {"hash": "1"}}):
        write_results(Results([], run), tmp_path / RESULTS)
        with pytest.raises(InputError, match="cannot be read"):
            earlier_seconds(str(tmp_path), trial)
