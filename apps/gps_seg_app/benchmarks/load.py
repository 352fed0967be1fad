"""``gps-seg benchmark app``: how long a user waits, alone and among others, against the real server on this machine.

Raw HTTP as the page speaks it: upload, join the queue, follow the events. Only loopback; bounded in users and in time.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gps_seg.errors import ConfigError, GpsSegError
from gps_seg.tasks.segmentation.phantom import phantom
from gps_seg_app.server.serve import HOST, listen

MOST_USERS, MOST_SECONDS = 64, 3600
SIZE = (1072, 1920)
SCENES = 8
PATIENCE = 300.0
_local = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy may stand between


class BenchmarkError(GpsSegError):
    """The server did not start, or did not answer as the page expects."""


@dataclass(frozen=True)
class Load:
    """What many users at once saw; seconds, and answers a user."""

    users: int
    seconds: float
    pictures: int
    errors: int
    p50_s: float
    p95_s: float
    served_least: int
    served_most: int
    memory_start_mb: float
    memory_end_mb: float

    @property
    def fairness(self) -> float:
        """Most over least answers a user; infinite if someone got none."""
        return self.served_most / self.served_least if self.served_least else float("inf")


@dataclass
class User:
    """One page: its session, its handlers by name, and where its pictures are."""

    url: str
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:11])
    handlers: dict[str, int] = field(default_factory=dict)
    mark: str = ""

    def open(self) -> None:
        """Load the page and learn the handlers' numbers from it."""
        page = _get(self.url + "/").decode()
        config = json.loads(re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)[1])  # type: ignore[index]
        self.handlers = {handler["api_name"]: handler["id"] for handler in config["dependencies"] if handler["api_name"]}

    def upload(self, picture: bytes) -> dict[str, Any]:
        """Send a file as a browser does."""
        border = uuid.uuid4().hex
        body = (f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="picture.png"\r\n'
                f"Content-Type: image/png\r\n\r\n").encode() + picture + f"\r\n--{border}--\r\n".encode()
        [path] = json.loads(_post(self.url + "/gradio_api/upload", body, f"multipart/form-data; boundary={border}"))
        return {"path": path, "orig_name": "picture.png", "meta": {"_type": "gradio.FileData"}}

    def call(self, handler: str, data: list[Any]) -> list[str]:
        """Join the queue and follow the events to the end. Returns every event's text; raises BenchmarkError on a refusal."""
        body = {"data": data, "fn_index": self.handlers[handler], "session_hash": self.name, "trigger_id": 0}
        try:
            _post(self.url + "/gradio_api/queue/join", json.dumps(body).encode(), "application/json")
        except urllib.error.HTTPError as error:
            raise BenchmarkError(f"the server refused: {error.code}") from None
        events = []
        with _local.open(f"{self.url}/gradio_api/queue/data?session_hash={self.name}", timeout=PATIENCE) as stream:
            for line in stream:
                if line.startswith(b"data:"):
                    events.append(line[5:].decode())
                    if '"process_completed"' in events[-1]:
                        break
        found = re.findall(r"[\w-]{32}:\d+", events[-1]) or re.findall(r"[\w-]{32}:\d+", "".join(events))
        if not found or '"success":true' not in events[-1].replace(" ", ""):
            raise BenchmarkError("the page answered without a picture: " + events[-1][:200])
        self.mark = found[-1]
        return events

    def scene(self) -> dict[str, Any]:
        """What the page fetches to draw the answer."""
        token, _, version = self.mark.partition(":")
        return dict(json.loads(_get(f"{self.url}/scene/{token}/image?version={version}")))


def _get(url: str) -> bytes:
    with _local.open(url, timeout=PATIENCE) as answer:
        return bytes(answer.read())


def _post(url: str, body: bytes, kind: str) -> bytes:
    with _local.open(urllib.request.Request(url, body, {"Content-Type": kind}), timeout=PATIENCE) as answer:  # noqa: S310
        return bytes(answer.read())


class Server:
    """``gps-seg app RUN`` in its own process, for as long as a ``with`` lasts.

    Attributes:
        first_page_s: seconds from the command to the first page.
    """

    def __init__(self, run: Path, device: str, *, fast: bool = False) -> None:
        with listen(None) as place:
            port = place.getsockname()[1]
        self.url = f"http://{HOST}:{port}"
        self.command = [sys.executable, "-m", "gps_seg.cli", "app", str(run), "--port", str(port), "--no-browser",
                        "--device", device, *(["--fast"] if fast else [])]

    def __enter__(self) -> Server:
        start = time.perf_counter()
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        while True:
            try:
                _get(self.url + "/")
                break
            except OSError:
                if self.process.poll() is not None or time.perf_counter() - start > PATIENCE:
                    self.__exit__()
                    raise BenchmarkError("the app did not start: run gps-seg app RUN to see why") from None
                time.sleep(0.02)
        self.first_page_s = time.perf_counter() - start
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def memory_mb(self) -> float:
        """Resident memory of the server; not a number where the system does not tell."""
        try:
            text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return float("nan")
        return int(text.split("VmRSS:")[1].split()[0]) / 1024


