"""Whether a sound file is whole: what its container says of its length, held against the bytes that are there.

libsndfile believes a header. A recorder that dies, or one that could not seek back, leaves a header whose length was
never written or is that of an earlier moment; a WAV beyond 4 GiB has a length that has wrapped; a copy may be cut off.
Read by such a header, a part of the sound would be missing without a word.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from typing import BinaryIO

from edgeasd.runtime.errors import InputError

_GIB4 = 1 << 32
_UNWRITTEN = (0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x7FFFFF00, 0x7FFFF000)
"""Lengths that writers leave which cannot seek back: ffmpeg, arecord, arecord of old, sox. 0 is one more."""
_MOST_CHUNKS = 1000  # a bound on hostile chains of empty chunks
_PADDING_BYTES = 4096
"""Zeros behind the sound, up to so many, are padding of the writer and no sound."""
_HEADER_BYTES = 1 << 20
_WIDE = 0xFFFFFFFF
_W64 = {
    "riff": bytes.fromhex("726966662e91cf11a5d628db04c10000"),
    "wave": bytes.fromhex("77617665f3acd3118cd100c04f8edb8a"),
    "fmt ": bytes.fromhex("666d7420f3acd3118cd100c04f8edb8a"),
    "data": bytes.fromhex("64617461f3acd3118cd100c04f8edb8a"),
}
_TRAILERS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"inst", b"iXML", b"_PMX", b"fact", b"PAD ", b"JUNK")
"""Chunks that follow the sound and are known; one of them may be cut off without harm to the sound."""


@dataclass(frozen=True)
class Mended:
    """A file as its header should have been: `header`, then `length` bytes of the file from `start` on."""

    header: bytes
    start: int
    length: int


@dataclass(frozen=True)
class Container:
    """What the header of a file says, and what is there."""

    kind: str
    """WAV, RF64, W64, AIFF, AU, CAF, FLAC, Ogg or MP3; "" for anything else."""
    problem: str = ""
    """Why it cannot be read as it is, and what to do; empty if it can be read."""
    note: str = ""
    """What its reader should know: a length that was never written."""
    mended: Mended | None = None
    """The header that the file should have, where the sound that is there can be told. None for a whole file."""


class MendedFile:
    """A binary file to read, seek and tell, whose bytes are those of a `Mended` over an open file."""

    def __init__(self, handle: BinaryIO, mended: Mended) -> None:
        self._handle, self._mended, self._position = handle, mended, 0
        self._size = len(mended.header) + mended.length

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """As of a file."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; fewer at the end only."""
        header, at = self._mended.header, self._position
        left = max(0, self._size - at)
        size = left if size < 0 else min(size, left)
        part = header[at : at + size]
        if len(part) < size:
            start = self._mended.start + at + len(part) - len(header)
            part += os.pread(self._handle.fileno(), size - len(part), start)
        self._position += len(part)
        return part


def inspect(handle: BinaryIO, place: object) -> Container:
    """Look at the container of an open file; `place` names it in what is said.

    Raises InputError for a container of another kind that is known by its first bytes and not read here.
    """
    head = _at(handle, 0, 40)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wav(handle, str(place), head)
    if head[:16] == _W64["riff"]:
        return _w64(handle, str(place))
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(handle, str(place), head)
    if head[:4] == b".snd":
        return _au(handle, str(place), head)
    if head[:4] == b"caff":
        return _caf(handle, str(place))
    if head[:4] == b"OggS":
        return _ogg(handle, str(place), head)
    if head[:4] == b"fLaC" or (head[:3] == b"ID3" and _at(handle, _id3_bytes(head), 4) == b"fLaC"):
        return _flac(handle, str(place), 0 if head[:4] == b"fLaC" else _id3_bytes(head))
    if is_mp3(head) or head[:3] == b"ID3":
        return _mp3(handle, str(place), head)
    if foreign := sniff(head):
        raise InputError(
            f"{place}: is {foreign}, which is not read here; convert it with `edgeasd data import`, which uses ffmpeg"
        )
    return Container("")


