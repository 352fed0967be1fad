"""Who may use the app: users and passwords, read at the start, and who a request is of."""

from __future__ import annotations

import base64
import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from gps_seg.errors import ConfigError

USER_VARIABLE = "GPS_SEG_APP_USER"


def read_users(file: Path | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Passwords by name from lines NAME:PASSWORD of a file, or from one such line in $GPS_SEG_APP_USER.

    Raises:
        ConfigError: the file is readable by others, or a line is not NAME:PASSWORD.
    """
    if file is None:
        source, lines = f"${USER_VARIABLE}", environment.get(USER_VARIABLE, "").splitlines()
    else:
        source = str(file)
        try:
            if os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise ConfigError(f"{file}: other users can read these passwords; run chmod 600 {file}")
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{file}: expected a text file with lines NAME:PASSWORD, could not read one") from None
    users = {}
    for number, line in enumerate(lines, start=1):
        name, _, password = line.strip().partition(":")
        if line.strip() and not (name and password):
            raise ConfigError(f"{source}, line {number}: expected NAME:PASSWORD")
        if name:
            users[name] = password
    if file is not None and not users:
        raise ConfigError(f"{file}: expected lines NAME:PASSWORD, found none")
    return users


def credentials(authorization: str) -> tuple[str, str]:
    """Name and password of an Authorization header; both empty if it holds none."""
    kind, _, code = authorization.partition(" ")
    try:
        name, _, password = base64.b64decode(code, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return (name, password) if kind.lower() == "basic" else ("", "")


def user_of(headers: Mapping[str, str]) -> str:
    """Who has logged in, by a request's headers; empty where nobody need."""
    return credentials(headers.get("authorization", ""))[0]


def known(users: Mapping[str, str], authorization: str) -> bool:
    """Whether an Authorization header holds a user's name and password; compared in a time that tells nothing."""
    name, password = credentials(authorization)
    expected = users.get(name)
    return expected is not None and hmac.compare_digest(password.encode(), expected.encode())
