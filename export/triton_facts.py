"""What a client must know to make segments and to read scores, as parameters of the ensemble."""

from __future__ import annotations

from edgeasd.runtime.manifest import Manifest


def client_facts(manifest: Manifest, precision: str) -> dict[str, object]:
    """Names and values; numbers are written so that reading them gives the same float64.

    The manifest stays the law: this is for a client that has only the server. None where there is no threshold.
    """
    features, segments, score, threshold = manifest.features, manifest.segments, manifest.score, manifest.threshold
    return {
        "edgeasd_version": manifest.edgeasd_version,
        "machine": manifest.machine.type,
        "id": manifest.machine.id,
        "status": manifest.status,
        "backbone": manifest.network.backbone,
        "precision": precision,
        "sample_rate": features.sample_rate,
        "n_fft": features.n_fft,
        "hop_length": features.hop_length,
        "n_mels": features.n_mels,
        "f_min": features.f_min,
        "f_max": features.f_max,
        "amplitude_mean": manifest.amplitude.mean,
        "amplitude_std": manifest.amplitude.std,
        "segment_frames": segments.frames,
        "segment_hop_frames": segments.hop,
        "segment_hop_seconds": segments.hop * features.hop_length / features.sample_rate,
        "sections": segments.sections,
        "method": score.method,
        "alpha": score.alpha,
        "d_min": score.d_min,
        "d_max": score.d_max,
        "threshold_clip": threshold.clip if threshold else None,
        "threshold_consecutive": threshold.consecutive if threshold else None,
    }
