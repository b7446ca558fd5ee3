"""A Ray cluster: the connection, its machines, and the environment that they inherit."""

import contextlib
import importlib.util
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cola_jax.errors import InputError, first_line

# an extra, without which a `RayEngine` cannot be made; a folder of that name has no origin
SPEC = importlib.util.find_spec("ray")
HAS_RAY = SPEC is not None and SPEC.origin is not None
if TYPE_CHECKING or HAS_RAY:
    import ray

log = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
PATIENCE = 12.0  # seconds for an address to answer
POLL = 1.0  # seconds between two looks at the machines
REMIND = 60.0  # seconds between two lines that say what is waited for
PLACE = re.compile(r"(?:ray://)?(?P<host>[^/]+):(?P<port>\d+)/?")
INHERITED = re.compile(r"(AWS|GOOGLE|HF|COLA|JAX)_\w+")


def connect(address: str | None) -> bool:
    """Connect to a cluster, by default that of RAY_ADDRESS or of this machine, or start one.

    Whoever reaches the ports of a cluster can run code on it, and Ray opens them to the network by
    default. One that is started here listens on the loopback interface alone.

    Returns whether it was started here. Raises InputError where there is no such cluster.
    """
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")  # a spare worker always waits
    handler = signal.getsignal(signal.SIGTERM)
    target = address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        return connect_to(target)
    except (OSError, ValueError, RuntimeError) as error:
        name = address or (f"RAY_ADDRESS={target}" if target != "auto" else "this machine")
        raise InputError(
            f"no Ray cluster was found at {name} ({first_line(error)}): start one with `ray start "
            "--head`, or give ray://HOST:PORT. For a cluster with a token, set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where it is no file here."
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's would abort the process


def connect_to(target: str) -> bool:
    """Connect to an address; return whether a cluster was started."""
    options: dict[str, Any] = {
        "ignore_reinit_error": True,
        "logging_level": logging.ERROR,
        "log_to_driver": log.isEnabledFor(logging.DEBUG),
    }
    if target not in ("auto", "local"):
        check_answers(target)
        ray.init(target, **options)
        return False
    if target == "auto" and last_answers():
        with contextlib.suppress(ConnectionError):  # there is none
            ray.init("auto", **options)
            return False
    with on_loopback():
        ray.init("local", include_dashboard=False, **options)
    addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
    if addresses != {LOOPBACK}:
        log.warning("the ports of Ray are open on %s: use a firewall", ", ".join(addresses))
    return True


def last_answers() -> bool:
    """Return whether the cluster that Ray would take for that of this machine answers.

    A killed one leaves its address behind, which Ray tries for minutes.
    """
    try:
        from ray._private.services import get_ray_address_from_environment
    except ImportError:  # a part of Ray that another version may lack
        return True
    try:
        address = get_ray_address_from_environment("auto", None)
    except ConnectionError:  # there is none
        return False
    try:
        check_answers(address)
    except OSError as error:
        log.warning("the Ray cluster at %s does not answer (%s)", address, first_line(error))
        return False
    return True


def check_answers(target: str) -> None:
    """Raise OSError for a HOST:PORT where no server of Ray answers, which Ray tries for minutes."""
    place = PLACE.fullmatch(target)
    if place is None:
        return  # Ray says what is wrong with it
    host = place["host"].strip("[]")
    port = int(place["port"])
    with socket.create_connection((host, port), timeout=PATIENCE):
        pass
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return  # the next step would need its certificates
    import grpc  # of Ray's

    with grpc.insecure_channel(target.removeprefix("ray://").rstrip("/")) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        except grpc.FutureTimeoutError as error:
            raise ConnectionError("what answers there is not Ray") from error


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray start a cluster of one machine, as it does by default on macOS and Windows.

    Its own parameter for the address of a machine turns 127.0.0.1 into that of the network.
    """
    try:
        from ray._private import ray_constants

        before = ray_constants.ENABLE_RAY_CLUSTER
    except (ImportError, AttributeError):  # a part of Ray that another version may lack
        log.warning(
            "this version of Ray (%s) may open its ports to the network: use a firewall, or "
            "install another version",
            ray.__version__,
        )
        yield
        return
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def inherited() -> dict[str, str]:
    """Return the variables of this process that workers need: credentials, and settings.

    A path names a file of this machine, and the devices of others are not those of this one.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if INHERITED.fullmatch(name)
        and name != "JAX_PLATFORMS"
        and not Path(value).expanduser().is_absolute()
    }


def machines() -> list[dict[str, float]]:
    """Return the resources of each machine."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def places_for(resources: Mapping[str, float]) -> int:
    """Return how many workers with some resources the machines can hold."""
    return sum(
        min(int(machine.get(name, 0) // amount) for name, amount in resources.items())
        for machine in machines()
    )


def choose_resources(
    asked: Mapping[str, float] | None, tensor: int, *, grows: bool
) -> dict[str, float]:
    """Return the resources of a worker, by default those of `default_resources`.

    Waits for a machine that has them, where one may come: where the cluster `grows`, and has no
    machine with another amount of them. Raises InputError where none may.
    """
    last = -REMIND
    while True:
        present = machines()
        needed = dict(asked) if asked else default_resources(present, tensor)
        if needed and places_for(needed):
            return needed
        wanted = describe_resources(needed) if needed else "a TPU, GPU or CPU"
        found = dict.fromkeys(describe_resources(own_resources(each)) for each in present)
        has_other = needed and all(any(m.get(name) for m in present) for name in needed)
        if has_other or not grows:
            raise InputError(
                f"no machine of the cluster has {wanted} (they have {'; '.join(found)}): give "
                "--worker-resources, or start machines that have them."
            )
        if time.monotonic() - last >= REMIND:
            last = time.monotonic()
            log.warning(
                "no machine of the cluster has %s yet (there are: %s): waiting for one, such as "
                "an autoscaler or `ray start --address` adds",
                wanted,
                "; ".join(filter(None, found)) or "none",
            )
        time.sleep(POLL)


def default_resources(machines: list[dict[str, float]], tensor: int) -> dict[str, float] | None:
    """Return all TPUs of a machine, else `tensor` GPUs, else all CPUs of the smallest machine."""
    tpus = max((machine.get("TPU", 0) for machine in machines), default=0)
    gpus = max((machine.get("GPU", 0) for machine in machines), default=0)
    cpus = min((machine["CPU"] for machine in machines if machine.get("CPU")), default=0)
    if tpus:
        return {"TPU": tpus}
    if gpus:
        return {"GPU": tensor}
    return {"CPU": cpus} if cpus else None


def own_resources(machine: Mapping[str, float]) -> dict[str, float]:
    """Return the resources of a machine without its memory, and Ray's marks such as its address."""
    return {k: machine[k] for k in machine if ":" not in k and "memory" not in k}


def parse_resources(text: str) -> dict[str, float]:
    """Read the resources of a worker, such as TPU=4,CPU=8."""
    resources = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([^=\s]+)\s*=\s*(\d+(?:\.\d+)?)\s*", part)
        if not match or not float(match[2]):
            raise InputError(f"the resources {text!r} of a worker are not such as TPU=4,CPU=8.")
        resources[match[1]] = float(match[2])
    return resources


def describe_resources(resources: Mapping[str, float]) -> str:
    """Write resources as `parse_resources` reads them."""
    return ",".join(f"{name}={value:g}" for name, value in resources.items())
