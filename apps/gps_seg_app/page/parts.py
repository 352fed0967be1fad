"""What the tabs of the page share: handlers that never show a traceback, and the lines that are always there."""

from __future__ import annotations

import functools
import inspect
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from gps_seg.errors import GpsSegError
from gps_seg.metrics.operating_point import nearest_step
from gps_seg_app.access import user_of
from gps_seg_app.inference.loading import Models
from gps_seg_app.limits import AppError, Limits
from gps_seg_app.session import Session, Sessions

MODEL = {"concurrency_id": "model", "concurrency_limit": 1}  # one picture at a time, in order of arrival
VIEW = {"concurrency_id": "view", "concurrency_limit": 4}  # no model: threshold, undo
JOB = {"concurrency_id": "job", "concurrency_limit": 1}  # batches and clips, which take turns with single pictures
AT_ONCE = {"concurrency_id": "at once", "concurrency_limit": None}  # nothing is computed
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
UNEXPECTED = "Something went wrong inside the app. Nothing was lost; try again, or use another file."
_log = logging.getLogger("gps_seg_app")
Update = dict[Any, Any]
Handler = Callable[..., Any]


@dataclass(frozen=True)
class Context:
    """What handlers need: the model, the open pages, and the settings."""

    models: Models
    sessions: Sessions
    limits: Limits
    save_folder: Path | None

    def session(self, request: gr.Request) -> Session:
        """The session of the page that asks."""
        return self.sessions.get(str(request.session_hash), user_of(request.headers))


def sentence(error: Exception) -> str:
    """An error for the page. An unexpected one is logged by its place in the code alone: no pixel, no file name."""
    if isinstance(error, GpsSegError):
        return str(error)
    if isinstance(error, MemoryError):
        return "Not enough memory for this file: use a smaller one."
    last = traceback.extract_tb(error.__traceback__)[-1]
    _log.error("unexpected %s at %s:%s", type(error).__name__, Path(last.filename).name, last.lineno)
    return UNEXPECTED


def told_in(words: Any, *, also: Callable[[], Update] | None = None) -> Callable[[Handler], Handler]:
    """Decorate a handler: what goes wrong becomes a sentence in ``words``, whatever it was; no update changes nothing.

    Gradio itself takes an empty dict for a mistake, and a generator that ends at once for empty values everywhere. And of
    several updates that come in quick succession its page may show the last alone, so each holds those before it.

    Args:
        words: the component that shows it.
        also: further updates after an error, such as a button that is usable again.
    """

    unchanged: Update = {words: gr.skip()}

    def answer(error: Exception) -> Update:
        return {words: sentence(error), **(also() if also else {})}

    def decorate(handler: Handler) -> Handler:
        if inspect.isgeneratorfunction(handler):

            @functools.wraps(handler)
            def run_steps(*inputs: Any, **named: Any) -> Iterator[Update]:
                shown: Update = {}
                try:
                    for update in handler(*inputs, **named):
                        shown |= update
                        yield dict(shown) or unchanged
                    if not shown:
                        yield unchanged
                except Exception as error:
                    yield {**shown, **answer(error)}

            return run_steps

        @functools.wraps(handler)
        def run(*inputs: Any, **named: Any) -> Update:
            try:
                return dict(handler(*inputs, **named)) or unchanged
            except Exception as error:
                return answer(error)

        return run

    return decorate


def model_and_threshold(context: Context, tab: str) -> tuple[gr.Dropdown, gr.Slider]:
    """Which run answers, and where its probabilities are cut, at first its own threshold; lays both out."""
    names = list(context.models.runs)
    model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1, elem_id=f"{tab}-model")
    threshold = gr.Slider(0.01, 0.99, value=0.5, step=0.01, label="Threshold", elem_id=f"{tab}-threshold", buttons=[])

    def own(name: str) -> Any:
        return nearest_step(context.models.get().threshold_of(name)) if context.models.ready else gr.skip()

    model.input(own, [model], [threshold], **VIEW, **PRIVATE)
    return model, threshold


def reopen(context: Context, upload: gr.File) -> None:
    """Empty the box as soon as its file is asked about, so that another can be given while the model works.

    An event of its own, answered once and at once: a value that comes later would wipe out the file given next. And a file that
    still waits for its turn when the page closes goes with the page.
    """

    def empty(path: str | None, request: gr.Request) -> None:
        if path:
            context.session(request).uploads.add(Path(path))

    upload.upload(empty, [upload], [upload], trigger_mode="multiple", **AT_ONCE, **PRIVATE)


def take(upload: str, most_bytes: int) -> bytes:
    """Read an uploaded file and delete it at once. Raises AppError where it is too large or gone."""
    path = Path(upload)
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise AppError(f"Expected a file of at most {most_bytes // 1_000_000} MB, got {size / 1e6:.1f} MB: "
                           "use a smaller one.")
        return path.read_bytes()
    except OSError:
        raise AppError("The upload is gone: drop the file again.") from None
    finally:
        path.unlink(missing_ok=True)


def links(session: Session, names: dict[str, str]) -> str:
    """Download links as Markdown, from file name to the text of the link."""
    return " · ".join(f"[{text}](/export/{session.token}/{name})" for name, text in names.items())
