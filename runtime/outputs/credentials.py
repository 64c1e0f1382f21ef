"""Passwords, keys and certificates: named by the settings, read from files or the environment, never held in them."""

from __future__ import annotations

import os
import ssl
import stat
import time
from pathlib import Path

from edgeasd.runtime.errors import InputError

LARGEST = 4096
"""Bytes of a secret."""


def tls_context(ca_file: str | None, certificate_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """TLS 1.2 or newer. The receiver is always verified; there is no option that turns it off.

    Raises InputError if the certificates cannot be read.
    """
    place = ca_file
    try:
        context = ssl.create_default_context(cafile=place)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate_file and key_file:
            place = certificate_file
            # An empty passphrase: without one, OpenSSL would ask on the terminal of the service.
            context.load_cert_chain(certificate_file, key_file, password="")
    except ssl.SSLError as error:
        raise InputError(f"{place}: {error.reason or error}; give PEM files, the key without passphrase") from None
    except OSError as error:
        named = place if place == ca_file else f"{place} and {key_file}"
        raise InputError(f"{named}: {error.strerror}; give PEM files that this service may read") from None
    return context


_NOT_YET_VALID, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS, _OTHER_MAIL = 9, 10, 62, 64, 63
"""OpenSSL's codes, X509_V_ERR_…"""
_NO_AUTHORITY = (2, 18, 19, 20, 21, 27, 33)
"""Issuer not found, self-signed (alone or in the chain), first certificate not verified, not trusted."""


def certificate_problem(error: ssl.SSLCertVerificationError, ca_file: str | None) -> str:
    """Why the certificate of a receiver is refused, with what cures it; `ca_file` is the authority that is set."""
    code = error.verify_code
    clock = f"the clock of this device says {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
    if code == _NOT_YET_VALID:
        return f"its certificate is not valid yet, and {clock}; set the clock, or wait for the time server"
    if code == _EXPIRED:
        return f"its certificate has expired, and {clock}; renew it at the receiver, or set the clock"
    if code in (_OTHER_NAME, _OTHER_ADDRESS, _OTHER_MAIL):
        text = error.verify_message.rstrip(".")
        return f"its certificate is for another name ({text}); write the name that it has into the URL"
    if code in _NO_AUTHORITY and ca_file is None:
        return f"its certificate is not trusted ({error.verify_message}); set ca_file"
    if code in _NO_AUTHORITY:
        return (
            f"its certificate is not trusted ({error.verify_message}), and not signed by {ca_file}; name the file of "
            "the authority that signed it"
        )
    return f"its certificate is refused ({error.verify_message}); renew it at the receiver"


def read_secret(file: str | None, variable: str | None, name: str) -> bytes | None:
    """The secret in `file` or in the environment variable `variable`, without line ends; None if neither is set.

    `name` names it in errors, which never hold any of it. Raises InputError if it is absent, empty, longer than
    `LARGEST` bytes, or in a file that every user may read.
    """
    if file is not None:
        return _checked(_read_file(Path(file), name), f"{name}: {file}")
    if variable is not None:
        text = os.environ.get(variable)
        if text is None:
            raise InputError(f"{name}: no environment variable {variable}; set it for this service")
        return _checked(os.fsencode(text), f"{name}: environment variable {variable}")
    return None


def _read_file(path: Path, name: str) -> bytes:
    try:
        # Without O_NONBLOCK a named pipe in its place would block the service.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise InputError(f"{name}: {path} is not a plain file; name a file that holds only the secret")
            if mode & stat.S_IROTH:
                # Owner and group may read: a file of root that the group of the service may read is right.
                raise InputError(f"{name}: every user may read {path}; chmod o= {path}")
            return handle.read(LARGEST + 2)
    except OSError as error:
        raise InputError(f"{name}: {path}: {error.strerror}; make it, readable for this service only") from None


def _checked(value: bytes, place: str) -> bytes:
    value = value.rstrip(b"\r\n")
    if not value:
        raise InputError(f"{place} is empty; put the secret there")
    if len(value) > LARGEST:
        raise InputError(f"{place} holds more than {LARGEST} bytes; it is no password or key")
    return value
