"""Downloads from a real local server: resumed, checked, unpacked safely."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gps_seg.data.download import download, download_kvasir, unzip
from gps_seg.errors import DataError

CONTENT = bytes(range(256)) * 2000


class Server(ThreadingHTTPServer):
    files: dict[str, bytes]
    requests: list[str]
    cut_after: int | None
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path)
        wanted = self.headers.get("Range", "")
        self.server.requests.append(wanted)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-") or 0) if not self.path.startswith("/norange") else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut, self.server.cut_after = self.server.cut_after, None
        self.wfile.write(content[start : start + cut if cut else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.files, running.requests, running.cut_after = {}, [], None
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}{path}"


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    path = download(url(server, "/a.bin"), tmp_path / "deep" / "a.bin", sha256=checksum(CONTENT))
    assert path.read_bytes() == CONTENT and [file.name for file in path.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(("name", "ranges"), [("/a.bin", ["", "bytes=100000-"]), ("/norange.bin", ["", "bytes=100000-"])])
def test_a_broken_download_goes_on_where_it_stopped(server: Server, tmp_path: Path, name: str, ranges: list[str]) -> None:
    server.files[name], server.cut_after = CONTENT, 100_000
    with pytest.raises(DataError, match="broke|cannot download"):
        download(url(server, name), tmp_path / "a.bin", sha256=checksum(CONTENT))
    assert not (tmp_path / "a.bin").exists() and (tmp_path / "a.bin.part").stat().st_size == 100_000
    download(url(server, name), tmp_path / "a.bin", sha256=checksum(CONTENT))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT and server.requests == ranges


def test_a_finished_part_is_checked_and_used(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = CONTENT
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert download(url(server, "/a.bin"), tmp_path / "a.bin", sha256=checksum(CONTENT)).read_bytes() == CONTENT


def test_wrong_content_never_gets_the_files_name(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = b"something else"
    with pytest.raises(DataError, match="expected sha256 .* got .*thrown away, try again"):
        download(url(server, "/a.bin"), tmp_path / "a.bin", sha256=checksum(CONTENT))
    assert list(tmp_path.iterdir()) == []


def test_no_network_a_missing_file_and_plain_http_are_explained(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the server answered 404"):
        download(url(server, "/none"), tmp_path / "a", sha256="0")
    with pytest.raises(DataError, match="cannot download .*check the network, or fetch it elsewhere to"):
        download("http://127.0.0.1:9/a", tmp_path / "a", sha256="0")
    (tmp_path / "local").write_bytes(CONTENT)
    for address in ("http://example.org/a", f"file://localhost{tmp_path}/local", "ftp://127.0.0.1/a"):
        with pytest.raises(DataError, match="downloads need https"):
            download(address, tmp_path / "a", sha256=checksum(CONTENT))


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:\\evil"])
def test_members_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"good": b"1", name: b"2"}))
    with pytest.raises(DataError, match="would be written outside its folder; not unpacked"):
        unzip(tmp_path / "a.zip", tmp_path / "inside" / "out")
    assert list((tmp_path / "inside").iterdir()) == []


def test_a_link_and_a_bomb_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'link' would be written outside"):
        unzip(tmp_path / "link.zip", tmp_path / "out")
    (tmp_path / "bomb.zip").write_bytes(zipped({"big": bytes(10_000)}))
    monkeypatch.setattr("gps_seg.data.download.MAX_UNZIPPED_BYTES", 5_000)
    with pytest.raises(DataError, match="not unpacked"):
        unzip(tmp_path / "bomb.zip", tmp_path / "out")
    (tmp_path / "no.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="expected a zip file"):
        unzip(tmp_path / "no.zip", tmp_path / "out")


def patched(archive: bytes, *, local: int, central: int, value: int) -> bytes:
    """An archive of one member with a header field of 16 bits changed in both places where it stands."""
    data, directory = bytearray(archive), archive.index(b"PK\x01\x02")
    for at in (local, directory + central):
        data[at : at + 2] = value.to_bytes(2, "little")
    return bytes(data)


def broken_archives() -> dict[str, bytes]:
    plain = zipped({"a": bytes(100)})
    broken = {
        "encrypted": patched(plain, local=6, central=8, value=1),
        "of an unknown compression": patched(plain, local=8, central=10, value=99),
        "with a name that is not utf-8": patched(plain, local=6, central=8, value=0x800).replace(b"a", b"\xff"),
    }
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as file:
            file.writestr("a", CONTENT)
        data = bytearray(buffer.getvalue())
        data[40:80] = b"\xff" * 40
        broken[f"damaged, compression {method}"] = bytes(data)
    return broken


@pytest.mark.parametrize("kind", broken_archives())
def test_broken_archives_are_one_line_and_leave_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.zip").write_bytes(broken_archives()[kind])
    with pytest.raises(DataError, match=r"a\.zip") as caught:
        unzip(tmp_path / "a.zip", tmp_path / "inside" / "out")
    assert "None" not in str(caught.value) and list((tmp_path / "inside").iterdir()) == []


def test_an_unpacked_folder_is_as_open_as_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"good": b"1"}))
    (tmp_path / "new").mkdir()
    assert unzip(tmp_path / "a.zip", tmp_path / "out").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_no_folder_to_unpack_into_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"good": b"1"}))
    with pytest.raises(DataError, match="cannot unpack a.zip"):
        unzip(tmp_path / "a.zip", tmp_path / "a.zip" / "out")


def test_kvasir_is_fetched_unpacked_and_found(server: Server, tmp_path: Path) -> None:
    archive = zipped({"Kvasir-SEG/images/a.jpg": b"i", "Kvasir-SEG/masks/a.jpg": b"m", "Kvasir-SEG/kavsir_bboxes.json": b"{}"})
    server.files["/k.zip"] = archive
    root = download_kvasir(tmp_path, url=url(server, "/k.zip"), sha256=checksum(archive))
    assert (root / "images" / "a.jpg").is_file() and [path.name for path in tmp_path.iterdir()] == ["Kvasir-SEG"]
    assert download_kvasir(tmp_path, url="https://unused.invalid", sha256="") == root


def test_kvasir_never_mixes_with_another_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Kvasir-SEG" / "notes").mkdir(parents=True)
    with pytest.raises(DataError, match="Kvasir-SEG: expected nothing, or a data set with images/; remove it"):
        download_kvasir(tmp_path, url=url(server, "/k.zip"), sha256="")
    assert server.requests == []


def test_kvasir_goes_on_after_a_download_that_was_killed_while_moving(server: Server, tmp_path: Path) -> None:
    archive = zipped({"Kvasir-SEG/images/a.jpg": b"i", "Kvasir-SEG/masks/a.jpg": b"m"})
    server.files["/k.zip"] = archive
    (tmp_path / ".kvasir-seg" / "Kvasir-SEG" / "images").mkdir(parents=True)
    (tmp_path / "Kvasir-SEG").mkdir()
    root = download_kvasir(tmp_path, url=url(server, "/k.zip"), sha256=checksum(archive))
    assert (root / "masks" / "a.jpg").is_file() and [path.name for path in tmp_path.iterdir()] == ["Kvasir-SEG"]
