"""Streaming log-mel in 192-ms chunks beside the bare FFT, kaldi-native-fbank and librosa; then stage by stage.

The bare FFT is numpy's float64 rfft of six windows that are already there: the one part that no
implementation in numpy can do without.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import Times, machine, machine_line, parser, ratio_rows, report, say, side_by_side, table, times_json

from edgeasd.runtime.features.logmel import FeatureSettings, LogMelStream, check_samples, logmel, mel_filter_bank

FRAMES = 6
CHUNK = 3072
PERIOD = 0.192
STREAM, FFT, FFT_OUT = "edgeasd LogMelStream.push", "np.fft.rfft", "np.fft.rfft, out="
SETTINGS = FeatureSettings()
Call = Callable[[], object]


def bare_ffts(rng: np.random.Generator) -> dict[str, Call]:
    """rfft of six windowed float64 frames, with and without a place for the result."""
    windowed = rng.standard_normal((FRAMES, SETTINGS.n_fft))
    out = np.empty((FRAMES, SETTINGS.n_fft // 2 + 1), np.complex128)
    return {FFT: lambda: np.fft.rfft(windowed), FFT_OUT: lambda: np.fft.rfft(windowed, out=out)}


def started(chunk: np.ndarray) -> LogMelStream:
    """A stream in which every further chunk completes six frames."""
    stream = LogMelStream(SETTINGS)
    stream.push(chunk)
    assert len(stream.push(chunk)) == FRAMES
    return stream


def kaldi(chunk: np.ndarray) -> dict[str, Call]:
    """kaldi-native-fbank's online extractor set as near as it goes; empty where it is not installed."""
    try:
        import kaldi_native_fbank as knf
    except ModuleNotFoundError:
        say("kaldi-native-fbank is not installed: left out")
        return {}
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = SETTINGS.sample_rate
    options.frame_opts.frame_length_ms = 1000 * SETTINGS.n_fft / SETTINGS.sample_rate
    options.frame_opts.frame_shift_ms = 1000 * SETTINGS.hop_length / SETTINGS.sample_rate
    options.frame_opts.window_type = "hann"
    options.frame_opts.dither = 0.0
    options.frame_opts.preemph_coeff = 0.0
    options.frame_opts.remove_dc_offset = False
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = SETTINGS.n_mels
    options.mel_opts.low_freq, options.mel_opts.high_freq = SETTINGS.f_min, SETTINGS.f_max
    options.mel_opts.is_librosa = True
    options.use_power = False
    options.use_energy = False
    online, done = knf.OnlineFbank(options), 0
    online.accept_waveform(SETTINGS.sample_rate, chunk)

    def push() -> list[Any]:
        nonlocal done
        online.accept_waveform(SETTINGS.sample_rate, chunk)
        ready = online.num_frames_ready
        frames = [online.get_frame(i) for i in range(done, ready)]
        online.pop(ready - done)
        done = ready
        return frames

    push()
    assert len(push()) == FRAMES
    return {"kaldi-native-fbank online": push}


def offline(rng: np.random.Generator, rounds: int) -> tuple[Times, int]:
    """A 10-s clip at once: ours, librosa's function as it is called, librosa's with the bank made once."""
    clip = (0.1 * rng.standard_normal(10 * SETTINGS.sample_rate)).astype(np.float32)
    calls: dict[str, Call] = {"edgeasd logmel": lambda: logmel(clip, SETTINGS)}
    try:
        import librosa
    except ModuleNotFoundError:
        say("librosa is not installed: left out")
        return side_by_side(calls, rounds=rounds), SETTINGS.frame_count(clip.size)
    s = SETTINGS
    bank = mel_filter_bank(s.sample_rate, s.n_fft, s.n_mels, s.f_min, s.f_max)
    shape = {"n_fft": s.n_fft, "hop_length": s.hop_length, "center": False}

    def whole(y: np.ndarray) -> np.ndarray:
        mel = librosa.feature.melspectrogram(
            y=y, sr=s.sample_rate, power=1.0, n_mels=s.n_mels, fmin=s.f_min, fmax=s.f_max, **shape
        )
        return np.log10(np.maximum(s.log_floor, mel))

    def bank_once(y: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum(s.log_floor, bank @ np.abs(librosa.stft(y, **shape))))

    clip64 = clip.astype(np.float64)
    calls["librosa melspectrogram, float32"] = lambda: whole(clip)
    calls["librosa melspectrogram, float64"] = lambda: whole(clip64)
    calls["librosa stft float32, bank made once"] = lambda: bank_once(clip)
    calls["librosa stft float64, bank made once"] = lambda: bank_once(clip64)
    return side_by_side(calls, rounds=rounds), SETTINGS.frame_count(clip.size)


