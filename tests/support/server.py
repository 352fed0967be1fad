"""The real server for the tests of the page: ``gps-seg app`` in its own process, in which no socket may leave this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Runs the command with sockets that refuse, and write down, whatever is not loopback; DNS is refused as well.
BLOCKED = """
import socket, sys
log = open(sys.argv[1], "a", buffering=1)
connect, connect_ex, look_up, send_to = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo, socket.socket.sendto
LOCAL = ("127.0.0.1", "::1", "localhost", None, "")

def refuse(address):
    log.write(f"{address}\\n")
    raise OSError(101, "blocked by the test")

def checked(real):
    def call(self, address, *more):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            refuse(address)
        return real(self, address, *more)
    return call

def looked_up(host, *more, **named):
    return refuse(host) if host not in LOCAL else look_up(host, *more, **named)

socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = checked(connect), checked(connect_ex), looked_up
sys.argv = ["gps-seg", *sys.argv[2:]]
from gps_seg.cli import main
main()
"""


@dataclass(frozen=True)
class Served:
    """A running app: its address, its process, what it wrote, and the file of refused connections."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    refused: Path
    seconds: float  # from the command to the first page

    @property
    def written(self) -> str:
        return self.log.read_text()


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


@contextlib.contextmanager
def served(folder: Path, *arguments: object, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """``gps-seg app`` with these arguments, stopped and checked at the end: it leaves no traceback, no file and no connection."""
    port = free_port()
    temp, log, refused = folder / "temp", folder / "log.txt", folder / "refused.txt"
    temp.mkdir(parents=True)
    start = time.monotonic()
    command = [sys.executable, "-c", BLOCKED, refused, "app", *map(str, arguments), "--port", str(port), "--no-browser"]
    env = {**os.environ, "TMPDIR": str(temp), "OMP_NUM_THREADS": "1", **(environment or {})}
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, text=True, env=env,
                                                   stdin=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log)
            yield Served(url, process, log, refused, time.monotonic() - start)
            assert process.poll() in (None, -signal.SIGTERM, 143), log.read_text()
        finally:
            process.terminate()
            process.wait(20)
    assert "Traceback" not in log.read_text(), log.read_text()
    assert refused.read_text() == ""
    assert not list(temp.glob("gps-seg-app-*"))


def _wait(url: str, process: subprocess.Popen[str], log: Path) -> None:
    for _ in range(1200):
        if process.poll() is not None:
            raise AssertionError(log.read_text())
        with contextlib.suppress(OSError):
            with contextlib.suppress(urllib.error.HTTPError):  # a page that asks for a login is a page
                urllib.request.urlopen(url, timeout=60).read()
            return
        time.sleep(0.05)
    raise AssertionError("no page in a minute")
