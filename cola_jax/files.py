"""Files, local and in storage: texts from elsewhere, whole writes, one lock, the cache's folder."""

import contextlib
import datetime
import fnmatch
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic_core import from_json

if TYPE_CHECKING:
    from etils import epath

from cola_jax.errors import InputError, reading, shown
from cola_jax.storage import AnyPath, ask_storage, bucket_of, for_each, is_url, path_of, upload

# the cache of the Hub has folders of files by their content, and of links to them by revision
BLOBS = re.compile(r"(?:models|datasets)--.+/blobs")
SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<revision>[0-9a-f]+)")


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
        remove_files([probe])
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


def check_link(place: AnyPath, folder: AnyPath) -> None:
    """Raise InputError for a link that leads out of the folder that it came with.

    A folder of somebody else may link to any file of the user's, which would then be read, changed
    or deleted. The Hub's cache links the files of a model to its blobs, which are not refused.
    """
    if is_url(place) or not os.path.islink(place):
        return
    target = Path(os.path.realpath(place))
    in_cache = BLOBS.fullmatch("/".join(target.parts[-3:-1]))
    if not in_cache and not target.is_relative_to(os.path.realpath(folder)):
        raise InputError(
            f"{place} is a link to {target}, which is not in {folder}: remove the link, or copy "
            "the file in its place."
        )


def inside(folder: AnyPath, *names: str) -> "epath.Path":
    """Return the path of a file or folder in a folder; InputError where a link leads out of it."""
    place = path_of(folder)
    for name in names:
        place /= name
        check_link(place, folder)
    return place


def matching(folder: "epath.Path", pattern: str) -> "list[epath.Path]":
    """List the files of a folder, in order, whose names match; none where there is no folder.

    epath's `glob` takes the folder's name for a part of the pattern, so that it finds nothing in
    one named run[1]. Hidden files are those of patterns that begin with a dot. InputError for a
    link that leads out of the folder.
    """
    names = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if is_url(folder):
            # an object of the folder's own name, with a slash, is made by consoles
            names = ask_storage(
                folder,
                lambda system, path: [
                    name.removeprefix(path).strip("/") for name in system.ls(path, detail=False)
                ],
            )
        else:
            names = os.listdir(folder)
    matches = (name for name in sorted(filter(None, names)) if fnmatch.fnmatch(name, pattern))
    hidden = pattern.startswith(".")
    return [inside(folder, name) for name in matches if name.startswith(".") == hidden]


def exists(place: AnyPath) -> bool:
    """Return whether there is a file or folder."""
    if not is_url(place):
        return os.path.exists(place)
    return ask_storage(place, lambda system, path: system.exists(path))


def written_times(folder: AnyPath) -> dict[str, datetime.datetime]:
    """Return when each file of a folder was written, by name; {} where there is no folder."""
    times = {}
    with contextlib.suppress(FileNotFoundError):
        if is_url(folder):
            for entry in ask_storage(folder, lambda system, path: system.ls(path, detail=True)):
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
        # else S3 is asked for the size first
        return ask_storage(file, lambda system, path: system.cat_file(path, max_concurrency=1))
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
        ask_storage(file, lambda system, path: system.pipe_file(path, content))
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

        def create(system: Any, path: str) -> None:
            try:
                system.pipe_file(path, content, mode="create")
            except OSError:  # of a type that differs with the storage
                if not system.exists(path):
                    raise

        ask_storage(file, create)
    elif not is_file(file):
        write_whole(file, content)


def remove_files(files: "Sequence[epath.Path]") -> None:
    """Remove files, some of which may be missing."""

    def remove_file(file: "epath.Path") -> None:
        with contextlib.suppress(FileNotFoundError):
            if not is_url(file):
                os.unlink(file)
                return
            ask_storage(file, lambda system, path: system.rm_file(path))

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
        return ask_storage(place, lambda system, path: system.du(path))
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
