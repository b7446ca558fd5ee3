"""Files, local and in storage: texts from elsewhere, whole writes, one lock, the cache's folder."""

import contextlib
import datetime
import fcntl
import fnmatch
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

if TYPE_CHECKING:
    from etils import epath

from cola_jax.errors import InputError, reading, shown
from cola_jax.storage import AnyPath, ObjectStore, Result, Store, is_url, path_of

# the cache of the Hub has folders of files by their content, and of links to them by revision
BLOBS = re.compile(r"(?:models|datasets)--.+/blobs")
SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<revision>[0-9a-f]+)")


class LocalStore(Store):
    """The local disk."""

    at_once = 1

    def read(self, file: AnyPath) -> bytes:
        is_file(file)
        return Path(file).read_bytes()

    def write(self, file: AnyPath, content: bytes) -> None:
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

    def create(self, file: AnyPath, content: bytes) -> None:
        if not is_file(file):
            self.write(file, content)

    def remove(self, file: AnyPath) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)

    def exists(self, place: AnyPath) -> bool:
        return os.path.exists(place)

    def entries(self, folder: AnyPath) -> dict[str, datetime.datetime]:
        entries = {}
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # renamed since it was listed
                seconds = entry.stat(follow_symlinks=False).st_mtime
                entries[entry.name] = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        return entries

    def size(self, place: AnyPath) -> int:
        place = Path(place).expanduser()
        return sum(file.stat().st_size for file in (place, *place.rglob("*")) if file.is_file())

    def version(self, place: AnyPath) -> str:
        files = sorted(Path(place).iterdir()) if os.path.isdir(place) else [Path(place)]
        every = map(Path.stat, files)
        return repr([(status.st_mtime_ns, status.st_size, status.st_ino) for status in every])

    def check_writable(self, place: AnyPath) -> None:
        absolute = Path(place).absolute()
        existing = next(path for path in (absolute, *absolute.parents) if path.exists())
        if not (existing.is_dir() or (existing == absolute and absolute.is_file())):
            reason = "is not a directory"
        elif not os.access(existing, os.W_OK):
            reason = "is read-only for you"
        else:
            return
        raise OSError(f"{place} cannot be written: {existing} {reason}. Give another.")

    def workplace(self, destination: AnyPath, uploads: Path) -> Path:
        return Path(os.path.realpath(os.path.expanduser(destination)))

    def move(self, built: Path, destination: AnyPath) -> None:
        place = Path(os.path.realpath(os.path.expanduser(destination)))
        old = old_of(place)
        if place.is_dir():
            place.rename(old)
        try:
            built.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise

    @contextlib.contextmanager
    def lock(self, file: AnyPath, busy: str, *, shared: bool) -> Iterator[None]:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(busy) from None
            yield
        finally:
            os.close(descriptor)


LOCAL = LocalStore()
OBJECTS = ObjectStore()


def store_of(place: AnyPath) -> Store:
    """Return the store that has a place."""
    return OBJECTS if is_url(place) else LOCAL


def check_writable(place: AnyPath) -> None:
    """Raise InputError or OSError where nothing can be written, before the work that it is for."""
    store_of(place).check_writable(place)


def check_file(file: AnyPath) -> None:
    """Raise InputError or OSError where a file cannot be written."""
    # some storage has no object below another one, which the file may be
    check_writable(path_of(file).parent if is_url(file) else file)
    if os.path.isdir(file):
        raise InputError(f"{file} is a directory: give a file.")


def check_apart(destination: AnyPath, source: AnyPath) -> None:
    """Raise InputError where a destination is its source, inside of it or around it."""
    if store_of(destination) is not store_of(source):
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
    if not os.path.islink(place):
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
    matches = (name for name in sorted(entries(folder)) if fnmatch.fnmatch(name, pattern))
    hidden = pattern.startswith(".")
    return [inside(folder, name) for name in matches if name.startswith(".") == hidden]


def entries(folder: AnyPath) -> dict[str, datetime.datetime]:
    """Return when each entry of a folder was written, by name; {} where there is no folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return store_of(folder).entries(folder)
    return {}


def exists(place: AnyPath) -> bool:
    """Return whether there is a file or folder, local or in storage."""
    return store_of(place).exists(place)


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
    return store_of(file).read(file)


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
    store_of(file).write(file, content)


def for_each(
    function: "Callable[[epath.Path], Result]", files: "Sequence[epath.Path]"
) -> Iterator[Result]:
    """Yield the results of a function of each file of one store, in order."""
    at_once = store_of(files[0]).at_once if files else 1
    if at_once == 1:
        yield from map(function, files)
        return
    with ThreadPoolExecutor(at_once) as pool:
        for start in range(0, len(files), at_once):
            yield from pool.map(function, files[start : start + at_once])


def remove_files(files: "Sequence[epath.Path]") -> None:
    """Remove files of one store, some of which may be missing."""
    list(for_each(lambda file: store_of(file).remove(file), files))


def remove_empty(folder: AnyPath) -> None:
    """Remove a local folder if it is empty; storage has none."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)


@contextlib.contextmanager
def building(destination: AnyPath, *, folder: bool = True) -> Iterator[Path]:
    """Yield an empty folder or file beside a destination, and move it there when complete.

    A previous destination is replaced, and kept until then. Nothing is left of an error, and the
    next process that builds the same removes what a killed process has left. InputError while
    another process builds the same destination, OSError where nothing can be made there.

    What is built for a URL lies in the cache until it is uploaded.
    """
    with claimed(destination) as place:
        partial = partial_of(place)
        old = old_of(place)
        if old.exists() and not place.exists():  # killed between the two renames of `move`
            old.rename(place)
        remove_partial(place)
        partial.mkdir() if folder else partial.touch()
        try:
            yield partial
            store_of(destination).move(partial, destination)
        finally:
            remove_partial(place)


@contextlib.contextmanager
def claimed(destination: AnyPath) -> Iterator[Path]:
    """Keep other processes of this machine away from a destination; yield where it is built.

    That is the local place, links followed, and for a URL one in the cache. InputError while
    another process is there, OSError where the folder above cannot be made.
    """
    place = store_of(destination).workplace(destination, cache_directory() / "uploads")
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


def partial_of(place: Path) -> Path:
    """Return where what is moved to a place is built."""
    return place.with_name(f".{place.name}.partial")


def old_of(place: Path) -> Path:
    """Return where the folder at a place is kept until another is moved there."""
    return place.with_name(f".{place.name}.old")


def remove_partial(place: Path) -> None:
    """Remove what `building` a place has left beside it."""
    for left in (partial_of(place), old_of(place)):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def written_bytes(place: AnyPath) -> int:
    """Return the bytes of a file, or of all files below a directory or URL."""
    return store_of(place).size(place)


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
