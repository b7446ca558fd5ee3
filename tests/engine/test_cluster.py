"""Connections to clusters, their machines, and what workers inherit."""

import contextlib
import http.server
import socket
import threading

import pytest

ray = pytest.importorskip("ray")

from ray._private import ray_constants  # noqa: E402

from cola_jax.engine import cluster  # noqa: E402
from cola_jax.engine.cluster import (  # noqa: E402
    choose_resources,
    connect,
    inherited,
    on_loopback,
    parse_resources,
    places_for,
)
from cola_jax.errors import InputError  # noqa: E402


def test_connect_starts_a_cluster_where_there_is_none_alone(monkeypatch):
    called = []

    def init(address, **options):
        called.append((address, options.get("include_dashboard")))
        if address == "auto":
            raise ConnectionError

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeManagerAddress": "127.0.0.1"}])
    monkeypatch.setattr(cluster, "check_answers", lambda target: None)
    monkeypatch.setattr(cluster, "last_answers", lambda: True)
    for address, variable, expected in (
        (None, "", [("auto", None), ("local", False)]),
        (None, "local", [("local", False)]),
        (None, "1.2.3.4:5", [("1.2.3.4:5", None)]),
        ("ray://host:1", "local", [("ray://host:1", None)]),
    ):
        monkeypatch.setenv("RAY_ADDRESS", variable)
        called.clear()
        assert connect(address) == (expected[-1][0] == "local")
        assert called == expected


@contextlib.contextmanager
def serving_pages():
    """Serve pages, which is not what Ray serves."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_connect_refuses_a_wrong_address_soon(monkeypatch, scheme):
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("tries for minutes"))
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r"no Ray cluster was found at .*refused"):
            connect(f"{scheme}127.0.0.1:{unused.getsockname()[1]}")
    with serving_pages() as port, pytest.raises(InputError, match="what answers there is not Ray"):
        connect(f"{scheme}127.0.0.1:{port}")


def test_a_killed_cluster_of_this_machine_is_not_waited_for(monkeypatch, caplog):
    called = []
    monkeypatch.setattr(ray, "init", lambda address, **options: called.append(address))
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeManagerAddress": "127.0.0.1"}])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setattr(
            "ray._private.services.get_ray_address_from_environment", lambda *_: address
        )
        assert connect(None)
    assert called == ["local"]
    assert f"the Ray cluster at {address} does not answer" in caplog.text


def test_on_loopback_warns_of_a_version_that_cannot(monkeypatch, caplog):
    with on_loopback():
        assert not ray_constants.ENABLE_RAY_CLUSTER
    assert not caplog.text
    monkeypatch.delattr(ray_constants, "ENABLE_RAY_CLUSTER")
    with on_loopback():
        assert "may open its ports to the network" in caplog.text
    assert not hasattr(ray_constants, "ENABLE_RAY_CLUSTER")


def test_workers_inherit_credentials_and_no_paths(monkeypatch):
    for name, value in (
        ("AWS_SECRET_ACCESS_KEY", "abc"),
        ("GOOGLE_CLOUD_PROJECT", "us"),
        ("HF_TOKEN", "hf_abc"),
        ("HF_HOME", "/home/me/cache"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "~/key.json"),
        ("JAX_PLATFORMS", "cpu"),
        ("JAX_DEFAULT_MATMUL_PRECISION", "highest"),
        ("SECRET", "abc"),
    ):
        monkeypatch.setenv(name, value)
    kept = inherited()
    assert kept["AWS_SECRET_ACCESS_KEY"] == "abc"
    assert {"GOOGLE_CLOUD_PROJECT", "HF_TOKEN", "JAX_DEFAULT_MATMUL_PRECISION"} <= kept.keys()
    left_out = {"HF_HOME", "GOOGLE_APPLICATION_CREDENTIALS", "JAX_PLATFORMS", "SECRET", "PATH"}
    assert not left_out & kept.keys()


@pytest.fixture
def machines(monkeypatch):
    """The machines of a cluster, each time that it is asked; the last ones stay."""
    changes = []

    def next_machines():
        return changes.pop(0) if len(changes) > 1 else changes[0]

    monkeypatch.setattr(cluster, "machines", next_machines)
    monkeypatch.setattr(cluster, "POLL", 0)
    return changes


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ([{"CPU": 8}, {"CPU": 96, "TPU": 4}], {"TPU": 4}),
        ([{"CPU": 8}, {"CPU": 96, "GPU": 8}], {"GPU": 2}),
        ([{"CPU": 8}, {"CPU": 4}, {"memory": 100}], {"CPU": 4}),
    ],
)
def test_the_default_resources_are_those_of_a_machine(machines, present, expected):
    machines.append(present)
    assert choose_resources(None, 2, grows=True) == expected


def test_a_cluster_without_machines_waits_and_says_so(machines, caplog):
    machines += [[], [{"memory": 100}], [{"memory": 100}, {"CPU": 4}]]
    assert choose_resources(None, 1, grows=True) == {"CPU": 4}
    assert "waiting for one" in caplog.text
    machines[:] = [[{"CPU": 4}]] * 4 + [[{"CPU": 4}, {"TPU": 8}]]
    assert choose_resources({"TPU": 4}, 1, grows=True) == {"TPU": 4}


def test_machines_with_less_are_not_waited_for(machines):
    machines.append([{"CPU": 4}, {"CPU": 4, "TPU": 4}])
    with pytest.raises(InputError, match=r"no machine .* has TPU=8 \(they have CPU=4; CPU=4,TPU=4"):
        choose_resources({"TPU": 8}, 1, grows=True)
    with pytest.raises(InputError, match=r"no machine .* has GPU=1"):
        choose_resources({"GPU": 1}, 1, grows=False)  # this machine alone


def test_places_are_counted_by_machine(machines):
    machines.append([{"CPU": 7, "TPU": 8}, {"CPU": 3, "TPU": 8}, {"TPU": 4}])
    assert places_for({"CPU": 2, "TPU": 4}) == 3


def test_resources_are_read_from_text():
    assert parse_resources("TPU=4, CPU=0.5") == {"TPU": 4, "CPU": 0.5}
    with pytest.raises(InputError, match=r"the resources 'TPU' of a worker are not such as"):
        parse_resources("TPU")
