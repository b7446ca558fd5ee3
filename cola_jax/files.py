"""Files, local and in storage: texts from elsewhere, whole writes, one lock, the cache's folder.

Storage is reached through fsspec alone. It has no folders, renames or locks; an object appears when
it is complete, and can be created only where there is none.
"""

import contextlib
import datetime
import errno
import fnmatch
import hashlib
import importlib.util
import json
import logging
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from pydantic_core import from_json

if TYPE_CHECKING:
    from etils import epath

from cola_jax.errors import InputError, first_line, reading, shown

EXTRAS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}  # and the packages that they install
AT_ONCE = 32  # small objects that are read at once, as each takes a round trip
TRANSFERS = 4  # large files at once, of each of which s3fs holds up to 500 MB
AnyPath = str | os.PathLike[str]
Result = TypeVar("Result")


def is_url(place: AnyPath) -> bool:
    """Return whether a place is a URL of storage, even one that went through `Path`."""
    return re.match(r"\w\w+:/", os.fspath(place)) is not None


def path_of(place: AnyPath) -> "epath.Path":
    """Return the path of a local place or a URL, even one that went through `Path`.

    InputError for a URL of other storage.
    """
    from etils import epath

    text = re.sub(r"^(\w\w+):/+", r"\1://", os.fspath(place))
    if is_url(text) and text.partition(":")[0] not in EXTRAS:
        raise InputError(f"{text} is in no storage that can be used: {', '.join(EXTRAS)}.")
    return epath.Path(text)


@contextlib.contextmanager
def storage(url: AnyPath) -> "Iterator[tuple[Any, str]]":
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

    logging.getLogger(package).setLevel(logging.CRITICAL)  # gcsfs logs errors that it raises
    try:
        # other processes write to the same folders
        yield fsspec.filesystem(scheme, use_listings_cache=False), path
    except FileNotFoundError as error:
        missing = errno.ENOENT, os.strerror(errno.ENOENT), str(url)
        raise FileNotFoundError(*missing) from error
    except (FileExistsError, InputError):
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


def for_each(
    function: "Callable[[epath.Path], Result]", files: "Sequence[epath.Path]"
) -> Iterator[Result]:
    """Yield the results of a function of each file, in order; several at once in storage."""
    if not files or not is_url(files[0]):
        yield from map(function, files)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(files), AT_ONCE):
            yield from pool.map(function, files[start : start + AT_ONCE])


def check_writable(place: AnyPath) -> None:
    """Raise InputError or OSError where nothing can be written, before the work that it is for.

    Writes an empty object below a URL and deletes it.
    """
    text = os.fspath(place)
    if is_url(place):
        probe = path_of(place) / f".{secrets.token_hex(6)}"
        try:
            write_whole(probe, b"")
        except FileNotFoundError as error:
            raise InputError(f"there is no bucket {bucket_of(probe)}: create it.") from error
        remove([probe])
        return
    place = Path(text).absolute()
    existing = next(path for path in (place, *place.parents) if path.exists())
    if not (existing.is_dir() or (existing == place and place.is_file())):
        raise OSError(f"{text} cannot be written: {existing} is not a directory. Give another.")
    if not os.access(existing, os.W_OK):
        raise OSError(f"{text} cannot be written: {existing} is read-only for you. Give another.")


def check_file(file: AnyPath) -> None:
    """Raise InputError or OSError where a file cannot be written."""
    check_writable(path_of(file).parent if is_url(file) else file)
    if os.path.isdir(file):
        raise InputError(f"{file} is a directory: give a file.")


def check_apart(destination: AnyPath, source: AnyPath) -> None:
    """Raise InputError where a destination is its source, inside of it or around it."""
    if is_url(destination) != is_url(source):
        return
    place, other = (Path(os.path.realpath(os.path.expanduser(x))) for x in (destination, source))
    if place.is_relative_to(other) or other.is_relative_to(place):
        where = "inside" if place.is_relative_to(other) else "around"
        raise InputError(
            f"{destination} is {where} the source {source}: choose a destination elsewhere."
        )


def matching(folder: "epath.Path", pattern: str) -> "list[epath.Path]":
    """List the files of a folder, in order, whose names match; none where there is no folder.

    epath's `glob` takes the folder's name for a part of the pattern, so that it finds nothing in
    one named run[1]. Hidden files are those of patterns that begin with a dot.
    """
    names = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if is_url(folder):
            with storage(folder) as (system, path):
                # an object of the folder's own name, with a slash, is made by consoles
                names = [
                    name.removeprefix(path).strip("/") for name in system.ls(path, detail=False)
                ]
        else:
            names = os.listdir(folder)
    matches = (name for name in sorted(filter(None, names)) if fnmatch.fnmatch(name, pattern))
    return [folder / name for name in matches if name.startswith(".") == pattern.startswith(".")]


