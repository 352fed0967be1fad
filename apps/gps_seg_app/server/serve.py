"""The app as a web server on this machine only: FastAPI, Gradio's page on it, uvicorn underneath."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gps_seg.errors import ConfigError, GpsSegError
from gps_seg_app.inference.loading import Models
from gps_seg_app.server.gradio_import import without_stubs
from gps_seg_app.server.guard import Guard, Rules
from gps_seg_app.server.scratch import Scratch
from gps_seg_app.settings import Settings

HOST = "127.0.0.1"
PORT = 7860
TRIES = 20  # ports after the first, if none was asked for
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
EXTRA = ("gradio", "fastapi", "uvicorn", "av", "pydicom", "reportlab")


def refuse_sharing(environment: Mapping[str, str]) -> None:
    """Raises ConfigError where Gradio's own variables ask for a public link or another address."""
    if environment.get("GRADIO_SHARE", "").lower() in ("1", "true", "yes"):
        raise ConfigError("GRADIO_SHARE asks for a public link: the app never leaves this machine; unset it")
    name = environment.get("GRADIO_SERVER_NAME", HOST)
    if name not in (HOST, "localhost"):
        raise ConfigError(f"GRADIO_SERVER_NAME: expected {HOST}, got {name}: the app never leaves this machine; unset it")


def check_save_folder(folder: Path | None) -> None:
    """Make it now: nobody shall correct for an hour what cannot be kept. Raises ConfigError where it cannot be written."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError:
        raise ConfigError(f"--save-folder {folder}: expected a folder that can be written, this one cannot: choose another"
                          ) from None


def listen(port: int | None) -> socket.socket:
    """A listening socket on the loopback address.

    Raises:
        ConfigError: the port asked for, or every one of the usual ones, is taken.
    """
    for candidate in [port] if port is not None else range(PORT, PORT + TRIES):
        place = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if os.name == "posix":
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((HOST, candidate))
            place.listen(128)
        except OSError:
            place.close()
            continue
        return place
    if port is None:
        raise ConfigError(f"ports {PORT} to {PORT + TRIES - 1} are all taken: choose another with --port")
    raise ConfigError(f"port {port} is taken or not allowed: choose another with --port, or leave --port away for the next "
                      "free one")


def hosts(port: int) -> frozenset[str]:
    """The Host headers of this server; browsers leave away the port of plain HTTP."""
    names = (HOST, "localhost")
    return frozenset([*(f"{name}:{port}" for name in names), *(names if port == 80 else ())])


def build(settings: Settings, models: Models, port: int, scratch: Scratch | None = None) -> Guard:
    """The ASGI application: the door, behind it FastAPI with our files and Gradio's page."""
    os.environ.update(QUIET)
    from fastapi import FastAPI

    with without_stubs():
        import gradio as gr

    from gps_seg_app.page.page import CSS, HEAD, build_page, theme
    from gps_seg_app.server.routes import add_routes
    from gps_seg_app.session import Sessions

    api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    sessions = Sessions()
    if scratch is not None:
        scratch.also.append(sessions.sweep)
    add_routes(api, sessions)
    page = build_page(models, sessions, settings)
    gr.mount_gradio_app(
        api, page, path="/", server_name=HOST, server_port=port, footer_links=[], run_history=False, show_error=False,
        allowed_paths=[], max_file_size=settings.limits.video_bytes, enable_monitoring=False, mcp_server=False, ssr_mode=False,
        pwa=False, theme=theme(), css=CSS, head=HEAD,
    )
    rules = Rules(hosts(port), settings.limits.video_bytes + 1_000_000, settings.users)
    return Guard(api, rules)


def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run the app until it is interrupted.

    Args:
        announce: told the address, as soon as the page answers.

    Raises:
        ConfigError: sharing was asked for, the port is taken, the save folder cannot be written, or the packages of the app
            are not installed.
    """
    refuse_sharing(os.environ)
    check_save_folder(settings.save_folder)
    place = listen(settings.port)
    port = int(place.getsockname()[1])
    try:
        import uvicorn

        with Scratch() as scratch, _terminable():
            models = Models(settings.runs, device=settings.device, threshold=settings.threshold, fast=settings.fast)
            app = build(settings, models, port, scratch)
            config = uvicorn.Config(app, log_level="critical", access_log=False, server_header=False, ws="none", lifespan="on",
                                    timeout_graceful_shutdown=2, limit_concurrency=512)
            server = uvicorn.Server(config)
            threading.Thread(target=_when_up, args=(server, models, settings, announce, port), daemon=True).start()
            server.run(sockets=[place])
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise ConfigError(f"the app needs {error.name}, which is not installed: pip install 'gps-seg[app]'") from None
    finally:
        place.close()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """A termination signal leaves in order, as Ctrl-C does, so that the private folder is removed."""

    def leave(number: int, frame: object) -> None:
        del frame
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    closed: int = getattr(signal, "SIGHUP", 0)  # the terminal's window was closed; uvicorn heeds only the other signal
    heeded = bool(closed) and signal.getsignal(closed) is signal.SIG_DFL  # else nohup asked for this one to be ignored
    if heeded:
        signal.signal(closed, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if heeded:
            signal.signal(closed, signal.SIG_DFL)


def _when_up(server: object, models: Models, settings: Settings, announce: Callable[[str], None], port: int) -> None:
    """Say where the page is once it answers; only then load the model, which would slow the page down."""
    while not getattr(server, "started", False):
        if getattr(server, "should_exit", False):
            return
        threading.Event().wait(0.02)
    address = f"http://{HOST}:{port}"
    announce(f"the page is at {address} (this machine only; stop with Ctrl-C)")
    models.start()
    if settings.open_browser:
        webbrowser.open(address)
    try:
        models.get()
    except GpsSegError as error:  # the page says so too
        announce(str(error))
