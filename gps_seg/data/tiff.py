"""TIFF files that say "grey" and hold red, green and blue, as the originals of CVC-ClinicDB do: made readable for Pillow."""

from __future__ import annotations

import struct

PHOTOMETRIC, SAMPLES = 262, 277
GREY, RGB = 1, 2
ENTRY = 12  # bytes: tag, type, count, value


def as_rgb(content: bytes) -> bytes | None:
    """The file with its photometric tag set from grey to RGB, if its first picture has three samples a pixel; else None."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None:
        return None
    found: dict[int, tuple[int, int]] = {}
    try:
        start = struct.unpack_from(f"{order}I", content, 4)[0]
        for number in range(struct.unpack_from(f"{order}H", content, start)[0]):
            at = start + 2 + number * ENTRY
            found[struct.unpack_from(f"{order}H", content, at)[0]] = at + 8, struct.unpack_from(f"{order}H", content, at + 8)[0]
    except struct.error:
        return None
    place, photometric = found.get(PHOTOMETRIC, (0, RGB))
    if photometric != GREY or found.get(SAMPLES, (0, 1))[1] != 3:
        return None
    return content[:place] + struct.pack(f"{order}H", RGB) + content[place + 2 :]
