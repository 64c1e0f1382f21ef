"""Downloads the weights of a pretrained encoder: resumed where it broke off, checked before it takes its name.

The only place in the project that fetches anything, and only when `edgeasd encoders fetch` asks for it.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import edgeasd
from edgeasd.runtime.errors import CheckFailed, InputError, printable
from edgeasd.runtime.system.files import fsync_directory
from edgeasd.runtime.system.lock import try_lock
from edgeasd.toolkit.encoders.table import PretrainedEncoder
from edgeasd.toolkit.progress import ProgressCallback

_CHUNK = 1 << 16
_LARGEST = 1 << 30
"""Bytes of a file whose size is not known; the largest that is known has a third."""
_SLOW_SECONDS, _SLOW_BYTES = 60.0, 60 * 1024
"""A server that sends less in that time is given up: it would go on for days."""
_AGAIN = "the same command goes on where it stopped"


def fetch(
    encoder: PretrainedEncoder,
    folder: Path,
    report: ProgressCallback,
    *,
    url: str | None = None,
    trust_unknown: bool = False,
    timeout: float = 30.0,
) -> tuple[Path, str]:
    """Download the weights of `encoder` into `folder`; returns the file and its SHA-256. Nothing if it is there already.

    What has arrived lies in FILE.part until its hash is that of the table; only then it takes its name. `url` is
    another address of the same file. A file without a known hash is taken if `trust_unknown`. `timeout` is that of
    a connection that says nothing, in seconds.

    Raises InputError for an address that does not answer or sends something else, CheckFailed for a file with
    another hash, which is deleted.
    """
    if not (encoder.has_known_hash or trust_unknown):
        raise InputError(
            f"{encoder.name}: no hash of {encoder.file} is known here, so a forged one could not be told; pass "
            "--trust-weights to take what the address sends"
        )
    target, part = folder / encoder.file, folder / f"{encoder.file}.part"
    with _locked(folder):
        if target.is_file():
            return target, _check_present(encoder, target, trust_unknown)
        resumed = part.is_file() and part.stat().st_size > 0
        _download(encoder, url or encoder.url, part, report, timeout)
        try:
            sha256 = _check_hash(encoder, part, trust_unknown)
        except CheckFailed:
            part.unlink()
            if not resumed:
                raise
            # What lay there from before may have been of another file; one whole download decides.
            _download(encoder, url or encoder.url, part, report, timeout)
            try:
                sha256 = _check_hash(encoder, part, trust_unknown)
            except CheckFailed:
                part.unlink()
                raise
        os.replace(part, target)
        fsync_directory(folder)
    return target, sha256


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One download into a folder at a time; two would write into one another."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}; name another folder with --to") from None
    try:
        if not try_lock(descriptor):
            raise InputError(f"{folder}: another edgeasd downloads into it; wait, or name another folder with --to")
        yield
    finally:
        os.close(descriptor)


def _hashes(path: Path) -> tuple[int, str, str]:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            sha256.update(block)
            md5.update(block)
            size += len(block)
    return size, sha256.hexdigest(), md5.hexdigest()


def _check_present(encoder: PretrainedEncoder, target: Path, trust_unknown: bool) -> str:
    size, sha256, md5 = _hashes(target)
    if encoder.is_file_of(size, sha256, md5) or (trust_unknown and not encoder.has_known_hash):
        return sha256
    raise InputError(
        f"{target}: is there and is not the published {encoder.file}; delete it or name another folder with --to"
    )


def _check_hash(encoder: PretrainedEncoder, part: Path, trust_unknown: bool) -> str:
    size, sha256, md5 = _hashes(part)
    if encoder.is_file_of(size, sha256, md5) or (trust_unknown and not encoder.has_known_hash):
        return sha256
    kind, found, wanted = ("sha256", sha256, encoder.sha256) if encoder.sha256 else ("md5", md5, encoder.md5)
    if found == wanted:
        kind, found, wanted = "size", str(size), str(encoder.size)
    raise CheckFailed(
        f"{encoder.name}: what arrived has {kind} {found}, the published {encoder.file} has {wanted}; it was deleted: the "
        "address or something on the way sends another file"
    )


def _download(encoder: PretrainedEncoder, url: str, part: Path, report: ProgressCallback, timeout: float) -> None:
    """Append to `part` what it lacks. Raises InputError, and leaves what has arrived, if the connection breaks off."""
    have = part.stat().st_size if part.is_file() else 0
    if encoder.size is not None and have >= encoder.size:
        if have == encoder.size:
            return
        part.unlink()
        have = 0
    try:
        with _open(url, have, timeout) as answer:
            start, total = _extent(answer, have, encoder)
            _check_space(part, total - start if total else 0)
            with open(part, "r+b" if start else "wb") as handle:
                handle.seek(start)
                handle.truncate()
                _copy(answer, handle, start, total, encoder, report)
                handle.flush()
                os.fsync(handle.fileno())
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # more than the server has: another file, or one that has changed
            part.unlink()
            return _download(encoder, url, part, report, timeout)
        raise InputError(
            f"{_shown(url)}: the server answers {error.code} {printable(str(error.reason))}; {_elsewhere()}"
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.filename:
            raise InputError(
                f"{error.filename}: {error.strerror}; make room or name another folder with --to"
            ) from None
        got = part.stat().st_size if part.is_file() else 0
        where = f" after {got} bytes; {_AGAIN}" if got else f"; {_elsewhere()}"
        raise InputError(f"{_shown(url)}: {_reason(error)}{where}") from None


def _open(url: str, have: int, timeout: float) -> Any:
    address = urllib.parse.urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise InputError(f"{_shown(url)}: not a web address; give one that begins with https://")
    headers = {"User-Agent": f"edgeasd/{edgeasd.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    return urllib.request.build_opener(_NoDowngrade).open(request, timeout=timeout)


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise InputError(f"{_shown(req.full_url)}: redirects to {_shown(newurl)}, which is not safe; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _extent(answer: Any, have: int, encoder: PretrainedEncoder) -> tuple[int, int]:
    """(first byte that the answer sends, size of the whole file or 0). A server may ignore the wish for a part."""
    start = 0
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not found or int(found[1]) != have:
            raise InputError(f"{_shown(answer.url)}: sends another part of the file than was asked for; {_elsewhere()}")
        start = have
    length = answer.headers.get("Content-Length", "")
    total = start + int(length) if length.isdecimal() else 0
    expected = encoder.size or 0
    if expected and total and total != expected:
        raise InputError(
            f"{_shown(answer.url)}: sends a file of {total} bytes, the published {encoder.file} has {expected}; {_elsewhere()}"
        )
    return start, expected or total


def _copy(
    answer: Any, handle: IO[bytes], start: int, total: int, encoder: PretrainedEncoder, report: ProgressCallback
) -> None:
    done, limit = start, total or _LARGEST
    marked, mark = time.monotonic(), start
    while block := answer.read1(_CHUNK):
        if done + len(block) > limit:
            handle.truncate(start)
            raise InputError(
                f"{_shown(answer.url)}: sends more than {limit} bytes, the size of {encoder.file}; {_elsewhere()}"
            )
        handle.write(block)
        done += len(block)
        report(done >> 10, (total or done) >> 10, "KiB")
        if (now := time.monotonic()) - marked >= _SLOW_SECONDS:
            if done - mark < _SLOW_BYTES:
                raise ValueError(f"only {done - mark} bytes in {now - marked:.0f} s")
            marked, mark = now, done
    if total and done < total:
        raise ValueError(f"the connection broke off ({total} bytes were promised)")


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise InputError(
            f"{part.parent}: {free >> 20} MiB free, {needed >> 20} MiB needed; make room or name another folder with --to"
        )


def _shown(url: str) -> str:
    return printable(url.partition("?")[0])[:200]


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return printable(str(error) or type(error).__name__)[:200]


def _elsewhere() -> str:
    return "try later, or give another address of the file with --url"
