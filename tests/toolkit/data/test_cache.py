"""The feature cache gives exactly what logmel gives, whatever happened to the files it left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgeasd.runtime.audio.reader import read_audio
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings, logmel
from edgeasd.toolkit.data import cache as cache_module
from edgeasd.toolkit.data.cache import ClipStatistics, FeatureCache
from edgeasd.toolkit.data.clips import content_hash

pytestmark = pytest.mark.core

SETTINGS = FeatureSettings()
AMPLITUDE = Amplitude(mean=0.001, std=0.2)


def write_clip(path: Path, seed: int, seconds: float = 1.0, scale: float = 0.1) -> Path:
    noise = np.random.default_rng(seed).standard_normal(int(16000 * seconds)) * scale
    soundfile.write(path, noise.astype(np.float32), 16000, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


@pytest.fixture
def clips(tmp_path: Path) -> list[tuple[Path, str]]:
    folder = tmp_path / "clips"
    folder.mkdir()
    paths = [write_clip(folder / f"{i}.wav", i, 0.5 + 0.1 * i, 0.05 * (i + 1)) for i in range(6)]
    return [(path, content_hash(path)) for path in paths]


def entries(folder: Path, kind: str = "features") -> list[Path]:
    return sorted(p for p in folder.glob(f"{kind}-*/*/*") if not p.name.startswith("."))


def expected(path: Path, amplitude: Amplitude = AMPLITUDE) -> np.ndarray:
    return logmel(read_audio(path), SETTINGS, amplitude)


def test_features_equal_logmel_bit_for_bit_and_cannot_be_written(tmp_path: Path, clips: list[tuple[Path, str]]) -> None:
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    for path, sha in clips:
        for _ in ("computed", "read back"):
            features = cache.features(path, sha, AMPLITUDE)
            assert isinstance(features, np.memmap)
            assert features.dtype == np.float32
            assert features.shape == (SETTINGS.frame_count(soundfile.info(path).frames), 128)
            assert features.tobytes() == expected(path).tobytes()
            with pytest.raises(ValueError, match="read-only"):
                features[0, 0] = 1.0


def test_a_second_reading_does_not_touch_the_sound(tmp_path: Path, clips: list[tuple[Path, str]]) -> None:
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    assert cache.prepare(clips, AMPLITUDE) == []
    before = cache.amplitude(clips)
    kept = [expected(path) for path, _ in clips]
    for path, _ in clips:
        path.unlink()
    again = FeatureCache(tmp_path / "cache", SETTINGS)
    assert again.amplitude(clips) == before
    for (path, sha), features in zip(clips, kept, strict=True):
        np.testing.assert_array_equal(again.features(path, sha, AMPLITUDE), features)


def test_renaming_keeps_an_entry_and_the_settings_change_it(
    tmp_path: Path, clips: list[tuple[Path, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sha = clips[0]
    folder = tmp_path / "cache"
    FeatureCache(folder, SETTINGS).features(path, sha, AMPLITUDE)
    FeatureCache(folder, SETTINGS).features(path.rename(path.with_name("other.wav")), sha, AMPLITUDE)
    path = path.with_name("other.wav")
    assert len(entries(folder)) == 1
    FeatureCache(folder, SETTINGS).features(path, sha, Amplitude(mean=0.001, std=np.nextafter(0.2, 1)))
    assert len(entries(folder)) == 2
    FeatureCache(folder, SETTINGS).features(path, sha, Amplitude(mean=0.002, std=0.2))
    assert len(entries(folder)) == 3
    other = FeatureCache(folder, FeatureSettings(f_min=60.0)).features(path, sha, AMPLITUDE)
    assert len(entries(folder)) == 4
    assert not np.array_equal(other, expected(path))
    monkeypatch.setattr(cache_module, "CACHE_VERSION", 999)
    FeatureCache(folder, SETTINGS).features(path, sha, AMPLITUDE)
    assert len(entries(folder)) == 5


def damage(kind: str, entry: Path) -> None:
    whole = entry.read_bytes()
    array = np.load(entry)
    if kind == "cut":
        entry.write_bytes(whole[: len(whole) // 2])
    elif kind == "cut header":
        entry.write_bytes(whole[:20])
    elif kind == "empty":
        entry.write_bytes(b"")
    elif kind == "longer":
        entry.write_bytes(whole + b"\0" * 512)
    elif kind == "text":
        entry.write_text("not an array")
    elif kind == "fewer frames":
        np.save(entry, array[:-1])
    elif kind == "fewer bands":
        np.save(entry, np.ascontiguousarray(array[:, :64]))
    elif kind == "float64":
        np.save(entry, array.astype(np.float64))
    elif kind == "big endian":
        np.save(entry, array.astype(">f4"))
    elif kind == "fortran":
        np.save(entry, np.asfortranarray(array))
    elif kind == "objects":
        np.save(entry, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "archive":
        with open(entry, "wb") as handle:
            np.savez(handle, array=array)


@pytest.mark.parametrize(
    "kind",
    [
        "cut",
        "cut header",
        "empty",
        "longer",
        "text",
        "fewer frames",
        "fewer bands",
        "float64",
        "big endian",
        "fortran",
        "objects",
        "archive",
    ],
)
def test_a_damaged_or_foreign_entry_is_computed_again(tmp_path: Path, clips: list[tuple[Path, str]], kind: str) -> None:
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    path, sha = clips[0]
    cache.features(path, sha, AMPLITUDE)
    (entry,) = entries(tmp_path / "cache")
    whole = entry.read_bytes()
    damage(kind, entry)
    assert entry.read_bytes() != whole
    assert cache.features(path, sha, AMPLITUDE).tobytes() == expected(path).tobytes()
    assert entry.read_bytes() == whole


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"sha256": "00", "samples": 1, "mean": 0, "squares": 0}',
        '{"samples": NaN}',
        "\xff",
    ],
)
def test_damaged_statistics_are_measured_again(tmp_path: Path, clips: list[tuple[Path, str]], text: str) -> None:
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    before = cache.clip_statistics(*clips[0])
    (entry,) = entries(tmp_path / "cache", "statistics")
    entry.write_text(text, encoding="latin-1")
    assert cache.clip_statistics(*clips[0]) == before
    assert cache.features(*clips[0], AMPLITUDE).shape[0] == SETTINGS.frame_count(before.samples)


def test_amplitude_is_that_of_all_samples_in_any_order(tmp_path: Path, clips: list[tuple[Path, str]]) -> None:
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    samples = np.concatenate([read_audio(path) for path, _ in clips]).astype(np.float64)
    amplitude = cache.amplitude(clips)
    assert amplitude.mean == pytest.approx(samples.mean(), abs=1e-12)
    assert amplitude.std == pytest.approx(samples.std(), rel=1e-12)
    assert cache.amplitude(clips[::-1]) == amplitude


def test_merging_loses_nothing_beside_a_large_mean() -> None:
    rng = np.random.default_rng(0)
    parts = [1e8 + rng.standard_normal(n) for n in (1, 1000, 31, 5000)]
    merged = ClipStatistics(1, float(parts[0][0]), 0.0)
    for part in parts[1:]:
        merged = merged.merge(ClipStatistics(part.size, float(part.mean()), float(((part - part.mean()) ** 2).sum())))
    everything = np.concatenate(parts)
    assert merged.samples == everything.size
    assert merged.squares / merged.samples == pytest.approx(everything.var(), rel=1e-6)


def test_silence_and_nothing_give_no_amplitude(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16000, np.float32), 16000)
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    path = tmp_path / "silence.wav"
    with pytest.raises(InputError, match=r"standard deviation 0 .*silence\.wav on: silence only"):
        cache.amplitude([(path, content_hash(path))])
    with pytest.raises(InputError, match="no clips"):
        cache.amplitude([])


@pytest.mark.parametrize(
    ("peak", "message"), [(20.0, "no sound reaches 16"), (1e30, r"loud\.wav: 1e\+30 at sample 5 ")]
)
def test_absurd_levels_are_refused(tmp_path: Path, peak: float, message: str) -> None:
    samples = np.zeros(4000, np.float32)
    samples[5] = peak
    soundfile.write(tmp_path / "loud.wav", samples, 16000, subtype="FLOAT")
    path = tmp_path / "loud.wav"
    with pytest.raises(InputError, match=message):
        FeatureCache(tmp_path / "cache", SETTINGS).amplitude([(path, content_hash(path))])


def test_every_bad_clip_is_named_at_once_or_skipped_where_asked(tmp_path: Path, clips: list[tuple[Path, str]]) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    write_clip(tmp_path / "short.wav", 1, seconds=0.05)
    bad = [(p, content_hash(p)) for p in (tmp_path / n for n in ("text.wav", "empty.wav", "short.wav"))]
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    for fill in (lambda: cache.prepare([*bad, *clips], AMPLITUDE), lambda: cache.amplitude([*bad, *clips])):
        with pytest.raises(InputError) as caught:
            fill()
        message = str(caught.value)
        assert all(path.name in message for path, _ in bad)
        assert "800 samples, one frame takes 1024" in message
        assert "\n" not in message
    seen: list[tuple[int, int]] = []
    skipped = cache.prepare([*bad, *clips], AMPLITUDE, progress=lambda *at: seen.append(at), skip_bad=True)
    assert [path for path, _ in skipped] == [path for path, _ in bad]
    assert seen == [(i, 9) for i in range(1, 10)]
    assert len(entries(tmp_path / "cache")) == len(clips)
    assert cache.amplitude([*bad, *clips], skip_bad=True) == cache.amplitude(clips)


def test_another_rate_is_refused_with_a_remedy_that_training_has(tmp_path: Path) -> None:
    path = tmp_path / "fast.wav"
    soundfile.write(path, np.zeros(44_100, np.float32), 44_100)
    with pytest.raises(InputError) as refused:
        FeatureCache(tmp_path / "cache", FeatureSettings()).features(path, content_hash(path), AMPLITUDE)
    assert str(refused.value) == f"{path}: 44100 Hz, the model hears 16000 Hz; convert the file to that rate"


def test_mappings_that_are_let_go_keep_no_descriptors(tmp_path: Path, clips: list[tuple[Path, str]]) -> None:
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    cache.prepare(clips, AMPLITUDE)
    before = len(os.listdir("/proc/self/fd"))
    crops = [cache.features(*clips[i % 6], AMPLITUDE)[:4].copy() for i in range(200)]
    assert len(crops) == 200
    assert len(os.listdir("/proc/self/fd")) == before


FILL = """
import sys
from pathlib import Path
from edgeasd.runtime.system import files as atomic
from edgeasd.runtime.features.logmel import Amplitude, FeatureSettings
from edgeasd.toolkit.data.cache import FeatureCache
from edgeasd.toolkit.data.clips import content_hash
clips = [(p, content_hash(p)) for p in sorted(Path(sys.argv[1]).iterdir())]
if "die" in sys.argv[3:]:
    import os, signal
    rename = os.replace
    def die_at_features(source, target):
        if str(target).endswith(".npy"):
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
    atomic.os.replace = die_at_features
