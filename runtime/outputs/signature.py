"""The signature of a webhook: HMAC-SHA256 over time-stamp and body, with a key that both sides know."""

from __future__ import annotations

import hashlib
import hmac

TIMESTAMP_HEADER = "X-Edgeasd-Timestamp"
SIGNATURE_HEADER = "X-Edgeasd-Signature"
LATEST_SECONDS = 300.0


def sign(key: bytes, timestamp: str, body: bytes) -> str:
    """`sha256=` and the HMAC-SHA256 (RFC 2104) of `timestamp`, a full stop and `body`, in hexadecimal."""
    return "sha256=" + hmac.new(key, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def verify(
    key: bytes, timestamp: str | None, signature: str | None, body: bytes, now: float, latest: float = LATEST_SECONDS
) -> bool:
    """Whether `signature` was made with `key` no longer than `latest` seconds ago; compares in constant time."""
    if timestamp is None or signature is None or not (timestamp.isascii() and timestamp.isdigit()):
        return False
    if len(timestamp) > 12 or abs(now - int(timestamp)) > latest:
        return False
    return hmac.compare_digest(sign(key, timestamp, body).encode(), signature.encode("utf-8", "replace"))
