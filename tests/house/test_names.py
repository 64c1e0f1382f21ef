"""One name for one thing: names that were given up do not come back, and what is public says what it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

REPOSITORY = Path(__file__).resolve().parents[2]
FLOORS = ("runtime", "calibration", "export", "toolkit")

OVERRIDES = ("forward", "do_GET", "do_HEAD", "end_headers")
"""Methods of torch.nn.Module and of http.server that we override."""
OLD_MODULES = (
    r"runtime/\w+/(adopt|backlog|berths?|bodies|boot|built|choice|courier|direct|exchange|finding|fleet|golden|holes|hub)",
    r"runtime/\w+/(inbox|input_watch|keeper|kept|lane|latch|ledger|link|listen|mqtt_link|notices|notify|offer|onnx_guard)",
    r"runtime/\w+/(patient|png|proof|queue|queue_file|records?|reopening|repeats|restoring|row|scrape|sharing|signature)",
    r"runtime/\w+/(sink|standing|table|teller|terminal|torn_line|view)",
    r"runtime/site(/.*)?",
    r"toolkit/(calibrating(/.*)?|cli/(calibrating|guard|one_stream|stoppable|terminal))",
    r"toolkit/(reports/(calibration_plots|clips|html|pictures)|reproduction/(board|claim|worker)|training/batches)",
)
"""Patterns of module paths that are not used any more."""
OLD_NAMES = {
    "Keeper": "EventRecorder",
    "Kept": "MonitoredMachine",
    "Teller": "EventRecorder",
    "Berths?": "StreamSlot",
    "Fleet": "StreamSupervisor",
    "Ledger": "EventStore",
    "Exchange": "nothing",
    "Finding": "StreamUpdate, or CheckResult in doctor/",
    "Observation": "AlarmInput",
    "PatientSource|Reopening": "ReconnectingSource",
    "ChannelSplit|ChannelSource": "ChannelSplitter, SplitChannel",
    "ServedStream": "StreamWorker",
    "ScoringThread": "ScoringWorker",
    "Overload": "LoadShedder",
    "Backlog|Standing": "StreamStatus",
    "Commanded": "CommandResult",
    "Delivery": "DeliveryResult",
    "await_delivery": "wait_for_delivery",
    "Notifier": "SystemdNotifier",
    "booted_anew": "rebooted_since",
    "between_segments|visitors": "paused",
    "Lane|Courier": "OutputWorker",
    "Inbox|Ticket": "Outbox",
    "Sink": "Output",
    "Link|Publication": "MqttConnection, MqttMessage",
    "DeliveryFailed": "DeliveryError",
    "MessageRefused": "MessageRejected",
    "Notices": "LogOnce",
    "put_aside": "quarantine",
    "begin_anew": "recreate",
    "is_damage": "is_corrupt",
    "torn_end": "partial_last_line",
    "catch_up": "replay_unpublished",
    "Site": "ServiceConfig",
    "Problem|settings_problem": "ConfigError",
    "describe_problem": "describe_validation_error",
    "place_everything": "resolve_paths",
    "sick|_sick|sick_since_seconds": "unhealthy",
    "frozen": "suspended",
    "keep_every": "decimation",
    "looks_back|_looks_back": "window_seconds",
    "settle_seconds": "recovery_seconds",
    "gap_clears": "clear_on_gap",
    "heard_low_dbfs|heard_high_dbfs": "measured_low_dbfs, measured_high_dbfs",
    "Latch|Holes": "HoldTimer, DropoutDetector",
    "begin_row": "reset_history",
    "number_after": "skip_sequence_to",
    "Watch": "ThresholdCounter",
    "Offer": "LoadPlan",
    "Golden|check_golden|golden_deviation": "reference segments",
    "_?prove_\\w+": "verify_...",
    "Program|Serialised": "ExecutionPipeline, SerializedEngine",
    "Built": "BuiltEngine",
    "MachineFacts|GpuFacts|gpu_facts": "DeviceInfo, GpuInfo",
    "ChainedEngine|Chain|TensorRTChain": "EngineWithFrontEnd",
    "live_segments": "make_segmenter",
    "scored": "score_outputs",
    "FramesScorer": "GraphFrontEndScorer",
    "Ring|SegmentRing": "SlidingWindowBuffer",
    "Facts|read_facts": "ClipMetadata, read_metadata",
    "Trace": "ScoreOverlay",
    "Archive": "ClipArchive",
    "salvage": "recover_clip",
    "as_ours": "to_user_error",
    "tell_nobody|no_log": "logging",
    "Told|Say": "ProgressCallback",
    "ThresholdWish": "ThresholdRequest",
    "GivenClip": "Clip",
    "stranger|same_machine": "other_machine",
    "room_from": "margin_source",
    "put_back": "revert_to_fp16",
    "Outcome": "TrainingResult",
    "Board|Claim": "JobQueue",
    "Trained": "TrainedModel",
    "wrong_in": "EvaluationFile",
    "Ahead": "torch DataLoader",
    "guarded|complain|held_back|stoppable|remembered_interrupts": "handle_errors, print_error, defer_signals, interruptible",
    "records_of": "to_record",
}
"""Names of classes, functions and fields that are not used any more, and what is said instead."""


@cache
def trees() -> dict[str, ast.Module]:
    """Path to syntax tree of every module of the four floors."""
    paths = [path for floor in FLOORS for path in sorted((REPOSITORY / floor).rglob("*.py"))]
    return {str(path.relative_to(REPOSITORY)): ast.parse(path.read_text("utf-8"), str(path)) for path in paths}


def defined(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names and lines of classes, functions and annotated fields."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.lineno
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.target.id, field.lineno


def test_no_module_has_an_old_name() -> None:
    old = re.compile("|".join(OLD_MODULES))
    assert [path for path in trees() if old.fullmatch(path.removesuffix(".py"))] == []


def test_no_class_function_or_field_has_an_old_name() -> None:
    said = []
    for path, tree in trees().items():
        for name, line in defined(tree):
            new = next((new for old, new in OLD_NAMES.items() if re.fullmatch(old, name)), None)
            if new is not None:
                said.append(f"{path}:{line}: {name}: say {new}")
    assert said == []


def public(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Classes and functions of a module, and methods of its classes, whose names do not begin with an underscore.

    Methods that a base class outside of edgeasd calls are left out, for their meaning is fixed there, and setters: a
    property is described where it is read.
    """
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (
                    n
                    for n in node.body
                    if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
                    and n.name[0] != "_"
                    and n.name not in OVERRIDES
                    and not any(isinstance(d, ast.Attribute) and d.attr == "setter" for d in n.decorator_list)
                )


def test_every_module_has_a_docstring() -> None:
    assert [path for path, tree in trees().items() if not ast.get_docstring(tree)] == []


def test_what_is_public_has_a_docstring() -> None:
    said = []
    for path, tree in trees().items():
        said += [f"{path}:{node.lineno}: {node.name}" for node in public(tree) if not ast.get_docstring(node)]
    assert said == []


def test_test_names_have_at_most_60_characters() -> None:
    names = [
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
        if len(name) > 60
    ]
    assert names == []
