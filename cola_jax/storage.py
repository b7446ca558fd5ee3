"""`Store`, which holds files, and the one behind URLs, which is reached through fsspec alone.

That has no folders, renames or locks; an object appears when it is complete, and can be created
only where there is none. Requests that fail because storage is away are repeated until it is back.
"""

import contextlib
import datetime
import errno
import importlib.util
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

if TYPE_CHECKING:
    from etils import epath

from cola_jax.errors import InputError, first_line, shown

EXTRAS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}  # and the packages that they install
CONNECTIONS = 128  # at once, to read and write objects; s3fs has 10 by default
TRANSFERS = 4  # large files at once, of each of which s3fs holds up to 500 MB
WAIT = 900.0  # seconds for which storage is waited for that is away
FIRST_WAIT = 30.0  # the same before its first answer: its address may be wrong
PAUSE = 0.5  # seconds between two attempts, doubled each time
LONGEST_PAUSE = 15.0
TIMED_OUT = 408  # statuses of HTTP
TOO_MANY = 429
NOT_IMPLEMENTED = 501
AWAY = {errno.EBUSY, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ETIMEDOUT}
# errors of clients, by name as a client may not be installed
CLIENTS = {
    "aiohttp.client_exceptions.ClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "google.auth.exceptions.TransportError",
    "requests.exceptions.RequestException",
}
log = logging.getLogger(__name__)
AnyPath = str | os.PathLike[str]
Result = TypeVar("Result")


def is_url(place: AnyPath) -> bool:
    """Return whether a place is a URL of storage, even one that went through `Path`."""
    return re.match(r"\w\w+:/", os.fspath(place)) is not None


def check_local(place: AnyPath) -> None:
    """Raise InputError for a URL, where the files themselves are needed."""
    if is_url(place):
        raise InputError(f"{place} is a URL, not a local path: copy it to a local disk.")


def path_of(place: AnyPath) -> "epath.Path":
    """Return the path of a local place or a URL, even one that went through `Path`.

    InputError for a URL of other storage.
    """
    from etils import epath

    text = re.sub(r"^(\w\w+):/+", r"\1://", os.fspath(place))
    if is_url(text) and text.partition(":")[0] not in EXTRAS:
        raise InputError(f"{text} is in no storage that can be used: {', '.join(EXTRAS)}.")
    return epath.Path(text)


class Store(Protocol):
    """What holds files: the local disk, or the buckets behind URLs."""

    at_once: int
    """Small files that are read at once."""

    def read(self, file: AnyPath) -> bytes:
        """Read a file; InputError for what is not a regular file."""
        ...

    def write(self, file: AnyPath, content: bytes) -> None:
        """Write a file, and the folders above: it is either the old one or the whole new one."""
        ...

    def create(self, file: AnyPath, content: bytes) -> None:
        """Write a file unless there is one, even if another process writes it at the same time."""
        ...

    def remove(self, file: AnyPath) -> None:
        """Remove a file, which may be missing."""
        ...

    def exists(self, place: AnyPath) -> bool:
        """Return whether there is a file or folder."""
        ...

    def entries(self, folder: AnyPath) -> dict[str, datetime.datetime]:
        """Return when each entry of a folder was written, by name; OSError where there is none."""
        ...

    def size(self, place: AnyPath) -> int:
        """Return the bytes of a file, or of all files below a folder."""
        ...

    def version(self, place: AnyPath) -> str:
        """Return what changes when a file, or any in a folder, is written."""
        ...

    def check_writable(self, place: AnyPath) -> None:
        """Raise InputError or OSError where nothing can be written."""
        ...

    def workplace(self, destination: AnyPath, uploads: Path) -> Path:
        """Return the local place beside which a file or folder is built; for a URL in `uploads`."""
        ...

    def move(self, built: Path, destination: AnyPath) -> None:
        """Move a file or folder in place of what is there."""
        ...

    def lock(self, file: AnyPath, busy: str, *, shared: bool) -> AbstractContextManager[None]:
        """Lock a file, where the store has locks; InputError with a text where another has it.

        The system drops it when its process ends, however it ends.
        """
        ...


