"""Uploads of folders to repositories of the Hugging Face Hub."""

import os
from pathlib import Path
from typing import Literal

from cola_jax.errors import InputError, first_line
from cola_jax.files import check_link
from cola_jax.storage import AnyPath, check_local

# hidden files at the top, such as locks, and leftovers of an interrupted run
SKIPPED = (".*.lock", "unfinished/*", "failed/*")
# deleted from the repository where the folder lacks them, as an earlier upload is read with this
STALE = ("*.parquet", "*.safetensors", "*.safetensors.index.json")


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