def timed(act: Callable[[], object], repetitions: int) -> float:
    """Median seconds."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure_one(server: Server, model: str, repetitions: int) -> dict[str, float]:
    """Seconds that a single user waits: a picture from upload to drawn answer, of it the model alone, a click, a threshold."""
    user = User(server.url)
    user.open()
    pictures = iter([_scene(number, SIZE) for number in range(repetitions + 1)])
    count = iter(range(10**6))
    model_ms: list[float] = []

    def picture() -> None:
        events = user.call("opened", [user.upload(next(pictures)), model])
        model_ms.extend(float(found) for found in re.findall(r"model (\d+), probability map", events[-1]))
        scene = user.scene()
        _get(server.url + scene["base"])

    def click() -> None:
        gesture = {"tool": "point add", "radius": 10, "points": [[900 + 7 * next(count), 500]], "count": next(count)}
        user.call("drawn", [json.dumps(gesture)])
        user.scene()

    def threshold() -> None:
        user.call("cut", [0.3 + 0.01 * (next(count) % 40)])
        user.scene()

    picture()  # the model loads before this one's answer
    model_ms.clear()
    waited = timed(picture, repetitions)
    return {"picture_s": waited, "picture_model_s": float(np.median(model_ms)) / 1e3, "click_s": timed(click, 3 * repetitions),
            "threshold_s": timed(threshold, 3 * repetitions)}


def measure_load(server: Server, model: str, users: int, seconds: float) -> Load:
    """Users who each send the next phantom as soon as the last is answered."""
    pictures = [_scene(number, (288, 384)) for number in range(SCENES)]
    times: list[list[float]] = [[] for _ in range(users)]
    errors: list[str] = []
    before, end = server.memory_mb(), time.perf_counter() + seconds

    def work(index: int) -> None:
        user = User(server.url)
        user.open()
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                user.call("opened", [user.upload(pictures[(index + len(times[index])) % SCENES]), model])
                user.scene()
                times[index].append(time.perf_counter() - start)
            except (OSError, BenchmarkError) as error:
                errors.append(str(error))
                time.sleep(0.2)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    flat, served = [one for own in times for one in own], [len(own) for own in times]
    p50, p95 = (float(value) for value in np.percentile(flat, [50, 95])) if flat else (float("nan"), float("nan"))
    return Load(users, seconds, len(flat), len(errors), p50, p95, min(served), max(served), before, server.memory_mb())


def benchmark(
    run: Path, *, users: int, seconds: float, repetitions: int, device: str, fast: bool = False, json_path: Path | None = None,
) -> str:
    """Measure, write the numbers, and say them.

    Raises:
        ConfigError: more users or seconds than this may take.
        BenchmarkError: the server does not answer.
    """
    if not (1 <= users <= MOST_USERS and 0 < seconds <= MOST_SECONDS):
        raise ConfigError(f"expected 1 to {MOST_USERS} users and at most {MOST_SECONDS} seconds, got {users} and {seconds:g}")
    with Server(run, device, fast=fast) as server:
        model = run.resolve().name
        alone = measure_one(server, model, repetitions)
        load = measure_load(server, model, users, seconds)
    numbers = {
        "first_page_s": server.first_page_s, "picture": f"{SIZE[1]}x{SIZE[0]}", "fast": fast, **alone,
        "load": {**asdict(load), "fairness": load.fairness},
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine(),
                    "load_average": load_average()},
    }
    if json_path is not None:
        json_path.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return (
        f"first page {server.first_page_s:.1f} s after the command\n"
        f"one picture of {SIZE[1]} x {SIZE[0]}, upload to drawn answer: {alone['picture_s']:.2f} s, of it the model "
        f"{alone['picture_model_s']:.2f}; "
        f"click {alone['click_s']:.3f} s; threshold {alone['threshold_s']:.3f} s\n"
        f"{load.users} users for {load.seconds:g} s: {load.pictures} pictures, {load.errors} errors, p50 {load.p50_s:.2f} s, "
        f"p95 {load.p95_s:.2f} s, {load.served_least} to {load.served_most} a user, memory {load.memory_start_mb:.0f} to "
        f"{load.memory_end_mb:.0f} MB"
    )


def load_average() -> float | None:
    """Processes that wanted a core in the last minute, this one's included; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _scene(number: int, size: tuple[int, int]) -> bytes:
    return cv2.imencode(".png", phantom(number, size=size)[0][..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