def sniff(head: bytes) -> str:
    """What the first bytes of a file or a stream are, with its article; "" for raw samples or what is not known.

    MP3 without a tag is known by two frames in a row: raw samples may look like one.
    """
    for start, at, form, name in (
        (b"RIFF", 8, b"WAVE", "a WAV file"),
        (b"RIFX", 8, b"WAVE", "a WAV file"),
        (b"RF64", 8, b"WAVE", "an RF64 file"),
        (b"BW64", 8, b"WAVE", "a BW64 file"),
        (b"RIFF", 8, b"AVI ", "an AVI video"),
        (_W64["riff"], 0, b"", "a W64 file"),
        (b"FORM", 8, b"AIF", "an AIFF file"),
        (b".snd", 0, b"", "an AU file"),
        (b"caff", 0, b"", "a CAF file"),
        (b"fLaC", 0, b"", "a FLAC file"),
        (b"OggS", 0, b"", "an Ogg file"),
        (b"ID3", 0, b"", "an MP3 file"),
        (b"", 4, b"ftyp", "an MP4 or M4A file"),
        (b"\x1a\x45\xdf\xa3", 0, b"", "a Matroska or WebM file"),
        (b"#!AMR", 0, b"", "an AMR file"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0, b"", "a WMA or ASF file"),
        (b"MAC ", 0, b"", "a Monkey's Audio file"),
        (b"wvpk", 0, b"", "a WavPack file"),
        (b"PK\x03\x04", 0, b"", "a zip archive"),
        (b"\x1f\x8b\x08", 0, b"", "gzip data"),
        (b"<!DOCTYPE", 0, b"", "an HTML page"),
        (b"<html", 0, b"", "an HTML page"),
    ):
        if head.startswith(start) and head[at : at + len(form)] == form:
            return name
    return "an MP3 file" if is_mp3(head) and is_mp3(head[_mp3_frame_bytes(head) :][:4]) else ""


