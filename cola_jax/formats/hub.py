"""Models of the Hugging Face Hub: which commit an id means, and its files."""

import re
from pathlib import Path
from typing import NamedTuple

from cola_jax.errors import InputError, first_line, reading
from cola_jax.formats.huggingface import (
    GENERATION,
    INDEX,
    TOKENIZER_FILES,
    open_directory,
    read_config,
    read_config_file,
)
from cola_jax.formats.table import Source

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
SECONDS = 5.0  # that the Hub has to answer, before it counts as unreachable


class HubModel(NamedTuple):
    """A model of the Hub at a commit."""

    name: str
    commit: str


def resolve(name: str, revision: str | None) -> HubModel:
    """Ask the Hub for the commit that a revision of a model means, or else its local cache.

    The cache is asked where the Hub cannot be reached or HF_HUB_OFFLINE is set. Raises ValueError
    for an id that is malformed, unknown or gated, a revision that is unknown, and a model that is
    not in the cache while the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, errors

    if not HUB_ID.fullmatch(name):
        raise InputError(
            f"source {name!r} is neither an existing directory, nor a .gguf file, nor a Hub id "
            "like HuggingFaceTB/SmolLM2-135M-Instruct."
        )
    try:
        found = HfApi().model_info(name, revision=revision, timeout=SECONDS)
    except errors.RevisionNotFoundError:
        raise InputError(
            f"{name} has no revision {revision!r} on the Hub: give a branch, a tag or a commit."
        ) from None
    except errors.GatedRepoError:
        raise gated(name) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"there is no model {name!r} on the Hub, and no such file or directory here: check the "
            "spelling, or log in with `hf auth login` if it is private."
        ) from None
    except (errors.HFValidationError, errors.DisabledRepoError) as error:
        raise InputError(f"{name} is not a model of the Hub: {error}") from None
    except Exception as error:  # of the HTTP library, whose types change with its version
        return cached(name, revision, error)
    if found.sha is None:
        raise InputError(f"the Hub names no commit of {name}: give one as {name}@COMMIT.")
    return HubModel(name, found.sha)


def cached(name: str, revision: str | None, error: Exception) -> HubModel:
    """Return the commit that the local cache of the Hub has of a revision."""
    from huggingface_hub import constants, snapshot_download

    try:
        folder = snapshot_download(name, revision=revision, local_files_only=True)
    except Exception:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
        at = "" if revision is None else f" at revision {revision}"
        raise InputError(
            f"there is no file or directory {name!r} here, {why} ({first_line(error)}), and its "
            f"cache has no such model{at}: check the spelling or the connection, or give a local "
            "directory or a .gguf file."
        ) from None
    return HubModel(name, Path(folder).name)  # a snapshot's folder is named after its commit


def gated(name: str) -> InputError:
    """Return the error of a model whose licence has to be accepted first."""
    return InputError(
        f"{name} is gated: accept its terms at https://huggingface.co/{name}, then log in with "
        "`hf auth login`."
    )


def open_hub(model: HubModel) -> Source:
    """Download the config, safetensors and tokenizer of a model, and opens them.

    Raises InputError for a model that is not supported, before its weights are downloaded, and for
    a download that fails.
    """
    folder = download(model, ["config.json"])
    with reading(f"the config.json of {model.name}"):
        read_config(read_config_file(folder))
    files = ["config.json", GENERATION, "*.safetensors", INDEX, *TOKENIZER_FILES]
    source = open_directory(download(model, files))
    origin = {"kind": "hub", "name": model.name, "revision": model.commit}
    return source._replace(origin=origin)


def download(model: HubModel, patterns: list[str]) -> Path:
    """Download files of a model unless they are cached; raise InputError on failure."""
    from huggingface_hub import errors, snapshot_download

    # some repositories hold a second copy of the weights in their authors' own format
    skipped = ["consolidated*", "*/*"]
    try:
        folder = snapshot_download(
            model.name,
            revision=model.commit,
            allow_patterns=patterns,
            ignore_patterns=skipped,
            etag_timeout=SECONDS,
        )
    except errors.GatedRepoError:
        raise gated(model.name) from None
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        raise InputError(
            f"{model.name} (commit {model.commit[:12]}) could not be downloaded from the Hub: "
            f"{first_line(error)}. Start the same command again, which goes on where the download "
            "ended, or give a local directory."
        ) from None
    return Path(folder)
