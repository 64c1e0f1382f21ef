"""A strongly typed network from one of our ONNX files: the graph, and not the builder, says each layer's precision.

The TensorRT module is an argument everywhere here: TensorRT for RTX, which builds without a GPU, is another module
with the same names, and the tests give it.
Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeasd.runtime.engines.tensorrt import library
from edgeasd.runtime.errors import BundleError

if TYPE_CHECKING:
    import tensorrt

_LONGEST = 300


def make_logger(trt: ModuleType, errors: list[str]) -> tensorrt.ILogger:
    """A logger that keeps TensorRT's errors in `errors` for a message of ours; the rest is of no use to a user."""
    severity = trt.ILogger.Severity
    grave = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            # TensorRT's Python classes want their own constructor called by name.
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity in grave:
                errors.append(one_line(msg))

    made: tensorrt.ILogger = Logger()
    return made


def one_line(text: object) -> str:
    """What TensorRT said, printable and cut."""
    return "".join(c if c.isprintable() else " " for c in " ".join(str(text).split())[:_LONGEST])


def parse_onnx(
    trt: ModuleType, builder: tensorrt.Builder, logger: tensorrt.ILogger, model: Path, errors: list[str]
) -> tensorrt.INetworkDefinition:
    """Read an ONNX file into a strongly typed network with one input of a free batch.

    Raises BundleError, one line with the node, where TensorRT cannot read it or does not support it.
    """
    network = builder.create_network(_creation_flags(trt))
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    # From memory: the parser would follow paths to data outside a file.
    if not parser.parse(model.read_bytes()):
        raise BundleError(
            f"{model.name}: TensorRT {library.version(trt)} cannot read it ({_reason(parser, errors)}); "
            "export and calibrate the bundle again with this version of edgeasd"
        )
    entry: Any = network.get_input(0).shape if network.num_inputs == 1 else ()
    if [size < 0 for size in entry] != [True] + [False] * (len(entry) - 1):
        raise BundleError(f"{model.name}: expected one input, of a free batch and else of fixed shape; export it again")
    return network


def _creation_flags(trt: ModuleType) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    flags = 1 << int(kinds.STRONGLY_TYPED)
    # TensorRT 10 still has it, as a mark without effect; in 11 it is gone.
    explicit = getattr(kinds, "EXPLICIT_BATCH", None)
    return flags if explicit is None else flags | 1 << int(explicit)


def _reason(parser: tensorrt.OnnxParser, errors: list[str]) -> str:
    """The first error of the parser with its node, and how many there are."""
    if not parser.num_errors:
        return errors[0] if errors else "it says no more"
    first: Any = parser.get_error(0)
    node = f"{first.node_operator()} {first.node_name()}: " if first.node_name() else ""
    more = f", and {parser.num_errors - 1} more" if parser.num_errors > 1 else ""
    return one_line(f"{node}{first.desc()}") + more


def quantised_convolutions(trt: ModuleType, network: tensorrt.INetworkDefinition) -> list[str]:
    """Names of the convolutions that read dequantised integers: those that should run as INT8."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = trt.LayerType
    dequantised = {layer.get_output(0).name for layer in layers if layer.type == kinds.DEQUANTIZE}
    return [
        layer.name for layer in layers if layer.type == kinds.CONVOLUTION and layer.get_input(0).name in dequantised
    ]