def exists(place: AnyPath) -> bool:
    """Return whether there is a file or folder."""
    if not is_url(place):
        return os.path.exists(place)
    with storage(place) as (system, path):
        return system.exists(path)


def written_times(folder: AnyPath) -> dict[str, datetime.datetime]:
    """Return when each file of a folder was written, by name; {} where there is no folder."""
    times = {}
    with contextlib.suppress(FileNotFoundError):
        if is_url(folder):
            with storage(folder) as (system, path):
                for entry in system.ls(path, detail=True):
                    time = entry.get("mtime") or entry.get("LastModified")  # of gcsfs, of s3fs
                    times[entry["name"].rpartition("/")[2]] = time
            return times
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # renamed since it was listed
                seconds = entry.stat().st_mtime
                times[entry.name] = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return times


def is_file(file: AnyPath) -> bool:
    """Return whether a local file exists; InputError for a directory, pipe or device there."""
    if os.path.isfile(file):
        return True
    if os.path.exists(file):
        raise InputError(
            f"{file} is a directory, pipe or device, not a file: remove it, or give another."
        )
    return False


def read_bytes(file: AnyPath) -> bytes:
    """Read a file, local or in storage; InputError where it is not a regular file."""
    if is_url(file):
        with storage(file) as (system, path):
            return system.cat_file(path, max_concurrency=1)  # else S3 is asked for the size first
    is_file(file)
    return Path(file).read_bytes()


def read_text(file: AnyPath) -> str:
    """Read a UTF-8 text, with or without a byte order mark."""
    with reading(file):
        return read_bytes(file).decode("utf-8-sig")


def parse_object(text: str | bytes, where: AnyPath) -> dict[str, Any]:
    """Parse a JSON object; `where` names the file, or a line of it, in errors.

    Refuses NaN, infinity, and half a surrogate pair, which no tokenizer and no file takes.
    """
    with reading(where):
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = from_json(text, allow_inf_nan=False)
    if not isinstance(value, dict):
        raise InputError(f"{where}: a JSON object belongs here, not {shown(value)}.")
    return value


def read_json(file: AnyPath) -> dict[str, Any]:
    """Read a file that holds a JSON object."""
    return parse_object(read_bytes(file), file)


def parse_yaml(text: str, where: AnyPath) -> Any:
    """Parse YAML; no tag makes an object."""
    import yaml

    with reading(where):
        return yaml.safe_load(text)


def readable_json(
    value: Any, *, default: Callable[[Any], Any] | None = None, allow_nan: bool = True
) -> str:
    """Write JSON with an entry on each line, and each list of integers, as a path, on one line."""
    text = json.dumps(value, indent=2, default=default, allow_nan=allow_nan)
    return re.sub(r"\[\n[-\d,\s]+\]", lambda match: f"[{' '.join(match[0][1:-1].split())}]", text)


