"""Start and Cancel of a tab that works through something long. Jobs of all pages take turns; a page is told while it waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from gps_seg_app.page.parts import JOB, PRIVATE, VIEW, Context, Update, told_in

MOST_WAITING = 4  # jobs of all pages; each takes a place in the queue that single pictures and Cancel need too
Work = Callable[..., Iterator[Update]]  # of a session, the event that cancels, the uploads, and the other inputs


@dataclass(frozen=True)
class Job:
    """A tab's two buttons, its upload and its words.

    Attributes:
        name: of the tab, in ``Session.jobs``.
        missing: what is said when Start is pressed without a file.
    """

    name: str
    missing: str
    start: gr.Button
    stop: gr.Button

    @classmethod
    def build(cls, name: str, missing: str) -> Job:
        """Lay the buttons out side by side."""
        with gr.Row():
            return cls(name, missing, gr.Button("Start", variant="primary", elem_id=f"{name}-start", min_width=90),
                       gr.Button("Cancel", interactive=False, elem_id=f"{name}-stop", min_width=90))

    def wire(self, context: Context, work: Work, upload: gr.File, words: gr.Markdown, rest: tuple[list[Any], list[Any]]) -> None:
        """Start takes the files, asks for a turn and then works; Cancel ends both waiting and working.

        Args:
            rest: further inputs, and further outputs.
        """
        inputs, outputs = rest
        buttons = [self.start, self.stop]

        @told_in(words, also=self._idle)
        def asked(uploads: str | list[str] | None, request: gr.Request) -> Update:
            session = context.session(request)
            if not uploads:
                return {words: self.missing}
            if context.sessions.waiting >= MOST_WAITING:
                return {words: f"{MOST_WAITING} batches or clips are waiting already: try again in a few minutes."}
            with session.lock:
                if self.name in session.jobs:  # the second click of a double click
                    return {}
                session.jobs[self.name] = threading.Event()
                session.waiting[self.name] = _paths(uploads)
            return {upload: None, self.start: gr.Button(interactive=False), self.stop: gr.Button(interactive=True),
                    words: "Waiting for its turn: one batch or clip is worked through at a time ..."}

        @told_in(words, also=self._idle)
        def worked(*settings: Any, request: gr.Request) -> Iterator[Update]:
            session = context.session(request)
            with session.lock:
                if self.name not in session.waiting:
                    return
                paths = session.waiting.pop(self.name)
                cancel = session.jobs[self.name]
            try:
                if cancel.is_set():
                    yield {words: "Cancelled before it began."}
                else:
                    yield from work(session, cancel, paths, *settings)
            finally:
                for path in paths:
                    path.unlink(missing_ok=True)
                session.jobs.pop(self.name, None)
            yield self._idle()

        @told_in(words)
        def stopped(request: gr.Request) -> Update:
            session = context.session(request)
            cancel = session.jobs.get(self.name)
            if cancel is None:
                return {}
            cancel.set()
            waits = {words: "Cancelled: it will not begin."} if self.name in session.waiting else {}
            return {**waits, self.stop: gr.Button(interactive=False)}

        @told_in(words)
        def given(uploads: str | list[str] | None, request: gr.Request) -> Update:
            """Remember the files, so that they go with the page if nothing is ever started."""
            context.session(request).uploads |= set(_paths(uploads))
            return {}

        upload.upload(given, [upload], [words], trigger_mode="multiple", **VIEW, **PRIVATE)
        self.start.click(asked, [upload], [upload, words, *buttons], **VIEW, **PRIVATE).then(
            _with_request(worked), inputs, [words, *outputs, *buttons], **JOB, **PRIVATE)
        self.stop.click(stopped, None, [words, self.stop], **VIEW, **PRIVATE)

    def _idle(self) -> Update:
        return {self.start: gr.Button(interactive=True), self.stop: gr.Button(interactive=False)}


def _paths(uploads: str | list[str] | None) -> list[Path]:
    return [Path(one) for one in ([uploads] if isinstance(uploads, str) else uploads or [])]


def _with_request(work: Callable[..., Iterator[Update]]) -> Callable[..., Iterator[Update]]:
    """Gradio fills in the request by its annotation, but not behind ``*settings``: so it goes first here."""

    def run(request: gr.Request, *inputs: Any) -> Iterator[Update]:
        yield from work(*inputs, request=request)

    return run
