"""A webhook: signed, in order, patient, and only to the host that was given."""

from __future__ import annotations

import base64
import hashlib
import hmac
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

pytest.importorskip("httpx", reason="NO httpx: pip install 'edgeasd[serve]'")

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.outputs.base import DeliveryError, MessageRejected, OutputMessage
from edgeasd.runtime.outputs.settings import WebhookSettings
from edgeasd.runtime.outputs.webhook import WebhookOutput, retry_seconds, sign, signing_key

pytestmark = [pytest.mark.timeout(30)]

STORE = "0123456789abcdef"


def output(url: str, **more: Any) -> WebhookOutput:
    return WebhookOutput(WebhookSettings(type="webhook", url=url, **{"timeout_seconds": 5.0, **more}))


def post(to: WebhookOutput, *numbers: int, confirmed: list[int] | None = None) -> list[int]:
    confirmed = [] if confirmed is None else confirmed
    to.deliver([OutputMessage(n, "event", "m", "0", f'{{"seq": {n}}}', STORE) for n in numbers], confirmed.append)
    return confirmed


@pytest.mark.parametrize("token", ["tok\n\n", "tok\r\n\r\n"])
def test_line_ends_behind_a_secret_are_removed(tmp_path: Path, web_server: WebServer, token: str) -> None:
    (tmp_path / "token").write_bytes(token.encode())
    (tmp_path / "token").chmod(0o600)
    post(output(web_server.url, token_file=str(tmp_path / "token")), 1)
    assert until(lambda: web_server.requests)[0]["headers"]["Authorization"] == "Bearer tok"


@pytest.mark.parametrize("token", ["SECRET\nTOKEN", "SECRET TOKEN", "SECRET\x00TOKEN", "SECRETé"])
def test_token_that_no_header_holds_is_refused(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token, "utf-8")
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(InputError, match="webhook token: .* correct it") as refused:
        output("http://127.0.0.1:9/", token_file=str(tmp_path / "token"))
    assert "SECRET" not in str(refused.value)


def verified(secret: str, request: dict[str, Any]) -> bool:
    """As a receiver checks it by the specification of Standard Webhooks, written anew."""
    key = base64.b64decode(secret.removeprefix("whsec_")) if secret.startswith("whsec_") else secret.encode()
    headers = {name.lower(): value for name, value in request["headers"].items()}
    if abs(time.time() - int(headers["webhook-timestamp"])) > 300:
        return False
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{request['body']}".encode()
    wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return any(each == f"v1,{wanted}" for each in headers["webhook-signature"].split(" "))


