"""A large archive, drawn, predicted and killed in the middle: memory stays flat, and what goes on ends as what was not broken.

``PYTHONPATH=tests python tests/scale/predict_archive.py RUN FOLDER --images 5000`` prints what was measured; FOLDER is made, and
holds three copies of the masks in the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from gps_seg.data.images import write_image
from gps_seg.tasks.segmentation.phantom import phantom

SIZE = (48, 64)
EVERY = 0.05  # seconds between two looks


@dataclass(frozen=True)
class Watched:
    """A prediction in a process of its own. ``memory`` holds (lines of the manifest, bytes resident), look by look."""

    seconds: float
    status: int
    memory: tuple[tuple[int, int], ...]
    said: str
    log: str

    def peak(self, begin: float, end: float) -> int:
        """Most bytes while that part of the images, 0..1, was predicted."""
        last = self.memory[-1][0]
        return max(memory for lines, memory in self.memory if begin * last <= lines <= end * last)


def draw(folder: Path, images: int) -> Path:
    """So many small scenes."""
    for index in range(images):
        write_image(folder / f"{index:06d}.png", phantom(index, size=SIZE)[0])
    return folder


def predict(
    run: str, pictures: Path, out: Path, *options: str, stop: Callable[[int], bool] = lambda _: False
) -> Watched:
    """Predict and watch; killed by SIGKILL when ``stop`` says so of the number of lines in the manifest."""
    command = [sys.executable, "-m", "gps_seg.cli", "predict", run, str(pictures), "--out", str(out), "--device", "cpu",
               "--no-overlays", *options]
    logs, began, memory = [out.with_name(f"{out.name}.{name}") for name in ("out", "err")], time.perf_counter(), []
    with logs[0].open("w") as said, logs[1].open("w") as log:
        child = psutil.Popen(command, stdout=said, stderr=log)
        tail, lines = out / "manifest.jsonl", 0
        at = 0
        while child.poll() is None:
            if tail.is_file() and tail.stat().st_size > at:
                with tail.open("rb") as file:
                    file.seek(at)
                    new = file.read()
                at, lines = at + len(new), lines + new.count(b"\n")
            if child.status() != psutil.STATUS_ZOMBIE and lines:
                memory.append((lines, child.memory_info().rss))
            if stop(lines):
                child.kill()
            time.sleep(EVERY)
    return Watched(time.perf_counter() - began, child.returncode, tuple(memory), *(path.read_text() for path in logs))


def images_in(out: Path) -> list[str]:
    """Of the manifest's whole lines."""
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["image"] for line in lines[1:] if line.endswith("\n")]


def same_masks(one: Path, other: Path) -> bool:
    """Whether two predictions wrote the same files with the same bytes."""
    names = sorted(path.name for path in one.glob("*.png"))
    return names == sorted(path.name for path in other.glob("*.png")) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names)


def measure(run: str, folder: Path, images: int) -> dict[str, object]:
    """Draw, predict whole, predict broken by a kill at half, go on; what came of it."""
    pictures = draw(folder / "pictures", images)
    whole = predict(run, pictures, folder / "whole")
    killed = predict(run, pictures, folder / "broken", stop=lambda lines: lines > images // 2)
    listed, masks = images_in(folder / "broken"), len(list((folder / "broken").glob("*.png")))
    resumed = predict(run, pictures, folder / "broken", "--resume")
    return {
        "images": images, "status": [whole.status, killed.status, resumed.status], "seconds": round(whole.seconds, 1),
        "images_a_second": round(images / whole.seconds, 1),
        "peak_mb_early": round(whole.peak(0.05, 0.3) / 1e6, 1), "peak_mb_late": round(whole.peak(0.7, 1) / 1e6, 1),
        "listed_when_killed": len(listed), "masks_when_killed": masks,
        "same_masks": same_masks(folder / "whole", folder / "broken"),
        "listed": [len(set(images_in(folder / name))) for name in ("whole", "broken")],
        "said": [part.said.strip().splitlines()[-1] for part in (whole, resumed)],
        "log": [line for part in (whole, resumed) for line in part.log.strip().splitlines()[-1:]],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run folder or a ready model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True)
    print(json.dumps(measure(given.run, given.folder, given.images), indent=2))


if __name__ == "__main__":
    main()
