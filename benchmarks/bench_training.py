"""Training steps a second: edgeasd's trainer beside a straightforward PyTorch loop.

    python benchmarks/bench_training.py [--backbone resnet38] [--accelerator cuda] [--compile]

Same network, batch, loss, optimiser and features on disk. The plain loop is what one writes first: a Dataset
that loads a clip and crops it, a DataLoader, float32, the default memory layout. edgeasd keeps the clips,
makes batches in a thread, and trains channels-last; bf16 autocast (and torch.compile) come beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from common import machine, machine_line, parser, ratio_rows, report, say, side_by_side, table, times_json
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgeasd.toolkit.losses import NORMAL, OUTLIER, method_loss, method_named
from edgeasd.toolkit.models.backbones import build_network
from edgeasd.toolkit.presets import Preset, load_preset
from edgeasd.toolkit.training.data import Ahead, FeaturePool
from edgeasd.toolkit.training.fabric import open_fabric
from edgeasd.toolkit.training.trainer import Trainer

FRAMES, MELS, CLIP_FRAMES = 256, 128, 311
NORMALS, OUTLIERS = 200, 600
PLAIN = "straightforward PyTorch loop"


def write_clips(folder: Path) -> tuple[list[Path], list[Path]]:
    """Feature files as the cache has them, of noise."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.npy" for index in range(NORMALS + OUTLIERS)]
    for path in paths:
        np.save(path, rng.standard_normal((CLIP_FRAMES, MELS), dtype=np.float32))
    return paths[:NORMALS], paths[NORMALS:]


class Crops(Dataset[Tensor]):
    """A random segment of a clip, read from disk each time."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        clip = np.load(self.paths[index])
        start = int(torch.randint(len(clip) - FRAMES + 1, (1,)))
        return torch.from_numpy(clip[start : start + FRAMES])[None]


def forever(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from loader


def plain_loop(preset: Preset, normals: list[Path], outliers: list[Path], device: torch.device) -> Callable[[], object]:
    """One step of the loop that one writes first."""
    torch.manual_seed(0)
    network = build_network(preset.backbone).to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=preset.learning_rate)
    half = preset.batch_normal
    pools = [forever(DataLoader(Crops(paths), half, shuffle=True, drop_last=True)) for paths in (normals, outliers)]
    kind = torch.tensor([NORMAL] * half + [OUTLIER] * half, device=device)
    size = network.embedding_size
    c_p, c_n = torch.zeros(size, device=device), torch.ones(size, device=device)
    method = method_named(preset.method)

    def step() -> None:
        segments = torch.cat([next(pool) for pool in pools]).to(device)
        optimiser.zero_grad()
        logit, z = network(segments)
        parts = method_loss(method, logit, z, kind, c_p, c_n, lam=preset.lam, eta=preset.eta, epsilon=preset.epsilon)
        parts.total.backward()
        optimiser.step()
        float(parts.total.detach())

    return step


def our_trainer(
    preset: Preset,
    pools: list[FeaturePool],
    accelerator: str,
    precision: str,
    compiled: bool,
    opened: ExitStack,
) -> tuple[Callable[[], object], Ahead[tuple[Tensor, Tensor]]]:
    """One step of edgeasd's trainer, with the log a user gets."""
    fabric = open_fabric(accelerator, precision)
    trainer = Trainer(preset, 0, *pools, n_mels=MELS, fabric=fabric, compile_network=compiled)
    size = trainer.network.embedding_size
    trainer.centroids = (torch.zeros(size, device=fabric.device), torch.ones(size, device=fabric.device))
    trainer.network.train()
    batches = opened.enter_context(Ahead(trainer._batch, 0, preset.iterations))
    return (lambda: trainer._step(*batches.next())), batches


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbone", default="quick")
    options.add_argument("--accelerator", default="cpu")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--calls", type=int, default=4, help="steps timed together")
    options.add_argument("--compile", action="store_true", help="torch.compile beside the others")
    arguments = options.parse_args()
    facts = machine()
    preset = load_preset("quick").changed(backbone=arguments.backbone, iterations=10_000_000)
    device = open_fabric(arguments.accelerator).device
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        normals, outliers = write_clips(Path(folder))
        pools = [
            FeaturePool(len(paths), lambda i, paths=paths: np.load(paths[i], mmap_mode="r"), FRAMES)  # type: ignore[misc]
            for paths in (normals, outliers)
        ]
        steps: dict[str, Callable[[], object]] = {PLAIN: plain_loop(preset, normals, outliers, device)}
        loaders = {}
        choices = [("edgeasd fp32", "fp32", False), ("edgeasd bf16", "bf16", False)]
        choices += [("edgeasd fp32, compiled", "fp32", True)] * arguments.compile
        for name, precision, compiled in choices:
            made = our_trainer(preset, pools, arguments.accelerator, precision, compiled, opened)
            steps[name], loaders[name] = made
        say(f"{arguments.rounds} rounds of {arguments.calls} steps, {len(steps)} loops")
        times = side_by_side(steps, rounds=arguments.rounds, calls=arguments.calls)
    spent = {name: (sum(times[name]) + times[name][0]) * arguments.calls for name in loaders}
    waiting = {name: ahead.waited / spent[name] for name, ahead in loaders.items()}
    rows = [
        [*row, f"{waiting[name]:.2%}" if name in waiting else "not measured"]
        for name, row in zip(times, ratio_rows(times, PLAIN, scale=1e3), strict=True)
    ]
    header = ["loop", "ms a step", "ratio", "10 to 90 %", "waiting for data"]
    text = (
        f"{machine_line(facts)}; torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.backbone}, "
    )
    text += f"batch 64, on {device}\n\n{table(header, rows)}"
    result = {"machine": facts, **times_json(times, PLAIN), "waiting_share": waiting}
    report(result, text, as_json=arguments.json)


if __name__ == "__main__":
    main()
