"""Front ends that pretrained encoders were trained behind, as settings of the one log-mel in `runtime.features`.

Theirs put frame t in the middle of the samples around t · hop, with a mirrored edge; ours starts frame t at t · hop and
needs no sample of the future. So the frames of the sound without its first 128 samples are theirs from frame 2 on
(n_fft / 2 = 2 · 320 − 128), but for the two frames at each end of a recording that hear the mirror.
"""

from __future__ import annotations

from edgeasd.runtime.features.logmel import FeatureSettings

EFFICIENTAT = FeatureSettings(
    sample_rate=32_000,
    n_fft=1024,
    hop_length=320,
    n_mels=128,
    f_min=0.0,
    f_max=15_000.0,
    log_floor=1e-5,
    window="hann_symmetric",
    window_length=800,
    preemphasis=0.97,
    spectrum="power",
    mel_scale="kaldi",
    mel_norm="none",
    logarithm="ln",
    floor_rule="add",
    offset=4.5,
    scale=0.2,
)
"""EfficientAT (Schmid et al. 2023), all mn*_as: `AugmentMelSTFT` of its models/preprocess.py, as in evaluation."""

PANNS = FeatureSettings(
    sample_rate=32_000,
    n_fft=1024,
    hop_length=320,
    n_mels=64,
    f_min=50.0,
    f_max=14_000.0,
    log_floor=1e-10,
    spectrum="power",
    scale=10.0,
)
"""PANNs (Kong et al. 2020), Cnn10, Cnn14 and ResNet38: `Spectrogram` and `LogmelFilterBank` of torchlibrosa, in dB."""
