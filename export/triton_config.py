"""config.pbtxt of Triton: model configurations as plain values, and the text form of protobuf for them.

Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto and
https://protobuf.dev/reference/protobuf/textformat-spec
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeasd.runtime.bundle.manifest import Manifest

ENCODER_IN, ENCODER_OUT = "logmel", "z"
HEAD_OUT = ("logit", "q", "p", "d", "d_prime")
EMBEDDING = "embedding"
"""Output of the head as it is served: its own input, handed on. See `edgeasd.export.triton.served_head`."""
_LATEST = {"latest": {"num_versions": 1}}
_PLATFORMS = {
    "onnx": {"platform": "onnxruntime_onnx", "backend": "onnxruntime"},
    "tensorrt": {"platform": "tensorrt_plan", "backend": "tensorrt"},
}


class Word(str):
    """A name of an enumeration, which is written without quotes."""


def render(message: Mapping[str, Any], indent: str = "") -> str:
    """A message as text: strings, Words, numbers, booleans, mappings, and lists of these. None is left out."""
    lines = []
    for name, value in message.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            lines.append(_block(name, value, indent))
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            lines += [_block(name, one, indent) for one in value]
        elif isinstance(value, (list, tuple)):
            lines.append(f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n")
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}\n")
    return "".join(lines)


def _block(name: str, message: Mapping[str, Any], indent: str) -> str:
    return f"{indent}{name} {{\n{render(message, indent + '  ')}{indent}}}\n"


def _scalar(value: object) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if not isinstance(value, str):
        raise TypeError(f"{value!r}: no scalar of a model configuration")
    # As bytes in octal: whatever an ID holds, the file stays ASCII and no quote ends early.
    kept = (chr(byte) if 32 <= byte < 127 and byte not in b"\"'\\" else f"\\{byte:03o}" for byte in value.encode())
    return f'"{"".join(kept)}"'


def tensor(name: str, dims: Sequence[int]) -> dict[str, Any]:
    """A float32 tensor with the dimensions after the batch.

    Triton counts the batch apart and wants at least one dimension more. A tensor (N,) is therefore given to
    clients as (N, 1), and reshaped from what the graph has.
    """
    found = {"name": name, "data_type": Word("TYPE_FP32"), "dims": list(dims) or [1]}
    return found if dims else {**found, "reshape": {"shape": []}}


def batching(max_batch: int, delay_microseconds: int) -> dict[str, Any] | None:
    """How waiting requests are put together: up to three halvings of the largest batch are preferred."""
    if max_batch == 1:
        return None
    preferred = sorted({max_batch // part for part in (1, 2, 4, 8) if max_batch // part > 1})
    return {"preferred_batch_size": preferred, "max_queue_delay_microseconds": delay_microseconds}


def encoder_config(
    name: str,
    manifest: Manifest,
    *,
    platform: str,
    max_batch: int,
    delay_microseconds: int,
    instances: int,
    kind: str,
) -> dict[str, Any]:
    """LOGMEL (1, frames, n_mels) to the embedding (D,), on `instances` of "gpu" or "cpu"."""
    return {
        "name": name,
        **_PLATFORMS[platform],
        "max_batch_size": max_batch,
        "input": [tensor(ENCODER_IN, segment_dims(manifest))],
        "output": [tensor(ENCODER_OUT, [manifest.network.embedding])],
        "version_policy": _LATEST,
        "instance_group": [{"count": instances, "kind": Word(f"KIND_{kind.upper()}")}],
        "dynamic_batching": batching(max_batch, delay_microseconds),
    }


def head_config(name: str, manifest: Manifest, *, max_batch: int) -> dict[str, Any]:
    """The head on the CPU, one thread: it is over before a copy to a GPU would be."""
    embedding = [manifest.network.embedding]
    return {
        "name": name,
        **_PLATFORMS["onnx"],
        "max_batch_size": max_batch,
        "input": [tensor(ENCODER_OUT, embedding)],
        "output": [tensor(EMBEDDING, embedding), *(tensor(output, []) for output in HEAD_OUT)],
        "version_policy": _LATEST,
        "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
        # No delay of its own: requests have waited for each other before the encoder.
        "dynamic_batching": batching(max_batch, 0),
        "parameters": parameters({"intra_op_thread_count": 1}),
    }


def ensemble_config(
    name: str,
    parts: tuple[str, str],
    version: int,
    manifest: Manifest,
    metadata: Mapping[str, object],
    *,
    max_batch: int,
) -> dict[str, Any]:
    """What a client asks: LOGMEL to EMBEDDING, LOGIT, Q, P, D, D_PRIME; `metadata` becomes its parameters.

    Its steps name the version they were written with, so that an encoder never meets the head of another export.
    """
    encoder, head = parts
    outputs = {EMBEDDING: [manifest.network.embedding], **{output: [1] for output in HEAD_OUT}}
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": max_batch,
        "input": [tensor(ENCODER_IN.upper(), segment_dims(manifest))],
        "output": [tensor(output.upper(), dims) for output, dims in outputs.items()],
        "version_policy": _LATEST,
        "ensemble_scheduling": {
            "step": [
                _step(encoder, version, {ENCODER_IN: ENCODER_IN.upper()}, {ENCODER_OUT: ENCODER_OUT}),
                _step(head, version, {ENCODER_OUT: ENCODER_OUT}, {output: output.upper() for output in outputs}),
            ]
        },
        "parameters": parameters(metadata),
    }


def segment_dims(manifest: Manifest) -> list[int]:
    """Dimensions of a segment after the batch: channel, frames, bands."""
    return [1, manifest.segments.frames, manifest.features.n_mels]


def parameters(metadata: Mapping[str, object]) -> list[dict[str, Any]]:
    """Entries of a map from names to strings; a value that is None is left out."""
    return [
        {"key": name, "value": {"string_value": str(value)}} for name, value in metadata.items() if value is not None
    ]


def _step(model: str, version: int, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    """One model of an ensemble; names of the model to names of the ensemble."""
    return {
        "model_name": model,
        "model_version": version,
        "input_map": [{"key": key, "value": value} for key, value in inputs.items()],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }
