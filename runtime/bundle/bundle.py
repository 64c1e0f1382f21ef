"""Opens a bundle, a folder or a zip of it. Every file is verified against its hash before it is used."""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgeasd.runtime.bundle.front_end_check import check_front_end
from edgeasd.runtime.bundle.manifest import LARGEST_MANIFEST, Manifest, parse_manifest
from edgeasd.runtime.bundle.onnx_check import inspect_onnx
from edgeasd.runtime.bundle.reference_segments import (
    Deviation,
    ReferenceSegments,
    check_reference_segments,
    largest_size,
)
from edgeasd.runtime.bundle.selection import select
from edgeasd.runtime.engines import (
    Engine,
    EnginePool,
    EngineWithFrontEnd,
    open_engine,
    open_engine_with_front_end,
)
from edgeasd.runtime.errors import BundleError, InputError, printable
from edgeasd.runtime.scoring.scorer import GraphFrontEndScorer, Head, HeadFunction, Scorer

MANIFEST = "manifest.json"

_CHUNK = 1 << 20
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError)
"""What zipfile raises for damaged, encrypted (RuntimeError) or unknown data (NotImplementedError, one of these)."""


def hash_file(path: Path) -> str:
    """sha256 of a file as 64 hexadecimal digits, in constant memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class Bundle:
    """An opened bundle. A file is verified once, when it is first used.

    Use as a context manager: a zip is unpacked into a private folder that `close` removes.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` and read its manifest; raises BundleError or InputError."""
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._unpacked: Path | None = None
        self._verified: dict[str, Path] = {}
        if not self.path.exists():
            raise InputError(f"{self.path}: no such bundle; export one with `edgeasd export` or correct --bundle")
        if self.path.is_dir():
            data = self._read_manifest_file()
        else:
            data = self._open_zip()
        self.manifest: Manifest = parse_manifest(data, f"{self.path.name}/{MANIFEST}")

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files that a zip was unpacked to."""
        if self._zip is not None:
            self._zip.close()
        if self._unpacked is not None:
            shutil.rmtree(self._unpacked, ignore_errors=True)
            self._unpacked = None

    def _read_manifest_file(self) -> bytes:
        try:
            # Without O_NONBLOCK a pipe in its place would block, and a link may lead to a device without an end.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(self.path / MANIFEST, flags), "rb") as handle:
                if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                    raise BundleError(f"{self.path / MANIFEST}: not a plain file; copy the bundle again, whole")
                return handle.read(LARGEST_MANIFEST + 1)
        except FileNotFoundError:
            raise BundleError(
                f"{self.path}: has no {MANIFEST}, so not a bundle; name a folder made by export"
            ) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise BundleError(
                    f"{self.path / MANIFEST}: a symbolic link; copy the bundle again, with the file itself"
                ) from None
            raise BundleError(f"{self.path / MANIFEST}: {error.strerror}; check its permissions") from None

    def _open_zip(self) -> bytes:
        if not self.path.is_file():
            # A pipe would block, a device file might never end.
            raise BundleError(f"{self.path}: neither a folder nor a plain file; name a bundle folder or its zip")
        try:
            self._zip = zipfile.ZipFile(self.path)
            info = self._zip.getinfo(MANIFEST)
            with self._zip.open(info) as handle:
                return handle.read(LARGEST_MANIFEST + 1)
        except _ZIP_ERRORS as error:
            self.close()
            raise BundleError(
                f"{self.path}: not a bundle folder and not a readable zip ({printable(error, 200)}); copy it again"
            ) from None
        except KeyError:
            self.close()
            raise BundleError(
                f"{self.path}: has no {MANIFEST} at its top, so not a bundle; zip the bundle's contents"
            ) from None

    def file(self, name: str) -> Path:
        """Path of a file of the bundle, after its size and hash have been compared with the manifest.

        Raises BundleError for a file that is missing, changed, not listed, or not a plain file.
        """
        if name not in self._verified:
            self._verified[name] = self._verify(name)
        return self._verified[name]

    def _verify(self, name: str) -> Path:
        entry = self.manifest.files.get(name)
        place = f"{self.path.name}/{name}"
        if entry is None:
            raise BundleError(f"{place}: not listed in {MANIFEST}; export the bundle again")
        path = self._unpack(name, entry.size) if self._zip is not None else self.path / name
        if path.is_symlink() or not path.is_file():
            what = "a symbolic link or not a plain file" if path.is_symlink() or path.exists() else "missing"
            raise BundleError(f"{place}: {what}; copy the bundle again, whole")
        size = path.stat().st_size
        if size != entry.size:
            raise BundleError(f"{place}: {size} bytes, the manifest says {entry.size}; copy the bundle again")
        try:
            found = hash_file(path)
        except OSError as error:
            raise BundleError(
                f"{place}: cannot be read ({error.strerror}); check its permissions and the disk"
            ) from None
        if found != entry.sha256:
            raise BundleError(
                f"{place}: sha256 {found[:12]}…, the manifest says {entry.sha256[:12]}…: "
                "the file was changed or damaged; copy the bundle again"
            )
        if name.endswith(".onnx"):
            inspect_onnx(path)
        return path

    def _unpack(self, name: str, size: int) -> Path:
        """Unpack one listed file, never more than its listed size plus one byte."""
        assert self._zip is not None
        if self._unpacked is None:
            self._unpacked = Path(tempfile.mkdtemp(prefix="edgeasd-bundle-"))
        target = self._unpacked / name
        try:
            with self._zip.open(name) as source, open(target, "wb") as sink:
                left = size + 1
                while left > 0 and (chunk := source.read(min(_CHUNK, left))):
                    sink.write(chunk)
                    left -= len(chunk)
        except KeyError:
            target.unlink(missing_ok=True)
        except _ZIP_ERRORS as error:
            raise BundleError(
                f"{self.path.name}/{name}: cannot be unpacked ({printable(error, 200)}); copy the bundle again"
            ) from None
        return target

    def model(self, name: str) -> Path:
        """As `file`, for a file that an engine is to load: an inspected ONNX file and nothing else.

        ONNX Runtime would take a file of another name for one of its own format, which nothing here inspects.
        """
        if not name.endswith(".onnx"):
            raise BundleError(f"{self.path.name}/{name}: a model that is not named .onnx; export the bundle again")
        return self.file(name)

    def verify_files(self, progress: Callable[[str], None] | None = None) -> None:
        """Verify every listed file. Raises BundleError that names all that do not fit."""
        problems = []
        for name in self.manifest.files:
            if progress is not None:
                progress(name)
            try:
                self.file(name)
            except BundleError as error:
                problems.append(str(error))
        if problems:
            raise BundleError("; ".join(problems))

    def reference_segments(self) -> ReferenceSegments:
        """The stored reference segments. Raises BundleError."""
        largest = largest_size(self.manifest.segments.frames, self.manifest.features.n_mels)
        data = self.file("golden.npz").read_bytes()
        return ReferenceSegments.from_bytes(data, f"{self.path.name}/golden.npz", largest)

    def open_scorer(
        self,
        *,
        precision: str | None = None,
        engine: str = "auto",
        accelerator: str = "auto",
        threads: int | None = None,
        max_batch: int = 10,
        head: str = "cpu",
        front_end: str = "cpu",
        pool: EnginePool | None = None,
    ) -> tuple[Scorer, Deviation]:
        """Verify and load what scoring needs and run the reference segments; returns (scorer, their deviation).

        `engine` and `accelerator` as in `edgeasd.runtime.engines.select`; `head` is "cpu", or "tensorrt" for its own
        engine; `front_end` is "cpu", or "graph" for a GraphFrontEndScorer, whose front end is verified too. With `pool`
        an encoder that is loaded already is shared, but not one with a front end as a graph. Raises
        BundleError, InputError, DeviceError (NotBuilt if `edgeasd build` is needed first), and CheckFailed if
        reference segments or front end are not reproduced.
        """
        manifest = self.manifest
        chosen = select(manifest, self.path, precision, engine, accelerator, head, front_end).precision
        offer = manifest.precisions[chosen]
        asked = {"precision": chosen, "engine": engine, "accelerator": accelerator}
        with ExitStack() as opened:
            loaded, encoder, with_front_end = self._open_engine(
                offer.file, front_end, {**asked, "threads": threads}, max_batch, pool
            )
            opened.callback(loaded.close)
            head_function = self._open_head(head, loaded, max_batch)
            scorer = Scorer(
                encoder, head_function, manifest.features, manifest.amplitude, manifest.segments, manifest.score
            )
            opened.callback(scorer.close)
            deviation = check_reference_segments(scorer, self.reference_segments(), offer.tolerance, self.path.name)
            if with_front_end is not None:
                measured = check_front_end(with_front_end, manifest, offer.tolerance, self.path.name)
                scorer = GraphFrontEndScorer(with_front_end, head_function, scorer, measured)
            opened.pop_all()
        return scorer, deviation

    def _open_engine(
        self, file: str, front_end: str, asked: dict[str, Any], max_batch: int, pool: EnginePool | None
    ) -> tuple[Engine, Engine, EngineWithFrontEnd | None]:
        """(the engine to close, the encoder from log-mel, the engine with front end if that is a graph)."""
        files, graph = self.manifest.files, self.manifest.front_end
        asked = {**asked, "max_batch": max_batch, "onnx_sha256": files[file].sha256}
        if front_end == "cpu" or graph is None:
            path = self.model(file)
            if pool is None:
                engine = open_engine(path, **asked)
            else:
                # The hash is in it: two files with one hash are one encoder.
                key = tuple(sorted((name, str(value)) for name, value in asked.items()))
                engine = pool.open(key, lambda: open_engine(path, **asked))
            return engine, engine, None
        sha256 = files[graph.file].sha256
        both = open_engine_with_front_end(self.model(file), self.model(graph.file), front_end_sha256=sha256, **asked)
        return both, both.encoder, both

    def _open_head(self, head: str, encoder: Engine, max_batch: int) -> HeadFunction:
        model = self.model("head.onnx")
        if head == "cpu":
            return Head(model)
        from edgeasd.runtime.engines.tensorrt.engine import open_built_head

        sha256 = self.manifest.files["head.onnx"].sha256
        opened = open_built_head(self.path, encoder.accelerator, onnx_sha256=sha256, max_batch=max_batch)
        encoder.name += f", head as an engine of its own, {opened.graphs}"
        return opened
