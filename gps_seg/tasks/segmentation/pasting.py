"""Polyps of other training images on frames without one.

Where the only frames without a polyp come from another hospital than all polyps, the hospital's look answers every question,
and a model learns that instead of the polyp. Pasted polyps take the shortcut away: the same frame now holds one, now none. So
that a seam says nothing either, every third patch is a decoy: the same outline, cut from beside the polyp.

Sources: copy-paste as in Ghiasi et al., CVPR 2021, arXiv 2012.07177; Poisson blending (Perez et al., SIGGRAPH 2003) by OpenCV.
"""

from __future__ import annotations

import random

import cv2
import numpy as np

from gps_seg.data.transforms import Mask, Pixels, windows_without

DECOYS = 1 / 3  # of all patches
POISSON = 0.5  # of all patches; the others keep their own colours, and a soft edge
SCALES = (0.7, 1.4)  # of the patch, before it is made to fit
LARGEST = 0.7  # a patch's side as a part of the frame's
ROOM = 7  # pixels of a frame's side: OpenCV's blending fails on patches that fit into fewer


def paste(image: Pixels, donor: Pixels, polyp: Mask, chance: random.Random) -> tuple[Pixels, Mask]:
    """A frame without a polyp, with a patch of another image on it, and the mask of what is a polyp now.

    Args:
        image: uint8 RGB (H, W, 3) without a polyp; it is not changed. One of fewer than seven pixels a side gets no patch.
        donor, polyp: uint8 RGB (h, w, 3) and bool (h, w), with at least one polyp pixel; of any size.
    """
    there = np.zeros(image.shape[:2], np.bool_)
    if min(there.shape) < ROOM:
        return image, there
    decoy = chance.random() < DECOYS
    donor, outline = _turned(donor, polyp, chance)
    patch, inside = _cut(donor, outline, chance, beside=decoy)
    patch, inside = _sized(patch, inside, image.shape[:2], chance)
    height, width = inside.shape
    top, left = (chance.randint(1, room - side - 1) for room, side in zip(image.shape[:2], (height, width), strict=True))
    there[top : top + height, left : left + width] = inside
    if not inside.any():
        return image, there
    blend = _poisson if chance.random() < POISSON else _soft
    done = blend(image, patch, inside, top, left)
    return done, there & (not decoy)


def _turned(donor: Pixels, polyp: Mask, chance: random.Random) -> tuple[Pixels, Mask]:
    turns = chance.randrange(4)
    return np.rot90(donor, turns), np.rot90(polyp, turns)


def _cut(donor: Pixels, polyp: Mask, chance: random.Random, *, beside: bool) -> tuple[Pixels, Mask]:
    """The polyp's bounding box with a margin, and its outline in it; or that outline over a place without a polyp, if one is."""
    rows, columns = np.flatnonzero(polyp.any(1)), np.flatnonzero(polyp.any(0))
    margin = max(2, round(0.1 * max(rows[-1] - rows[0], columns[-1] - columns[0])))
    top, bottom = max(0, rows[0] - margin), min(polyp.shape[0], rows[-1] + 1 + margin)
    left, right = max(0, columns[0] - margin), min(polyp.shape[1], columns[-1] + 1 + margin)
    outline = polyp[top:bottom, left:right]
    if beside:
        free = windows_without(polyp, *outline.shape)
        if not len(free):
            return donor[top:bottom, left:right], np.zeros_like(outline)
        top, left = free[chance.randrange(len(free))]
    return donor[top : top + outline.shape[0], left : left + outline.shape[1]], outline


def _sized(patch: Pixels, inside: Mask, frame: tuple[int, ...], chance: random.Random) -> tuple[Pixels, Mask]:
    scale = min(chance.uniform(*SCALES), *(LARGEST * room / side for room, side in zip(frame, inside.shape, strict=True)))
    size = tuple(max(3, round(side * scale)) for side in reversed(inside.shape))
    small = cv2.resize(inside.astype(np.float32), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return cv2.resize(patch, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), small > 0.5


def _soft(image: Pixels, patch: Pixels, inside: Mask, top: int, left: int) -> Pixels:
    height, width = inside.shape
    weight = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), max(0.8, 0.03 * max(height, width)))[..., None]
    done = image.copy()
    under = done[top : top + height, left : left + width]
    done[top : top + height, left : left + width] = np.rint(weight * patch + (1 - weight) * under).astype(np.uint8)
    return done


def _poisson(image: Pixels, patch: Pixels, inside: Mask, top: int, left: int) -> Pixels:
    wide = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8))
    wide[[0, -1]] = 0  # the blending reads a pixel beyond its mask
    wide[:, [0, -1]] = 0
    if not wide.any():
        return _soft(image, patch, inside, top, left)
    rows, columns = np.flatnonzero(wide.any(1)), np.flatnonzero(wide.any(0))
    centre = (left + int(columns[0] + columns[-1] + 1) // 2, top + int(rows[0] + rows[-1] + 1) // 2)
    return np.asarray(cv2.seamlessClone(np.ascontiguousarray(patch), image, wide * 255, centre, cv2.NORMAL_CLONE))
