"""Measuring a bundle: the clocks, the meters, what is measured, and that no variant sees another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.bench import energy, runner
from edgeasd.runtime.bench.measure import BenchSettings, device_info, device_line, is_busy, memory
from edgeasd.runtime.bench.runner import Row, run_variant
from edgeasd.runtime.bench.timing import Span, best_batch, measure_streams, quantile, ratio, side_by_side
from edgeasd.runtime.bench.variants import Variant, find_variants
from edgeasd.runtime.bundle.bundle import Bundle
from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.errors import InputError
from edgeasd.runtime.scoring.scorer import Scorer

pytestmark = pytest.mark.core

FP32 = Variant("fp32", "onnxruntime", "cpu")
QUICK = BenchSettings(batches=(1, 4), repeats=3, threads=1)


def silent(done: int, total: int, text: str) -> None:
    """A progress that nobody looks at."""


# Clocks


def test_what_is_compared_runs_by_turns() -> None:
    order: list[str] = []
    calls: dict[str, Callable[[], object]] = {name: lambda name=name: order.append(name) for name in "abc"}  # type: ignore[misc]
    times = side_by_side(calls, rounds=3)
    assert [len(values) for values in times.values()] == [3, 3, 3]
    assert "".join(order) == "cab" + "abc" + "bca" + "cab", "one unmeasured round, then a turn further each time"


def test_a_slower_call_shows_as_a_ratio() -> None:
    times = side_by_side({"slow": lambda: time.sleep(0.008), "fast": lambda: time.sleep(0.002)}, rounds=9)
    found = ratio(times, "slow", "fast")
    assert 1.5 < found.of_medians < 6
    assert found.low <= found.high


def test_a_span_ends_by_what_comes_first_after_one_round() -> None:
    assert not Span(rounds=0, seconds=0, longest=0).over(0, 99)
    assert Span(rounds=5).over(5, 0)
    assert not Span(seconds=10, least=100).over(99, 11)
    assert Span(seconds=10, least=100).over(100, 11)
    assert Span(seconds=10, least=100, longest=60).over(7, 61)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_a_value_with_its_share_below(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value < found for value in values) <= share * len(values)


# Meters


def test_a_peak_stays_when_its_memory_is_given_back() -> None:
    code = (
        "from edgeasd.runtime.bench.measure import memory\n"
        "before = memory(); block = bytearray(200 << 20); full = memory(); del block; after = memory()\n"
        "import json; print(json.dumps([before, full, after]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, full, after = json.loads(done.stdout)
    assert full["resident"] - before["resident"] > 190
    assert after["resident"] < full["resident"] - 150
    assert after["peak"] >= full["resident"] - 1
    assert memory(os.getpid())["resident"] > 1


def ina3221(root: Path, chip: str, channels: dict[int, tuple[str, str, str]]) -> Path:
    """One power monitor as Jetson Linux shows it: label, mV and mA by channel."""
    folder = root / "sys/bus/i2c/drivers/ina3221" / chip / "hwmon" / "hwmon1"
    folder.mkdir(parents=True)
    for number, (label, millivolts, milliamperes) in channels.items():
        (folder / f"in{number}_label").write_text(f"{label}\n")
        (folder / f"in{number}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{number}_input").write_text(f"{milliamperes}\n")
    return folder


def spent(root: Path, seconds: float = 0.2) -> energy.Energy:
    measuring = energy.meter(root)
    assert measuring is not None
    with measuring() as found:
        time.sleep(seconds)
    return found


def test_an_orin_nano_is_measured_where_all_current_comes_in(tmp_path: Path) -> None:
    ina3221(
        tmp_path,
        "1-0040",
        {1: ("VDD_IN", "5000", "1200"), 2: ("VDD_CPU_GPU_CV", "5000", "400"), 3: ("VDD_SOC", "5000", "300")},
    )
    found = spent(tmp_path)
    assert found.watts == pytest.approx(6.0)
    assert found.total == pytest.approx(6.0 * found.seconds)
    assert found.joules["VDD_SOC"] == pytest.approx(1.5 * found.seconds)
    assert "VDD_CPU_GPU_CV" in found.source


def test_an_agx_orin_is_the_sum_of_its_rails(tmp_path: Path) -> None:
    ina3221(
        tmp_path,
        "1-0040",
        {1: ("VDD_GPU_SOC", "20000", "100"), 2: ("VDD_CPU_CV", "20000", "50"), 3: ("VIN_SYS_5V0", "5000", "600")},
    )
    ina3221(tmp_path, "1-0041", {1: ("NC", "0", "0"), 2: ("VDDQ_VDD2_1V8AO", "5000", "100"), 3: ("broken", "x", "1")})
    found = spent(tmp_path)
    assert set(found.joules) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    assert found.watts == pytest.approx(2 + 1 + 3 + 0.5)


def test_power_that_changes_is_followed(tmp_path: Path) -> None:
    folder = ina3221(tmp_path, "1-0040", {1: ("VDD_IN", "1000", "1000")})
    timer = threading.Timer(0.5, lambda: (folder / "curr1_input").write_text("9000\n"))
    timer.start()
    found = spent(tmp_path, 1.0)
    timer.join()
    assert 1.5 < found.watts < 8.5


def package(root: Path, zone: str, name: str, microjoules: int, wraps: int = 1_000_000) -> Path:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps}\n")
    return folder / "energy_uj"


def test_processor_packages_are_counted_and_nothing_twice(tmp_path: Path) -> None:
    first = package(tmp_path, "intel-rapl:0", "package-0", 100)
    second = package(tmp_path, "intel-rapl:1", "package-1", 999_990)
    parts = [package(tmp_path, "intel-rapl:0:0", "core", 5), package(tmp_path, "intel-rapl:2", "psys", 5)]
    measuring = energy.meter(tmp_path)
    assert measuring is not None
    with measuring() as found:
        first.write_text("2000\n")
        second.write_text("10\n")
        for part in parts:
            part.write_text("900000\n")
    assert set(found.joules) == {"package-0", "package-1"}
    assert found.joules["package-0"] == pytest.approx((2000 - 100) / 1e6)
    # Past its largest value the counter starts again at 0.
    assert found.joules["package-1"] == pytest.approx((1_000_001 - 999_990 + 10) / 1e6)


def test_a_machine_without_a_meter_says_so(tmp_path: Path) -> None:
    assert energy.meter(tmp_path) is None
    (package(tmp_path, "intel-rapl:0", "package-0", 1)).unlink()
    assert energy.meter(tmp_path) is None, "a counter that cannot be read is no meter"


# Streams


@settings(deadline=None)
@given(
    st.floats(0.01, 1.0),
    st.floats(1e-6, 0.5),
    st.dictionaries(st.integers(2, 64), st.floats(0.1, 1e5), max_size=6),
    st.floats(0.1, 1e5),
)
def test_a_batch_is_never_larger_than_the_streams_that_fill_it(
    hop: float, logmel: float, rates: dict[int, float], single: float
) -> None:
    rates[1] = single
    batch = best_batch(hop, logmel, rates)
    count = int(hop / (logmel + 1 / rates[batch]))
    assert batch == 1 or count >= batch
    assert count >= int(hop / (logmel + 1 / single)), "no worse than one segment a call"


class Slow:
    """A real engine that takes its time, to be slower than real time on any machine."""

    def __init__(self, scorer: Scorer, seconds: float) -> None:
        self._engine, self._seconds = scorer.engine, seconds
        self.name, self.accelerator, self.precision = scorer.engine.name, "cpu", "fp32"
        self.max_batch = 16

    def embed(self, batch: np.ndarray) -> np.ndarray:
        time.sleep(self._seconds * len(batch))
        return self._engine.embed(batch)

    def close(self) -> None:
        self._engine.close()


def with_engine_of(scorer: Scorer, seconds: float) -> Scorer:
    parts = (scorer.head, scorer.features, scorer.amplitude, scorer.segments, scorer.score)
    return Scorer(Slow(scorer, seconds), *parts)


def test_streams_are_counted_from_what_a_round_costs(small_bundle: Path) -> None:
    with Bundle(small_bundle) as bundle:
        scorer, _ = bundle.open_scorer(threads=1)
    slow = with_engine_of(scorer, 0.030)
    found = measure_streams(slow, {1: 1 / 0.031, 4: 1 / 0.031}, Span(rounds=3))
    assert found["hop_seconds"] == pytest.approx(0.192)
    assert 1 <= found["sustained"] <= 6
    assert found["scoring_ms"] > 30
    assert found["sustained"] == int(192 / (found["logmel_ms"] + found["scoring_ms"]))


def test_slower_than_real_time_is_no_stream_at_all(small_bundle: Path) -> None:
    with Bundle(small_bundle) as bundle:
        scorer, _ = bundle.open_scorer(threads=1)
    found = measure_streams(with_engine_of(scorer, 0.25), {1: 4.0, 16: 4.0}, Span(rounds=1))
    assert (found["sustained"], found["batch"]) == (0, 1)
    assert found["real_time_factor"] < 1


# What is measured


def offering(manifest: Manifest, *names: str) -> Manifest:
    fp32 = manifest.precisions["fp32"]
    return manifest.model_copy(update={"precisions": dict.fromkeys(names, fp32)})


def rows_of(manifest: Manifest, folder: Path, **options: Any) -> list[tuple[str, str, str, bool]]:
    found = find_variants(manifest, folder, **options)
    return [(one.precision, one.engine, one.accelerator, one.left_out is None) for one in found]


@pytest.fixture
def all_four(small_bundle: Path) -> Manifest:
    with Bundle(small_bundle) as bundle:
        return offering(bundle.manifest, "fp32", "fp16", "int8", "int8-cpu")


def test_every_precision_has_a_row(all_four: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.bench.variants.has_cuda", lambda: False)
    monkeypatch.setattr("edgeasd.runtime.bench.variants.library.installed", lambda: False)
    assert rows_of(all_four, tmp_path) == [
        ("fp32", "onnxruntime", "cpu", True),
        ("fp16", "onnxruntime", "cpu", False),
        ("int8", "onnxruntime", "cpu", False),
        ("int8-cpu", "onnxruntime", "cpu", True),
    ]
    # By name, what TensorRT is meant to run is measured as a reference, and says so.
    found = find_variants(all_four, tmp_path, precisions=["int8", "fp16"])
    assert [(one.precision, one.left_out) for one in found] == [("int8", None), ("fp16", None)]
    assert all("not optimised" in str(one.note) for one in found)


def test_a_gpu_and_tensorrt_add_rows(all_four: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeasd.runtime.bench.variants.has_cuda", lambda: True)
    monkeypatch.setattr("edgeasd.runtime.bench.variants.library.installed", lambda: True)
    measured = [row[:3] for row in rows_of(all_four, tmp_path) if row[3]]
    assert measured == [
        ("fp32", "onnxruntime", "cpu"),
        ("fp32", "onnxruntime", "cuda:0"),
        ("fp32", "tensorrt", "cuda:0"),
        ("fp16", "tensorrt", "cuda:0"),
        ("int8", "tensorrt", "cuda:0"),
        ("int8-cpu", "onnxruntime", "cpu"),
    ]
    assert not [row for row in rows_of(all_four, tmp_path, accelerator="cpu") if row[1] == "tensorrt"]
    only = rows_of(all_four, tmp_path, engine="tensorrt", accelerator="cuda:1")
    assert [row[1:3] for row in only] == [("tensorrt", "cuda:1")] * 4
    assert [row[0] for row in only if not row[3]] == ["int8-cpu"]


def test_a_built_engine_has_a_row_without_tensorrt(
    all_four: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeasd.runtime.bench.variants.library.installed", lambda: False)
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "encoder.int8.engine").write_bytes(b"x")
    assert [row[:2] for row in rows_of(all_four, tmp_path) if row[1] == "tensorrt"] == [("int8", "tensorrt")]


def test_unknown_names_are_refused(all_four: Manifest, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--precision int4: .* offers fp32, fp16, int8, int8-cpu"):
        find_variants(all_four, tmp_path, precisions=["int4"])
    with pytest.raises(InputError, match="--engine coral"):
        find_variants(all_four, tmp_path, engine="coral")


# A variant in its process


def test_a_variant_is_measured_in_its_own_process(small_bundle: Path) -> None:
    ballast = bytearray(400 << 20)
    seen: list[tuple[int, int, str]] = []
    row = run_variant(small_bundle, FP32, QUICK, lambda *step: seen.append(step))
    assert row.result is not None
    found = row.result
    assert len(ballast)
    assert found["memory_mib"]["before_load"] < found["memory_mib"]["loaded"] <= found["memory_mib"]["peak"] < 400
    assert "onnxruntime" in found["engine_in_use"]
    assert "1 thread" in found["engine_in_use"]
    assert [one["batch"] for one in found["batches"]] == [1, 4]
    assert all(one["calls"] == 3 and one["over_bare"]["median"] > 0 for one in found["batches"])
    assert found["batches"][0]["p99_ms"] is None, "of three calls there is no 99th percentile"
    assert found["streams"]["sustained"] >= 0
    assert found["golden_deviation"]["z"] < 1e-3
    assert seen[0][:2] == (0, seen[-1][1])
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_a_hundred_calls_have_a_99th_percentile(small_bundle: Path) -> None:
    row = run_variant(small_bundle, FP32, BenchSettings((1,), repeats=100, threads=1), silent)
    assert row.result is not None
    (one,) = row.result["batches"]
    assert one["median_ms"] <= one["p95_ms"] <= one["p99_ms"]
    assert one["segments_per_second"] > 0


def test_energy_is_read_under_the_root(small_bundle: Path, tmp_path: Path) -> None:
    ina3221(tmp_path, "1-0040", {1: ("VDD_IN", "5000", "2000")})
    row = run_variant(small_bundle, FP32, QUICK, silent, tmp_path)
    assert row.result is not None
    found = row.result["energy"]
    assert found["watts"] == pytest.approx(10.0)
    assert found["idle_watts"] == pytest.approx(10.0)
    assert found["joules_per_segment"] > 0
    assert found["joules_per_segment"] * 4 * found["batch"] == pytest.approx(10.0 * found["seconds"], rel=0.01)


def test_what_cannot_run_keeps_its_reason_and_exit_code(small_bundle: Path, bundle_copy: Path) -> None:
    with open(bundle_copy / "encoder.fp32.onnx", "r+b") as handle:
        handle.write(b"damage")
    damaged = run_variant(bundle_copy, FP32, QUICK, silent)
    assert damaged.result is None
    assert damaged.exit_code == 2
    assert "encoder.fp32.onnx" in str(damaged.reason)
    unknown = run_variant(small_bundle, Variant("fp32", "onnxruntime", "npu"), QUICK, silent)
    assert "--accelerator npu" in str(unknown.reason)
    left = run_variant(bundle_copy, Variant("fp16", "onnxruntime", "cpu", left_out="why"), QUICK, silent)
    assert (left.reason, left.exit_code) == ("why", 0)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'terminate called' >&2; kill -9 $$", r"SIGKILL \(terminate called\); the system may have run out"),
        ("exit 7", r"exit code 7 \(without a message\)"),
    ],
)
def test_a_process_that_dies_is_a_row_and_no_traceback(
    script: str, expected: str, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(python))
    row = run_variant(small_bundle, FP32, QUICK, silent)
    assert row.exit_code == 3
    assert row.reason is not None
    assert "\n" not in row.reason
    assert re.search(expected, row.reason)


def test_an_interrupt_takes_the_process_with_it(small_bundle: Path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        run_variant(small_bundle, FP32, BenchSettings(seconds=60), stop)
    assert children() == before


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


# Facts and JSON


def test_a_row_is_json_with_its_reason() -> None:
    row = Row(Variant("fp16", "onnxruntime", "cpu", note="a reference"), reason="left out", exit_code=0)
    assert json.loads(json.dumps(row.as_json())) == {
        "precision": "fp16",
        "engine": "onnxruntime",
        "accelerator": "cpu",
        "note": None,
        "not_measured": "left out",
    }


@pytest.mark.parametrize(("load", "expected"), [(0.1, False), (1.0, False), (1.1, True)])
def test_a_busy_machine_is_called_so(load: float, expected: bool) -> None:
    assert is_busy({"load_at_start": load, "cores": 4}) == expected


def test_the_machine_is_named_and_its_place_is_not(tmp_path: Path) -> None:
    facts = device_info()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert os.uname().nodename not in json.dumps(facts)
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n")
    (tmp_path / "proc/loadavg").write_text("7.50 1.00 1.00 1/100 99\n")
    line = device_line(device_info(tmp_path))
    assert "load 7.5 at start" in line
    assert line.startswith("NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4.3; ARMv8 Processor rev 1 (v8l), ")
