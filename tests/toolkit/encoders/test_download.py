"""Downloading weights from a web server on loopback: resumed, checked by hash, whole or absent."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgeasd.runtime.errors import CheckFailed, InputError
from edgeasd.toolkit.encoders.download import fetch
from edgeasd.toolkit.encoders.table import ENCODERS, PretrainedEncoder
from edgeasd.toolkit.progress import no_progress

DATA = bytes(range(256)) * 2000
TIMEOUT = 5.0


class Server:
    """Answers every request by `answer`, and keeps the Range that each asked for."""

    def __init__(self) -> None:
        self.answer: Callable[[BaseHTTPRequestHandler], None] = send_file
        self.ranges: list[str | None] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.ranges.append(self.headers.get("Range"))
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/weights.pt"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def send_file(handler: BaseHTTPRequestHandler, data: bytes = DATA) -> None:
    """As a web server that knows Range does."""
    wanted = handler.headers.get("Range")
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
    if start >= len(data):
        handler.send_error(416)
        return
    handler.send_response(206 if wanted else 200)
    if wanted:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(data) - start))
    handler.end_headers()
    handler.wfile.write(data[start:])


def send_whole(handler: BaseHTTPRequestHandler) -> None:
    """As a server that ignores Range."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(DATA)))
    handler.end_headers()
    handler.wfile.write(DATA)


def send_half(handler: BaseHTTPRequestHandler) -> None:
    """Cuts the connection after half of what it promised."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(DATA)))
    handler.end_headers()
    handler.wfile.write(DATA[: len(DATA) // 2])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def send_forged(handler: BaseHTTPRequestHandler) -> None:
    send_file(handler, DATA[:-1] + b"!")


def send_endless(handler: BaseHTTPRequestHandler) -> None:
    """No length, no end."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(DATA)
    except OSError:
        pass


def say_nothing(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(DATA)))
    handler.end_headers()
    handler.wfile.flush()
    threading.Event().wait(3 * TIMEOUT)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def encoder() -> PretrainedEncoder:
    sha256 = hashlib.sha256(DATA).hexdigest()
    return dataclasses.replace(ENCODERS["mn04"], file="weights.pt", size=len(DATA), sha256=sha256, md5=None)


def get(encoder: PretrainedEncoder, folder: Path, server: Server, **options: Any) -> Path:
    path, sha256 = fetch(encoder, folder, no_progress, url=server.url, timeout=TIMEOUT, **options)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