@pytest.mark.parametrize("secret", ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "very secret"])
def test_post_carries_message_signature_and_token(
    tmp_path: Path, web_server: WebServer, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    (tmp_path / "secret").write_text(f"{secret}\n")
    (tmp_path / "secret").chmod(0o600)
    monkeypatch.setenv("HOOK_TOKEN", "tok")
    to = output(web_server.url, secret_file=str(tmp_path / "secret"), token_env="HOOK_TOKEN")
    assert post(to, 4, 5) == [1, 2]
    first, _ = until(lambda: len(web_server.requests) == 2 and web_server.requests)
    assert first["path"] == "/hook?plant=1"
    assert first["body"] == '{"seq": 4}'
    headers = {name.lower(): value for name, value in first["headers"].items()}
    assert headers["webhook-id"] == f"{STORE}-4"
    assert headers["authorization"] == "Bearer tok"
    assert headers["content-type"] == "application/json"
    assert verified(secret, first)
    assert not verified("another", first)
    assert not verified(secret, {**first, "body": first["body"] + " "})
    # The secret is read again for every batch.
    (tmp_path / "secret").write_text("a new one")
    post(to, 6)
    assert verified("a new one", until(lambda: web_server.requests[2:])[0])


def test_signature_is_that_of_the_specification() -> None:
    """The example of the reference libraries of Standard Webhooks."""
    key = signing_key(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_secret_that_is_not_base64_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "whsec_hush hush")
    with pytest.raises(InputError, match="webhook secret: is not base64 behind whsec_; correct it") as refused:
        output("http://127.0.0.1:9/", secret_env="HOOK_SECRET")
    assert "hush hush" not in str(refused.value)


@pytest.mark.parametrize("status", [500, 503, 401, 404, 429])
def test_other_answers_are_tried_again(web_server: WebServer, status: int) -> None:
    to = output(web_server.url)
    web_server.answer(200, status)
    confirmed: list[int] = []
    with pytest.raises(DeliveryError, match=f"answered {status}") as failed:
        post(to, 1, 2, 3, confirmed=confirmed)
    assert not isinstance(failed.value, MessageRejected)
    assert confirmed == [1]
    assert post(to, 2, 3) == [1, 2]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_answer_about_the_message_is_a_rejection(web_server: WebServer, status: int) -> None:
    web_server.answer(status)
    with pytest.raises(MessageRejected, match=f"answered {status}"):
        post(output(web_server.url), 1)


def test_redirect_is_not_followed(web_server: WebServer) -> None:
    other = WebServer()
    try:
        web_server.answer((302, {"Location": other.url}), (307, {"Location": other.url}))
        for _ in range(2):
            with pytest.raises(DeliveryError, match="a redirect; set url to where it leads"):
                post(output(web_server.url), 1)
        assert other.requests == []
    finally:
        other.stop()


def test_retry_after_is_read(web_server: WebServer) -> None:
    web_server.answer((503, {"Retry-After": "17"}))
    with pytest.raises(DeliveryError) as failed:
        post(output(web_server.url), 1)
    assert failed.value.retry_after == 17.0


def test_retry_after_may_be_a_date() -> None:
    assert retry_seconds(formatdate(1e9 + 60, usegmt=True), 1e9) == 60.0
    assert retry_seconds(formatdate(1e9 - 60, usegmt=True), 1e9) == 0.0


@given(value=st.text(max_size=70) | st.none())
def test_any_retry_after_is_a_number_or_none(value: str | None) -> None:
    seconds = retry_seconds(value, 1e9)
    assert seconds is None or seconds >= 0.0


@pytest.mark.parametrize("behaviour", ["silent", "dripping", "closing", "nonsense", "endless"])
def test_server_that_misbehaves_fails_in_time(behaviour: str) -> None:
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
    with pytest.raises(DeliveryError):
        post(output(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout_seconds=0.5), 1)
    assert time.monotonic() - begun < 3.0
    over.set()
    listening.close()


def test_server_that_is_away_is_named_without_its_path(web_server: WebServer) -> None:
    to = output(f"http://127.0.0.1:{free_port()}/secret-path")
    with pytest.raises(DeliveryError, match="Connection refused") as failed:
        post(to, 1)
    assert to.connected is False
    assert "secret-path" not in str(failed.value)


def test_tls_is_verified(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    server = WebServer(made.server, made.server_key)
    try:
        with pytest.raises(DeliveryError, match="not trusted.*set ca_file"):
            post(output(server.url), 1)
        assert post(output(server.url, ca_file=str(made.authority)), 1) == [1]
        wrong_name = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(DeliveryError, match="for another name"):
            post(output(wrong_name, ca_file=str(made.authority)), 1)
        assert len(until(lambda: server.requests)) == 1
    finally:
        server.stop()


def test_secret_is_checked_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://example.org/"
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(InputError, match="no environment variable ABSENT; set it"):
        output(url, secret_env="ABSENT")
    with pytest.raises(InputError, match="No such file"):
        output(url, secret_file=str(tmp_path / "absent"))
    secret = tmp_path / "secret"
    secret.write_text("hush")
    secret.chmod(0o644)
    with pytest.raises(InputError, match="every user may read.*chmod o= ") as refused:
        output(url, secret_file=str(secret))
    assert "hush" not in str(refused.value)
    secret.write_text("\n")
    secret.chmod(0o600)
    with pytest.raises(InputError, match="is empty"):
        output(url, secret_file=str(secret))
    with pytest.raises(InputError, match="ca_file|No such file"):
        output(url, ca_file=str(tmp_path / "absent.pem"))