def is_mp3(head: bytes) -> bool:
    """Whether `head`, 4 bytes or more, is the header of an MPEG audio frame of layer 1 to 3."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 2 & 3
    return version != 1 and layer != 0 and rate != 3 and head[2] >> 4 not in (0, 15) and head[3] & 3 != 2


def _mp3_frame_bytes(head: bytes) -> int:
    """Bytes of the MPEG audio frame of layer 3 with this header; 4 for the other layers, which are rare."""
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer != 1:
        return 4
    rates = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    low_rates = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    bits = 1000 * (rates if version == 3 else low_rates)[(head[2] >> 4) - 1]
    sample_rate = (44100, 48000, 32000)[head[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}[version]
    return (144 if version == 3 else 72) * bits // sample_rate + (head[2] >> 1 & 1)


# Containers of chunks


def _wav(handle: BinaryIO, place: str, head: bytes) -> Container:
    order = ">" if head[:4] == b"RIFX" else "<"
    size, position, wide_size, fmt = _size(handle), 12, None, b""
    for _ in range(_MOST_CHUNKS):
        chunk = _at(handle, position, 8)
        if len(chunk) < 8:
            break
        name, length = chunk[:4], struct.unpack(f"{order}I", chunk[4:])[0]
        if name == b"ds64":
            wide_size = struct.unpack(f"{order}8xQ", _at(handle, position + 8, 16).ljust(16, b"\0"))[0]
        elif name == b"fmt ":
            fmt = _at(handle, position + 8, min(length, 4096))
            _check_wav_format(fmt, order, place)
        elif name == b"data":
            kind = "WAV" if head[:4] in (b"RIFF", b"RIFX") else "RF64"
            claimed = wide_size if length == _WIDE and wide_size is not None else length
            mended = _wav_mended(order, fmt, position + 8, size)
            block = struct.unpack(f"{order}12xH", fmt[:14])[0] if len(fmt) >= 14 else 1
            found = _judge(_Chunk(kind, position + 8, claimed, size, max(1, block)), handle, place, mended)
            if head[:4] == b"BW64" and not found.problem and found.mended is None:
                length = min(claimed, size - position - 8)
                found = replace(found, mended=_wav_mended(order, fmt, position + 8, position + 8 + length))
            return found
        position += 8 + length + length % 2
    return Container("WAV")  # libsndfile says what is wrong with it


def _check_wav_format(fmt: bytes, order: str, place: str) -> None:
    """A block that is not what channels and bits make would be read as other samples than were written."""
    if len(fmt) < 16:
        return
    tag, channels, _, _, block, bits = struct.unpack(f"{order}HHIIHH", fmt[:16])
    if tag == 0xFFFE and len(fmt) >= 26:
        tag = struct.unpack(f"{order}H", fmt[24:26])[0]
    if tag not in (1, 3) or not 1 <= channels <= 1024 or not bits:
        return
    if block % channels or not (bits + 7) // 8 <= block // channels <= 8:
        raise InputError(
            f"{place}: its header says {channels} channels of {bits} bits in blocks of {block} bytes, which do not go "
            "together; record it again, or correct its header"
        )


def _wav_mended(order: str, fmt: bytes, start: int, end: int) -> Mended | None:
    """As RF64, which has room for any length; as RIFX if the samples are big-endian."""
    if len(fmt) < 16:
        return None
    length = max(0, end - start)
    chunk = struct.pack(f"{order}4sI", b"fmt ", len(fmt)) + fmt + bytes(len(fmt) % 2)
    block = max(1, struct.unpack(f"{order}12xH", fmt[:14])[0])
    length -= length % block
    if length < _GIB4 - 4096:
        name = b"RIFX" if order == ">" else b"RIFF"
        riff = struct.pack(f"{order}4sI4s", name, 4 + len(chunk) + 8 + length + length % 2, b"WAVE")
        return Mended(riff + chunk + struct.pack(f"{order}4sI", b"data", length), start, length)
    if order == ">":
        return None
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 4 + 36 + len(chunk) + 8 + length, length, length // block, 0)
    header = struct.pack("<4sI4s", b"RF64", _WIDE, b"WAVE") + sizes + chunk + struct.pack("<4sI", b"data", _WIDE)
    return Mended(header, start, length)


def _w64(handle: BinaryIO, place: str) -> Container:
    size, position, fmt = _size(handle), 40, b""
    for _ in range(_MOST_CHUNKS):
        chunk = _at(handle, position, 24)
        if len(chunk) < 24:
            break
        length = struct.unpack("<Q", chunk[16:])[0]
        if chunk[:16] == _W64["fmt "]:
            fmt = _at(handle, position + 24, min(max(0, length - 24), 4096))
            _check_wav_format(fmt, "<", place)
        elif chunk[:16] == _W64["data"]:
            claimed = length - 24 if 24 <= length < 1 << 62 else 0
            start = position + 24
            return _judge(_Chunk("W64", start, claimed, size, 8), handle, place, _wav_mended("<", fmt, start, size))
        position += max(24, length + -length % 8)
    return Container("W64")


def _aiff(handle: BinaryIO, place: str, head: bytes) -> Container:
    size, position, common, frame_bytes = _size(handle), 12, 0, 0
    for _ in range(_MOST_CHUNKS):
        chunk = _at(handle, position, 8)
        if len(chunk) < 8:
            break
        name, length = chunk[:4], struct.unpack(">I", chunk[4:])[0]
        if name == b"COMM":
            common, content = position + 8, _at(handle, position + 8, 22)
            if len(content) >= 8 and (head[8:12] == b"AIFF" or content[18:22] in (b"NONE", b"sowt", b"twos")):
                channels, bits = struct.unpack(">H4xH", content[:8])
                frame_bytes = channels * ((bits + 7) // 8)
        elif name == b"SSND":
            start = position + 16
            mended = None
            if common and frame_bytes and start < _HEADER_BYTES and size - start < _GIB4 - 4096:
                frames = max(0, size - start) // frame_bytes
                header = bytearray(_at(handle, 0, start))
                struct.pack_into(">I", header, 4, start - 8 + frames * frame_bytes)
                struct.pack_into(">I", header, common + 2, frames)
                struct.pack_into(">I", header, position + 4, 8 + frames * frame_bytes)
                mended = Mended(bytes(header), start, frames * frame_bytes)
            claimed = 0 if length < 8 else length - 8
            found = _judge(_Chunk("AIFF", start, claimed, size, max(1, frame_bytes)), handle, place, mended)
            if common and frame_bytes and found.mended is None and not found.problem:
                return _check_aiff_frames(handle, place, common, claimed // frame_bytes, mended)
            return found
        position += 8 + length + length % 2
    return Container("AIFF")


def _check_aiff_frames(handle: BinaryIO, place: str, common: int, frames: int, mended: Mended | None) -> Container:
    """AIFF states its length twice; libsndfile believes the number of frames."""
    said = struct.unpack(">I", _at(handle, common + 2, 4))[0]
    if said == frames:
        return Container("AIFF")
    return Container("AIFF", _contradiction(place, said, frames, "frames"), mended=mended)


def _au(handle: BinaryIO, place: str, head: bytes) -> Container:
    size = _size(handle)
    start, claimed = struct.unpack(">II", head[4:12].ljust(8, b"\0"))
    if not 24 <= start <= size or start > _HEADER_BYTES:
        return Container("AU")
    mended = None
    if size - start < _GIB4 - 4096:
        header = bytearray(_at(handle, 0, start))
        struct.pack_into(">I", header, 8, size - start)
        mended = Mended(bytes(header), start, size - start)
    return _judge(_Chunk("AU", start, claimed, size, 8, has_chunks=False), handle, place, mended)


def _caf(handle: BinaryIO, place: str) -> Container:
    size, position = _size(handle), 8
    for _ in range(_MOST_CHUNKS):
        chunk = _at(handle, position, 12)
        if len(chunk) < 12:
            break
        length = struct.unpack(">q", chunk[4:])[0]
        if chunk[:4] == b"data":
            start = position + 16
            mended = None
            if start < _HEADER_BYTES:
                header = bytearray(_at(handle, 0, start))
                struct.pack_into(">q", header, position + 4, size - start + 4)
                mended = Mended(bytes(header), start, size - start)
            claimed = _WIDE if length < 0 else max(0, length - 4)
            return _judge(_Chunk("CAF", start, claimed, size, 8, long_sizes=True), handle, place, mended)
        position += 12 + max(0, length)
    return Container("CAF")


@dataclass(frozen=True)
class _Chunk:
    """The sound of a container: its first byte, the length that the header claims, the size of the file."""

    kind: str
    start: int
    claimed: int
    size: int
    block: int
    has_chunks: bool = True
    """Whether other chunks may follow the sound."""
    long_sizes: bool = False
    """Chunks have lengths of 8 bytes, big-endian."""

    @property
    def available(self) -> int:
        return max(0, self.size - self.start)

    @property
    def is_unwritten(self) -> bool:
        """Whether the length is one that a writer leaves who never came back to it."""
        less_header = (unwritten - header for unwritten in _UNWRITTEN for header in (0, 36, 44, 8))
        return self.claimed == 0 or any(0 <= length - self.claimed < self.block for length in less_header)


def _judge(chunk: _Chunk, handle: BinaryIO, place: str, mended: Mended | None) -> Container:
    """Compare what the header claims with what is there. `mended` has the sound up to the end of the file."""
    claimed, available = chunk.claimed, chunk.available
    if available == claimed or (claimed < available and _is_trailer(chunk, handle, chunk.start + claimed)):
        return Container(chunk.kind)
    if chunk.is_unwritten and mended is not None:
        if mended.length == 0:
            return Container(chunk.kind)
        return Container(chunk.kind, note="its length was never written, it is read to its end", mended=mended)
    if claimed > available:
        return Container(
            chunk.kind,
            f"{place}: cut off, its header claims {claimed} bytes of sound and {available} are there; copy or record "
            f"it again, or keep what is there with `edgeasd data repair {place}`",
            mended=mended,
        )
    for wraps in range(1, 1 + (available - claimed) // _GIB4):
        end = claimed + wraps * _GIB4
        if mended is not None and (end == available or _is_trailer(chunk, handle, chunk.start + end)):
            whole = replace(mended, length=end)
            fixed = _wav_lengthened(whole)
            return Container(chunk.kind, note="it is longer than its 32-bit length can say", mended=fixed)
    return Container(chunk.kind, _contradiction(place, claimed, available, "bytes of sound"), mended=mended)


def _wav_lengthened(mended: Mended) -> Mended:
    """An RF64 header for another length; `mended` is one already, as its sound is longer than 4 GiB."""
    header = bytearray(mended.header)
    block = max(1, struct.unpack_from("<H", header, header.index(b"fmt ") + 20)[0])
    length = mended.length - mended.length % block
    struct.pack_into("<QQQ", header, 20, len(header) - 8 + length, length, length // block)
    return Mended(bytes(header), mended.start, length)


def _contradiction(place: str, claimed: int, available: int, unit: str) -> str:
    return (
        f"{place}: its header claims {claimed} {unit} and {available} are there, so a part would be missing; "
        f"if all of it is sound, take it with `edgeasd data repair {place}`"
    )


def _is_trailer(chunk: _Chunk, handle: BinaryIO, position: int) -> bool:
    """Whether what lies from `position` to the end of the file is no sound: chunks, a tag, or a little padding."""
    left = chunk.size - position
    if left < chunk.block or left <= 1:
        return True
    if left <= _PADDING_BYTES and not any(_at(handle, position, left)):
        return True
    tag = _at(handle, position, 8)
    if (tag[:3] == b"TAG" and left == 128) or tag == b"APETAGEX":
        return True
    return chunk.has_chunks and any(
        _is_chain(chunk, handle, start) for start in (position, position + position % 2, position + -position % 8)
    )


def _is_chain(chunk: _Chunk, handle: BinaryIO, position: int) -> bool:
    """Whether chunks, none of them sound, fill the rest of the file."""
    width = 24 if chunk.kind == "W64" else 12 if chunk.long_sizes else 8
    for _ in range(_MOST_CHUNKS):
        left = chunk.size - position
        if left < width:
            return left < chunk.block or not any(_at(handle, position, left))
        head = _at(handle, position, width)
        name = head[:4]
        if name in (b"data", b"RIFF", b"RIFX", b"RF64", b"SSND", b"FORM", b"wavl") or not _is_name(name):
            return left <= _PADDING_BYTES and not any(_at(handle, position, left))
        if chunk.kind == "W64":
            length = struct.unpack("<Q", head[16:])[0]
            step = length + -length % 8
            if length < 24:
                return False
        elif chunk.long_sizes:
            step = 12 + struct.unpack(">Q", head[4:])[0]
        else:
            length = struct.unpack(">I" if chunk.kind == "AIFF" else "<I", head[4:])[0]
            step = 8 + length + length % 2
        if step > left + 1:
            return name in _TRAILERS
        position += step
    return False


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= code < 0x7F for code in name)


# Streams of frames or pages


def _flac(handle: BinaryIO, place: str, start: int) -> Container:
    info = _at(handle, start + 8, 18)  # STREAMINFO: block sizes, frame sizes, rate and length
    if len(info) < 18 or _at(handle, start + 4, 1)[0] & 0x7F:
        return Container("FLAC")
    claimed = struct.unpack(">Q", info[10:18])[0] & (1 << 36) - 1
    last = _last_flac_frame(handle, info, checks=claimed == 0)
    if last is None:
        return Container("FLAC")
    if claimed == 0:
        note = "its length was never written, it is read to its end"
        return Container("FLAC", note=note, mended=_flac_mended(handle, start, last))
    if last.end == claimed:
        return Container("FLAC")
    if last.first >= claimed:
        problem = _contradiction(place, claimed, last.end, "samples")
    elif last.end < claimed:
        problem = (
            f"{place}: cut off, its header claims {claimed} samples and {last.end} or less are there; copy or record "
            f"it again, or keep what is there with `edgeasd data repair {place}`"
        )
    else:
        return Container("FLAC")
    return Container("FLAC", problem, mended=_flac_mended(handle, start, _last_flac_frame(handle, info, checks=True)))


def _flac_mended(handle: BinaryIO, start: int, last: _FlacFrame | None) -> Mended | None:
    """The stream up to its last whole frame, without a checksum of all samples."""
    if last is None:
        return None
    header = bytearray(_at(handle, 0, start + 42))
    above = struct.unpack_from(">Q", header, start + 18)[0] >> 36 << 36
    struct.pack_into(">Q", header, start + 18, above | (last.end if last.is_whole else last.first))
    header[start + 26 : start + 42] = bytes(16)
    return Mended(bytes(header), start + 42, (last.stop if last.is_whole else last.at) - start - 42)


@dataclass(frozen=True)
class _FlacFrame:
    """The last frame of a FLAC stream."""

    at: int
    """Its first byte in the file."""
    stop: int
    """The byte behind the file, or behind the frame where a tag follows."""
    first: int
    """Its first sample."""
    end: int
    """The sample behind it."""
    is_whole: bool
    """Whether its checksum holds."""


def _last_flac_frame(handle: BinaryIO, info: bytes, *, checks: bool) -> _FlacFrame | None:
    """The last frame, found from behind by its header: 14 fixed bits, its first sample or its number, and a CRC."""
    size = _size(handle)
    least, most = struct.unpack(">HH", info[:4])
    largest = int.from_bytes(info[7:10], "big") or 1 << 17
    begin = max(42, size - 2 * largest - 256)
    tail = _at(handle, begin, size - begin)
    stop = len(tail) - 128 if tail[-128:-125] == b"TAG" else len(tail)
    at = tail.rfind(b"\xff", 0, stop)
    while at >= 0:
        if (found := _flac_frame_samples(tail[at : at + 16], most if least == most else 0)) is not None:
            first, count = found
            return _FlacFrame(begin + at, begin + stop, first, first + count, not checks or _crc16(tail[at:stop]) == 0)
        at = tail.rfind(b"\xff", 0, at)
    return None


def _flac_frame_samples(head: bytes, block: int) -> tuple[int, int] | None:
    """The first sample and the number of samples of the frame with this header; None if it is no header.

    `block` is the number of samples of every frame but the last, 0 if they differ.
    """
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] & 1:
        return None
    first = head[4]
    extra = 0 if first < 0x80 else 8 - (first ^ 0xFF).bit_length() - 1
    if first >= 0x80 and not 1 <= extra <= 6:
        return None
    number = first if first < 0x80 else first & (0x3F >> extra)
    for code in head[5 : 5 + extra]:
        if code & 0xC0 != 0x80:
            return None
        number = number << 6 | code & 0x3F
    at, size_code = 5 + extra, head[2] >> 4
    length = at + {6: 1, 7: 2}.get(size_code, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if len(head) <= length or _crc8(head[:length]) != head[length]:
        return None
    if size_code in (6, 7):
        count = int.from_bytes(head[at : at + size_code - 5], "big") + 1
    elif size_code == 1:
        count = 192
    else:
        count = 576 << size_code - 2 if size_code < 6 else 256 << size_code - 8
    has_sample = bool(head[1] & 1)
    if not has_sample and not block:
        return None
    return (number if has_sample else number * block), count


def _crc16(data: bytes) -> int:
    """Of polynomial 0x8005; 0 over a frame with its checksum."""
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x8005) & 0xFFFF if value & 0x8000 else value << 1
    return value


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07) & 0xFF if value & 0x80 else value << 1
    return value


def _ogg(handle: BinaryIO, place: str, head: bytes) -> Container:
    """The last page of an Ogg stream says that it is the last, and a second stream begins with a page of its own."""
    size = _size(handle)
    begin = max(0, size - (1 << 17))
    tail = _at(handle, begin, size - begin)
    at = tail.rfind(b"OggS")
    while at >= 0:
        page = tail[at : at + 27 + 255]
        if len(page) >= 27 and page[4] == 0 and len(page) >= 27 + page[26]:
            end = at + 27 + page[26] + sum(page[27 : 27 + page[26]])
            is_whole = end <= len(tail)
            if is_whole and page[14:18] != head[14:18]:
                return Container(
                    "Ogg",
                    f"{place}: holds several Ogg streams one after the other, and only the first would be read; "
                    "convert it with `edgeasd data import`",
                )
            if is_whole and page[5] & 4:
                return Container("Ogg")
            break
        at = tail.rfind(b"OggS", 0, at)
    return Container(
        "Ogg",
        f"{place}: cut off, its last page is not marked as the end; copy or record it again, or keep what is there "
        f"with `edgeasd data repair {place}`",
    )


def _mp3(handle: BinaryIO, place: str, head: bytes) -> Container:
    """The first frame of most MP3 files holds the number of bytes of all; a file without it cannot be told."""
    start = _id3_bytes(head) if head[:3] == b"ID3" else 0
    frame = _at(handle, start, 256)
    if not is_mp3(frame):
        return Container("MP3")
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or not frame[at + 7] & 2 or not frame[at + 7] & 1:
        return Container("MP3")
    claimed, available = struct.unpack(">8xII", frame[at : at + 16])[1], _size(handle) - start
    if claimed > available + 4:
        return Container(
            "MP3",
            f"{place}: cut off, its header claims {claimed} bytes of sound and {available} are there; copy or record "
            f"it again, or keep what is there with `edgeasd data repair {place}`",
        )
    rest = _at(handle, start + claimed, 4)
    if available - claimed > _PADDING_BYTES and is_mp3(rest):
        return Container("MP3", _contradiction(place, claimed, available, "bytes of sound"))
    return Container("MP3")


def _id3_bytes(head: bytes) -> int:
    """Size of the ID3v2 tag that a file begins with."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    size = 0
    for code in head[6:10]:
        size = size << 7 | code & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _at(handle: BinaryIO, position: int, count: int) -> bytes:
    return os.pread(handle.fileno(), count, position)


def _size(handle: BinaryIO) -> int:
    return os.fstat(handle.fileno()).st_size
