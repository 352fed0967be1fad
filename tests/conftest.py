"""What the whole suite shares. Tests that need real images find them through GPS_SEG_DATA and say when they skip."""

from __future__ import annotations

import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("gps_seg", deadline=None)  # first calls import, and shared machines stall
settings.load_profile("gps_seg")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the network
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core; tiny models gain nothing from more threads


@pytest.fixture(scope="session", autouse=True)
def _signals_of_a_terminal() -> Iterator[None]:
    """What a script runs in its background ignores Ctrl-C and hang-ups; each process that a test starts and stops would, too."""
    usual = {signal.SIGINT: signal.default_int_handler, getattr(signal, "SIGHUP", signal.SIGTERM): signal.SIG_DFL}
    ignored = [number for number in usual if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, usual[number])
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _private_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("GPS_SEG_CACHE", str(cache))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Callable[..., Path]:
    """Tiny runs by their settings, each trained once for all tests, which read them; who changes one changes a copy."""
    from support.runs import train_tiny

    place, numbers = tmp_path_factory.mktemp("runs"), itertools.count()

    @functools.cache
    def run(*settings: str, model: str = "tiny_lite") -> Path:
        return train_tiny(place / str(next(numbers)), cache, *settings, model=model)

    return run


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory, trained: Callable[..., Path]) -> Iterator[Any]:
    """The app with two tiny runs, in a process of its own: one for all tests that neither stop it nor start it otherwise."""
    from support.server import served

    place = tmp_path_factory.mktemp("app")
    runs = f"first={trained()}", f"second={trained('seed=1')}"
    with served(place / "server", *runs, "--save-folder", place / "corrected") as running:
        yield running
