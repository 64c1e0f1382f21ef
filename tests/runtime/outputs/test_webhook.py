"""A webhook: signed, in order, patient, and true to the host it was given."""

from __future__ import annotations

import socket
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificates
from hypothesis import given
from hypothesis import strategies as st
from made import free_port, until
from receivers import WebServer

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.messages import numbered
from edgeasd.runtime.outputs.settings import WebhookSettings
from edgeasd.runtime.outputs.signature import sign, verify
from edgeasd.runtime.outputs.sink import DeliveryFailed, Entry, MessageRefused
from edgeasd.runtime.outputs.webhook import WebhookSink, retry_seconds

pytestmark = [pytest.mark.core, pytest.mark.timeout(30)]

QUEUE = "0123456789abcdef"


def sink(url: str, **more: Any) -> WebhookSink:
    return WebhookSink(WebhookSettings(type="webhook", url=url, **{"timeout_seconds": 5.0, **more}))


def post(to: WebhookSink, *numbers: int) -> list[int]:
    confirmed: list[int] = []
    try:
        to.deliver([Entry("event", "m", "0", '{"a": 1}', None, n, n) for n in numbers], QUEUE, confirmed.append)
    finally:
        post.confirmed = confirmed  # type: ignore[attr-defined]
    return confirmed


@pytest.mark.parametrize("token", ["tok\n\n", "tok\r\n\r\n"])
def test_blank_lines_behind_a_secret_are_not_of_it(tmp_path: Path, web_server: WebServer, token: str) -> None:
    (tmp_path / "token").write_bytes(token.encode())
    (tmp_path / "token").chmod(0o600)
    post(sink(web_server.url, token_file=str(tmp_path / "token")), 1)
    assert until(lambda: web_server.requests)[0]["headers"]["Authorization"] == "Bearer tok"


@pytest.mark.parametrize("token", ["SECRET\nTOKEN", "SECRET TOKEN", "SECRET\x00TOKEN", "SECRETé"])
def test_a_token_that_no_header_holds_is_refused_at_the_start_and_not_quoted(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token, "utf-8")
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(InputError, match="webhook token: .* correct it") as refused:
        sink("http://127.0.0.1:9/", token_file=str(tmp_path / "token"))
    assert "SECRET" not in str(refused.value)