def test_a_file_arrives_whole_under_its_name(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    fetch(encoder, tmp_path / "new", lambda done, total, _="": reports.append((done, total)), url=server.url)
    assert (tmp_path / "new" / "weights.pt").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights.pt"]
    assert reports[-1] == (500, 500)


def test_what_is_there_already_is_not_fetched_again(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    get(encoder, tmp_path, server)
    get(encoder, tmp_path, server)
    assert len(server.ranges) == 1


def test_a_broken_download_goes_on_where_it_stopped(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    server.answer = send_half
    with pytest.raises(InputError, match=r"after 256000 bytes; the same command goes on where it stopped"):
        get(encoder, tmp_path, server)
    assert not (tmp_path / "weights.pt").exists()
    server.answer = send_file
    assert get(encoder, tmp_path, server).read_bytes() == DATA
    assert server.ranges == [None, "bytes=256000-"]


def test_a_server_that_ignores_range_sends_all_again(
    encoder: PretrainedEncoder, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "weights.pt.part").write_bytes(DATA[:1000])
    server.answer = send_whole
    assert get(encoder, tmp_path, server).read_bytes() == DATA


def test_a_forged_file_is_deleted(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    server.answer = send_forged
    with pytest.raises(CheckFailed, match="sha256") as caught:
        get(encoder, tmp_path, server)
    assert encoder.sha256 is not None
    assert encoder.sha256 in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_resumed_part_of_another_file_is_replaced(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pt.part").write_bytes(b"?" * 1000)
    assert get(encoder, tmp_path, server).read_bytes() == DATA
    assert server.ranges == ["bytes=1000-", None]


def test_a_part_longer_than_the_file_begins_anew(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    unsized = dataclasses.replace(encoder, size=None)
    (tmp_path / "weights.pt.part").write_bytes(DATA + b"more")
    assert get(unsized, tmp_path, server).read_bytes() == DATA
    assert len(server.ranges) == 2


def test_an_endless_answer_is_cut(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    server.answer = send_endless
    with pytest.raises(InputError, match=f"more than {len(DATA)} bytes"):
        get(encoder, tmp_path, server)
    assert not (tmp_path / "weights.pt").exists()


def test_a_server_that_stops_sending_is_given_up(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    server.answer = say_nothing
    with pytest.raises(InputError, match="no answer in time"):
        fetch(encoder, tmp_path, no_progress, url=server.url, timeout=0.5)


def test_a_page_of_another_length_is_not_saved(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler: send_file(handler, b"<html>please log in</html>")
    with pytest.raises(InputError, match="sends a file of 26 bytes"):
        get(encoder, tmp_path, server)
    assert not list(tmp_path.iterdir())


def test_redirects_are_followed(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/weights.pt":
            handler.send_response(302)
            handler.send_header("Location", "/elsewhere")
            handler.end_headers()
        else:
            send_file(handler)

    server.answer = redirect
    (tmp_path / "weights.pt.part").write_bytes(DATA[:1000])
    assert get(encoder, tmp_path, server).read_bytes() == DATA
    assert server.ranges == ["bytes=1000-", "bytes=1000-"]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/weights.pt"])
def test_a_redirect_to_another_scheme_is_refused(
    place: str, encoder: PretrainedEncoder, server: Server, tmp_path: Path
) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", place)
        handler.end_headers()

    server.answer = redirect
    with pytest.raises(InputError, match="not (safe|allowed)"):
        get(encoder, tmp_path, server)


def test_a_redirect_in_a_circle_ends(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/weights.pt")
        handler.end_headers()

    server.answer = redirect
    with pytest.raises(InputError, match="302"):
        get(encoder, tmp_path, server)


@pytest.mark.parametrize(("code", "words"), [(404, "answers 404"), (503, "answers 503")])
def test_an_error_of_the_server_is_said(
    code: int, words: str, encoder: PretrainedEncoder, server: Server, tmp_path: Path
) -> None:
    server.answer = lambda handler: handler.send_error(code)
    with pytest.raises(InputError, match=words):
        get(encoder, tmp_path, server)


@pytest.mark.parametrize("url", ["ftp://host/x", "weights.pt", "file:///etc/passwd", "http://", "http://a b/x"])
def test_an_address_that_is_none_is_refused(url: str, encoder: PretrainedEncoder, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        fetch(encoder, tmp_path, no_progress, url=url, timeout=TIMEOUT)


def test_a_closed_port_is_said(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(InputError, match=r"refused.*; try later"):
        get(encoder, tmp_path, server)


def test_an_unknown_hash_needs_consent(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    unknown = dataclasses.replace(encoder, sha256=None, size=None)
    with pytest.raises(InputError, match="--trust-weights"):
        get(unknown, tmp_path, server)
    assert not server.ranges
    assert get(unknown, tmp_path, server, trust_unknown=True).read_bytes() == DATA


def test_consent_does_not_let_a_forged_file_pass(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    server.answer = send_forged
    with pytest.raises(CheckFailed):
        get(encoder, tmp_path, server, trust_unknown=True)


def test_another_file_in_the_place_is_left_alone(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"mine")
    with pytest.raises(InputError, match="delete it"):
        get(encoder, tmp_path, server)
    assert (tmp_path / "weights.pt").read_bytes() == b"mine"


def test_a_folder_that_is_a_file_is_said(encoder: PretrainedEncoder, server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--to"):
        get(encoder, tmp_path / "file", server)


def test_md5_serves_where_nothing_better_is_published(
    encoder: PretrainedEncoder, server: Server, tmp_path: Path
) -> None:
    by_md5 = dataclasses.replace(encoder, sha256=None, md5=hashlib.md5(DATA).hexdigest())
    assert get(by_md5, tmp_path, server).read_bytes() == DATA
    server.answer = send_forged
    with pytest.raises(CheckFailed, match="md5"):
        get(by_md5, tmp_path / "two", server)
