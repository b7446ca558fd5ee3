"""`Hosts`: which flags belong together, and what is refused before a connection."""

import pytest

from cola_jax.engine.engine import QuestionShare
from cola_jax.engine.hosts import Hosts


def test_join_refuses_one_host_of_a_slice_and_no_hosts(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4")
    with pytest.raises(ValueError, match=r"one of 4 hosts of a TPU slice.*--distributed"):
        Hosts().join()
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert Hosts().join() == QuestionShare()
    with pytest.raises(ValueError, match=r"^no hosts to connect to were found \(.*or leave --dist"):
        Hosts(distributed=True).join()


def test_hosts_refuse_flags_that_contradict_each_other():
    for fields, message in (
        ({"distributed": True, "coordinator": "a:1"}, "belong together"),
        ({"coordinator": "a:1", "num_hosts": 2, "host": 0}, "and to --distributed"),
        ({"distributed": True, "coordinator": "a:1", "num_hosts": 2, "host": 2}, "0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Hosts(**fields)


def test_shares_are_disjoint_and_complete():
    shares = [QuestionShare(index, 3).of(range(8)) for index in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert QuestionShare(1, 2).of([1, 2, 7]) == [1, 7]  # of those that are left
    assert QuestionShare().of(range(3)) == [0, 1, 2]
