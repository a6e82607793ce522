"""A hub on loopback: as much of the Hugging Face hub's HTTP interface as a download needs."""

import hashlib
import json
import re
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def free_port() -> int:
    """Find a port of loopback where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class LocalHub:
    """Serves one folder as the files of one model.

    Attributes:
        downloads: GET requests of file contents so far, by file name.
        cut: file name -> bytes after which the connection is dropped, once per request.
        silent: file names whose later requests are dropped without an answer, after one cut.
        stall: file name -> bytes after which nothing more is sent until `go_on` is set.
        refusals: part of a path -> (HTTP status, the hub's error code) for requests of it.
        token: if set, files are only given to who sends it.
    """

    def __init__(self, folder: Path, repo: str) -> None:
        self.folder, self.repo = folder, repo
        self.downloads: Counter[str] = Counter()
        self.cut: dict[str, int] = {}
        self.silent: set[str] = set()
        self.stall: dict[str, int] = {}
        self.stalled, self.go_on = threading.Event(), threading.Event()
        self.refusals: dict[str, tuple[int, str]] = {}
        self.token: str | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LocalHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())

    def weight_downloads(self) -> int:
        return sum(n for name, n in self.downloads.items() if name.endswith((".bin", "tensors")))


def _describe(path: Path) -> dict:
    """Describe a file as the listings do; binary files are in large-file storage."""
    data = path.read_bytes()
    size = len(data)
    described = {"size": size, "oid": hashlib.sha1(b"blob %d\0" % size + data).hexdigest()}
    if path.suffix in (".bin", ".safetensors", ".model"):
        sha256 = hashlib.sha256(data).hexdigest()
        described["lfs"] = {"oid": sha256, "sha256": sha256, "size": size, "pointerSize": 134}
    return described


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.split("?")[0]
            for part, (status, code) in hub.refusals.items():
                if part in path:
                    return self._send(status, b"{}", {"X-Error-Code": code}, with_body)
            api, resolve = f"/api/models/{hub.repo}", f"/{hub.repo}/resolve/"
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                return self._send_json(self._model())
            if path == f"{api}/tree/{COMMIT}":
                return self._send_json(self._tree())
            if path.startswith(resolve):
                revision, _, name = path.removeprefix(resolve).partition("/")
                return self._send_file(revision, hub.folder / name, with_body)
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)

        def _model(self) -> dict:
            siblings = []
            for path in hub.files():
                described = _describe(path)
                described["blobId"] = described.pop("oid")
                siblings.append({"rfilename": path.name, **described})
            return {"id": hub.repo, "modelId": hub.repo, "sha": COMMIT, "siblings": siblings}

        def _tree(self) -> list[dict]:
            return [{"type": "file", "path": p.name, **_describe(p)} for p in hub.files()]

        def _send_file(self, revision: str, path: Path, with_body: bool) -> None:
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self._send(401, b"{}", {"X-Error-Code": "GatedRepo"}, with_body)
            if revision not in (COMMIT, "main") or not path.is_file():
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, with_body)
            data, described = path.read_bytes(), _describe(path)
            etag = described.get("lfs", described)["oid"]
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if not with_body:
                return self._send(200, data, headers, with_body)
            hub.downloads[path.name] += 1
            status, start = 200, 0
            if wanted := self.headers.get("Range"):
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                status = 206
            return self._send_body(path.name, status, data[start:], headers)

        def _send_body(self, name: str, status: int, data: bytes, headers: dict) -> None:
            if name in hub.silent and name not in hub.cut:
                self.close_connection = True
                return None
            if (count := hub.cut.pop(name, None)) is not None:
                self._send(status, data[:count], headers, True, announced=len(data))
                self.close_connection = True
                return None
            if (count := hub.stall.pop(name, None)) is not None:
                self._send(status, data[:count], headers, True, announced=len(data))
                self.wfile.flush()
                hub.stalled.set()
                hub.go_on.wait()
                self.close_connection = True
                return None
            return self._send(status, data, headers, True)

        def _send_json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, True)

        def _send(
            self,
            status: int,
            body: bytes,
            headers: dict,
            with_body: bool,
            announced: int | None = None,
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(announced or len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler
