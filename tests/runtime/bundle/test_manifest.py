"""manifest.json: unknown fields survive, anything else unexpected is one line that says what and where."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeasd.runtime.bundle.manifest import LARGEST_MANIFEST, dump_manifest, parse_manifest, schema_version_for
from edgeasd.runtime.errors import BundleError
from edgeasd.runtime.features.logmel import FeatureSettings
from edgeasd.toolkit.models.front_ends import EFFICIENTAT, PANNS

pytestmark = pytest.mark.core

Json = dict[str, Any]


@pytest.fixture(scope="module")
def raw(small_bundle: Path) -> Json:
    return json.loads((small_bundle / "manifest.json").read_text())


def changed(raw: Json, path: str, value: object) -> bytes:
    """The manifest with the field at `path` ("a.b.c", | for dots in names) set to `value`."""
    copied = copy.deepcopy(raw)
    *parents, last = [part.replace("|", ".") for part in path.split(".")]
    target = copied
    for parent in parents:
        target = target[parent]
    target[last] = value
    return json.dumps(copied).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(BundleError) as error:
        parse_manifest(data, "valve/manifest.json")
    text = str(error.value)
    assert text.startswith("valve/manifest.json: ")
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 500
    return text


def test_parsing_and_writing_give_the_same_fields(raw: Json) -> None:
    manifest = parse_manifest(json.dumps(raw).encode(), "here")
    assert json.loads(dump_manifest(manifest)) == raw
    assert dump_manifest(parse_manifest(dump_manifest(manifest), "here")) == dump_manifest(manifest)


# Unknown fields


PARTS = [
    "machine",
    "network",
    "features",
    "amplitude",
    "segments",
    "score",
    "threshold",
    "precisions.fp32",
    "precisions.fp32.tolerance",
    "files.head|onnx",
    "provenance",
]


@pytest.mark.parametrize("part", ["", *(f"{part}." for part in PARTS)])
def test_unknown_fields_are_kept_at_every_level(raw: Json, part: str) -> None:
    value = {"nested": [1, 2.5, None, "größer"], "more": True}
    data = changed(raw, f"{part}of_tomorrow", value)
    assert json.loads(dump_manifest(parse_manifest(data, "here"))) == json.loads(data)


PLAIN_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e30, 1e30) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=PLAIN_JSON.filter(lambda v: "\\ud" not in json.dumps(v)))
def test_any_value_of_an_unknown_field_is_kept(raw: Json, value: object) -> None:
    data = changed(raw, "of_tomorrow", value)
    assert json.loads(dump_manifest(parse_manifest(data, "here"))) == json.loads(data)


# Schema versions


@pytest.mark.parametrize("version", [0, 3, 99, -1, "1", 1.5, None, True, [1], {"a": 1}])
def test_an_unknown_schema_version_names_itself_and_its_reader(raw: Json, version: object) -> None:
    text = refusal(changed(raw, "schema_version", version))
    assert f"schema_version {version!r}, this edgeasd reads 1 and 2" in text
    assert f"read it with edgeasd {raw['edgeasd_version']}, which wrote it, or newer" in text


def test_a_newer_manifest_is_refused_for_its_version() -> None:
    text = refusal(b'{"schema_version": 3, "edgeasd_version": "3.1.0", "everything": "else"}')
    assert "schema_version 3" in text
    assert "edgeasd 3.1.0" in text


def test_without_a_writer_the_version_is_still_named() -> None:
    assert "schema_version None" in refusal(b"{}")
    assert "the edgeasd that wrote it" in refusal(b'{"schema_version": 7, "edgeasd_version": 3}')


@pytest.mark.parametrize("version", ["x\ny", "x" * 100_000, ["\x1b[2J"] * 1000])
def test_a_hostile_version_is_still_one_short_line(raw: Json, version: object) -> None:
    refusal(changed(raw, "schema_version", version))
    assert "this edgeasd reads 1 and 2" in refusal(
        json.dumps({"schema_version": 3, "edgeasd_version": str(version)}).encode()
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("mel_scale", "bark"), ("window", "kaiser"), ("floor_rule", "none"), ("logarithm", "log2"), ("spectrum", "pcen")],
)
def test_a_front_end_of_tomorrow_names_its_reader(raw: Json, field: str, value: str) -> None:
    text = refusal(changed(raw, f"features.{field}", value))
    assert f"features.{field} {value!r}: Input should be " in text
    assert f"; read it with edgeasd {raw['edgeasd_version']}, which wrote it, or newer" in text


@pytest.mark.parametrize("front_end", [EFFICIENTAT, PANNS], ids=["efficientat", "panns"])
def test_other_front_ends_are_kept_whole(raw: Json, front_end: FeatureSettings) -> None:
    data = changed(raw, "features", front_end.model_dump())
    manifest = parse_manifest(data, "here")
    assert json.loads(dump_manifest(manifest)) == json.loads(data)
    assert manifest.features == front_end
    assert (schema_version_for(front_end), schema_version_for(FeatureSettings(n_mels=64))) == (2, 1)


# Bad fields


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("status", "maybe", "status 'maybe'"),
        ("machine", None, "machine 'None'"),
        ("machine.id", 7, "machine.id '7'"),
        ("features.n_fft", 0, "features.n_fft '0'"),
        ("features.hop_length", "x", "features.hop_length 'x'"),
        ("features.f_max", 9000.0, "f_max 9000.0"),
        ("features.centred", True, "centred"),
        ("amplitude.std", 0.0, "amplitude.std '0.0'"),
        ("segments.hop", 0, "segments.hop '0'"),
        ("segments.frames", 10**9, "segments.frames '1000000000'"),
        ("score.alpha", 1.5, "score.alpha '1.5'"),
        ("score.d_max", -1.0, "d_max -1.0"),
        ("score.mode", "guess", "score.mode 'guess'"),
        ("threshold.consecutive", 0, "threshold.consecutive '0'"),
        ("threshold.clip", "high", "threshold.clip 'high'"),
        ("network.embedding", 0, "network.embedding '0'"),
        ("precisions", {}, "precisions"),
        ("precisions.fp32.tolerance.z", 2.0, "precisions.fp32.tolerance.z '2.0'"),
        ("precisions.fp32.tolerance.score", 0.0, "precisions.fp32.tolerance.score '0.0'"),
        ("files.head|onnx.sha256", "0" * 63, "files.head.onnx.sha256"),
        ("files.head|onnx.sha256", "A" * 64, "files.head.onnx.sha256"),
        ("files.head|onnx.size", -1, "files.head.onnx.size '-1'"),
        ("files", [], "files '[]'"),
    ],
)
def test_a_bad_field_is_one_line_with_field_and_value(raw: Json, path: str, value: object, named: str) -> None:
    assert named in refusal(changed(raw, path, value))


def test_several_bad_fields_are_counted(raw: Json) -> None:
    assert "(and 1 more)" in refusal(changed(json.loads(changed(raw, "status", "maybe")), "segments.hop", 0))


@pytest.mark.parametrize(
    "field", sorted({"machine", "features", "score", "files", "precisions", "threshold", "created"})
)
def test_a_missing_field_is_named(raw: Json, field: str) -> None:
    text = refusal(json.dumps({k: v for k, v in raw.items() if k != field}).encode())
    assert field in text
    assert "required" in text


def test_calibrated_without_a_threshold_is_refused(raw: Json) -> None:
    without = json.loads(changed(raw, "threshold", None))
    assert "there is no threshold" in refusal(json.dumps(without).encode())
    assert parse_manifest(changed(without, "status", "uncalibrated"), "here").threshold is None


# File names


ENTRY = {"sha256": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "..",
        ".",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "",
        ".hidden",
        "-rf",
        "x" * 200,
        "a b",
        "a\nb",
        "a\x00b",
        "ä.onnx",
    ],
)
def test_a_name_that_is_not_plain_is_refused_even_if_unused(raw: Json, name: str) -> None:
    assert "is not a plain file name" in refusal(changed(raw, "files", {**raw["files"], name: ENTRY}))


@pytest.mark.parametrize("name", ["../encoder.onnx", "/etc/passwd", "a/b.onnx", "unlisted.onnx"])
def test_a_precision_may_only_use_a_listed_file(raw: Json, name: str) -> None:
    assert f"{name!r} is used but not listed" in refusal(changed(raw, "precisions.fp32.file", name))


@pytest.mark.parametrize("name", ["head.onnx", "golden.npz", "encoder.fp32.onnx"])
def test_what_scoring_needs_must_be_listed(raw: Json, name: str) -> None:
    files = {k: v for k, v in raw["files"].items() if k != name}
    assert f"{name!r} is used but not listed" in refusal(changed(raw, "files", files))


def test_a_hostile_key_in_an_error_is_still_one_line(raw: Json) -> None:
    text = refusal(changed(raw, "files", {**raw["files"], "a\nb\x1b[2J" + "c" * 5000: {"sha256": "x", "size": 1}}))
    assert "files.a b" in text


# Not JSON


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff\xfe\x00", b"PK\x03\x04", b"[" * 100_000, b'{"a": 1} x', b"9" * 5000],
    ids=["empty", "cut", "binary", "zip", "deep", "trailing", "huge number"],
)
def test_what_is_not_json_is_one_line(data: bytes) -> None:
    assert "not JSON" in refusal(data)


@pytest.mark.parametrize("data", [b"[]", b"null", b'"text"', b"3"])
def test_json_that_is_no_object_is_named(data: bytes) -> None:
    assert "expected an object" in refusal(data)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"\\ud800"'])
def test_what_could_not_be_written_back_is_refused(raw: Json, value: str) -> None:
    """Python reads NaN and lone surrogates, which are not JSON; writing or printing them would fail later."""
    data = changed(raw, "of_tomorrow", "VALUE").replace(b'"VALUE"', value.encode())
    assert "not JSON" in refusal(data)


def test_a_huge_manifest_is_refused_by_size(raw: Json) -> None:
    data = changed(raw, "of_tomorrow", "x" * LARGEST_MANIFEST)
    assert f"{len(data)} bytes, at most {LARGEST_MANIFEST}" in refusal(data)


def test_nesting_too_deep_to_write_is_refused_in_one_line(raw: Json) -> None:
    data = changed(raw, "of_tomorrow", "DEEP").replace(b'"DEEP"', b"[" * 400 + b"]" * 400)
    manifest = parse_manifest(data, "here")
    with pytest.raises(BundleError, match="manifest: cannot be written"):
        dump_manifest(manifest)


# Anything


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(data, "here")


def paths(value: object, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where every field of nested JSON is."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, item in inner for path in paths(item, (*prefix, key)))]


ODD = (
    PLAIN_JSON
    | st.sampled_from([-1, 0, 2**70, 1e308, 5e-324, "", "\x00", "../x", "\n", "1", "nan", [], {}, True])
    | st.floats()
    | st.text(st.characters(), max_size=30)
)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), value=ODD, remove=st.booleans())
def test_any_damage_to_any_field_is_accepted_or_one_line(
    raw: Json, data: st.DataObject, value: object, remove: bool
) -> None:
    copied = copy.deepcopy(raw)
    # metrics and their long list of clips are free-form; leave them to the tests above
    del copied["metrics"]
    *parents, last = data.draw(st.sampled_from([path for path in paths(copied) if path]))
    target: Any = copied
    for parent in parents:
        target = target[parent]
    if remove:
        del target[last]
    else:
        target[last] = value
    message = ""
    try:
        dump_manifest(parse_manifest(json.dumps(copied).encode(), "valve/manifest.json"))
    except BundleError as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 500
