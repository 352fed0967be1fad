"""The model, loaded in the background so that the page is there at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gps_seg.errors import GpsSegError
from gps_seg_app.limits import AppError

if TYPE_CHECKING:
    from gps_seg_app.inference.predictor import Predictor

LOADING = "The model is loading; your picture comes next."


class Models:
    """Holds the one :class:`~gps_seg_app.inference.predictor.Predictor` of the app, or says why there is none yet.

    Args:
        runs: run folders by the name shown on the page; the first is the default.
        device: auto, cpu or cuda.
        threshold: operating point for all runs; default: each run's own.
        fast: look at smaller pictures, see ``fast``.
    """

    def __init__(self, runs: Mapping[str, Path], *, device: str = "auto", threshold: float | None = None,
                 fast: bool = False) -> None:
        self.runs, self.device, self.threshold, self.fast = dict(runs), device, threshold, fast
        self._done = threading.Event()
        self._predictor: Predictor | None = None
        self._problem = ""

    def start(self) -> None:
        """Begin loading in a thread; returns at once."""
        threading.Thread(target=self._load, name="load model", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether :meth:`get` answers without waiting (with the model, or with the reason why there is none)."""
        return self._done.is_set()

    def get(self, *, wait_seconds: float = 300) -> Predictor:
        """The predictor, waited for.

        Raises:
            AppError: loading failed, or takes longer than ``wait_seconds``.
        """
        if not self._done.wait(wait_seconds):
            raise AppError("The model is still loading: try again in a minute.")
        if self._predictor is None:
            raise AppError(self._problem)
        return self._predictor

    @property
    def status(self) -> str:
        """One sentence for the page."""
        if not self._done.is_set():
            return LOADING
        return self._problem or "The model is ready."

    def _load(self) -> None:
        # read when torch is loaded: threads that wait for each other spin a tenth of a millisecond, then sleep. Spinning longer
        # takes the cores from whatever else is at work (a page, a clip's decoder); sleeping at once makes the encoder slower
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
        try:
            from gps_seg_app.inference.predictor import Predictor

            predictor = Predictor(self.runs, device=self.device, threshold=self.threshold, fast=self.fast)
            predictor.warm_up()
            self._predictor = predictor
        except GpsSegError as error:
            self._problem = f"The model could not be loaded: {error}"
        except Exception as error:  # the page must say something, whatever happened
            self._problem = f"The model could not be loaded ({type(error).__name__}): check the run folder with gps-seg info RUN."
        finally:
            self._done.set()
