"""Files of repositories of the Hugging Face Hub, and uploads of folders to them."""

import os
from pathlib import Path
from typing import Literal

from cola_jax.errors import InputError, first_line
from cola_jax.files import check_link
from cola_jax.storage import AnyPath, check_local

# hidden files at the top, such as locks, and leftovers of an interrupted run
SKIPPED = (".*.lock", "unfinished/*", "failed/*")
# deleted from the repository where the folder lacks them, as an earlier upload is read with this
STALE = (
    *("*.parquet", "*.safetensors", "*.safetensors.index.json"),
    *("adapter_config.json", "path.json"),
)
SECONDS = 5.0  # that the Hub has to answer, before it counts as unreachable


def check_push(folder: AnyPath, repository: str) -> None:
    """Raise InputError where a folder cannot be uploaded, before the work that makes it.

    Links to files elsewhere are refused, which would be uploaded.
    """
    from huggingface_hub import errors, get_token, utils  # imports a client of HTTP

    try:
        utils.validate_repo_id(repository)
    except errors.HFValidationError:
        raise InputError(
            f"{repository!r} is not the name of a repository: give OWNER/NAME."
        ) from None
    if get_token() is None:
        raise InputError(
            f"uploading to {repository} needs a token of the Hub that may write: log in with "
            "`hf auth login`, or set HF_TOKEN."
        )
    check_local(folder)
    for entry in Path(folder).rglob("*"):
        check_link(entry, folder)


def download_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """Download a file of a repository unless it is cached; None where the repository lacks it.

    The cache of the Hub is asked where it cannot be reached, or HF_HUB_OFFLINE is set. Raises
    InputError where there is no such repository, or neither has an answer.
    """
    from huggingface_hub import errors, hf_hub_download  # imports a client of HTTP

    try:
        return Path(hf_hub_download(name, file, revision=revision, etag_timeout=SECONDS))
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        is_local = isinstance(error, errors.LocalEntryNotFoundError)  # asked of the cache alone
        if isinstance(error, errors.EntryNotFoundError) and not is_local:
            return None
        raise download_error(name, revision, error, "a directory with that file") from error


def download_error(name: str, revision: str | None, error: Exception, local: str) -> InputError:
    """Return the error of a user for an error of a download; `local` may be given in its place."""
    from huggingface_hub import errors

    problems = {
        errors.GatedRepoError: f"is gated: accept its terms at https://huggingface.co/{name}, then "
        "log in with `hf auth login`",
        errors.RevisionNotFoundError: f"has no revision {revision!r} on the Hub: give a branch, a "
        "tag or a commit",
        errors.RepositoryNotFoundError: "is neither on the Hub nor a file or directory here: check "
        "the spelling, or log in with `hf auth login` if it is private",
    }
    unreachable = (
        f"(revision {revision or 'main'}) is not a file or directory here, and could not be "
        f"downloaded from the Hub ({first_line(error)}): check the spelling and the "
        f"connection, and start the same command again, which resumes, or give {local}"
    )
    return InputError(f"{name} {problems.get(type(error), unreachable)}.")


def push(
    folder: AnyPath, repository: str, kind: Literal["model", "dataset"], *, private: bool = False
) -> str:
    """Upload a folder to a repository, which is made if there is none; return its URL.

    Without `private`, a new repository is public unless the owner's default is private. Raises
    InputError where the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type=kind, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id,
            repo_type=kind,
            folder_path=os.fspath(folder),
            ignore_patterns=list(SKIPPED),
            delete_patterns=list(STALE),
            commit_message="Upload with cola-jax",
        )
    except (TypeError, AttributeError, LookupError):  # bugs
        raise
    except Exception as error:  # the Hub's client and its HTTP library raise many types
        raise InputError(
            f"{folder} could not be uploaded to {repository} ({first_line(error)}): check that "
            "your token may write there, then run the same upload by "
            f"`hf upload {repository} {folder} --repo-type {kind}`."
        ) from error
    return str(url)
