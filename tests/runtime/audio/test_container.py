"""Lengths in headers that lie: what the file really holds is read, or it is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.audio.container import sniff
from edgeasd.runtime.audio.reader import AudioReader, read_audio
from edgeasd.runtime.errors import InputError

pytestmark = pytest.mark.core

SOUND = np.random.default_rng(1).integers(-3000, 3000, 40_000).astype(np.int16)
FMT = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)


def wav(claimed: int, *, riff: int = 0, sound: bytes = SOUND.tobytes(), behind: bytes = b"", fmt: bytes = FMT) -> bytes:
    """A WAV file whose data chunk claims `claimed` bytes."""
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + fmt + struct.pack("<4sI", b"data", claimed) + sound + behind


def refusal(path: Path) -> str:
    """Why `path` is refused."""
    with pytest.raises(InputError) as caught:
        read_audio(path, mix=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("riff", "claimed"),
    [
        *((0x80000024, 0x80000000), (0x7FFFF024, 0x7FFFF000), (0, 0), (36, 0), (4088, 0)),
        *((_WIDE := 0xFFFFFFFF, _WIDE), (_WIDE, _WIDE - 36), (_WIDE, _WIDE - 1), (0x7FFFFF24, 0x7FFFFF00)),
    ],
)
def test_length_that_was_never_written(tmp_path: Path, riff: int, claimed: int) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav(claimed, riff=riff))
    np.testing.assert_array_equal(read_audio(path) * 32768, SOUND)
    reader = AudioReader(path, sample_rate=16000, channel=None, mix=False, resample=False)
    assert reader.notes == ("its length was never written, it is read to its end (2.5 s)",)
    reader.close()


def test_odd_byte_at_the_end_of_an_unfinished_file(tmp_path: Path) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav(0, behind=b"\x01"))
    np.testing.assert_array_equal(read_audio(path) * 32768, SOUND)


def test_wav_beyond_4_gib_is_read_whole(tmp_path: Path) -> None:
    real = (1 << 32) + len(SOUND) * 2
    with open(path := tmp_path / "a.wav", "wb") as file:  # sparse
        file.write(wav(real & 0xFFFFFFFF))
        file.seek(44 + real - len(SOUND) * 2)
        file.write(SOUND.tobytes())
    reader = AudioReader(path, sample_rate=16000, channel=None, mix=False, resample=False)
    assert reader.seconds == real / 32000
    assert "longer than its 32-bit length can say" in reader.name
    reader._sound.seek(real // 2 - len(SOUND))
    np.testing.assert_array_equal(reader._sound.read(dtype="int16"), SOUND)
    reader.close()


@pytest.mark.parametrize("claimed", [20_000, 79_000, 2])
def test_stale_length_is_refused_with_its_remedy(tmp_path: Path, claimed: int) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav(claimed))
    assert refusal(path) == (
        f"{path}: its header claims {claimed} bytes of sound and 80000 are there, so a part would be missing; "
        f"if all of it is sound, take it with `edgeasd data repair {path}`"
    )


def test_cut_off_file_names_the_repair(tmp_path: Path) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav(100_000))
    assert "cut off, its header claims 100000 bytes of sound and 80000 are there" in refusal(path)
    assert f"`edgeasd data repair {path}`" in refusal(path)


@pytest.mark.parametrize(
    "behind",
    [
        b"LIST" + struct.pack("<I", 4) + b"INFO",
        b"LIST" + struct.pack("<I", 40) + b"INFO",  # cut off itself
        b"id3 " + struct.pack("<I", 3) + b"abc\0",
        b"TAG" + b"x" * 125,
        bytes(1000),
        b"\0",
    ],
)
def test_what_follows_the_sound_and_is_none(tmp_path: Path, behind: bytes) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav(len(SOUND) * 2, behind=behind))
    np.testing.assert_array_equal(read_audio(path) * 32768, SOUND)


@pytest.mark.parametrize(
    "behind",
    [
        wav(80_000),
        b"data" + struct.pack("<I", 80_000) + SOUND.tobytes(),
        b"LIST" + struct.pack("<I", 4) + b"INFO" + SOUND.tobytes(),
        bytes(100_000),
    ],
)
def test_sound_behind_the_sound_is_never_left_out(tmp_path: Path, behind: bytes) -> None:
    (path := tmp_path / "a.wav").write_bytes(wav(len(SOUND) * 2, behind=behind))
    assert "a part would be missing" in refusal(path)


@pytest.mark.parametrize("block", [0, 1, 3, 5, 1000])
def test_blocks_that_do_not_fit_are_refused(tmp_path: Path, block: int) -> None:
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 16000, 32000, block, 16)
    (path := tmp_path / "a.wav").write_bytes(wav(len(SOUND) * 2, fmt=fmt))
    assert "which do not go together" in refusal(path)


def written(folder: Path, format: str) -> tuple[Path, bytearray]:
    """SOUND in a container, and its bytes."""
    soundfile.write(path := folder / f"a.{format.lower()}", SOUND, 16000, format=format, subtype="PCM_16")
    return path, bytearray(path.read_bytes())


LENGTHS = {"W64": (">", 0), "AIFF": 0, "AU": 0, "CAF": 0}


def patched(content: bytearray, format: str, length: int) -> bytes:
    """The file with another number of bytes of sound in its header."""
    if format == "W64":
        at = content.index(b"data\xf3\xac") + 16
        struct.pack_into("<Q", content, at, length + 24)
    elif format == "RF64":
        at = content.index(b"ds64") + 16
        struct.pack_into("<Q", content, at, length)
    elif format == "AIFF":
        struct.pack_into(">I", content, content.index(b"COMM") + 10, length // 2)
        struct.pack_into(">I", content, content.index(b"SSND") + 4, length + 8)
    elif format == "AU":
        struct.pack_into(">I", content, 8, length)
    elif format == "CAF":
        struct.pack_into(">q", content, content.index(b"data") + 4, length + 4)
    return bytes(content)


@pytest.mark.parametrize("format", ["W64", "RF64", "AIFF", "AU", "CAF"])
def test_other_containers(tmp_path: Path, format: str) -> None:
    path, content = written(tmp_path, format)
    np.testing.assert_array_equal(read_audio(path) * 32768, SOUND)
    path.write_bytes(patched(content, format, 20_000))
    assert "a part would be missing" in refusal(path)
    path.write_bytes(patched(content, format, 200_000))
    assert "cut off" in refusal(path)
    path.write_bytes(patched(content, format, 0))
    np.testing.assert_array_equal(read_audio(path) * 32768, SOUND)


@pytest.mark.parametrize(("format", "unwritten"), [("AU", 0xFFFFFFFF), ("CAF", -5), ("AIFF", 0x7FFFF000)])
def test_lengths_left_open_elsewhere(tmp_path: Path, format: str, unwritten: int) -> None:
    path, content = written(tmp_path, format)
    path.write_bytes(patched(content, format, unwritten))
    np.testing.assert_array_equal(read_audio(path) * 32768, SOUND)


def test_aiff_that_states_two_lengths(tmp_path: Path) -> None:
    path, content = written(tmp_path, "AIFF")
    struct.pack_into(">I", content, content.index(b"COMM") + 10, 1000)
    path.write_bytes(content)
    assert "its header claims 1000 frames and 40000 are there" in refusal(path)


def flac_with_length(content: bytearray, frames: int) -> bytes:
    """The file with another number of samples in its STREAMINFO."""
    content[21] = content[21] & 0xF0 | frames >> 32
    struct.pack_into(">I", content, 22, frames & 0xFFFFFFFF)
    return bytes(content)


def test_flac(tmp_path: Path) -> None:
    path, content = written(tmp_path, "FLAC")
    path.write_bytes(flac_with_length(content, 0))
    np.testing.assert_array_equal(read_audio(path) * 32768, SOUND)
    path.write_bytes(flac_with_length(content, 8192))
    assert "its header claims 8192 samples and 40000 are there" in refusal(path)
    path.write_bytes(flac_with_length(content, 50_000))
    assert "cut off, its header claims 50000 samples and 40000 or less are there" in refusal(path)
    path.write_bytes(content[: len(content) // 2])
    assert "cut off" in refusal(path)


def test_flac_of_a_killed_encoder_ends_with_its_last_frame(tmp_path: Path) -> None:
    path, content = written(tmp_path, "FLAC")
    path.write_bytes(flac_with_length(content, 0)[: len(content) * 2 // 3])
    read = read_audio(path) * 32768
    assert 20_000 < len(read) < 28_000
    np.testing.assert_array_equal(read, SOUND[: len(read)])


def test_two_flac_files_in_one(tmp_path: Path) -> None:
    path, content = written(tmp_path, "FLAC")
    soundfile.write(other := tmp_path / "b.flac", np.tile(SOUND, 2), 16000)
    path.write_bytes(bytes(content) + other.read_bytes())
    assert "a part would be missing" in refusal(path)


def test_ogg(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.ogg", SOUND, 16000)
    content = path.read_bytes()
    assert len(read_audio(path)) == len(SOUND)
    path.write_bytes(content[: len(content) * 2 // 3])
    assert "cut off, its last page is not marked as the end" in refusal(path)
    soundfile.write(other := tmp_path / "b.ogg", SOUND[::-1], 16000)
    path.write_bytes(content + other.read_bytes())
    assert "several Ogg streams" in refusal(path)


def test_mp3_that_states_its_length(tmp_path: Path) -> None:
    if "MP3" not in soundfile.available_formats():
        pytest.skip("NO MP3 in this libsndfile")
    soundfile.write(path := tmp_path / "a.mp3", SOUND, 16000)
    content = path.read_bytes()
    if b"Info" not in content[:300] and b"Xing" not in content[:300]:
        pytest.skip("NO TABLE in this MP3 encoder's files")
    assert len(read_audio(path)) >= len(SOUND)
    path.write_bytes(content[: len(content) * 2 // 3])
    assert "cut off" in refusal(path)
    path.write_bytes(content + content)
    assert "a part would be missing" in refusal(path)


def test_false_names_are_said(tmp_path: Path) -> None:
    soundfile.write(path := tmp_path / "a.wav", SOUND, 16000, format="FLAC")
    reader = AudioReader(path, sample_rate=16000, channel=None, mix=False, resample=False)
    assert reader.notes == ("named .wav, is FLAC",)
    reader.close()


@pytest.mark.parametrize("format", ["VOC", "IRCAM", "NIST", "SVX", "PVF"])
def test_containers_that_cannot_be_checked_are_refused(tmp_path: Path, format: str) -> None:
    soundfile.write(path := tmp_path / "a.x", SOUND, 16000, format=format)
    assert "edgeasd data import" in refusal(path)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "an MP4 or M4A file"),
        (b"\x1aE\xdf\xa3abcdef", "a Matroska or WebM file"),
        (b"ID3\x03\0\0\0\0\0\0", "an MP3 file"),
        (b"\xff\xfb\x90\x64".ljust(417, b"x") + b"\xff\xfb\x90\x64", "an MP3 file"),
        (b"\xff\xfb\x90\x64".ljust(500, b"x"), ""),
        (b"\xff\xff\xff\xff\xff\xff", ""),
        (SOUND[:20].tobytes(), ""),
    ],
)
def test_first_bytes_say_what_it_is(head: bytes, name: str) -> None:
    assert sniff(head) == name


@pytest.mark.parametrize(("scale", "said"), [(1e30, "another scale"), (32768 / 3000 * 1500, "16-bit integers")])
def test_samples_far_beyond_full_scale(tmp_path: Path, scale: float, said: str) -> None:
    samples = (SOUND / 32768).astype(np.float32) * np.float32(scale)
    samples[:1000] = 0
    soundfile.write(path := tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert said in refusal(path)
    assert " at sample 100" in refusal(path)
