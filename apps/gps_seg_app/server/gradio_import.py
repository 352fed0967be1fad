"""Gradio imported without the type stubs that it writes for editors, which take longer than all the rest of its import."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_stubs() -> Iterator[None]:
    """Import Gradio inside this block.

    For each of its 80 component classes Gradio parses the class's source file and the ``.pyi`` beside it, renders the stub anew
    and compares: 1.6 of the 2.7 seconds of its import (6.31.0). It leaves out a class of which ``inspect`` knows no file, and so
    its classes have none here. Where another version does otherwise, nothing is lost but the time.
    """
    real = inspect.getfile

    def getfile(thing: Any) -> str:
        if isinstance(thing, type) and thing.__module__.partition(".")[0] == "gradio":
            raise OSError("no stub is wanted")
        return real(thing)

    vars(inspect)["getfile"] = getfile
    try:
        yield
    finally:
        inspect.getfile = real