cache = FeatureCache(Path(sys.argv[2]), FeatureSettings())
print("ready", flush=True)
if "wait" in sys.argv[3:]:
    sys.stdin.readline()
cache.prepare(clips, Amplitude(mean=0.001, std=0.2))
"""


def fill(clips: list[tuple[Path, str]], folder: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FILL, str(clips[0][0].parent), str(folder), *flags]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def check_whole(folder: Path, clips: list[tuple[Path, str]]) -> None:
    by_hash = {sha: path for path, sha in clips}
    for entry in entries(folder):
        np.testing.assert_array_equal(np.load(entry), expected(by_hash[entry.stem]))


def test_two_processes_fill_one_cache_at_once(tmp_path: Path, clips: list[tuple[Path, str]]) -> None:
    pair = [fill(clips, tmp_path / "cache", "wait") for _ in range(2)]
    for process in pair:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in pair:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(entries(tmp_path / "cache")) == len(entries(tmp_path / "cache", "statistics")) == len(clips)
    check_whole(tmp_path / "cache", clips)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_writer_killed_before_the_rename_leaves_no_entry(tmp_path: Path, clips: list[tuple[Path, str]]) -> None:
    process = fill(clips, tmp_path / "cache", "die")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert entries(tmp_path / "cache") == []
    assert list((tmp_path / "cache").rglob("*.tmp"))
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    assert cache.prepare(clips, AMPLITUDE) == []
    check_whole(tmp_path / "cache", clips)


def test_a_writer_killed_at_any_moment_leaves_only_whole_entries(tmp_path: Path, clips: list[tuple[Path, str]]) -> None:
    for delay in (0.002, 0.01, 0.03):
        process = fill(clips, tmp_path / "cache", "wait")
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(delay)
        process.kill()
        process.communicate(timeout=60)
        check_whole(tmp_path / "cache", clips)
    cache = FeatureCache(tmp_path / "cache", SETTINGS)
    assert cache.prepare(clips, AMPLITUDE) == []
    check_whole(tmp_path / "cache", clips)
    assert len(entries(tmp_path / "cache")) == len(clips)
