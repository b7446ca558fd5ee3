"""Places in storage, such as gs://bucket/folder, and what it takes to read and write there."""

import importlib.util

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}


def check_url(text: str) -> None:
    """Raises ValueError for a URL of storage that cannot be used here; other text is left alone."""
    scheme, found, _ = text.partition("://")
    if not found:
        return
    if scheme not in PACKAGES:
        known = ", ".join(f"{one}://" for one in PACKAGES)
        raise ValueError(f"{text} is in no storage that can be used: {known}, or a local path.")
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        raise ValueError(f"{text} needs a package: pip install {PACKAGES[scheme]}.")
