"""What a base model saw before it was tuned, as far as polyps go."""

from __future__ import annotations

from dataclasses import dataclass

from gps_seg.tasks.segmentation.known import KNOWN
from gps_seg.tasks.segmentation.sets import known_name, number_warning, sequence_warning, set_pairs


@dataclass(frozen=True)
class _Seen:
    """What a base model was trained on, as far as polyps go.

    Attributes:
        note: one clause for every result.
        sets: known sets it was trained on for certain.
        any_set: whether it may have seen any public polyp set.
    """

    note: str
    sets: tuple[str, ...] = ()
    any_set: bool = False


# By the beginning of a model's name. SAM-Med2D: OpenGVLab/SAM-Med2D issue 43. LiteMedSAM: bowang-lab/MedSAM issue 255.
_BASES = {
    "lite_medsam": _Seen("LiteMedSAM's pretraining data may contain public polyp sets (unverified)", any_set=True),
    "sam_med2d": _Seen("SAM-Med2D was trained on Kvasir-SEG and CVC-ClinicDB", sets=("kvasir-seg", "cvc-clinicdb")),
    "medsam": _Seen("MedSAM's pretraining data may contain public polyp sets (unverified)", any_set=True),
    "mobile_sam": _Seen("MobileSAM was distilled from SAM on SA-1B, natural images; no polyp set in it is known"),
    "sam_hq": _Seen("HQ-SAM was trained on SA-1B and HQSeg-44K, natural images; no polyp set in them is known"),
    "sam2.1": _Seen("SAM 2.1 was trained on SA-1B and SA-V, natural images and videos; no polyp set in them is known"),
    "sam_vit": _Seen("SAM was trained on SA-1B, natural images; no polyp set in it is known"),
}


def base_note(name: str) -> str:
    """What is known of the data a base model saw before; empty for an unknown model."""
    seen = _base(name)
    return seen.note if seen else ""


def base_warning(name: str, data: str) -> str:
    """What to say if a base model has seen, or may have seen, a data set (a name or a folder) before; else empty."""
    seen, known = _base(name), known_name(data)
    if seen is None or known is None:
        return ""
    if {known, *KNOWN[known].images_of} & set(seen.sets):
        return f"{seen.note}: images of {KNOWN[known].title} are not unseen"
    return f"{seen.note}: {KNOWN[known].title} may not be unseen" if seen.any_set else ""


def data_warnings(model: str, data: str, *, whole: bool) -> dict[str, str]:
    """What a reader of a score must know of its images: ``base_warning``, ``number_warning``, ``split_warning``, if any.

    Args:
        model: name of the base.
        data: name or folder scored.
        whole: whether the whole set was, not a part of its split.
    """
    number = number_warning(data, len(set_pairs(data))) if whole and known_name(data) else ""
    found = {"base_warning": base_warning(model, data), "number_warning": number,
             "split_warning": "" if whole else sequence_warning(data)}
    return {name: text for name, text in found.items() if text}


def _base(name: str) -> _Seen | None:
    return next((seen for start, seen in _BASES.items() if name.startswith(start)), None)