class ObjectStore(Store):
    """The buckets behind URLs."""

    at_once = 32  # as each takes a round trip

    def read(self, file: AnyPath) -> bytes:
        # else S3 is asked for the size first
        return ask_storage(file, lambda system, path: system.cat_file(path, max_concurrency=1))

    def write(self, file: AnyPath, content: bytes) -> None:
        ask_storage(file, lambda system, path: system.pipe_file(path, content))

    def create(self, file: AnyPath, content: bytes) -> None:
        def ask(system: Any, path: str) -> None:
            try:
                system.pipe_file(path, content, mode="create")
            except OSError:  # of a type that differs with the storage
                if not system.exists(path):
                    raise

        ask_storage(file, ask)

    def remove(self, file: AnyPath) -> None:
        with contextlib.suppress(FileNotFoundError):
            ask_storage(file, lambda system, path: system.rm_file(path))

    def exists(self, place: AnyPath) -> bool:
        return ask_storage(place, lambda system, path: system.exists(path))

    def entries(self, folder: AnyPath) -> dict[str, datetime.datetime]:
        def ask(system: Any, path: str) -> dict[str, datetime.datetime]:
            return {
                # of gcsfs, of s3fs
                entry["name"].removeprefix(path).strip("/"): entry.get("mtime")
                or entry.get("LastModified")
                for entry in system.ls(path, detail=True)
            }

        entries = ask_storage(folder, ask)
        entries.pop("", None)  # of the folder's own name, with a slash, which consoles make
        return entries

    def size(self, place: AnyPath) -> int:
        found = ask_storage(place, lambda system, path: system.find(path, detail=True))
        return sum(entry["size"] for entry in found.values())

    def version(self, place: AnyPath) -> str:
        # such as its digest and when it was written
        details = ask_storage(place, lambda system, path: system.info(path))
        return repr(sorted(details.items()))

    def check_writable(self, place: AnyPath) -> None:
        """Write an empty object below a URL, and remove it."""
        probe = path_of(place) / f".{secrets.token_hex(6)}"
        try:
            self.write(probe, b"")
        except FileNotFoundError as error:
            raise InputError(f"there is no bucket {bucket_of(probe)}: create it.") from error
        self.remove(probe)

    def workplace(self, destination: AnyPath, uploads: Path) -> Path:
        return uploads / quote(os.fspath(destination), safe="")[-200:]

    def move(self, built: Path, destination: AnyPath) -> None:
        """Write a file, or a folder in place of what is below a URL.

        The files in the folder itself come last, as one of them marks it as complete.
        """
        with file_system(destination) as (system, path):

            def put(file: Path, name: str) -> None:
                PATIENCE.request(destination, lambda: system.put_file(str(file), name))

            def clear() -> None:
                if system.exists(path):
                    system.rm(path, recursive=True)

            if built.is_file():
                put(built, path)
                return
            PATIENCE.request(destination, clear)
            below = [file for file in built.rglob("*") if file.is_file() and file.parent != built]
            for files in (below, [file for file in built.iterdir() if file.is_file()]):
                with ThreadPoolExecutor(TRANSFERS) as pool:
                    names = [f"{path}/{file.relative_to(built).as_posix()}" for file in files]
                    list(pool.map(put, files, names))

    def lock(self, file: AnyPath, busy: str, *, shared: bool) -> AbstractContextManager[None]:
        return contextlib.nullcontext()


