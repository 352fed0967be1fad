"""The door of the app: an ASGI layer that refuses what does not belong here and adds the security headers.

It stands before Gradio, so that what Gradio would serve too (API description, monitoring, proxy) never answers. Scripts run
from this server or by their hash; ``eval`` is off, which is why the page uses no ``gr.HTML`` and no ``js=`` (both need it).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from gps_seg_app.access import known

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

JSON_BYTES = 4_000_000
QUEUE_FULL = b'{"detail": "Too many pictures are waiting: try again in a minute."}'
# Gradio serves these on its own account; the page needs none of them
CLOSED = re.compile(
    r"^/(monitoring|svelte|login|logout|docs|redoc|openapi\.json|proxy=|pwa_icon|robots\.txt)"
    r"|^/gradio_api/(info|openapi\.json|runs|run-history|deep_link|proxy=|vibe|undo-vibe|profiling|process_recording|call|run/|api/"
    r"|stream|dev|token|app_id|component_server|custom_component|file=[a-z]+:/)", re.IGNORECASE
)
INLINE = re.compile(rb"<script(?![^>]*\bsrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)
POLICY = (
    "default-src 'self'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; "
    "frame-src 'none'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
OURS = frozenset(name for name, _ in HEADERS) | {b"content-security-policy", b"cache-control", b"content-length"}


def policy(html: bytes) -> str:
    """The content security policy of one page: its inline scripts by their SHA-256, no other."""
    digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in INLINE.findall(html))
    return POLICY.format(hashes="".join(f" 'sha256-{digest}'" for digest in dict.fromkeys(digests)))


@dataclass(frozen=True)
class Rules:
    """What the door lets in.

    Attributes:
        hosts: values of the Host header that mean this server; others are DNS rebinding.
        upload_bytes: largest body of an upload; every other body may have ``JSON_BYTES``.
        users: passwords by name; empty: no login.
    """

    hosts: frozenset[str]
    upload_bytes: int
    users: Mapping[str, str] = field(default_factory=dict, repr=False)


class Guard:
    """Wraps an ASGI application: checks each request by :class:`Rules`, then adds headers to what comes back."""

    def __init__(self, app: Asgi, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection. WebSockets are closed: nothing here speaks them."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            headers = dict(scope["headers"])
            status, text = self._refusal(scope, headers)
            if status:
                await self._refuse(send, status, text)
                return
            # loopback gains nothing from compression, and the policy must see the page's bytes
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
            await self.app(scope, receive, _Answer(scope["path"], send))

    def _refusal(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> tuple[int, str]:
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if host not in self.rules.hosts:
            return 421, "This server answers on this machine's own address only."
        if (origin and origin.partition("://")[2] not in self.rules.hosts) or headers.get(b"sec-fetch-site") == b"cross-site":
            return 403, "Another site's page may not use this server."
        if self.rules.users and not known(self.rules.users, headers.get(b"authorization", b"").decode("latin-1")):
            return 401, "Name and password, please."
        if CLOSED.search(scope["path"]):
            return 404, "Not here."
        return self._refused_body(scope, headers) if scope["method"] not in ("GET", "HEAD") else (0, "")

    def _refused_body(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> tuple[int, str]:
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return 411, "The request does not say how long it is."
        limit = self.rules.upload_bytes if scope["path"].startswith("/gradio_api/upload") else JSON_BYTES
        if int(length) > limit:
            return 413, f"Expected at most {limit // 1_000_000} MB, got {int(length) / 1e6:.1f} MB: use a smaller file."
        return 0, ""

    async def _refuse(self, send: Send, status: int, text: str) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), (b"connection", b"close")]
        if status == 401:
            await asyncio.sleep(0.3)  # slows guessing
            headers.append((b"www-authenticate", b'Basic realm="gps-seg", charset="UTF-8"'))
        policy_header = (b"content-security-policy", FILE_POLICY.encode())
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *HEADERS, policy_header]})
        await send({"type": "http.response.body", "body": text.encode()})


class _Answer:
    """Adds the headers to one response. HTML is held back until it is complete, because its policy depends on it."""

    def __init__(self, path: str, send: Send) -> None:
        self.path, self.send = path, send
        self.start: Message = {}
        self.page = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
            if not self._held:
                await self._begin(message, FILE_POLICY, keep_length=True)
        elif not self._held:
            await self.send(message)
        else:
            self.page += message.get("body", b"")
            if not message.get("more_body"):
                body = QUEUE_FULL if self.start["status"] == 503 else bytes(self.page)
                await self._begin(self.start, policy(body), keep_length=False)
                await self.send({"type": "http.response.body", "body": body})

    @property
    def _held(self) -> bool:
        kind = dict(self.start["headers"]).get(b"content-type", b"")
        full = self.start["status"] == 503 and self.path.endswith("/queue/join")
        return kind.startswith(b"text/html") or full

    async def _begin(self, message: Message, rule: str, *, keep_length: bool) -> None:
        kept = [(name, value) for name, value in message["headers"]
                if name.lower() not in OURS or (keep_length and name.lower() == b"content-length")]
        lasting = self.path.startswith(("/assets/", "/static/"))  # Gradio's own files, named by their content
        cache = b"private, max-age=86400" if lasting else b"no-store"
        added = [*HEADERS, (b"content-security-policy", rule.encode()), (b"cache-control", cache)]
        await self.send({**message, "headers": [*kept, *added]})
