"""A bundle: nothing is believed before its hash fits, in a folder and in a zip alike."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgeasd.runtime.bundle.bundle as bundle_module
from edgeasd.runtime.bundle.bundle import Bundle, hash_file
from edgeasd.runtime.bundle.manifest import LARGEST_MANIFEST
from edgeasd.runtime.errors import BundleError, EdgeasdError, InputError
from edgeasd.runtime.scoring.stream import Stream

pytestmark = pytest.mark.core

FILES = ["encoder.fp32.onnx", "head.onnx", "golden.npz", "calibration.json"]


def refusal(act: Callable[[], object], kind: type[EdgeasdError] = BundleError) -> str:
    with pytest.raises(kind) as error:
        act()
    text = str(error.value)
    assert "\n" not in text
    return text


def zip_of(folder: Path, target: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    return target


@pytest.fixture
def zipped(small_bundle: Path, tmp_path: Path) -> Path:
    return zip_of(small_bundle, tmp_path / "valve.zip")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go during the test, so that it can see what is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_hash_file_is_sha256_across_chunks(tmp_path: Path) -> None:
    data = os.urandom((1 << 20) + 12_345)
    (tmp_path / "x").write_bytes(data)
    assert hash_file(tmp_path / "x") == hashlib.sha256(data).hexdigest()


# A good bundle


def test_a_good_bundle_passes_and_says_what_it_checks(small_bundle: Path) -> None:
    seen: list[str] = []
    with Bundle(small_bundle) as bundle:
        bundle.verify_files(seen.append)
        assert sorted(seen) == sorted(FILES)
        assert bundle.manifest.machine.type == "valve"
        assert bundle.file("head.onnx") == small_bundle / "head.onnx"


def test_files_outside_the_hashed_set_do_not_matter(bundle_copy: Path) -> None:
    (bundle_copy / "engines").mkdir()
    (bundle_copy / "engines" / "x.engine").write_bytes(b"built here")
    with Bundle(bundle_copy) as bundle:
        bundle.verify_files()
        assert "not listed" in refusal(lambda: bundle.file("engines"))
        assert "not listed" in refusal(lambda: bundle.file("../valve-id_00/head.onnx"))


def test_a_file_is_hashed_once(bundle_copy: Path) -> None:
    with Bundle(bundle_copy) as bundle:
        first = bundle.file("golden.npz")
        first.write_bytes(b"")
        assert bundle.file("golden.npz") == first


def test_an_unknown_precision_lists_what_there_is(small_bundle: Path) -> None:
    with Bundle(small_bundle) as bundle:
        text = refusal(lambda: bundle.open_scorer(precision="int8"), InputError)
    assert text == "--precision int8: valve-id_00 offers fp32; choose one of them"


# A damaged folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [0, 0.5, 1], ids=["first byte", "middle byte", "last byte"])
def test_a_changed_byte_is_found_in_every_file(bundle_copy: Path, name: str, at: float) -> None:
    data = bytearray((bundle_copy / name).read_bytes())
    data[round(at * (len(data) - 1))] ^= 1
    (bundle_copy / name).write_bytes(data)
    with Bundle(bundle_copy) as bundle:
        text = refusal(bundle.verify_files)
        assert text.startswith(f"valve-id_00/{name}: sha256 ")
        assert "changed or damaged; copy the bundle again" in text
        for other in FILES:
            if other != name:
                bundle.file(other)


@pytest.mark.parametrize("name", ["encoder.fp32.onnx", "head.onnx", "golden.npz"])
def test_nothing_damaged_is_ever_loaded(bundle_copy: Path, name: str) -> None:
    with open(bundle_copy / name, "ab") as handle:
        handle.write(b"\0")
    with Bundle(bundle_copy) as bundle:
        assert name in refusal(bundle.open_scorer)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle_copy: Path, name: str) -> None:
    (bundle_copy / name).unlink()
    with Bundle(bundle_copy) as bundle:
        assert refusal(bundle.verify_files) == f"valve-id_00/{name}: missing; copy the bundle again, whole"


def test_extra_and_missing_bytes_are_told_by_size(bundle_copy: Path) -> None:
    data = (bundle_copy / "head.onnx").read_bytes()
    for other in (data + b"\0", data[:-1], b""):
        (bundle_copy / "head.onnx").write_bytes(other)
        with Bundle(bundle_copy) as bundle:
            text = refusal(bundle.verify_files)
        assert f"head.onnx: {len(other)} bytes, the manifest says {len(data)}" in text


@pytest.mark.parametrize("name", FILES)
def test_a_symbolic_link_is_refused_even_to_the_right_bytes(bundle_copy: Path, tmp_path: Path, name: str) -> None:
    shutil.move(bundle_copy / name, tmp_path / "elsewhere")
    (bundle_copy / name).symlink_to(tmp_path / "elsewhere")
    with Bundle(bundle_copy) as bundle:
        assert "a symbolic link or not a plain file" in refusal(bundle.verify_files)


def test_a_folder_or_a_pipe_in_place_of_a_file_is_refused(bundle_copy: Path) -> None:
    (bundle_copy / "head.onnx").unlink()
    os.mkfifo(bundle_copy / "head.onnx")
    (bundle_copy / "golden.npz").unlink()
    (bundle_copy / "golden.npz").mkdir()
    with Bundle(bundle_copy) as bundle:
        text = refusal(bundle.verify_files)
    assert text.count("not a plain file") == 2


def test_every_problem_is_named_at_once(bundle_copy: Path) -> None:
    (bundle_copy / "head.onnx").unlink()
    (bundle_copy / "calibration.json").write_bytes(b"{}")
    data = bytearray((bundle_copy / "golden.npz").read_bytes())
    data[100] ^= 1
    (bundle_copy / "golden.npz").write_bytes(data)
    with Bundle(bundle_copy) as bundle:
        text = refusal(bundle.verify_files)
    for expected in ("head.onnx: missing", "calibration.json: 2 bytes", "golden.npz: sha256"):
        assert expected in text
    assert "encoder" not in text


def test_a_disk_that_fails_is_one_line(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(bundle_module, "hash_file", failing)
    with Bundle(bundle_copy) as bundle:
        assert "valve-id_00/head.onnx: cannot be read (Input/output error)" in refusal(lambda: bundle.file("head.onnx"))


def test_a_right_hash_does_not_excuse_external_data(bundle_copy: Path) -> None:
    """Whoever can write the manifest can write its hashes, but not reach outside the bundle."""
    entry = b"\x0a\x08location\x12\x0b/etc/passwd"
    tensor = b"\x42\x01w" + b"\x6a" + bytes([len(entry)]) + entry + b"\x70\x01"
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    model = b"\x08\x09\x42\x02\x10\x13" + b"\x3a" + bytes([len(graph)]) + graph
    (bundle_copy / "head.onnx").write_bytes(model)
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["files"]["head.onnx"] = {"sha256": hashlib.sha256(model).hexdigest(), "size": len(model)}
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))
    with Bundle(bundle_copy) as bundle:
        assert "head.onnx: tensor 'w' has its data outside the file" in refusal(bundle.open_scorer)


# Not a bundle


def test_what_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    assert "no such bundle" in refusal(lambda: Bundle(tmp_path / "nothing"), InputError)


def test_a_folder_without_a_manifest_is_not_a_bundle(tmp_path: Path) -> None:
    assert "has no manifest.json, so not a bundle" in refusal(lambda: Bundle(tmp_path))


def test_a_manifest_that_is_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    assert "manifest.json: Is a directory" in refusal(lambda: Bundle(tmp_path))


def test_a_damaged_manifest_is_named_by_bundle_and_file(bundle_copy: Path) -> None:
    (bundle_copy / "manifest.json").write_text("{")
    assert refusal(lambda: Bundle(bundle_copy)).startswith("valve-id_00/manifest.json: not JSON")


def test_a_huge_manifest_is_not_read_whole(bundle_copy: Path) -> None:
    with open(bundle_copy / "manifest.json", "wb") as handle:
        handle.truncate(1 << 40)  # sparse: reading it all would not end
    assert f"{LARGEST_MANIFEST + 1} bytes" in refusal(lambda: Bundle(bundle_copy))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(100), b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_zip_or_an_empty_one_is_not_a_bundle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    assert "x.zip: " in refusal(lambda: Bundle(tmp_path / "x.zip"))


def test_a_zip_of_the_folder_instead_of_its_contents_says_so(small_bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(small_bundle / "manifest.json", "valve-id_00/manifest.json")
    assert "no manifest.json at its top" in refusal(lambda: Bundle(tmp_path / "x.zip"))


# A zip


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_scores_like_its_folder(small_bundle: Path, tmp_path: Path, compression: int) -> None:
    sound = (0.02 * np.random.default_rng(0).standard_normal(160_000)).astype(np.float32)
    results = []
    for path in (small_bundle, zip_of(small_bundle, tmp_path / "valve.zip", compression)):
        with Bundle(path) as bundle:
            bundle.verify_files()
            scorer, _ = bundle.open_scorer(threads=1)
            results.append(Stream(scorer).push(sound))
    assert results[0] == results[1]
    assert len(results[0]) == 10


def test_close_removes_what_was_unpacked(zipped: Path, temporary: Path) -> None:
    bundle = Bundle(zipped)
    assert list(temporary.iterdir()) == []
    path = bundle.file("head.onnx")
    (folder,) = temporary.iterdir()
    assert path.parent == folder
    assert folder.stat().st_mode & 0o077 == 0, "others could change a file after its hash was checked"
    bundle.close()
    bundle.close()
    assert list(temporary.iterdir()) == []


def test_an_error_in_the_block_also_removes_it(zipped: Path, temporary: Path) -> None:
    with pytest.raises(ZeroDivisionError), Bundle(zipped) as bundle:
        bundle.verify_files()
        raise ZeroDivisionError
    assert list(temporary.iterdir()) == []


def test_a_member_that_climbs_out_is_never_unpacked(small_bundle: Path, tmp_path: Path, temporary: Path) -> None:
    path = zip_of(small_bundle, tmp_path / "valve.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../climbed.txt", "out")
        archive.writestr("/tmp/edgeasd-climbed.txt", "out")
        archive.writestr("engines/x.engine", "not listed")
    with Bundle(path) as bundle:
        bundle.verify_files()
        (folder,) = temporary.iterdir()
        assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    assert not list(tmp_path.rglob("climbed*"))


def test_a_changed_byte_in_a_zipped_file_is_found(bundle_copy: Path, tmp_path: Path) -> None:
    data = bytearray((bundle_copy / "head.onnx").read_bytes())
    data[700] ^= 1
    (bundle_copy / "head.onnx").write_bytes(data)
    with Bundle(zip_of(bundle_copy, tmp_path / "x.zip")) as bundle:
        assert "x.zip/head.onnx: sha256" in refusal(bundle.verify_files)


def test_a_file_missing_from_the_zip_is_named(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / "golden.npz").unlink()
    with Bundle(zip_of(bundle_copy, tmp_path / "x.zip")) as bundle:
        assert refusal(bundle.verify_files) == "x.zip/golden.npz: missing; copy the bundle again, whole"


@pytest.mark.parametrize("left", [0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_zip_is_refused(zipped: Path, left: float) -> None:
    data = zipped.read_bytes()
    zipped.write_bytes(data[: int(left * len(data))])
    assert "copy it again" in refusal(lambda: Bundle(zipped))


def test_a_zip_bomb_is_unpacked_no_further_than_the_listed_size(
    bundle_copy: Path, tmp_path: Path, temporary: Path
) -> None:
    size = (bundle_copy / "calibration.json").stat().st_size
    (bundle_copy / "calibration.json").write_bytes(bytes(200_000_000))
    path = zip_of(bundle_copy, tmp_path / "x.zip")
    with Bundle(path) as bundle:
        text = refusal(lambda: bundle.file("calibration.json"))
        assert f"{size + 1} bytes, the manifest says {size}" in text
        (unpacked,) = temporary.glob("*/calibration.json")
        assert unpacked.stat().st_size == size + 1


@pytest.mark.parametrize("claimed", [0, 1, 100, 0xFFFFFFF0])
def test_false_sizes_in_a_zip_never_give_other_bytes(zipped: Path, small_bundle: Path, claimed: int) -> None:
    data = bytearray(zipped.read_bytes())
    with zipfile.ZipFile(zipped) as archive:
        names = archive.namelist()
    at = data.index(b"PK\x01\x02")
    for name in names:
        if name == "head.onnx":
            struct.pack_into("<I", data, at + 24, claimed)
        lengths = struct.unpack_from("<HHH", data, at + 28)
        at += 46 + sum(lengths)
    zipped.write_bytes(data)
    with Bundle(zipped) as bundle:
        if claimed < 1000:
            assert "head.onnx" in refusal(bundle.verify_files)
        else:
            assert bundle.file("head.onnx").read_bytes() == (small_bundle / "head.onnx").read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_zip_is_harmless_or_one_line(
    small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Deflate streams, local headers, the directory: whatever zipfile raises, the user sees a BundleError."""
    folder = tmp_path_factory.getbasetemp()
    original = folder / "original.zip"
    if not original.exists():
        with zipfile.ZipFile(original, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("manifest.json", "head.onnx", "calibration.json"):
                archive.write(small_bundle / name, name)
    content = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = folder / "damaged.zip"
    damaged.write_bytes(content)
    message = ""
    try:
        with Bundle(damaged) as bundle:
            assert bundle.file("head.onnx").read_bytes() == (small_bundle / "head.onnx").read_bytes()
            bundle.file("calibration.json")
    except BundleError as error:
        message = str(error)
    assert len(message) < 600


@pytest.mark.parametrize("method", [1, 9, 12, 14, 95, 99])
def test_an_unknown_or_wrong_compression_is_one_line(zipped: Path, method: int) -> None:
    with zipfile.ZipFile(zipped) as archive:
        offset = archive.getinfo("head.onnx").header_offset
    data = bytearray(zipped.read_bytes())
    struct.pack_into("<H", data, offset + 8, method)
    at = data.index(b"PK\x01\x02")
    while data[at + 46 : at + 55] != b"head.onnx":
        at = data.index(b"PK\x01\x02", at + 1)
    struct.pack_into("<H", data, at + 10, method)
    zipped.write_bytes(data)
    with Bundle(zipped) as bundle:
        assert "cannot be unpacked" in refusal(lambda: bundle.file("head.onnx"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_a_manifest_is_a_plain_file(bundle_copy: Path, tmp_path: Path, kind: str) -> None:
    manifest = bundle_copy / "manifest.json"
    whole = manifest.rename(tmp_path / "manifest.json")
    if kind == "pipe":
        os.mkfifo(manifest)
    else:
        manifest.symlink_to("/dev/zero" if kind == "device" else whole)
    assert "manifest.json: " in refusal(lambda: Bundle(bundle_copy))


def listed(bundle: Path, name: str, data: bytes) -> None:
    """Put a file into a bundle, with its right size and hash in the manifest."""
    (bundle / name).write_bytes(data)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_reference_segments_that_unpack_to_gigabytes_are_refused(bundle_copy: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("logmel.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    listed(bundle_copy, "golden.npz", packed.getvalue())
    with Bundle(bundle_copy) as bundle:
        assert "unpacks to 314572800 bytes" in refusal(bundle.reference_segments)


def test_only_an_inspected_onnx_file_is_loaded(bundle_copy: Path) -> None:
    """ONNX Runtime takes .ort for its own format; the hash of it is right."""
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    encoder = manifest["precisions"]["fp32"]["file"]
    listed(bundle_copy, "encoder.ort", (bundle_copy / encoder).read_bytes())
    manifest = json.loads((bundle_copy / "manifest.json").read_text())
    manifest["precisions"]["fp32"]["file"] = "encoder.ort"
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest))

    def load() -> None:
        with Bundle(bundle_copy) as bundle:
            bundle.open_scorer(precision="fp32", engine="onnxruntime", accelerator="cpu")[0].close()

    assert "encoder.ort" in refusal(load)
