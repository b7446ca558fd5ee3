"""Storage on this machine: moto's S3 server and a GCS emulator, behind a proxy.

The proxy counts requests and fails some of them. It also gives the GCS emulator, which ignores it,
the condition that an object is created only where there is none.
"""

import collections
import contextlib
import http.client
import http.server
import os
import random
import re
import threading
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "FSSPEC_GS_TOKEN": "anon",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # of gRPC, which the emulator lacks
}
NAME = "bucket"


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to a server of storage."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = port
        self.counts: collections.Counter[str] = collections.Counter()
        self.failing = 0.0  # share of the requests
        self.refused = 0  # status of all requests, 0 for that of the server
        self.random, self.lock = random.Random(0), threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""

    def handle_request(self) -> None:
        """Answer a request: 503 for some, half of which are carried out."""
        body, proxy = self.rfile.read(int(self.headers.get("Content-Length") or 0)), self.server
        proxy.counts[self.kind()] += 1
        fails, lost = proxy.random.random() < proxy.failing, proxy.random.random() < 0.5
        answer = proxy.refused, [], b""
        if not proxy.refused and (lost or not fails):
            with proxy.lock:
                answer = self.forward(body)
        status, headers, content = (503, [], b"") if fails else answer
        self.send_response(status)
        skipped = ("transfer-encoding", "connection", "date", "server")
        has_length = False
        for name, value in headers:
            if name.lower() not in skipped:
                has_length |= name.lower() == "content-length"
                self.send_header(name, value)
        if not has_length:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def kind(self) -> str:
        """Return the kind of a request, as providers charge for it."""
        if self.command == "GET" and ("list-type" in self.path or "delimiter" in self.path):
            return "LIST"
        return "PUT" if self.command == "POST" else self.command

    def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Pass a request on; return the status, headers and content of the answer."""
        if "ifGenerationMatch=0" in self.path:
            name = re.search(rb'"name": "([^"]+)"', body)
            assert name
            path = f"/storage/v1/b/{NAME}/o/{quote(name[1].decode(), safe='')}"
            if self.ask("GET", path, b"", {})[0] == 200:
                return 412, [], b""
        return self.ask(self.command, self.path, body, dict(self.headers))

    def ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send a request to the server of storage."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream)
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class Bucket:
    """An emulated bucket."""

    def __init__(self, scheme: str, proxy: Proxy):
        self.scheme, self.proxy = scheme, proxy

    def folder(self) -> str:
        """Return the URL of a folder of its own."""
        return f"{self.scheme}://{NAME}/{uuid.uuid4().hex[:8]}"

    @contextlib.contextmanager
    def counted(self) -> Iterator[dict[str, int]]:
        """Yield the requests of the body by kind, once it has ended."""
        before, counts = self.proxy.counts.copy(), {}
        yield counts
        counts |= self.proxy.counts - before

    @contextlib.contextmanager
    def answering(self, *, failing: float = 0.0, refused: int = 0) -> Iterator[None]:
        """Fail a share of the requests of the body, or refuse all with a status."""
        self.proxy.failing, self.proxy.refused = failing, refused
        try:
            yield
        finally:
            self.proxy.failing = self.proxy.refused = 0


@contextlib.contextmanager
def serve(scheme: str) -> Iterator[Bucket]:
    """Start an emulator of a scheme's storage with an empty bucket, for subprocesses as well."""
    before = dict(os.environ)
    os.environ |= ENVIRONMENT
    with contextlib.ExitStack() as stack:
        if scheme == "s3":
            from moto.server import ThreadedMotoServer

            moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
            moto.start()
            stack.callback(moto.stop)
            proxy = Proxy(moto.get_host_and_port()[1])
        else:
            from gcp_storage_emulator.server import create_server

            emulator: Any = create_server("127.0.0.1", 0, in_memory=True)
            stack.enter_context(emulator)
            proxy = Proxy(emulator._api._httpd.server_address[1])
        address = f"http://127.0.0.1:{proxy.server_address[1]}"
        os.environ["AWS_ENDPOINT_URL" if scheme == "s3" else "STORAGE_EMULATOR_HOST"] = address
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        stack.callback(proxy.server_close)
        stack.callback(proxy.shutdown)
        import fsspec

        fsspec.get_filesystem_class(scheme).clear_instance_cache()  # of an earlier server
        with contextlib.suppress(FileExistsError):  # moto keeps it for the whole process
            fsspec.filesystem(scheme).mkdir(NAME)
        yield Bucket(scheme, proxy)
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ |= before
