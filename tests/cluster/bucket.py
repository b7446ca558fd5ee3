"""A bucket of S3 on this machine, in a process of its own, whose requests are late or fail.

moto's server answers 270 PUTs a second of one core, which a driver on the same machine can exceed;
this one keeps objects in memory, checks no signature, and knows only the requests of s3fs.
"""

import asyncio
import collections
import contextlib
import dataclasses
import datetime
import hashlib
import itertools
import random
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
from aiohttp import web

NAME = "bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
LISTED = 1000  # objects of an answer
KINDS = ("GET", "HEAD", "LIST", "PUT", "POST", "DELETE")
SETTINGS = ("port", "delay", "failing", "away")
STARTS = 300.0  # seconds within which it is served, also on a busy machine


class Bucket:
    """A bucket that another process serves; they share a file with its settings and counts.

    delay: seconds by which an answer is late
    failing: share of the requests that get status 503, half of which are carried out
    away: whether every connection is closed without an answer
    """

    def __init__(self, file: Path):
        self.numbers = np.memmap(file, np.float64, "r+", shape=len(SETTINGS) + len(KINDS))

    def set(self, **settings: float) -> None:
        """Change settings, while it is served."""
        for name, value in settings.items():
            self.numbers[SETTINGS.index(name)] = value

    def get(self, name: str) -> float:
        """Return a setting."""
        return float(self.numbers[SETTINGS.index(name)])

    def count(self, kind: str) -> None:
        """Count a request."""
        self.numbers[len(SETTINGS) + KINDS.index(kind)] += 1

    def requests(self) -> dict[str, int]:
        """Return the number of requests of each kind so far."""
        return dict(zip(KINDS, self.numbers[len(SETTINGS) :].astype(int).tolist(), strict=True))

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which other processes reach it, without keys."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.get('port'):.0f}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextlib.contextmanager
def serve() -> Iterator[Bucket]:
    """Serve an empty bucket from another process."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(8 * (len(SETTINGS) + len(KINDS)))
        bucket = Bucket(Path(file.name))
        process = subprocess.Popen([sys.executable, "-m", "tests.cluster.bucket", file.name])
        try:
            limit = time.monotonic() + STARTS
            while not bucket.get("port"):
                if process.poll() is not None or time.monotonic() > limit:
                    raise TimeoutError("the bucket has not started")
                time.sleep(0.05)
            yield bucket
        finally:
            process.kill()
            process.wait()


async def run(bucket: Bucket) -> None:
    """Serve a bucket until this process is killed."""
    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", Objects(bucket).answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    bucket.set(port=runner.addresses[0][1])
    await asyncio.Event().wait()


@dataclasses.dataclass(frozen=True)
class Object:
    """What is stored under a key."""

    content: bytes
    tag: str
    date: datetime.datetime


class Objects:
    """The objects of a bucket, and the answers to requests."""

    def __init__(self, bucket: Bucket):
        self.bucket = bucket
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, dict[int, bytes]] = collections.defaultdict(dict)
        self.numbers = itertools.count()
        self.random = random.Random(0)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, late, never, or with an error where the bucket is to do so."""
        body, bucket = await request.read(), self.bucket
        bucket.count(kind_of(request))
        if delay := bucket.get("delay"):
            await asyncio.sleep(delay)
        if bucket.get("away"):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()  # goes nowhere
        fails = self.random.random() < bucket.get("failing")
        if fails and self.random.random() < 0.5:
            return web.Response(status=503)
        answer = self.carry_out(request, body)
        return web.Response(status=503) if fails else answer

    def carry_out(self, request: web.Request, body: bytes) -> web.Response:
        """Do what a request asks for."""
        method, query = request.method, request.query
        key = request.match_info["path"].partition("/")[2]
        if request.headers.get("x-amz-content-sha256", "").startswith("STREAMING"):
            body = unchunked(body)
        if not key:
            if method == "GET":
                return self.listing(request)
            if method == "POST":
                return self.delete_many(body)
            return web.Response()  # of PUT and HEAD: there is one bucket
        if method == "PUT":
            return self.put(key, body, request)
        if method == "POST":
            return self.upload(key, query)
        if method == "DELETE":
            self.objects.pop(key, None)
            return web.Response(status=204)
        return self.get(key, request)

    def put(self, key: str, body: bytes, request: web.Request) -> web.Response:
        """Store an object, a copy of one, or a part of an upload."""
        if "uploadId" in request.query:
            self.uploads[request.query["uploadId"]][int(request.query["partNumber"])] = body
            return web.Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        if request.headers.get("If-None-Match") == "*" and key in self.objects:
            return failure(412, "PreconditionFailed")
        source = request.headers.get("x-amz-copy-source")
        if source is None:
            stored = self.store(key, body)
            return web.Response(headers={"ETag": f'"{stored.tag}"'})
        name = urllib.parse.unquote(source).lstrip("/").partition("/")[2]
        if name not in self.objects:
            return failure(404, "NoSuchKey")
        stored = self.store(key, self.objects[name].content)
        return xml("CopyObjectResult", f"<ETag>&quot;{stored.tag}&quot;</ETag>")

    def store(self, key: str, content: bytes) -> Object:
        """Store content under a key."""
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self.objects[key] = Object(content, hashlib.md5(content).hexdigest(), now)
        return self.objects[key]

    def upload(self, key: str, query: Any) -> web.Response:
        """Begin or complete an upload in parts."""
        if "uploads" in query:
            name = f"<UploadId>{next(self.numbers)}</UploadId>"
            return xml("InitiateMultipartUploadResult", f"<Key>{escape(key)}</Key>{name}")
        parts = self.uploads.pop(query["uploadId"])
        stored = self.store(key, b"".join(parts[number] for number in sorted(parts)))
        return xml("CompleteMultipartUploadResult", f"<ETag>&quot;{stored.tag}&quot;</ETag>")

    def get(self, key: str, request: web.Request) -> web.Response:
        """Return an object, a range of its bytes, or its facts alone."""
        stored = self.objects.get(key)
        if stored is None:
            return web.Response(status=404) if request.method == "HEAD" else missing()
        headers = {"ETag": f'"{stored.tag}"', "Last-Modified": f"{stored.date:%a, %d %b %Y %T GMT}"}
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(len(stored.content))})
        asked = request.http_range
        if asked.start is None and asked.stop is None:
            return web.Response(body=stored.content, headers=headers)
        start, stop, _ = asked.indices(len(stored.content))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(stored.content)}"
        return web.Response(status=206, body=stored.content[start:stop], headers=headers)

    def listing(self, request: web.Request) -> web.Response:
        """List the objects below a prefix, and with a delimiter the folders there."""
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", "") or query.get("start-after", "")
        entries: dict[str, str] = {}
        for key in sorted(self.objects):
            if not key.startswith(prefix) or key <= after:
                continue
            if len(entries) == int(query.get("max-keys", LISTED)):
                break
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folder = prefix + rest.partition(delimiter)[0] + delimiter
                if folder > after:
                    entries[folder] = f"<Prefix>{escape(folder)}</Prefix>"
                continue
            stored = self.objects[key]
            entries[key] = (
                f"<Key>{escape(key)}</Key><LastModified>{stored.date:%Y-%m-%dT%H:%M:%S.000Z}"
                f"</LastModified><ETag>&quot;{stored.tag}&quot;</ETag>"
                f"<Size>{len(stored.content)}</Size><StorageClass>STANDARD</StorageClass>"
            )
        last = max(entries, default="")
        beyond = last + "\U0010ffff" if last.endswith("/") and delimiter else last
        more = any(key.startswith(prefix) and key > beyond for key in self.objects)
        more = more and len(entries) == int(query.get("max-keys", LISTED))
        listed = [
            f"<CommonPrefixes>{entry}</CommonPrefixes>"
            if entry.startswith("<Prefix>")
            else f"<Contents>{entry}</Contents>"
            for entry in entries.values()
        ]
        token = f"<NextContinuationToken>{escape(beyond)}</NextContinuationToken>" if more else ""
        head = f"<Name>{NAME}</Name><KeyCount>{len(entries)}</KeyCount>"
        head += f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        return xml("ListBucketResult", head + "".join(listed))

    def delete_many(self, body: bytes) -> web.Response:
        """Delete the objects that a request names."""
        keys = [str(each.text) for each in ElementTree.fromstring(body).iter() if is_key(each)]
        for key in keys:
            self.objects.pop(key, None)
        deleted = (f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return xml("DeleteResult", "".join(deleted))


def kind_of(request: web.Request) -> str:
    """Return the kind of a request, as providers charge for it."""
    if request.method == "GET" and "list-type" in request.query:
        return "LIST"
    return request.method


def is_key(element: ElementTree.Element) -> bool:
    """Whether an element of XML is the name of an object."""
    return element.tag.rpartition("}")[2] == "Key"


def unchunked(body: bytes) -> bytes:
    """Return the content of a body that is sent as chunks, each after a line with its length."""
    content = []
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        if not size:
            return b"".join(content)
        content.append(body[:size])
        body = body[size + 2 :]


def xml(name: str, content: str) -> web.Response:
    """Return an answer of S3."""
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} {space}>{content}</{name}>'
    return web.Response(text=text, content_type="application/xml")


def missing() -> web.Response:
    """Return the answer where there is no such object."""
    return failure(404, "NoSuchKey")


def failure(status: int, code: str) -> web.Response:
    """Return an error of S3."""
    text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


if __name__ == "__main__":
    asyncio.run(run(Bucket(Path(sys.argv[1]))))
