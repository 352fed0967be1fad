"""The polyp data sets this program knows: what they are called, how their folders look, how many images they hold, on what terms.

A table only: ``sets`` finds them, ``pairs`` reads them, ``parts`` splits them. Patterns of folders: see ``data.places``.
"""

from __future__ import annotations

from dataclasses import dataclass

PLAIN = (("images", "masks"), ("image", "mask"), ("image", "masks"), ("images", "mask"))
PRANET = "the PraNet authors' archives, linked at github.com/DengPingFan/PraNet"
ASK = "by request to the Computer Vision Center, Barcelona; research only"


@dataclass(frozen=True)
class KnownSet:
    """One data set.

    Attributes:
        title: as its authors write it.
        images: number of images published.
        folders: where to look below $GPS_SEG_DATA (or ./data), in this order.
        source: where to get it.
        terms: what its owners allow.
        layouts: (folders of images, folders of masks) below its folder, in this order.
        mask_name: regular expression of a mask's whole stem; group 1 is the stem of its image.
        sure: False if the number of images is from memory.
        images_of: known sets whose images these are, wholly or in part.
        part: "train" for a training part by definition, "all" for anything else.
        published: whether the lists of its published split are shipped, in splits/.
        sequences: what its images are frames of; empty where they are pictures of their own.
        copies: whether some pictures stand in it under several names.
        note: what else a user should know.
    """

    title: str
    images: int
    folders: tuple[str, ...]
    source: str
    terms: str
    layouts: tuple[tuple[str, str], ...] = PLAIN
    mask_name: str = r"(.+)"
    sure: bool = True
    images_of: tuple[str, ...] = ()
    part: str = "all"
    published: bool = False
    sequences: str = ""
    copies: bool = False
    note: str = ""


# Any folder of images and masks.
FOLDER = KnownSet("a folder", 0, (), "", "", layouts=(*PLAIN, ("imagesTr", "labelsTr")))


def _pranet(folder: str) -> tuple[str, ...]:
    return f"testdataset/{folder}", f"*/testdataset/{folder}"


KNOWN: dict[str, KnownSet] = {
    "kvasir-seg": KnownSet(
        "Kvasir-SEG", 1000, ("kvasir-seg", "kvasir-seg-*"), "gps-seg data download kvasir-seg",
        "research and education only; commercial use needs written permission", published=True,
    ),
    "kvasir-sessile": KnownSet(
        "Kvasir-Sessile", 196, ("kvasir-sessile*", "sessile-main-kvasir-seg"),
        "datasets.simula.no/downloads/kvasir-sessile.zip (sessile-main-Kvasir-SEG/ with images/ and masks/)", "as Kvasir-SEG",
        images_of=("kvasir-seg",), note="196 images of Kvasir-SEG, under their names there; the test set of the released GPS "
        "code, which trains on them too: data.test_set=kvasir-sessile",
    ),
    "cvc-clinicdb": KnownSet(
        "CVC-ClinicDB", 612, ("cvc-clinicdb*", "clinicdb*"), "polyp.grand-challenge.org/CVCClinicDB",
        "research and education; cite; images Hospital Clinic Barcelona, masks CVC",
        layouts=(("png/original", "png/ground-truth"), ("original", "ground-truth"), ("tif/original", "tif/ground-truth"),
                 *PLAIN),
        sequences="29 sequences",
    ),
    "cvc-colondb": KnownSet(
        "CVC-ColonDB", 380, ("cvc-colondb*", "colondb*", *_pranet("cvc-colondb")), PRANET, ASK,
        sequences="15 sequences", copies=True,
        note="380 images of the benchmark, 346 distinct; the official release has 300 other frames",
    ),
    "etis-larib": KnownSet(
        "ETIS-LaribPolypDB", 196, ("etis*", *_pranet("etis*")), "polyp.grand-challenge.org/EtisLarib", "research only",
        layouts=(*PLAIN, ("etis-laribpolypdb", "ground-truth")), mask_name=r"p?(.+)",
        sequences="34 sequences (unverified)", copies=True, note="3 pairs of identical images have different masks",
    ),
    "cvc-300": KnownSet(
        "CVC-300 (EndoScene)", 60, ("cvc-300*", "cvc300*", *_pranet("cvc-300")), PRANET, ASK,
        images_of=("cvc-colondb",), sequences="few sequences (unverified)",
        note="its 60 frames are also in CVC-ColonDB's 380: the two are not independent",
    ),
    "polypgen": KnownSet(
        "PolypGen", 1537, ("polypgen*",), "doi.org/10.7303/syn26376615 (login)", "CC BY 4.0; Ali et al., Scientific Data 2023",
        layouts=(("data-c*/images-c*", "data-c*/masks-c*"), *PLAIN), mask_name=r"(.+?)(?:_mask)?",
        note="single frames of six centres, 126 without a polyp; sequenceData is not read",
    ),
    "bkai-neopolyp": KnownSet(
        "BKAI-IGH NeoPolyp", 1000, ("bkai*", "neopolyp*"), "kaggle.com/c/bkai-igh-neopolyp", "rules of the competition",
        layouts=(("train/train", "train-gt/train-gt"), ("train", "train-gt"), *PLAIN),
        note="masks in colour, red neoplastic and green non-neoplastic: both are polyp here; the 200 test images have no masks",
    ),
    "endotect": KnownSet(
        "EndoTect 2020, test part", 200, ("endotect*",), "endotect.com, osf.io/mh9sj", "research; see its page (unverified)",
        layouts=(*PLAIN, ("segmented-images/images", "segmented-images/masks")), sure=False,
        note="its development part is HyperKvasir's, whose 1000 segmented images are those of Kvasir-SEG",
    ),
    "pranet-kvasir": KnownSet(
        "Kvasir of PraNet's TestDataset", 100, _pranet("kvasir"), PRANET, "as Kvasir-SEG", images_of=("kvasir-seg",),
        note="not to be scored with a model trained on the official Kvasir-SEG training list, which holds most of it",
    ),
    "pranet-clinicdb": KnownSet(
        "ClinicDB of PraNet's TestDataset", 62, _pranet("cvc-clinicdb"), PRANET, "as CVC-ClinicDB", images_of=("cvc-clinicdb",),
        sequences="29 sequences",
    ),
    "pranet-train": KnownSet(
        "PraNet's TrainDataset", 1450, ("traindataset", "*/traindataset"), PRANET, "as Kvasir-SEG and CVC-ClinicDB",
        images_of=("kvasir-seg", "cvc-clinicdb"), part="train",
        sequences="single pictures and 29 sequences", note="900 images of Kvasir-SEG and 550 of CVC-ClinicDB",
    ),
}

# Names that stand for several sets.
GROUPS = {
    "pranet-test": ("cvc-300", "pranet-clinicdb", "cvc-colondb", "etis-larib", "pranet-kvasir"),
    "unseen-3": ("cvc-colondb", "etis-larib", "cvc-300"),  # of PraNet's five tests, those whose training images it never saw
}
