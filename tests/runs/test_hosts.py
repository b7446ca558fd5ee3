"""Hosts as processes of this machine: they share a run, refuse strangers, outlive each other."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from cola_jax.runs.directory import WHOLE, RunDirectory
from cola_jax.runs.hosts import Hosts
from tests import tiny

SCRIPT = """
import os, signal, sys, time
from cola_jax.runs.devices import Devices
from cola_jax.runs.hosts import Hosts
from cola_jax.search import PRESETS
from cola_jax.runs.session import Session
from cola_jax.tasks.task import Asking

model, task, out, coordinator, host, num_hosts, seed, kill = sys.argv[1:]
if host == "alone":
    hosts = Hosts()
else:
    hosts = Hosts(True, coordinator, int(num_hosts), int(host), wait=20)

def watch(counts):
    if kill == host and counts.evaluations > 20:
        os.kill(os.getpid(), signal.SIGKILL)

try:
    session = Session.prepare(
        model, Asking(task), devices=Devices(tensor=2), hosts=hosts, shard=hosts.join()
    )
    session.search(
        out, PRESETS["cola"], simulations=8, leaves=4, seed=int(seed), group=1, watch=watch
    )
except ValueError as error:
    sys.exit(f"error: {error}")
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    task = tiny.write_questions(folder / "task.jsonl", 8)
    return str(tiny.make_checkpoint(folder)), str(task)


def start(material, out, host, coordinator="", num_hosts=2, seed=0, kill="nobody"):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    arguments = (*material, out, coordinator, host, num_hosts, seed, kill)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def free_address():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def rows(directory):
    run = RunDirectory(directory)
    tables = (run.questions(), run.evaluations())
    return [sorted(table.to_pylist(), key=repr) for table in tables]


@pytest.fixture(scope="module")
def alone(material, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("run") / "alone")
    code, errors = end(start(material, out, "alone"))
    assert code == 0, errors
    return rows(out)


def test_two_hosts_give_the_rows_of_one_and_outlive_each_other(material, alone, tmp_path):
    out, address = str(tmp_path / "run"), free_address()
    first, second = (start(material, out, host, address, kill="1") for host in (0, 1))
    assert end(second)[0] == -signal.SIGKILL
    code, errors = end(first)
    assert code == 0, errors
    done = RunDirectory(out).questions().column("question").to_pylist()
    assert {"q0", "q2", "q4", "q6"} <= set(done)
    assert len(done) < 8

    address = free_address()
    again = [start(material, out, host, address) for host in (0, 1)]
    assert [end(process)[0] for process in again] == [0, 0]
    assert rows(out) == alone
    parts = {file.name.rsplit("-", 1)[0] for file in RunDirectory(out).parts("questions")}
    assert parts == {"part-0-of-2", "part-1-of-2"}


def test_hosts_that_disagree_are_named(material, tmp_path):
    address = free_address()
    both = [start(material, str(tmp_path / "run"), host, address, seed=host) for host in (0, 1)]
    for process in both:
        code, errors = end(process)
        assert code == 1
        assert "hosts [1] have another configuration than host 0" in errors
    assert not (tmp_path / "run").exists()


def test_a_host_that_stays_alone_says_so(material, tmp_path):
    begun = time.monotonic()
    code, errors = end(start(material, str(tmp_path / "run"), 0, free_address()))
    assert code == 1
    assert "the other hosts did not come within 20 s" in errors
    assert time.monotonic() - begun > 20


def test_one_host_of_a_slice_is_told(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4")
    with pytest.raises(ValueError, match=r"one of 4 hosts of a TPU slice.*--distributed"):
        Hosts().join()
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert Hosts().join() == WHOLE


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distributed": True, "coordinator": "a:1"}, "belong together"),
        ({"coordinator": "a:1", "num_hosts": 2, "host": 0}, "and to --distributed"),
        ({"host": 1}, "belong together"),
        (
            {"distributed": True, "coordinator": "a:1", "num_hosts": 2, "host": 2},
            "host 2 is not one of 0 to 1",
        ),
        ({"wait": 0}, "at least 1 second"),
    ],
)
def test_hosts_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        Hosts(**fields)