def write_whole(file: AnyPath, content: bytes) -> None:
    """Write a file so that it is either the old one or the whole new one, never half of it.

    Makes the folders above it. InputError for a directory, pipe or device in its place. OSError
    where it cannot be written; nothing is left then.
    """
    if is_url(file):
        with storage(file) as (system, path):
            system.pipe_file(path, content)
        return
    is_file(file)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    partial = Path(file).with_name(f".{Path(file).name}.{secrets.token_hex(6)}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as error:
        error.filename = error.filename and os.fspath(file)
        raise
    finally:
        partial.unlink(missing_ok=True)


def create_whole(file: AnyPath, content: bytes) -> None:
    """Write a file unless there is one, even if another process writes it at the same time."""
    if is_url(file):
        with storage(file) as (system, path):
            try:
                system.pipe_file(path, content, mode="create")
            except OSError:  # of a type that differs with the storage
                if not system.exists(path):
                    raise
    elif not is_file(file):
        write_whole(file, content)


def remove(files: "Sequence[epath.Path]") -> None:
    """Remove files, some of which may be missing."""

    def remove_file(file: "epath.Path") -> None:
        with contextlib.suppress(FileNotFoundError):
            if not is_url(file):
                os.unlink(file)
                return
            with storage(file) as (system, path):
                system.rm_file(path)

    list(for_each(remove_file, files))


def remove_empty(folder: AnyPath) -> None:
    """Remove a local folder if it is empty; storage has none."""
    with contextlib.suppress(OSError):
        if not is_url(folder):
            os.rmdir(folder)


@contextlib.contextmanager
def building(destination: AnyPath, *, folder: bool = True) -> Iterator[Path]:
    """Yield an empty folder or file beside a destination, and move it there when complete.

    A previous destination is replaced, and kept until then. Nothing is left of an error, and the
    next process that builds the same removes what a killed process has left. InputError while
    another process builds the same destination, OSError where nothing can be made there.

    What is built for a URL lies in the cache until it is uploaded.
    """
    url = destination if is_url(destination) else None
    with claimed(destination if url is None else upload_place(url)) as place:
        partial, old = (place.with_name(f".{place.name}.{x}") for x in ("partial", "old"))
        if old.exists() and not place.exists():  # killed between the two renames below
            old.rename(place)
        remove_partial(place)
        partial.mkdir() if folder else partial.touch()
        try:
            yield partial
            if url is not None:
                upload(partial, url)
                return
            if place.is_dir():
                place.rename(old)
            try:
                partial.rename(place)
            except OSError:
                if old.exists():
                    old.rename(place)
                raise
        finally:
            remove_partial(place)


@contextlib.contextmanager
def claimed(destination: AnyPath) -> Iterator[Path]:
    """Keep other processes away from a local destination; yield its place, links followed.

    InputError while another process is there, OSError where the folder above cannot be made.
    """
    place = Path(os.path.realpath(os.path.expanduser(destination)))
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.with_name(f".{place.name}.lock")
    busy = f"{destination} is being written by another process: wait for it, or choose another."
    with hold(lock, busy):
        try:
            yield place
        finally:
            lock.unlink(missing_ok=True)


def hold(file: AnyPath, busy: str = "") -> contextlib.AbstractContextManager[Any]:
    """Lock a file, until the returned context ends; the system unlocks it when the process ends.

    Waits for another holder, or raises InputError with the text `busy`.
    """
    import filelock

    try:
        return filelock.FileLock(os.fspath(file)).acquire(timeout=0 if busy else -1)
    except filelock.Timeout:
        raise InputError(busy) from None


def upload_place(url: AnyPath) -> Path:
    """Return where a file or folder is built that is uploaded to a URL."""
    return cache_directory() / "uploads" / quote(os.fspath(url), safe="")[-200:]


def upload(place: Path, url: AnyPath) -> None:
    """Write a file, or a folder in place of what is below a URL.

    The files in the folder itself come last, as one of them marks it as complete.
    """
    with storage(url) as (system, path):
        if place.is_file():
            system.put_file(str(place), path)
            return
        if system.exists(path):
            system.rm(path, recursive=True)
        below = [file for file in place.rglob("*") if file.is_file() and file.parent != place]
        for files in (below, [file for file in place.iterdir() if file.is_file()]):
            with ThreadPoolExecutor(TRANSFERS) as pool:
                names = [f"{path}/{file.relative_to(place).as_posix()}" for file in files]
                list(pool.map(system.put_file, map(str, files), names))


def download(url: AnyPath, folder: Path, on_progress: Callable[[int, int], None]) -> None:
    """Read all files below a URL into a folder; reports the bytes read so far and the total."""
    with storage(url) as (system, path), ThreadPoolExecutor(TRANSFERS) as pool:
        found = system.find(path, detail=True).items()
        sizes = {name: each["size"] for name, each in found if not name.endswith("/")}
        total, done = sum(sizes.values()), 0

        def read(name: str) -> int:
            file = folder / Path(name).relative_to(path)
            if ".." in file.parts:
                raise InputError(f"{url} has a file outside of its folder: {shown(name)}.")
            file.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(name, str(file))
            return sizes[name]

        for size in pool.map(read, sizes):
            done += size
            on_progress(done, total)


def remove_partial(place: Path) -> None:
    """Remove what `building` a place has left beside it."""
    for name in (f".{place.name}.partial", f".{place.name}.old"):
        left = place.with_name(name)
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def written_bytes(place: AnyPath) -> int:
    """Return the bytes of a file, or of all files below a directory or URL."""
    if is_url(place):
        with storage(place) as (system, path):
            return system.du(path)
    place = Path(place).expanduser()
    return sum(file.stat().st_size for file in (place, *place.rglob("*")) if file.is_file())


def cache_directory() -> Path:
    """Return COLA_CACHE, or cola-jax in the user's cache."""
    if chosen := os.environ.get("COLA_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cola-jax"


def keep_programs() -> None:
    """Let JAX keep compiled programs, unless the user has set its variables.

    To be called before JAX is imported, which reads the variables then. Programs of different
    processors are kept apart: their instructions differ.
    """
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    kind = f"{platform.machine()} {platform.processor()} {features}"
    folder = cache_directory() / "programs" / hashlib.sha256(kind.encode()).hexdigest()[:12]
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
