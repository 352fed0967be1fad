"""A Hugging Face Hub on this machine: as much of its protocol as huggingface_hub speaks to send a folder and to fetch one."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

# Runs several commands in one process, which imports once, and says how each ended.
COMMANDS = """
import json, sys
from gps_seg.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["gps-seg", *words]
    try:
        main()
    except SystemExit as stopped:
        sys.stderr.flush()
        print(f"[status {stopped.code or 0}]", flush=True)
"""


@dataclass
class Repository:
    """``branches``: name -> commit, each a folder of files."""

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """Keeps the files of each commit in a folder of its own below ``place``; writing needs a token."""

    def __init__(self, place: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.place, self.repositories, self.asked = place, dict[str, Repository](), list[str]()
        self.large: dict[str, bytes] = {}  # by sha256, sent before the commit that names them

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str, branch: str = "main") -> Path:
        return self.place / self.repositories[name].branches[branch]

    def commit(self, name: str, branch: str, changes: bytes) -> str:
        """Apply a commit, one JSON a line, to a branch; returns its hash."""
        repository = self.repositories[name]
        former = repository.branches.get(branch)
        kept = {file.name: file.read_bytes() for file in (self.place / former).iterdir()} if former else {}
        for line in changes.splitlines():
            change = json.loads(line)
            if change["key"] == "file":
                kept[change["value"]["path"]] = base64.b64decode(change["value"]["content"])
            elif change["key"] == "lfsFile":
                kept[change["value"]["path"]] = self.large[change["value"]["oid"]]
            elif change["key"] == "deletedFile":
                del kept[change["value"]["path"]]
        commit = hashlib.sha1(changes + name.encode() + (former or "").encode()).hexdigest()
        (self.place / commit).mkdir(parents=True, exist_ok=True)
        for file, content in kept.items():
            (self.place / commit / file).write_bytes(content)
        repository.branches[branch] = commit
        return commit


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._read(with_body=True)

    def do_HEAD(self) -> None:
        self._read(with_body=False)

    def _read(self, *, with_body: bool) -> None:
        hub = self._hub()
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4 if api else 2:]
        if name not in hub.repositories:
            return self._say(404, {}, "RepoNotFound")
        repository = hub.repositories[name]
        revision = rest[1] if len(rest) > 1 else "main"
        commit = repository.branches.get(revision, revision)
        if not (hub.place / commit).is_dir():
            return self._say(404, {}, "RevisionNotFound")
        folder = hub.place / commit
        if not api:
            return self._file(folder / rest[2], commit, with_body=with_body)
        files = sorted(file.name for file in folder.iterdir())
        if rest[:1] == ["tree"]:
            return self._say(200, [{"type": "file", "path": file, "oid": _oid(folder / file),
                                    "size": (folder / file).stat().st_size} for file in files])
        return self._say(200, {"id": name, "sha": commit, "private": repository.private,
                               "siblings": [{"rfilename": file} for file in files]})

    def _file(self, path: Path, commit: str, *, with_body: bool) -> None:
        content = path.read_bytes()
        self.send_response(200)
        for key, value in {"ETag": f'"{_oid(path)}"', "X-Repo-Commit": commit, "Content-Length": len(content)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def do_POST(self) -> None:
        hub, body = self._hub(), self._body()
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if not self.headers.get("Authorization"):
            return self._say(401, {"error": "a token is needed"})
        if parts[1:] == ["validate-yaml"]:
            return self._say(200, {})
        if parts[1:] == ["repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            hub.repositories[name] = Repository(asked.get("visibility") == "private")
            hub.commit(name, "main", b"")
            return self._say(200, {"url": f"{hub.url}/{name}"})
        if parts[2:] == ["info", "lfs", "objects", "batch"]:
            asked = json.loads(body)["objects"]
            return self._say(200, {"objects": [{**one, "actions": {"upload": {"href": f"{hub.url}/large/{one['oid']}"}}}
                                               for one in asked]})
        name, action, branch = "/".join(parts[2:4]), parts[4], parts[5]
        if action == "branch":
            hub.repositories[name].branches.setdefault(branch, hub.repositories[name].branches["main"])
            return self._say(200, {})
        if action == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return self._say(200, {"files": [{"path": name, "uploadMode": "lfs" if name.endswith(".safetensors") else "regular",
                                              "shouldIgnore": False} for name in names]})
        commit = hub.commit(name, branch, body)
        return self._say(200, {"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def do_PUT(self) -> None:
        self._hub().large[self.path.rpartition("/")[2]] = self._body()
        self._say(200, {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _hub(self) -> Hub:
        hub = cast(Hub, self.server)
        hub.asked.append(f"{self.command} {self.path}")
        return hub

    def _say(self, status: int, document: Any, error: str = "") -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": len(content), "X-Error-Code": error}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(content if self.command != "HEAD" else b"")

    def log_message(self, *_: object) -> None:
        pass


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def hub(place: Path) -> Iterator[Hub]:
    """A hub that answers as long as the block lasts."""
    with Hub(place) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def python(place: Path, endpoint: str, code: str, *arguments: str, **environment: str) -> str:
    """What Python code says in a process of its own, in the folder ``place``, to which the hub is at ``endpoint``."""
    root = Path(__file__).parents[2]
    told = {"HF_ENDPOINT": endpoint, "HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1", "GPS_SEG_CACHE": str(place / "cache"),
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "apps"), os.environ.get("PYTHONPATH", "")])}
    place.mkdir(exist_ok=True)
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=place, env={**os.environ, **told, **environment},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False)
    assert done.returncode == 0 and "Traceback" not in done.stdout, done.stdout
    return done.stdout


def commands(place: Path, endpoint: str, *lines: Sequence[object], **environment: str) -> list[str]:
    """What each gps-seg command of one process says, the last line its status."""
    said = python(place, endpoint, COMMANDS, json.dumps([[str(word) for word in line] for line in lines]), **environment)
    answers = said.split("]\n")[:-1]
    assert len(answers) == len(lines), said
    return answers
