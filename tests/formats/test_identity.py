"""The identity of a model: names that are another's are refused, and others at most logged."""

import logging

import pytest

from cola_jax.errors import InputError
from cola_jax.formats.identity import Identity

DIGEST, OTHER, COMMIT = "ab" * 32, "cd" * 32, "0" * 40
HUB = {"kind": "hub", "name": "someone/tiny", "revision": COMMIT}
LOCAL = {"kind": "directory", "name": "/data/models/tiny", "revision": None}
CACHED = LOCAL | {"name": f"/cache/hub/models--someone--tiny/snapshots/{COMMIT}"}
GGUF = {"kind": "gguf", "name": "/data/tiny.Q4_1.gguf", "revision": None}


def identity(origin):
    return Identity.of({"origin": origin, "digest": DIGEST, "dtype": "bfloat16"})


@pytest.mark.parametrize("origin", [HUB, CACHED])
def test_check_refuses_other_hub_ids_and_digests(origin):
    for model, name, theirs in (
        ("someone/large", None, "someone/large"),
        (f"other/tiny@{COMMIT}", None, f"other/tiny@{COMMIT}"),
        (OTHER, "someone/large", "someone/large, digest cdcdcdcdcdcd"),
        (OTHER, None, "cdcdcdcdcdcd"),
    ):
        message = rf"f has paths of another model \({theirs}\) than the one here \(someone/tiny"
        with pytest.raises(InputError, match=message + ".*or the path itself"):
            identity(origin).check("f", model, name)


def test_check_refuses_another_digest_of_a_local_model():
    for origin in (LOCAL, GGUF):
        with pytest.raises(InputError, match=r"than the one here \(tiny.*, digest abababababab\)"):
            identity(origin).check("f", OTHER)


def test_check_logs_a_digest_that_may_differ_by_the_dtype_alone(caplog):
    for origin, name in ((HUB, "Someone/tiny"), (LOCAL, "tiny")):
        for dtype, theirs in (("int8", " in int8"), (None, "")):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                identity(origin).check("f", OTHER, name, dtype)
            assert f"{name}, digest cdcdcdcdcdcd{theirs}, and the model here is " in caplog.text
            assert "digest abababababab in bfloat16: they may differ by more" in caplog.text
        for strange, dtype in ((name, "bfloat16"), ("large", "int8")):
            with pytest.raises(InputError, match="has paths of another model"):
                identity(origin).check("f", OTHER, strange, dtype)


@pytest.mark.parametrize(
    ("origin", "model", "logged"),
    [
        (HUB, "someone/tiny", False),
        (HUB, "Someone/Tiny@main", False),
        (HUB, f"someone/tiny@{COMMIT}", False),
        (HUB, f"someone/tiny@{'1' * 40}", True),  # a commit may change the card alone
        (HUB, "/data/models/tiny", False),
        (HUB, "/data/models/other", True),
        (HUB, "tests/formats", True),  # a folder
        (CACHED, "someone/tiny", False),
        (LOCAL, "someone/tiny", False),
        (LOCAL, "someone/large", True),
        (LOCAL, "../elsewhere/tiny", False),
        (GGUF, "someone/tiny", True),
        *((origin, named, False) for origin in (HUB, GGUF) for named in (DIGEST, None, 5, [])),
    ],
)
def test_check_logs_names_that_may_be_of_one_model(origin, model, logged, caplog):
    with caplog.at_level(logging.WARNING):
        identity(origin).check("f", model)
    assert ("f has paths of" in caplog.text) == logged
