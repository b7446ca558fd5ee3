"""Hosts as processes of this machine: they share a run, and outlive each other."""

import socket

import pytest
from cola_jax.runs.hosts import WHOLE, Hosts, Shard

from cola_jax.engine.devices import Devices
from cola_jax.runs.run import Run
from cola_jax.runs.session import RunConfig, Session
from cola_jax.tasks.task import TaskConfig
from experiments.same_rows import differences
from tests.runs import jobs
from tests.runs.conftest import KILLED, end

PATHS = [(0, 1, 2, 3, 4), (0, 2, 4), (0, 1, 1, 2, 3, 4)]


@pytest.fixture
def start_host(start, checkpoint, task, tmp_path):
    """Starts a host of two; returns its process and the file of its errors."""

    def call(host, address, out, work=PATHS, wait=20, files=None):
        errors = tmp_path / f"errors-{host}-{address}"
        hosts = Hosts(True, address, 2, host, wait=wait)
        arguments = (checkpoint, task, hosts, str(out), work, str(errors), files)
        return start(jobs.host, *arguments), errors

    return call


def free_address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
def test_hosts_find_what_one_does_and_outlive_each_other(start_host, checkpoint, task, tmp_path):
    config = RunConfig(None, 1, Devices(data=1, tensor=2))
    session = Session.prepare(checkpoint, TaskConfig(task).prepare, config)
    alone = jobs.fill(session, str(tmp_path / "alone"), PATHS)

    out, address = tmp_path / "run", free_address()
    (first, first_errors), (second, errors) = (
        start_host(host, address, out, files=(3, None)[host]) for host in (0, 1)
    )
    assert end(first) == KILLED, first_errors.read_text()
    assert end(second) == 0, errors.read_text()
    done = set(Run(out).questions().column("question").to_pylist())
    assert {"q1", "q3", "q5"} < done < {f"q{i}" for i in range(6)}

    address = free_address()
    for process, errors in [start_host(host, address, out) for host in (0, 1)]:
        assert end(process) == 0, errors.read_text()
    assert differences(Run(out), alone) == []
    starts = [start for start in Run(out).manifest()["starts"] if start["shard"] == "0/2"]
    assert ["metrics" in start for start in starts] == [False, True]


def test_hosts_with_other_settings_are_named(start_host, tmp_path):
    address = free_address()
    for process, errors in [
        start_host(host, address, tmp_path / "run", PATHS[host:]) for host in (0, 1)
    ]:
        assert end(process) == 1
        assert "hosts [1] have different settings than host 0" in errors.read_text()
    assert not (tmp_path / "run").exists()


def test_host_without_the_others_ends(start_host, tmp_path):
    process, errors = start_host(0, free_address(), tmp_path / "run", wait=1)
    assert end(process) == 1
    assert "the other hosts did not connect within 1 s" in errors.read_text()


def test_join_refuses_one_host_of_a_slice_and_no_hosts(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4")
    with pytest.raises(ValueError, match=r"one of 4 hosts of a TPU slice.*--distributed"):
        Hosts().join()
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert Hosts().join() == WHOLE
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


def test_shard_is_parsed_as_it_is_written():
    assert Shard.parse(" 3/12 ") == Shard(3, 12)
    assert str(Shard(3, 12)) == "3/12"
    for text in ("", "1", "2/2", "-1/2", "1/0", "a/b", "1.0/2"):
        with pytest.raises(ValueError, match="is not one of 0/N to N-1/N"):
            Shard.parse(text)
