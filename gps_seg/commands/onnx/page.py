"""``gps-seg export RUN --onnx DIR --page``: a page beside the ONNX files that segments a picture in the browser.

The page is in the package; the runtime that it needs is not. It comes from npm, of one version and checked by its hashes, and
is kept in the cache.
"""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from importlib import resources
from pathlib import Path

from gps_seg.data.places import cache_folder
from gps_seg.errors import ConfigError, DataError
from gps_seg.files import sha256, write_bytes

RUNTIME = "onnxruntime-web@1.30.0"
ARCHIVE_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # as npm publishes it
RUNTIME_SHA256 = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
PLACES = (".", "dist", "package/dist", "runtime")  # of these files: by themselves, in npm's package unpacked, in another page
PAGE_FILE, RUNTIME_FOLDER = "index.html", "runtime"
MOST_BYTES = 1_900_000_000  # of weights; WebAssembly addresses 4 GB, and holds them twice while it loads
NPM_SECONDS = 600
ELSEWHERE = f"or run npm pack {RUNTIME} where there is a network and give the file that it makes with --runtime"


def find_runtime(given: Path | None = None) -> dict[str, bytes]:
    """The runtime's files by name, each with the hash that is known here.

    Args:
        given: npm's .tgz, or a folder that holds the files; default: the cache, else npm.

    Raises:
        ConfigError: ``given`` is neither, or of another version.
        DataError: it is to be fetched, and npm is missing or fails.
    """
    if given is not None:
        return _unpacked(given) if given.is_file() else _lying_in(given)
    cache = cache_folder() / RUNTIME
    if not all((cache / name).is_file() and sha256(cache / name) == digest for name, digest in RUNTIME_SHA256.items()):
        for name, content in _fetched().items():
            write_bytes(cache / name, content)
    return _lying_in(cache)


def write_page(folder: Path, runtime: dict[str, bytes]) -> None:
    """The page's own files into the folder of an export, and the runtime into a folder of theirs."""
    for file in resources.files("gps_seg").joinpath("commands/onnx/web").iterdir():
        write_bytes(folder / file.name, file.read_bytes())
    for name, content in runtime.items():
        write_bytes(folder / RUNTIME_FOLDER / name, content)


def page_line(folder: Path) -> str:
    """What to do with a page."""
    return (f"{folder / PAGE_FILE}: run python -m http.server --bind 127.0.0.1 --directory {folder}, then open "
            "http://127.0.0.1:8000")


def check_weights(held: int) -> None:
    """Raises ConfigError: so many bytes of weights are more than a browser takes."""
    if held > MOST_BYTES:
        raise ConfigError(f"--page: expected at most {MOST_BYTES / 1e9:.1f} GB of weights, which is what a browser takes, got "
                          f"{held / 1e9:.1f} GB; leave --page out, or tune a smaller model")


def _lying_in(folder: Path) -> dict[str, bytes]:
    found = {}
    for name, digest in RUNTIME_SHA256.items():
        paths = [folder / place / name for place in PLACES if (folder / place / name).is_file()]
        if not paths:
            raise ConfigError(f"--runtime: expected {name} of {RUNTIME} in {folder}, found none; give the .tgz of npm pack "
                              f"{RUNTIME}, or a folder with it unpacked")
        if sha256(paths[0]) != digest:
            raise ConfigError(f"--runtime: {paths[0]} is not the file of {RUNTIME}: expected sha256 {digest[:16]}..., got "
                              f"{sha256(paths[0])[:16]}...; fetch that version")
        found[name] = paths[0].read_bytes()
    return found


def _unpacked(archive: Path) -> dict[str, bytes]:
    """Out of npm's archive; it is opened only if it has the published hash."""
    data = archive.read_bytes()
    if base64.b64encode(hashlib.sha512(data).digest()).decode() != ARCHIVE_SHA512:
        raise ConfigError(f"--runtime: {archive} is not the archive of npm pack {RUNTIME}, whose sha512 is "
                          f"{ARCHIVE_SHA512[:16]}...; fetch that version again")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        for name in RUNTIME_SHA256:
            member = file.extractfile(f"package/dist/{name}")
            found[name] = member.read() if member else b""
    return found


def _fetched() -> dict[str, bytes]:
    """By the npm that is installed, from wherever its settings say. Raises DataError."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"--page needs {RUNTIME}, and there is no npm to fetch it with: install Node.js, {ELSEWHERE}")
    with tempfile.TemporaryDirectory() as place:
        command = [npm, "pack", RUNTIME, "--pack-destination", place, "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=NPM_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"--page needs {RUNTIME}, and npm does not answer ({type(error).__name__}): {ELSEWHERE}") from None
        archives = list(Path(place).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise DataError(f"--page needs {RUNTIME}, which npm cannot fetch ({_reason(done.stderr)}): check the network, "
                            f"{ELSEWHERE}")
        return _unpacked(archives[0])


def _reason(said: str) -> str:
    """Of npm's many lines the one that says what went wrong: after its code."""
    lines = [line.removeprefix("npm error ") for line in said.splitlines() if line.startswith("npm error ")]
    return " ".join(" ".join(lines[:2]).split())[:200] or "it does not say why"
