"""DICOM objects full of identifying values, none of which may ever be seen again."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, generate_uid

SECRETS = {
    "PatientName": "Secretname^Anna", "PatientID": "SECRETID77", "PatientBirthDate": "19440203",
    "InstitutionName": "Secretclinic",
    "ReferringPhysicianName": "Secretdoctor^Bo", "AccessionNumber": "SECRETACC9", "StudyDescription": "Secretstudy",
    "PatientAddress": "Secretstreet 5", "StationName": "SECRETSTATION", "ImageComments": "Secretcomment",
}


def make(frames: NDArray[Any], kind: str = "RGB", syntax: str = ExplicitVRLittleEndian, *, bits: int = 8, **more: Any) -> bytes:
    """A file of frames (N, H, W) or (N, H, W, 3) with every secret in it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    for name, value in SECRETS.items():
        setattr(dataset, name, value)
    dataset.add_new((0x0009, 0x0010), "LO", "SECRETPRIVATE")
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = frames.shape[1], frames.shape[2], frames.shape[0]
    dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    if frames.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = kind, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * frames.dtype.itemsize, bits, bits - 1
    for name, value in more.items():
        setattr(dataset, name, value)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.PixelData = encapsulate([encoded(frame, syntax) for frame in frames])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.PixelData = frames.tobytes()
        dataset["PixelData"].VR = "OB" if frames.dtype.itemsize == 1 else "OW"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def encoded(frame: NDArray[np.uint8], syntax: str) -> bytes:
    buffer = io.BytesIO()
    if syntax == JPEGBaseline8Bit:
        Image.fromarray(frame).save(buffer, "JPEG", quality=95, subsampling=0)
    elif syntax == JPEG2000Lossless:
        Image.fromarray(frame).save(buffer, "JPEG2000", no_jp2=True, irreversible=False, mct=1)
    else:
        return b"no codec here"
    return buffer.getvalue()