class Patience:
    """Repeats requests of storage that is away, in any thread, until it is back or time is up."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.clock = clock
        self.sleep = sleep
        self.lock = threading.Lock()
        self.answered: set[str] = set()  # buckets that have answered a request
        self.away: dict[str, float] = {}  # buckets that are away now, and since when

    def request(self, url: AnyPath, ask: "Callable[[], Result]") -> "Result":
        """Call a function that asks storage; raises its error where that is not an outage."""
        bucket = bucket_of(url)
        began = None
        pause = PAUSE
        while True:
            try:
                result = ask()
            except (FileNotFoundError, FileExistsError):
                self.note_answer(bucket)
                raise
            except Exception as error:  # botocore, aiohttp and google-auth raise many types
                now = self.clock()
                began = now if began is None else began
                seconds = WAIT if bucket in self.answered else FIRST_WAIT
                if not is_outage(error) or now + pause > began + seconds:
                    raise
                self.note_outage(bucket, now, f"{first_line(error)}: waiting up to {seconds:.0f} s")
            else:
                self.note_answer(bucket)
                return result
            self.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def note_outage(self, bucket: str, now: float, text: str) -> None:
        """Log, once for all threads, that a bucket is away."""
        with self.lock:
            if bucket in self.away:
                return
            self.away[bucket] = now
        log.warning("%s does not answer (%s)", bucket, text)

    def note_answer(self, bucket: str) -> None:
        """Take note of an answer, and log where it ends an outage."""
        if bucket in self.answered and bucket not in self.away:
            return
        with self.lock:
            self.answered.add(bucket)
            began = self.away.pop(bucket, None)
        if began is not None:
            log.warning("%s answers again, after %.0f s", bucket, self.clock() - began)


PATIENCE = Patience()


def is_outage(error: BaseException) -> bool:
    """Return whether an error is that of the connection or of the server, and may pass by itself.

    Missing objects and buckets, credentials and permissions do not pass.
    """
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    status = status_of(error)
    if status is None and error.__cause__ is not None:
        status = status_of(error.__cause__)
    if status is not None:
        is_server = status >= 500 and status != NOT_IMPLEMENTED
        return is_server or status in (TIMED_OUT, TOO_MANY)
    if isinstance(error, OSError) and error.errno in AWAY:
        return True
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return bool(names & CLIENTS)


def status_of(error: Any) -> int | None:
    """Return the status of HTTP of a client's error, None for an error without."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # of botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if response is not None:  # of requests
        return response.status_code
    status = str(getattr(error, "status", None) or getattr(error, "code", None))  # aiohttp, gcsfs
    return int(status) if status.isdecimal() else None


def ask_storage(url: AnyPath, ask: "Callable[[Any, str], Result]") -> "Result":
    """Call a function of the fsspec file system of a URL and the path of the URL in it.

    It is called again while storage is away. Errors are those of `file_system`.
    """
    with file_system(url) as (system, path):
        return PATIENCE.request(url, lambda: ask(system, path))


@contextlib.contextmanager
def file_system(url: AnyPath) -> "Iterator[tuple[Any, str]]":
    """Yield the fsspec file system of a URL, and the path of the URL in it.

    Errors of storage in the body become an InputError that names the bucket, but for
    FileNotFoundError and FileExistsError. InputError without the extra for the URL.
    """
    url = path_of(url)
    scheme, _, path = str(url).partition("://")
    extra, package = EXTRAS[scheme]
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{url} needs a package: pip install 'cola-jax[{extra}]'.")
    import fsspec
    from fsspec.config import conf

    logging.getLogger(package).setLevel(logging.CRITICAL)  # gcsfs logs errors that it raises
    try:
        # other processes write to the same folders
        options: dict[str, Any] = {"use_listings_cache": False}
        if scheme == "s3":
            of_user = conf.get("s3", {}).get("config_kwargs", {})
            options["config_kwargs"] = {"max_pool_connections": CONNECTIONS} | of_user
        yield fsspec.filesystem(scheme, **options), path
    except FileNotFoundError as error:
        missing = errno.ENOENT, os.strerror(errno.ENOENT), str(url)
        raise FileNotFoundError(*missing) from error
    except (FileExistsError, InputError):
        raise
    except (TypeError, AttributeError, LookupError):  # bugs
        raise
    except Exception as error:  # botocore, aiohttp and google-auth raise many types
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):  # of a download
            raise
        raise InputError(
            f"{bucket_of(url)} cannot be used ({first_line(error)}): check your credentials for "
            f"{scheme}://, your permissions on this bucket, and the connection."
        ) from error


def bucket_of(url: AnyPath) -> str:
    """Return the URL of the bucket of a URL."""
    return "/".join(os.fspath(url).split("/")[:3])


def download(url: AnyPath, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """Read all files below a URL into a folder; reports the bytes read so far and the total."""
    with file_system(url) as (system, path), ThreadPoolExecutor(TRANSFERS) as pool:
        found = PATIENCE.request(url, lambda: system.find(path, detail=True)).items()
        sizes = {name: each["size"] for name, each in found if not name.endswith("/")}
        total = sum(sizes.values())
        done = 0

        def read(name: str) -> int:
            file = folder / Path(name).relative_to(path)
            if ".." in file.parts:
                raise InputError(f"{url} has a file outside of its folder: {shown(name)}.")
            file.parent.mkdir(parents=True, exist_ok=True)
            PATIENCE.request(url, lambda: system.get_file(name, str(file)))
            return sizes[name]

        for size in pool.map(read, sizes):
            done += size
            on_progress(done, total)
