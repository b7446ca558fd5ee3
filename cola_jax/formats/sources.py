"""Where a model comes from: a .gguf file, a local directory, or the Hugging Face Hub."""

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cola_jax.errors import InputError, first_line, nearest, reading
from cola_jax.formats.gguf import open_gguf
from cola_jax.formats.hf_config import read_config
from cola_jax.formats.huggingface import CARD, CONFIG, FILES, open_directory, read_config_file
from cola_jax.formats.table import Source
from cola_jax.identity import digest

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# some repositories hold a second copy of the weights in their authors' own format
SKIPPED = ["consolidated*", "*/*"]
SECONDS = 5.0  # that the Hub has to answer, before it counts as unreachable


class Located(NamedTuple):
    """A source that exists, and has not been opened."""

    key: str  # of its content: another one whenever a conversion may give another model
    open: Callable[[], Source]


def locate(source: str, revision: str | None = None) -> Located:
    """Find a .gguf file, a directory in Hugging Face layout, or a Hub id, also as ID@REVISION.

    Raises InputError for other names, for an id that is unknown or gated, for a revision
    that is unknown or that a local source has, and for a model that is not in the Hub's cache
    while the Hub cannot be reached.
    """
    local = Path(source).expanduser()
    if local.is_dir() or local.suffix == ".gguf":
        if revision is not None:
            raise InputError(f"--revision is for Hub ids, but {source} is a local path.")
        if not local.exists():
            raise InputError(f"{source} does not exist{similar_name(local)}.")
        open_local = open_directory if local.is_dir() else open_gguf
        return Located(stamp(local), lambda: open_local(local))
    name, _, suffix = source.partition("@")
    if suffix and revision is not None:
        raise InputError(f"{source} names a revision, and --revision {revision} another.")
    if not HUB_ID.fullmatch(name):
        raise InputError(
            f"{source} is not a model: no such directory or .gguf file{similar_name(local)}, and "
            "it is not a Hub id like HuggingFaceTB/SmolLM2-135M-Instruct."
        )
    return locate_on_hub(name, suffix or revision)


def similar_name(local: Path) -> str:
    """Return a hint at a file or directory beside a missing one, of the most similar name."""
    names = [file.name for file in local.parent.iterdir()] if local.parent.is_dir() else []
    near = nearest(local.name, names)
    return f" (did you mean {local.parent / near}?)" if near else ""


def stamp(local: Path) -> str:
    """Return a digest that changes with the files of a local source, without reading them."""
    read = [file for pattern in FILES for file in sorted(local.glob(pattern))]
    files = [file.resolve() for file in read or [local] if file.is_file()]
    stats = [(str(file), file.stat()) for file in files]
    return digest([[n, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for n, s in stats])


@functools.cache
def locate_on_hub(name: str, revision: str | None) -> Located:
    """Ask the Hub, once in a process, for the commit that a revision means; see `locate`."""
    folder = download(name, revision, [CONFIG])
    commit = folder.name  # a snapshot's folder is named after its commit

    def open_model() -> Source:
        with reading(f"the {CONFIG} of {name}"):
            read_config(read_config_file(folder))  # before the weights are downloaded
        source = open_directory(download(name, commit, [*FILES, CARD]))
        hub = {"kind": "hub", "name": name, "revision": commit}
        return source._replace(origin=source.origin | hub)

    return Located(f"{name}@{commit}", open_model)


def download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Download files of a model unless they are cached; return the folder of the snapshot.

    The cache of the Hub is asked where it cannot be reached, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=SKIPPED,
            etag_timeout=SECONDS,
        )
        return Path(folder)
    except errors.GatedRepoError:
        problem = (
            f"is gated: accept its terms at https://huggingface.co/{name}, then log in with "
            "`hf auth login`"
        )
    except errors.RevisionNotFoundError:
        problem = f"has no revision {revision!r} on the Hub: give a branch, a tag or a commit"
    except errors.RepositoryNotFoundError:
        problem = (
            "is neither on the Hub nor a file or directory here: check the spelling, or log in "
            "with `hf auth login` if it is private"
        )
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        problem = (
            f"(revision {revision or 'main'}) is not a file or directory here, and could not be "
            f"downloaded from the Hub ({first_line(error)}): check the spelling and the "
            "connection, and start the same command again, which resumes, or give a local "
            "directory or a .gguf file"
        )
    raise InputError(f"{name} {problem}.")