def test_a_post_carries_the_message_a_signature_and_a_token(
    tmp_path: Path, web_server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("very secret\n")
    (tmp_path / "secret").chmod(0o600)
    monkeypatch.setenv("HOOK_TOKEN", "tok")
    assert post(sink(web_server.url, secret_file=str(tmp_path / "secret"), token_env="HOOK_TOKEN"), 4, 5) == [1, 2]
    first = until(lambda: web_server.requests)[0]
    assert first["path"] == "/hook?plant=1"
    assert first["body"] == numbered('{"a": 1}', QUEUE, 4)
    headers = first["headers"]
    stamp, signature = headers["X-Edgeasd-Timestamp"], headers["X-Edgeasd-Signature"]
    body = first["body"].encode()
    assert verify(b"very secret", stamp, signature, body, time.time())
    assert headers["Authorization"] == "Bearer tok"
    assert headers["Idempotency-Key"] == f"{QUEUE}-4"
    assert not verify(b"another", stamp, signature, body, time.time())
    assert not verify(b"very secret", stamp, signature, body + b" ", time.time())
    assert not verify(b"very secret", stamp, signature, body, time.time() + 301)
    assert not verify(b"very secret", str(int(stamp) + 1), signature, body, time.time())


@given(stamp=st.text(max_size=20) | st.none(), signature=st.text(max_size=80) | st.none(), body=st.binary(max_size=50))
def test_no_signature_but_the_right_one_verifies(stamp: str | None, signature: str | None, body: bytes) -> None:
    assert verify(b"k", stamp, signature, body, 1e9) == (
        stamp is not None
        and stamp.isascii()
        and stamp.isdigit()
        and abs(int(stamp) - 1e9) <= 300
        and signature == sign(b"k", stamp, body)
    )


@pytest.mark.parametrize("status", [500, 503, 401, 404, 429])
def test_what_may_pass_is_tried_again(web_server: WebServer, status: int) -> None:
    to = sink(web_server.url)
    web_server.answer(200, status)
    with pytest.raises(DeliveryFailed, match=f"answered {status}") as failed:
        post(to, 1, 2, 3)
    assert not isinstance(failed.value, MessageRefused)
    assert post.confirmed == [1]  # type: ignore[attr-defined]
    assert post(to, 2, 3) == [1, 2]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_will_never_pass_is_a_refusal(web_server: WebServer, status: int) -> None:
    web_server.answer(status)
    with pytest.raises(MessageRefused, match=f"answered {status}"):
        post(sink(web_server.url), 1)


def test_a_redirect_is_not_followed(web_server: WebServer) -> None:
    other = WebServer()
    try:
        web_server.answer((302, {"Location": other.url}), (307, {"Location": other.url}))
        for _ in range(2):
            with pytest.raises(DeliveryFailed, match="a redirect; set url to where it leads"):
                post(sink(web_server.url), 1)
        assert other.requests == []
    finally:
        other.stop()


def test_retry_after_is_heard(web_server: WebServer) -> None:
    web_server.answer((503, {"Retry-After": "17"}))
    with pytest.raises(DeliveryFailed) as failed:
        post(sink(web_server.url), 1)
    assert failed.value.retry_after == 17.0


def test_retry_after_may_be_a_date() -> None:
    assert retry_seconds(formatdate(1e9 + 60, usegmt=True), 1e9) == 60.0
    assert retry_seconds(formatdate(1e9 - 60, usegmt=True), 1e9) == 0.0


@given(value=st.text(max_size=70) | st.none())
def test_any_retry_after_is_a_number_or_none(value: str | None) -> None:
    seconds = retry_seconds(value, 1e9)
    assert seconds is None or seconds >= 0.0


@pytest.mark.parametrize("behaviour", ["silent", "dripping", "closing", "nonsense", "endless"])
def test_a_server_that_misbehaves_is_given_up_in_time(behaviour: str) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            if behaviour == "closing":
                return
            if behaviour == "nonsense":
                connection.sendall(b"\x00\xffhello\r\n\r\n")
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\n" if behaviour == "dripping" else b"")
                while not over.wait(0.05):
                    if behaviour == "dripping":
                        connection.sendall(b"X: y\r\n")
                    elif behaviour == "endless":
                        connection.sendall(b"H" * 100_000)
            except OSError:
                pass

    threading.Thread(target=serve, daemon=True).start()
    begun = time.monotonic()
    with pytest.raises(DeliveryFailed):
        post(sink(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout_seconds=0.5), 1)
    assert time.monotonic() - begun < 3.0
    over.set()
    listening.close()


def test_nobody_there_is_said(web_server: WebServer) -> None:
    to = sink(f"http://127.0.0.1:{free_port()}/secret-path")
    with pytest.raises(DeliveryFailed, match="Connection refused") as failed:
        post(to, 1)
    assert to.connected is False
    assert "secret-path" not in str(failed.value)


def test_tls_is_verified(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    server = WebServer(made.server, made.server_key)
    try:
        with pytest.raises(DeliveryFailed, match="not trusted.*set ca_file"):
            post(sink(server.url), 1)
        assert post(sink(server.url, ca_file=str(made.authority)), 1) == [1]
        wrong_name = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(DeliveryFailed, match="not trusted"):
            post(sink(wrong_name, ca_file=str(made.authority)), 1)
        assert len(until(lambda: server.requests)) == 1
    finally:
        server.stop()


def test_a_secret_is_checked_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://example.org/"
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(InputError, match="no environment variable ABSENT; set it"):
        sink(url, secret_env="ABSENT")
    with pytest.raises(InputError, match="No such file"):
        sink(url, secret_file=str(tmp_path / "absent"))
    secret = tmp_path / "secret"
    secret.write_text("hush")
    secret.chmod(0o644)
    with pytest.raises(InputError, match="every user may read.*chmod o= ") as refused:
        sink(url, secret_file=str(secret))
    assert "hush" not in str(refused.value)
    secret.write_text("\n")
    secret.chmod(0o600)
    with pytest.raises(InputError, match="is empty"):
        sink(url, secret_file=str(secret))
    with pytest.raises(InputError, match="ca_file|No such file"):
        sink(url, ca_file=str(tmp_path / "absent.pem"))
