"""The identity of a model, which files with paths are compared with before their paths are run."""

import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from cola_jax.checkpoint import stored_dtype
from cola_jax.errors import InputError, printed
from cola_jax.files import SNAPSHOT
from cola_jax.progress import log
from cola_jax.storage import AnyPath

HUB_NAME = "[0-9A-Za-z_][0-9A-Za-z_.-]*"
HUB_ID = re.compile(f"{HUB_NAME}(/{HUB_NAME})?")  # without its owner, of few old models
DIGEST = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")


class Identity(NamedTuple):
    """The digest of a checkpoint, and the name of the model that it was converted from."""

    digest: str
    name: str  # a Hub id, or that of a local file or folder
    hub_id: str | None  # None where it is not known
    revision: str | None  # the commit of a Hub id
    dtype: str | None = None  # of its weights; None where it is not known

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "Identity":
        """Return the identity of a checkpoint with this metadata."""
        origin = metadata["origin"]
        digest = metadata["digest"]
        name = str(origin.get("name"))
        revision = origin.get("revision")
        dtype = stored_dtype(metadata)
        if origin["kind"] == "hub":
            return cls(digest, name, name, revision, dtype)
        # a folder of the Hub's cache
        if snapshot := SNAPSHOT.fullmatch("/".join(PurePath(name).parts[-3:])):
            hub_id = f"{snapshot['owner']}/{snapshot['name']}"
            return cls(digest, hub_id, hub_id, snapshot["revision"], dtype)
        return cls(digest, PurePath(name).name, None, None, dtype)

    def check(self, file: AnyPath, model: Any, name: Any = None, dtype: Any = None) -> None:
        """Raise InputError where a file has paths of another model than this one.

        `model` is the file's name of its model: a digest, with the `name` and the `dtype` of that
        model, or a Hub id, also as ID@REVISION, or a folder. Models that cannot be told apart by
        their names are logged, and those of one name whose digests may differ by their dtypes
        alone. Does nothing for other values than texts.
        """
        if not isinstance(model, str) or model == self.digest:
            return
        if DIGEST.fullmatch(model):
            theirs = f"{name}, digest {model[:12]}" if isinstance(name, str) else f"{model[:12]}"
            ours = f"{self.name}, digest {self.digest[:12]}"
            is_named = isinstance(name, str) and name.casefold() == self.name.casefold()
            if not is_named or (dtype is not None and dtype == self.dtype):
                raise self.refusal(file, theirs, ours)
            log.warning(
                f"{file} has paths of {printed(theirs)}{in_dtype(dtype)}, and the model here is "
                f"{printed(ours)}{in_dtype(self.dtype)}: they may differ by more than the dtype."
            )
            return
        theirs, _, revision = model.partition("@")
        # a name without its owner may be that of a folder
        is_hub_id = "/" in theirs and HUB_ID.fullmatch(theirs) and not os.path.exists(theirs)
        if self.hub_id and is_hub_id:
            if theirs.casefold() != self.hub_id.casefold():
                raise self.refusal(file, model, self.hub_id)
            is_same = not COMMIT.fullmatch(revision) or revision == self.revision
        else:
            is_same = PurePath(theirs).name.casefold() == PurePath(self.name).name.casefold()
        if not is_same:
            ours = f"{self.name}@{self.revision}" if self.hub_id else self.name
            log.warning(
                f"{file} has paths of {printed(model)}, and the model here was converted from "
                f"{ours}: whether they are the same is not known."
            )

    @staticmethod
    def refusal(file: AnyPath, theirs: str, ours: str) -> InputError:
        """Return the error for a file of another model."""
        return InputError(
            f"{file} has paths of another model ({printed(theirs)}) than the one here "
            f"({printed(ours)}): give that model, or the path itself, to try it on this one."
        )


def in_dtype(dtype: Any) -> str:
    """Name a dtype in a message, if it is known."""
    return f" in {printed(dtype)}" if isinstance(dtype, str) else ""


def named_model(content: Any) -> tuple[Any, Any, Any]:
    """Return the digest or name of the model of parsed JSON, and its name and dtype for a digest.

    They are the last arguments of `Identity.check`.
    """
    if not isinstance(content, Mapping):
        return None, None, None
    return content.get("model"), content.get("model_name"), content.get("model_dtype")
