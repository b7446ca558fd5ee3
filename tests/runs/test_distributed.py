"""A distributed start, whose hosts are processes of this machine that share a run."""

import socket

import pytest

from cola_jax.engine.devices import Devices
from cola_jax.engine.hosts import Hosts
from cola_jax.engine.local import LocalEngine
from cola_jax.runs.run import Run
from cola_jax.runs.session import Session
from cola_jax.tasks.task import TaskConfig
from tests.runs import jobs
from tests.runs.conftest import KILLED, end
from tests.same_rows import differences

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
    engine = LocalEngine(Devices(data=1, tensor=2), batch_size=1)
    session = Session.prepare(checkpoint, TaskConfig(task).prepare, engine)
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
    assert Run(out).questions().num_rows == 6  # each by one host
    starts = Run(out).read_starts()[1]
    assert sorted(start["host"] for start in starts) == [0, 0, 1, 1]
    assert {start["hosts"] for start in starts} == {2}
    assert len({start["together"] for start in starts}) == 2
    assert ["metrics" in start for start in starts if start["host"] == 0] == [False, True]


def test_hosts_with_other_settings_are_named(start_host, tmp_path):
    """The one that makes the run does its share, and the other is refused."""
    address = free_address()
    started = [start_host(host, address, tmp_path / "run", PATHS[host:][:2]) for host in (0, 1)]
    codes = [end(process) for process, _ in started]
    assert sorted(codes) == [0, 1], [errors.read_text() for _, errors in started]
    text = started[codes.index(1)][1].read_text()
    assert "was created with different settings (--paths" in text
    assert Run(tmp_path / "run").questions().num_rows == 3


def test_host_without_the_others_ends(start_host, tmp_path):
    process, errors = start_host(0, free_address(), tmp_path / "run", wait=1)
    assert end(process) == 1
    assert "the other hosts did not connect within 1 s" in errors.read_text()
