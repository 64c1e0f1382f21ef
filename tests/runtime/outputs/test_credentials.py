"""Each reason to refuse a receiver's certificate has the remedy that cures it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from edgeasd.runtime.outputs.credentials import certificate_problem, tls_context
from tests.runtime.outputs.certificates import free_server

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="NO OPENSSL: no certificates can be made")

_CONFIG = """
[ca]
default_ca = here
[here]
database = index
new_certs_dir = .
serial = serial
default_md = sha256
policy = any
x509_extensions = names
[any]
commonName = supplied
[names]
subjectAltName = IP:127.0.0.1
"""


def made_certificate(folder: Path, name: str, begin: str, end: str) -> Path:
    """A certificate with its key for 127.0.0.1, signed by ca.pem of `folder`, valid from begin to end (UTC)."""

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    if not (folder / "ca.pem").exists():
        openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
        (folder / "index").touch()
        (folder / "index.attr").write_text("unique_subject = no\n")
        (folder / "serial").write_text("01\n")
        (folder / "config").write_text(_CONFIG)
    openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    dates = ("-startdate", begin, "-enddate", end)
    signer = ("-cert", "ca.pem", "-keyfile", "ca.key", "-config", "config")
    openssl("ca", "-batch", *signer, *dates, "-in", f"{name}.csr", "-out", f"{name}.crt")
    both = folder / f"{name}.pem"
    both.write_text((folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text())
    return both


def refused(certificate: Path, authority: Path | None, host: str = "127.0.0.1") -> str:
    """What is said of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with free_server() as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with socket.create_connection(server.getsockname(), timeout=10) as plain:
            ca_file = None if authority is None else str(authority)
            with pytest.raises(ssl.SSLCertVerificationError) as failed:
                tls_context(ca_file, None, None).wrap_socket(plain, server_hostname=host)
        thread.join(10)
        return certificate_problem(failed.value, ca_file)


def test_each_refusal_has_its_remedy(tmp_path: Path) -> None:
    valid = ("20200101000000Z", "20990101000000Z")
    good = made_certificate(tmp_path, "good", *valid)
    authority = tmp_path / "ca.pem"
    early = refused(made_certificate(tmp_path, "early", "20980101000000Z", valid[1]), authority)
    assert "not valid yet, and the clock of this device says 20" in early
    assert "set the clock, or wait" in early
    late = refused(made_certificate(tmp_path, "late", valid[0], "20200201000000Z"), authority)
    assert "has expired" in late
    assert "renew it at the receiver" in late
    other = refused(good, authority, "localhost")
    assert "for another name" in other
    assert "localhost" in other
    assert "into the URL" in other
    unset = refused(good, None)
    assert "not trusted" in unset
    assert unset.endswith("; set ca_file")
    (tmp_path / "other").mkdir()
    made_certificate(tmp_path / "other", "x", *valid)
    foreign = refused(good, tmp_path / "other/ca.pem")
    assert "not trusted" in foreign
    assert f"not signed by {tmp_path / 'other/ca.pem'}" in foreign
    assert not any("set ca_file" in text for text in (early, late, other, foreign))