def stages(chunk: np.ndarray, rounds: int, calls: int) -> Times:
    """Each step of a push alone, on the stream's own arrays.

    Looks inside LogMelStream on purpose; the assertion fails when these steps are no longer its steps.
    """
    stream = started(chunk)
    expected = stream.push(chunk)
    kernel, carried = stream._kernel, stream._filled
    framed, windowed, spectrum, magnitude32, magnitude, bands, mel = kernel._views[FRAMES]
    place, out = kernel.samples[carried : carried + CHUNK], np.empty_like(expected)
    end = kernel.samples[FRAMES * SETTINGS.hop_length :][:carried]

    def magnitudes() -> None:
        np.abs(spectrum, out=magnitude32, casting="same_kind")
        np.copyto(magnitude, magnitude32)

    def mel_product() -> None:
        for part, weights, target in bands:
            np.matmul(part, weights, out=target)

    def floor_and_log() -> None:
        np.copyto(out, mel, casting="same_kind")
        np.maximum(out, kernel._floor, out=out)
        np.log10(out, out=out)

    steps: dict[str, Call] = {
        "check for NaN and infinities": lambda: check_samples(chunk),
        "copy to float64, minus the mean": lambda: np.subtract(chunk, stream._mean, out=place),
        "window": lambda: np.multiply(framed, kernel._window, out=windowed),
        "FFT": lambda: np.fft.rfft(windowed, out=spectrum),
        "magnitude to float32 and back": magnitudes,
        "mel product": mel_product,
        "float32, floor, log10": floor_and_log,
        "keep the last half window": lambda: np.copyto(kernel.samples[:carried], end),
    }
    for step in steps.values():
        step()
    assert np.array_equal(out, expected), "bench_logmel.stages no longer repeats what LogMelStream does"
    whole = started(chunk)
    return side_by_side({STREAM: lambda: whole.push(chunk), **steps}, rounds=rounds, calls=calls)


def paced(chunk: np.ndarray, rng: np.random.Generator, rounds: int) -> Times:
    """One push and one bare FFT every 192 ms, as in a live run: caches are cold."""
    stream, fft = started(chunk), bare_ffts(rng)[FFT_OUT]
    pushes: dict[str, Call] = {STREAM: lambda: stream.push(chunk), FFT_OUT: fft}
    times: Times = {name: [] for name in pushes}
    for _ in range(rounds):
        for name, call in pushes.items():
            time.sleep(PERIOD / 2)
            begun = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begun)
    return times


def stage_rows(times: Times) -> list[list[object]]:
    """Median of each stage per frame, its share of a push, and what is left for Python between them."""
    medians = {name: statistics.median(values) * 1e6 / FRAMES for name, values in times.items()}
    whole = medians.pop(STREAM)
    rest = whole - sum(medians.values())
    medians["the rest: Python between the calls"] = rest
    rows: list[list[object]] = [[name, f"{us:.2f}", f"{100 * us / whole:.0f} %"] for name, us in medians.items()]
    return [*rows, ["whole push", f"{whole:.2f}", "100 %"]]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=300)
    options.add_argument("--calls", type=int, default=10, help="calls of each function in a round")
    chosen = options.parse_args()
    rounds, calls, rng, facts = chosen.rounds, chosen.calls, np.random.default_rng(0), machine()
    chunk = (0.1 * rng.standard_normal(CHUNK)).astype(np.float32)
    say("streaming")
    stream = started(chunk)
    streaming = side_by_side(
        {**bare_ffts(rng), STREAM: lambda: stream.push(chunk), **kaldi(chunk)}, rounds=rounds, calls=calls
    )
    say("stages")
    parts = stages(chunk, rounds, calls)
    say("offline")
    clips, frames = offline(rng, max(5, rounds // 15))
    say("once every 192 ms")
    cold = paced(chunk, rng, max(5, rounds // 10))
    head = ["", "µs a frame", "ratio", "80 % of rounds"]
    text = "\n\n".join(
        [
            machine_line(facts),
            f"Streaming, {CHUNK} samples ({FRAMES} frames) a call, {rounds} rounds of {calls} calls\n\n"
            + table([*head[:2], f"ratio to {FFT}", head[3]], ratio_rows(streaming, FFT, per=FRAMES)),
            "The stages of a push\n\n" + table(["stage", "µs a frame", "share"], stage_rows(parts)),
            "One call every 96 ms\n\n" + table(head, ratio_rows(cold, FFT_OUT, per=FRAMES)),
            f"Offline, a 10-s clip ({frames} frames)\n\n"
            + table(head, ratio_rows(clips, "edgeasd logmel", per=frames)),
        ]
    )
    result = {
        "machine": facts,
        "frames_per_call": FRAMES,
        "streaming": times_json(streaming, FFT),
        "stages": times_json(parts, STREAM),
        "paced": times_json(cold, FFT_OUT),
        "offline": {"frames_per_call": frames, **times_json(clips, "edgeasd logmel")},
    }
    report(result, text, as_json=chosen.json)


if __name__ == "__main__":
    main()
