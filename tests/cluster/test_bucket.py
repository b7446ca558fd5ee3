"""The bucket of the experiments, as s3fs sees it."""

import fsspec
import pytest

from tests.cluster import bucket as buckets

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket():
    with buckets.serve() as bucket:
        yield bucket


@pytest.fixture
def system(bucket):
    keys, address = buckets.KEYS, bucket.environment["AWS_ENDPOINT_URL"]
    options = {"key": keys["AWS_ACCESS_KEY_ID"], "secret": keys["AWS_SECRET_ACCESS_KEY"]}
    return fsspec.filesystem("s3", endpoint_url=address, use_listings_cache=False, **options)


def test_objects_are_kept_listed_and_removed(system):
    for name in ("a/x", "a/b/y", "c"):
        system.pipe(f"bucket/{name}", name.encode())
    assert sorted(system.ls("bucket", detail=False)) == ["bucket/a", "bucket/c"]
    assert system.find("bucket/a") == ["bucket/a/b/y", "bucket/a/x"]
    assert system.cat_file("bucket/a/b/y", start=2, end=5) == b"b/y"
    assert not system.exists("bucket/d")
    system.rm("bucket/a", recursive=True)
    assert system.find("bucket") == ["bucket/c"]


def test_lists_have_pages(system):
    names = [f"bucket/many/{i:04}/x" for i in range(buckets.LISTED + 5)]
    system.pipe(dict.fromkeys(names, b""))
    assert system.find("bucket/many") == names
    assert len(system.ls("bucket/many", detail=False)) == len(names)


def test_an_object_is_created_once(system):
    system.pipe_file("bucket/once", b"first", mode="create")
    with pytest.raises(OSError, match="PreconditionFailed"):
        system.pipe_file("bucket/once", b"second", mode="create")
    assert system.cat("bucket/once") == b"first"


def test_a_share_of_the_requests_fails(bucket, system):
    before = bucket.requests()["PUT"]
    bucket.set(failing=0.3)
    for i in range(20):
        system.pipe(f"bucket/failing/{i}", b"x")
    bucket.set(failing=0.0)
    assert bucket.requests()["PUT"] > before + 20  # s3fs tries again
    assert len(system.find("bucket/failing")) == 20


def test_unchunked_joins_the_chunks_of_a_body():
    chunks = [b"a" * 300, b"b\r\nc"]
    body = b"".join(b"%x;signature=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    assert buckets.unchunked(body + b"0\r\n\r\n") == b"".join(chunks)
