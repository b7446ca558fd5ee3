"""The endpoints of the Hub that uploads and downloads use, on this machine."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections import defaultdict
from collections.abc import Iterator

COMMIT = "c" * 40  # of every repository


class Hub(http.server.ThreadingHTTPServer):
    """The files of each repository, such as datasets/me/run, and the requests that made them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.created: list[dict] = []


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.resolve()

    def do_GET(self) -> None:
        if "/resolve/" in self.path:
            self.resolve()
        elif "/tree/" in self.path:
            entries = [{"type": "file", "path": p, "size": 1, "oid": "0"} for p in self.files()]
            self.answer(entries)
        else:
            self.answer({}, 404)

    def resolve(self) -> None:
        """Answer for a file of a model: /OWNER/NAME/resolve/REVISION/FILE."""
        _, owner, name, _, revision, file = self.path.split("/", 5)
        files = self.server.repositories.get(f"models/{owner}/{name}")
        missing = "RepoNotFound" if files is None else "EntryNotFound"
        if files is not None and revision not in ("main", COMMIT):
            missing = "RevisionNotFound"
        elif files is not None and file in files:
            missing = None
        content = files[file] if files is not None and missing is None else b""
        self.send_response(404 if missing else 200)
        if missing:
            self.send_header("X-Error-Code", missing)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer hf_secret":
            self.answer({"error": "no"}, 403)
        elif self.path == "/api/repos/create":
            self.server.created.append(asked := json.loads(body))
            prefix = "datasets/" * (asked.get("type") == "dataset")
            self.answer(
                {"url": f"{self.server.url}/{prefix}{asked['organization']}/{asked['name']}"}
            )
        elif self.path == "/api/validate-yaml":
            self.answer({"warnings": [], "errors": []})
        elif "/preupload/" in self.path:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": x["path"]} | how for x in json.loads(body)["files"]]})
        else:
            self.commit(body)

    def commit(self, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files()[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.files()[value["path"]]
        self.answer({"commitUrl": f"{self.server.url}/me/tiny/commit/1", "commitOid": "1"})

    def files(self) -> dict[str, bytes]:
        """Return the files of the repository that is asked about: /api/models/OWNER/NAME/..."""
        return self.server.repositories["/".join(self.path.split("/")[2:5])]

    def answer(self, content: object, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
