"""Training is exact: resumed or not, the same seed gives the same bits; and it stops before it goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from edgeasd.runtime.errors import CheckFailed, DeviceError, InputError
from edgeasd.toolkit.data.machine import MachineData, load_machine
from edgeasd.toolkit.models.backbones import build_network
from edgeasd.toolkit.presets import Preset, load_preset
from edgeasd.toolkit.progress import no_progress
from edgeasd.toolkit.training import trainer as trainer_module
from edgeasd.toolkit.training.centroids import estimate_norms, mean_embedding
from edgeasd.toolkit.training.checkpoint import latest_checkpoint, list_checkpoints
from edgeasd.toolkit.training.data import FeaturePool
from edgeasd.toolkit.training.fabric import open_fabric
from edgeasd.toolkit.training.session import stop_requests, train_one
from edgeasd.toolkit.training.trainer import Interrupted, StepLog, Trainer

FRAMES, MELS = 64, 32
ITERATIONS, EPOCH = 12, 4


def pool(count: int, seed: int, shift: float = 0.0) -> FeaturePool:
    """Clips of different lengths, one of them shorter than a segment."""
    rng = np.random.default_rng(seed)
    lengths = [FRAMES // 2 if i == 1 else FRAMES + 7 * i for i in range(count)]
    clips = [(rng.standard_normal((n, MELS)) + shift).astype(np.float32) for n in lengths]
    return FeaturePool(count, clips.__getitem__, FRAMES)


def preset(**fields: Any) -> Preset:
    small = {
        "iterations": ITERATIONS,
        "batch_normal": 4,
        "batch_outlier": 4,
        "least_epoch_iterations": EPOCH,
        "segment_frames": FRAMES,
        "halve_every": 5,
        "checkpoint_every": 1000,
    }
    return load_preset("quick").changed(**{**small, **fields})


def make(seed: int = 0, **fields: Any) -> Trainer:
    return Trainer(preset(**fields), seed, pool(9, 1), pool(14, 2, 1.0), MELS, open_fabric("cpu"))


def train(
    trainer: Trainer, folder: Path, should_stop: Callable[[StepLog | None], bool] = lambda _: False
) -> tuple[list[StepLog], bool]:
    """Run with checkpoints into `folder`; returns (steps, whether it was stopped)."""
    steps: list[StepLog] = []
    try:
        trainer.run(steps.append, lambda: trainer.save(folder, {}) and None, lambda: should_stop(steps[-1]))
    except Interrupted:
        return steps, True
    return steps, False


def results(trainer: Trainer) -> dict[str, Tensor]:
    assert trainer.centroids is not None
    c_p, c_n = trainer.centroids
    return {**trainer.network.state_dict(), "c_p": c_p, "c_n": c_n}


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def comparable(steps: list[StepLog]) -> list[tuple[float, ...]]:
    return [(s.iteration, s.loss, s.bce, s.metric, s.largest_inverse, s.gradient_norm, s.learning_rate) for s in steps]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[StepLog], dict[str, Tensor]]:
    trainer = make()
    steps, stopped = train(trainer, tmp_path_factory.mktemp("whole"))
    assert not stopped
    return steps, results(trainer)


@pytest.mark.parametrize("stop_at", [3, EPOCH, 11])
def test_a_resumed_run_gives_the_same_bits(
    stop_at: int, uninterrupted: tuple[list[StepLog], dict[str, Tensor]], tmp_path: Path
) -> None:
    first = make()
    before, stopped = train(first, tmp_path, lambda step: step is not None and step.iteration == stop_at)
    assert stopped
    assert first.iteration == stop_at == latest_checkpoint(tmp_path).iteration
    torch.rand(100)  # nothing may depend on what the generator was used for meanwhile
    second = make()
    second.restore(latest_checkpoint(tmp_path))
    after, _ = train(second, tmp_path)
    assert comparable(before + after) == comparable(uninterrupted[0])
    assert_same_bits(results(second), uninterrupted[1])


def test_it_can_be_stopped_after_every_single_iteration(
    uninterrupted: tuple[list[StepLog], dict[str, Tensor]], tmp_path: Path
) -> None:
    steps: list[StepLog] = []
    for _ in range(ITERATIONS):
        trainer = make()
        if list_checkpoints(tmp_path):
            trainer.restore(latest_checkpoint(tmp_path))
        steps += train(trainer, tmp_path, lambda _: True)[0]
    assert comparable(steps) == comparable(uninterrupted[0])
    assert_same_bits(results(trainer), uninterrupted[1])


def test_resuming_a_finished_run_changes_nothing(
    uninterrupted: tuple[list[StepLog], dict[str, Tensor]], tmp_path: Path
) -> None:
    train(make(), tmp_path)
    again = make()
    again.restore(latest_checkpoint(tmp_path))
    steps, _ = train(again, tmp_path)
    assert steps == []
    assert_same_bits(results(again), uninterrupted[1])


@pytest.mark.parametrize("method", ["bce", "dsad", "bce+dsad", "ddcsad"])
def test_every_method_trains_and_resumes_exactly(method: str, tmp_path: Path) -> None:
    whole = make(method=method, iterations=6)
    steps, _ = train(whole, tmp_path / "whole")
    assert all(math.isfinite(value) for step in comparable(steps) for value in step)
    train(make(method=method, iterations=6), tmp_path, lambda step: step is not None and step.iteration == 5)
    resumed = make(method=method, iterations=6)
    resumed.restore(latest_checkpoint(tmp_path))
    train(resumed, tmp_path)
    assert_same_bits(results(resumed), results(whole))


def test_one_seed_is_one_result_and_another_seed_another(
    uninterrupted: tuple[list[StepLog], dict[str, Tensor]], tmp_path: Path
) -> None:
    same = make()
    steps, _ = train(same, tmp_path / "same")
    other = make(seed=1)
    train(other, tmp_path / "other")
    assert comparable(steps) == comparable(uninterrupted[0])
    assert_same_bits(results(same), uninterrupted[1])
    assert not torch.equal(results(other)["head.weight"], results(same)["head.weight"])


def test_the_learning_rate_is_halved_by_the_iteration(
    uninterrupted: tuple[list[StepLog], dict[str, Tensor]],
) -> None:
    assert [s.learning_rate for s in uninterrupted[0]] == [1e-3] * 5 + [5e-4] * 5 + [2.5e-4] * 2
    assert [s.iteration for s in uninterrupted[0]] == list(range(1, ITERATIONS + 1))


def test_the_head_learns_at_its_own_rate() -> None:
    trainer = make(learning_rate=1e-3, head_learning_rate=7e-3)
    trainer._begin()
    trainer._step(*trainer._batches[0])
    groups = trainer.optimiser.param_groups
    head = {id(p) for p in trainer.network.head.parameters()}
    assert [(group["lr"], {id(p) for p in group["params"]} == head) for group in groups] == [
        (1e-3, False),
        (7e-3, True),
    ]
    assert sum(len(group["params"]) for group in groups) == len(list(trainer.network.parameters()))


def naive_mean(trainer: Trainer, of: FeaturePool) -> np.ndarray:
    """One clip after the other, its middle segment, in eval mode, averaged in float64."""
    trainer.network.eval()
    rows = []
    for i in range(len(of)):
        clip = of.clip(i)
        start = int(0.5 * (len(clip) - FRAMES + 1))
        segment = torch.from_numpy(np.array(clip[start : start + FRAMES]))[None, None]
        with torch.no_grad():
            rows.append(trainer.network.encoder(segment)[0].double().numpy())
    return np.mean(rows, axis=0)


def test_centroids_are_mean_embeddings_of_the_final_network(tmp_path: Path) -> None:
    trainer = make()
    train(trainer, tmp_path)
    assert trainer.centroids is not None
    for centroid, clips in zip(trainer.centroids, (pool(9, 1), pool(14, 2, 1.0)), strict=True):
        np.testing.assert_allclose(centroid.numpy(), naive_mean(trainer, clips), rtol=1e-4, atol=1e-6)


def test_centroids_move_once_an_epoch_with_ddcsad_only(tmp_path: Path) -> None:
    for method, moves in (("bce+ddcsad", [EPOCH, 2 * EPOCH]), ("bce+dsad", [])):
        trainer = make(method=method)
        seen: list[Tensor] = []

        def watch(step: StepLog | None, trainer: Trainer = trainer, seen: list[Tensor] = seen) -> bool:
            assert trainer.centroids is not None
            seen.append(trainer.centroids[0].clone())
            return False

        train(trainer, tmp_path / method, watch)
        changed = [i + 1 for i in range(1, len(seen)) if not torch.equal(seen[i], seen[i - 1])]
        assert changed == moves
        assert trainer.centroids is not None
        assert torch.equal(trainer.centroids[0], seen[-1]) is (method == "bce+dsad")


def test_the_preset_limits_the_outliers_of_the_centroid() -> None:
    limited, whole = make(centroid_outliers=5), make(centroid_outliers=0)
    for trainer in (limited, whole):
        trainer._begin()
        trainer.network.eval()
    assert limited.centroids is not None
    chosen = np.sort(np.random.default_rng([0, 5, 0]).permutation(14)[:5])
    cpu = torch.device("cpu")
    expected = mean_embedding(limited.network.encoder, pool(14, 2, 1.0), chosen, FRAMES, MELS, cpu)
    torch.testing.assert_close(limited.centroids[1], expected)
    assert whole.centroids is not None
    np.testing.assert_allclose(whole.centroids[1].numpy(), naive_mean(whole, pool(14, 2, 1.0)), rtol=1e-4, atol=1e-6)


def test_mean_embedding_leaves_the_mode_of_the_encoder_alone() -> None:
    encoder = build_network("quick", n_mels=MELS).encoder
    for training in (True, False):
        encoder.train(training)
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        mean_embedding(encoder, pool(3, 0), np.arange(3), FRAMES, MELS, torch.device("cpu"))
        assert encoder.training is training
        assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_estimated_norms_are_plain_averages_over_one_pass() -> None:
    """Against a norm on its own, over 40 + 40 clips: a full batch of 64 and one of 16, equal in weight."""
    norm = nn.BatchNorm2d(1, momentum=0.1)
    seen: list[Tensor] = []
    norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    encoder = nn.Sequential(norm, nn.Dropout(0.5))
    norm.running_mean.fill_(99.0)  # type: ignore[union-attr]
    estimate_norms(encoder, pool(40, 1), pool(45, 2, 1.0), FRAMES, MELS, torch.device("cpu"), 0)
    assert [len(batch) for batch in seen] == [64, 16]
    assert norm.momentum == 0.1
    means = [float(batch.double().mean()) for batch in seen]
    variances = [float(batch.double().var()) for batch in seen]
    assert float(norm.running_mean) == pytest.approx(np.mean(means), abs=1e-5)  # type: ignore[arg-type]
    assert float(norm.running_var) == pytest.approx(np.mean(variances), rel=1e-5)  # type: ignore[arg-type]
    # half normals (mean 0), half outliers (mean 1)
    assert means == pytest.approx([0.5, 0.5], abs=0.05)


def test_dropout_is_off_while_norms_are_estimated() -> None:
    network = build_network("quick", n_mels=MELS).train()
    modes: list[bool] = []
    for dropout in (m for m in network.modules() if isinstance(m, nn.Dropout)):
        dropout.register_forward_hook(lambda module, *_: modes.append(module.training))
    estimate_norms(network.encoder, pool(4, 1), pool(4, 2), FRAMES, MELS, torch.device("cpu"), 0)
    assert modes
    assert not any(modes)
    assert network.encoder.training


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(checkpoint_every=3)
    real = trainer_module.method_loss

    def poisoned(*args: Any, **kwargs: Any) -> Any:
        parts = real(*args, **kwargs)
        if trainer.iteration == 7:
            parts.total = parts.total * float("nan")
        return parts

    monkeypatch.setattr(trainer_module, "method_loss", poisoned)
    with pytest.raises(CheckFailed, match="iteration 7: the loss is nan .* the last checkpoint stands"):
        train(trainer, tmp_path)
    found = latest_checkpoint(tmp_path)
    assert found.iteration == 6
    assert all(bool(torch.isfinite(v).all()) for v in found.model.values())


def test_checkpoints_come_as_often_as_the_preset_says(tmp_path: Path) -> None:
    trainer = make(checkpoint_every=3)
    saved: list[int] = []
    trainer.run(lambda _: None, lambda: saved.append(trainer.iteration), lambda: False)
    assert saved == [3, 6, 9, 12]


def test_accelerators_that_are_not_there_are_device_errors() -> None:
    assert str(open_fabric("cpu").device) == "cpu"
    with pytest.raises(DeviceError, match="--accelerator tpu: unknown; use auto, cpu, cuda or cuda:0"):
        open_fabric("tpu")
    with pytest.raises(DeviceError, match="--accelerator cuda:99: torch sees .* CUDA GPUs; use --accelerator cpu"):
        open_fabric("cuda:99")


# One run from sound files to a run folder.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MachineData:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for id, gain in (("00", 0.05), ("02", 0.2)):
        folder = root / "valve" / id / "normal"
        folder.mkdir(parents=True)
        for i in range(8):
            sound = np.convolve(rng.standard_normal(16000 * 9), [1.0, gain * 4])[: 16000 * 9] * gain
            soundfile.write(folder / f"{i}.wav", sound.clip(-1, 1).astype(np.float32), 16000)
    return load_machine(root, "valve", cache_folder=root / "cache", seed=0, holdout_fraction=0.15, test_fraction=0.2)


def session_preset(**fields: Any) -> Preset:
    return preset(segment_frames=256, iterations=6, batch_normal=2, batch_outlier=2, **fields)


def train_session(data: MachineData, folder: Path, chosen: Preset, **options: Any) -> Any:
    options = {"report": no_progress, "should_stop": lambda: False, **options}
    return train_one(data, "00", chosen, 0, folder, open_fabric("cpu"), **options)


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "log"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_run_folder_opens_in_tensorboard_and_holds_no_pickle(data: MachineData, tmp_path: Path) -> None:
    run = train_session(data, tmp_path / "run", session_preset())
    scalars = logged(run.folder)
    assert {"train/loss", "train/bce", "train/metric", "train/gradient_norm", "train/largest_inverse"} <= scalars.keys()
    for tag, points in scalars.items():
        assert [step for step, _ in points] == [1, 2, 3, 4, 5, 6], tag
        assert all(math.isfinite(value) for _, value in points)
    names = sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file())
    assert [n for n in names if not n.startswith("log/events.out.tfevents.")] == [
        "checkpoints/step-000006/model.safetensors",
        "checkpoints/step-000006/optimiser.safetensors",
        "checkpoints/step-000006/state.json",
        "outcome.npz",
        "run.json",
    ]
    assert not any(p.read_bytes()[:1] == b"\x80" for p in run.folder.rglob("*") if p.is_file())
    outcome = run.result()
    assert outcome.held_out
    assert outcome.golden.shape[1:] == (256, 128)


def test_an_interrupted_session_resumes_to_the_same_figures(data: MachineData, tmp_path: Path) -> None:
    whole = train_session(data, tmp_path / "whole", session_preset())
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        train_session(data, tmp_path / "run", session_preset(), should_stop=lambda: next(asked))
    with pytest.raises(InputError, match="training has not finished"):
        type(whole)(tmp_path / "run", whole.facts).result()
    with pytest.raises(InputError, match=r"holds a run \(3 of 6 iterations\); pass --resume .* or --overwrite"):
        train_session(data, tmp_path / "run", session_preset())
    resumed = train_session(data, tmp_path / "run", session_preset(), resume=True)
    ours, theirs = (latest_checkpoint(r.checkpoints).model for r in (resumed, whole))
    assert_same_bits(ours, theirs)
    np.testing.assert_equal(resumed.result().to_arrays(), whole.result().to_arrays())
    one, two = logged(resumed.folder), logged(whole.folder)
    assert one["train/loss"] == two["train/loss"]


def test_a_resume_with_other_settings_is_refused_and_says_which(data: MachineData, tmp_path: Path) -> None:
    train_session(data, tmp_path / "run", session_preset())
    before = sorted(p for p in (tmp_path / "run").rglob("*"))
    with pytest.raises(InputError, match=r"another preset \(eta 2\.0, now 3\.0\); resume with the same, or pass"):
        train_session(data, tmp_path / "run", session_preset(eta=3.0), resume=True)
    assert sorted(p for p in (tmp_path / "run").rglob("*")) == before
    again = train_session(data, tmp_path / "run", session_preset(eta=3.0), overwrite=True)
    assert again.facts["preset"]["eta"] == 3.0
    assert len(list((tmp_path / "run" / "log").iterdir())) == 1


def test_a_killed_overwrite_leaves_nothing_to_resume(data: MachineData, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_session(data, folder, session_preset())
    (folder / "run.json").unlink()  # as when the process dies while the folder is being emptied
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        train_session(data, folder, session_preset(), resume=True, should_stop=lambda: next(asked))
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["step-000002"]
    assert not (folder / "outcome.npz").exists()


def test_a_second_ctrl_c_interrupts() -> None:
    import signal

    before = signal.getsignal(signal.SIGINT)
    with stop_requests() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        # A parent that stops its processes on Ctrl-C adds its SIGTERM to the terminal's SIGINT.
        signal.raise_signal(signal.SIGTERM)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with stop_requests() as asked:
        signal.raise_signal(signal.SIGTERM)
        assert asked()
