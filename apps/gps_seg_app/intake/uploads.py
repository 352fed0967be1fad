"""A single upload as pictures: a still picture, or the frames of a DICOM object."""

from __future__ import annotations

from gps_seg_app.intake.dicom import is_dicom, read_dicom
from gps_seg_app.intake.pictures import Picture, read_upload
from gps_seg_app.limits import Limits


def read_pictures(data: bytes, limits: Limits) -> list[Picture]:
    """Decode bytes by what they are, not by a name. Raises AppError for anything else."""
    if is_dicom(data[:132]):
        return read_dicom(data, limits)
    return [read_upload(data, limits)]
