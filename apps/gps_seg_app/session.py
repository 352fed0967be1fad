"""What the app remembers of each open page: in memory, bounded, and gone when the page closes."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gps_seg_app.answer.desk import Desk
from gps_seg_app.intake.pictures import Picture

if TYPE_CHECKING:  # it loads torch, for which the first page does not wait
    from gps_seg_app.inference.predictor import Predictor

MOST_SESSIONS = 64
MOST_BYTES = 3_000_000_000  # of pictures and maps in all sessions together
IDLE_SECONDS = 7200.0
BYTES_A_PIXEL = 3 + 4 + 4 + 1 + 1  # picture, two maps, mask, field


@dataclass(frozen=True)
class Shown:
    """One picture of a gallery."""

    data: bytes
    caption: str
    alt: str


@dataclass(eq=False)
class Session:
    """One open page.

    Attributes:
        user: who has logged in, empty where nobody need; nobody else is given anything.
        token: what its pictures and exports are fetched by; cannot be guessed.
        version: counts up with every change of what is shown, so that no browser shows an old picture.
        threshold: as the user has set it; None: the model's own.
        corrected: desks that were worked at and left for another frame or model, by the picture's key and the model's name.
        frames: of a DICOM object with several; ``frame`` is the one at work.
        galleries: pictures of "batch" and "compare".
        products: files to take away, by name: bytes, or a path in the private folder.
        clip: what the video tab draws.
        jobs: events that stop what waits or runs, by tab. waiting: the files of those that have not begun.
        uploads: files given to tabs that work on Start.
    """

    user: str = ""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    used: float = field(default_factory=time.monotonic)
    version: int = 0
    picture: Picture | None = None
    desk: Desk | None = None
    threshold: float | None = None
    corrected: dict[tuple[str, str], Desk] = field(default_factory=dict, repr=False)
    frames: list[Picture] = field(default_factory=list, repr=False)
    galleries: dict[str, list[Shown]] = field(default_factory=dict, repr=False)
    products: dict[str, bytes | Path] = field(default_factory=dict, repr=False)
    clip: dict[str, Any] = field(default_factory=dict, repr=False)
    jobs: dict[str, threading.Event] = field(default_factory=dict, repr=False)
    waiting: dict[str, list[Path]] = field(default_factory=dict, repr=False)
    uploads: set[Path] = field(default_factory=set, repr=False)
    cache: dict[str, bytes] = field(default_factory=dict, repr=False)

    def changed(self) -> str:
        """Count up, and return the mark by which the browser learns of it."""
        with self.lock:
            self.version += 1
            return self.mark

    def lay_aside(self) -> bool:
        """Keep the desk, if it was worked at, for when its frame and its model are chosen again; whether it is corrected."""
        with self.lock:
            desk = self.desk
            if desk is None or not (desk.can_undo or desk.can_redo):
                return False
            self.corrected[desk.picture.key, desk.name] = desk.rest()
            return desk.step.touched

    def place(self, picture: Picture, predictor: Predictor, name: str) -> None:
        """A desk for the picture, with the model's answer or as it was laid aside, unless another picture came meanwhile."""
        own = predictor.threshold_of(name)
        desk = self.corrected.pop((picture.key, name), None) or Desk(picture, predictor, name, own)
        with self.lock:
            if self.picture is picture:
                desk.set_threshold(self.threshold or own)  # it may have been moved meanwhile
                self.desk = desk

    @property
    def mark(self) -> str:
        """Token and version."""
        return f"{self.token}:{self.version}"

    @property
    def size(self) -> int:
        """Bytes held, about."""
        picture, aside = self.picture, list(self.corrected.values())  # no lock: its holder may wait for the model
        pixels = 0 if picture is None else picture.pixels.size // 3
        gallery = sum(len(shown.data) for group in list(self.galleries.values()) for shown in group)
        pixels += sum(desk.picture.pixels.size // 3 for desk in aside)
        return (BYTES_A_PIXEL * pixels + gallery + sum(frame.pixels.nbytes for frame in self.frames)
                + sum(len(data) for data in list(self.cache.values())))

    def close(self) -> None:
        """Stop what runs, delete what lies on the disk, forget the pictures."""
        for stop in list(self.jobs.values()):
            stop.set()
        for path in (*self.products.values(), *self.uploads):
            if isinstance(path, Path):
                path.unlink(missing_ok=True)
        with self.lock:
            self.picture = self.desk = None
            self.frames, self.corrected = [], {}
            self.galleries, self.products, self.clip, self.cache = {}, {}, {}, {}


class Sessions:
    """All open pages by the browser's session name; the least recently used go when there are too many or too large."""

    def __init__(self, *, most: int = MOST_SESSIONS, most_bytes: int = MOST_BYTES, idle_seconds: float = IDLE_SECONDS) -> None:
        self.most, self.most_bytes, self.idle_seconds = most, most_bytes, idle_seconds
        self._lock = threading.Lock()
        self._by_name: OrderedDict[tuple[str, str], Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str, user: str = "") -> Session:
        """The session of a user's page, made if it is new."""
        with self._lock:
            session = self._by_name.setdefault((user, name), Session(user=user))
            session.used = time.monotonic()
            self._by_name.move_to_end((user, name))
            leaving = self._leaving()
        for gone in leaving:
            gone.close()
        return session

    def by_token(self, token: str, user: str = "") -> Session | None:
        """The session that gave out a token, to the same user."""
        with self._lock:
            return next((one for one in self._by_name.values() if _same(one.token, token) and one.user == user), None)

    def drop(self, name: str, user: str = "") -> None:
        """Forget a page."""
        with self._lock:
            session = self._by_name.pop((user, name), None)
        if session is not None:
            session.close()

    @property
    def waiting(self) -> int:
        """Jobs of all pages that have not begun."""
        with self._lock:
            return sum(len(one.waiting) for one in self._by_name.values())

    def sweep(self) -> None:
        """Forget every page that has asked for nothing in a long time, also if no other page asks for anything."""
        with self._lock:
            now = time.monotonic()
            idle = [name for name, one in self._by_name.items() if now - one.used > self.idle_seconds]
            leaving = [self._by_name.pop(name) for name in idle]
        for gone in leaving:
            gone.close()

    def _leaving(self) -> list[Session]:
        """Takes out the oldest until the rest fits; the newest, which is being asked for, always stays."""
        gone = []
        total = sum(one.size for one in self._by_name.values())
        for name, one in list(self._by_name.items())[:-1]:
            if len(self._by_name) > self.most or total > self.most_bytes:
                total -= one.size
                gone.append(self._by_name.pop(name))
        return gone


def _same(one: str, other: str) -> bool:
    """Compared in a time that tells nothing."""
    return secrets.compare_digest(one.encode(), other.encode())
