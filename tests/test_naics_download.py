"""The download of the Census workbooks, from a server on this machine."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from naics.data import download as module
from naics.data.download import SHA256, download
from naics.data.workbooks import FILES, file_name
from training_utils import InputError


class Handler(SimpleHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path, monkeypatch) -> str:
    """The address of a site with files of its own; their sums are taken for the official ones."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "site" / "2022NAICS"
    folder.mkdir(parents=True)
    sums = {}
    for kind in FILES:
        content = f"the workbook of {kind}".encode()
        (folder / file_name(kind, 2022)).write_bytes(content)
        sums[kind] = ("0" * 64, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(SHA256, 2022, sums)
    Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_are_fetched_once(site, tmp_path):
    raw = tmp_path / "raw" / "2022"
    assert set(download(raw, 2022, site).values()) == {"fetched"}
    assert contents(raw) == contents(tmp_path / "site" / "2022NAICS")
    assert "/2022NAICS/2-6%20digit_2022_Codes.xlsx" in Handler.asked and len(Handler.asked) == 4
    assert set(download(raw, 2022, site).values()) == {"present"} and len(Handler.asked) == 4


def test_a_file_that_is_not_right_is_fetched_again(site, tmp_path):
    raw = tmp_path / "raw"
    download(raw, 2022, site)
    name = file_name("index", 2022)
    (raw / name).write_bytes(b"cut off")
    done = download(raw, 2022, site)
    assert [file for file, state in done.items() if state == "fetched"] == [name]
    assert contents(raw) == contents(tmp_path / "site" / "2022NAICS")


def test_a_wrong_checksum_writes_nothing(site, tmp_path):
    raw, name = tmp_path / "raw", file_name("descriptions", 2022)
    raw.mkdir()
    (raw / name).write_bytes(b"an old file")
    (tmp_path / "site" / "2022NAICS" / name).write_bytes(b"something else")
    with pytest.raises(
        InputError, match=rf"{name}: not the known file \(sha256 .*\.\.\., not .*put the official"
    ):
        download(raw, 2022, site)
    assert (raw / name).read_bytes() == b"an old file"


def test_an_unreachable_host_says_which_files_to_put_where(site, tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    download(raw, 2022, site)
    names = [file_name(kind, 2022) for kind in ("index", "references")]
    for name in names:
        (raw / name).unlink()
    for address in ("http://127.0.0.1:9", site + "/nothing"):  # nobody listens there; no such page
        with pytest.raises(InputError, match="not reachable") as error:
            download(raw, 2022, address)
        message = str(error.value)
        assert all(f'"{name}"' in message for name in names) and str(raw) in message
        assert file_name("codes", 2022) not in message and "\n" not in message


def test_a_connection_that_breaks_off(site, tmp_path, monkeypatch):
    def cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")

    monkeypatch.setattr(Handler, "do_GET", cut)
    with pytest.raises(InputError, match="not reachable"):
        download(tmp_path / "raw", 2022, site)
    assert not (tmp_path / "raw").exists()


def test_an_unknown_year(tmp_path):
    with pytest.raises(InputError, match="2012.*2017, 2022"):
        download(tmp_path, 2012)


def test_sums_are_whole_and_different():
    sums = [one for kinds in SHA256.values() for known in kinds.values() for one in known]
    assert len(set(sums)) == len(sums) == 9 and all(len(bytes.fromhex(one)) == 32 for one in sums)
    assert module.CENSUS.startswith("https://")


@pytest.mark.real_data
def test_the_real_files_of_2022_are_known(real_data):
    assert set(download(real_data / "naics" / "2022", 2022, "http://127.0.0.1:9").values()) == {"present"}
