"""A split depends on content and seed, loses no clip and puts no recording on two sides."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeasd.runtime.errors import InputError
from edgeasd.toolkit.data.clips import Clip
from edgeasd.toolkit.data.split import Split, share, split_clips

pytestmark = pytest.mark.core

Case = tuple[list[Clip], dict[Path, str]]


def sha(content: int) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()


@st.composite
def cases(draw: st.DrawFn, copies_across_ids: bool = True) -> Case:
    """Clips of one machine, plain or with a split; small content numbers make many copies."""
    with_split = draw(st.booleans())
    rows = draw(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.integers(0, 1)), max_size=60))
    clips, hashes = [], {}
    for i, (content, id, side) in enumerate(rows):
        if not copies_across_ids:
            content += 1000 * id
        # the label follows from the content: one recording under two labels is an error
        label = "anomaly" if content % 7 == 6 else "normal"
        split = None if not with_split else ("test" if side or label == "anomaly" else "train")
        clip = Clip(Path(f"/d/{i}.wav"), "fan", f"{id:02d}", label, split)  # type: ignore[arg-type]
        clips.append(clip)
        hashes[clip.path] = sha(content)
    return clips, hashes


def roles(splits: dict[str, Split]) -> dict[Path, str]:
    return {
        clip.path: role
        for split in splits.values()
        for role in ("train", "holdout", "test")
        for clip in getattr(split, role)
    }


fractions = st.sampled_from([0.0, 0.15, 0.2, 0.5, 0.9])


@given(cases(), st.integers(0, 5), fractions, fractions)
@settings(max_examples=150, deadline=None)
def test_every_clip_has_one_role_and_copies_share_it(case: Case, seed: int, holdout: float, test: float) -> None:
    clips, hashes = case
    splits = split_clips(clips, seed=seed, hashes=hashes, holdout_fraction=holdout, test_fraction=test)
    placed = [clip for split in splits.values() for clip in (*split.train, *split.holdout, *split.test)]
    assert sorted(c.path for c in placed) == sorted(c.path for c in clips)
    assert all(clip.id == id for id, s in splits.items() for clip in (*s.train, *s.holdout, *s.test))
    role_of_content: dict[str, str] = {}
    for path, role in roles(splits).items():
        assert role_of_content.setdefault(hashes[path], role) == role
    for split in splits.values():
        assert all(c.label == "normal" and c.split != "test" for c in (*split.train, *split.holdout))


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_and_names_do_not_matter(case: Case, rng: random.Random) -> None:
    clips, hashes = case
    before = split_clips(clips, seed=3, hashes=hashes)
    moved = [Clip(Path("/else") / c.path.name, c.machine, c.id, c.label, c.split) for c in clips]
    rng.shuffle(moved)
    after = split_clips(moved, seed=3, hashes={Path("/else") / p.name: h for p, h in hashes.items()})
    assert {p.name: r for p, r in roles(before).items()} == {p.name: r for p, r in roles(after).items()}
    for id, split in before.items():
        assert [hashes[c.path] for c in split.train] == [hashes[Path("/d") / c.path.name] for c in after[id].train]


@given(cases(copies_across_ids=False), fractions, fractions)
@settings(max_examples=100, deadline=None)
def test_fractions_hold_over_distinct_contents(case: Case, holdout: float, test: float) -> None:
    clips, hashes = case
    splits = split_clips(clips, seed=1, hashes=hashes, holdout_fraction=holdout, test_fraction=test)
    for id, split in splits.items():
        of_id = [c for c in clips if c.id == id]
        forced = {hashes[c.path] for c in of_id if c.split == "test" or c.label != "normal"}
        free = {hashes[c.path] for c in of_id if c.split is None} - forced
        drawn = {hashes[c.path] for c in split.test} - forced
        assert len(drawn) == share(len(free), test)
        rest = {hashes[c.path] for c in of_id} - forced - drawn
        assert len({hashes[c.path] for c in split.holdout}) == share(len(rest), holdout)


@given(st.integers(0, 3000), st.floats(0, 0.999))
def test_a_share_is_never_all_and_never_far_off(count: int, fraction: float) -> None:
    taken = share(count, fraction)
    assert taken == 0 if count < 2 or fraction == 0 else 1 <= taken <= count - 1
    assert abs(taken - fraction * count) <= 1 or count < 2


def make(n: int, split: str | None = None, label: str = "normal", id: str = "00", start: int = 0) -> Case:
    clips = [Clip(Path(f"/d/{id}_{start + i}.wav"), "fan", id, label, split) for i in range(n)]  # type: ignore[arg-type]
    return clips, {c.path: sha(start + i) for i, c in enumerate(clips)}


def join(*parts: Case) -> Case:
    return [c for clips, _ in parts for c in clips], {p: h for _, hashes in parts for p, h in hashes.items()}


def test_the_usual_numbers() -> None:
    clips, hashes = join(make(100, "train"), make(9, "test", start=100), make(9, "test", "anomaly", start=200))
    split = split_clips(clips, seed=0, hashes=hashes)["00"]
    assert (len(split.train), len(split.holdout), len(split.test)) == (85, 15, 18)
    clips, hashes = join(make(100), make(10, label="anomaly", start=100))
    split = split_clips(clips, seed=0, hashes=hashes)["00"]
    assert (len(split.train), len(split.holdout), len(split.test)) == (68, 12, 30)


def test_the_seed_chooses_and_a_choice_is_the_same_for_ever() -> None:
    clips, hashes = make(40, "train")
    first = [sorted(c.path.stem for c in split_clips(clips, seed=s, hashes=hashes)["00"].holdout) for s in (0, 1)]
    assert first[0] != first[1]
    ranked = sorted(clips, key=lambda c: hashlib.sha256(f"0:holdout:{hashes[c.path]}".encode()).hexdigest())
    assert first[0] == sorted(c.path.stem for c in ranked[:6])


def test_holdout_and_test_are_drawn_independently() -> None:
    clips, hashes = make(200)
    a = split_clips(clips, seed=0, hashes=hashes, test_fraction=0.0, holdout_fraction=0.2)["00"].holdout
    b = split_clips(clips, seed=0, hashes=hashes, test_fraction=0.2, holdout_fraction=0.0)["00"].test
    assert len(a) == len(b) == 40
    assert a != b


def test_a_test_recording_trains_no_id_of_the_machine() -> None:
    clips, hashes = join(make(10, "train"), make(3, "test", start=50), make(10, "train", id="02", start=41))
    splits = split_clips(clips, seed=0, hashes=hashes)
    assert [c.path.stem for c in splits["02"].test] == ["02_50"]


def test_an_id_without_normals_is_test_only() -> None:
    clips, hashes = join(
        make(3, "test", "anomaly"), make(2, "test", "unknown", start=9), make(2, "train", "unknown", start=20)
    )
    split = split_clips(clips, seed=0, hashes=hashes)["00"]
    assert (split.train, split.holdout, len(split.test)) == ([], [], 7)


def test_one_recording_under_two_labels_is_refused() -> None:
    clips, hashes = join(make(3), make(1, label="anomaly", id="01", start=2))
    with pytest.raises(InputError, match=r"00_2\.wav \(normal\) and .*01_2\.wav \(anomaly\): the same recording"):
        split_clips(clips, seed=0, hashes=hashes)


def test_wrong_use_is_refused() -> None:
    clips, hashes = make(3)
    with pytest.raises(ValueError, match="fraction"):
        split_clips(clips, seed=0, hashes=hashes, holdout_fraction=1.0)
    with pytest.raises(ValueError, match="no content hash"):
        split_clips(clips, seed=0, hashes={})
    with pytest.raises(ValueError, match="one machine type"):
        split_clips([*clips, Clip(Path("/d/x.wav"), "pump", "00", "normal", None)], seed=0, hashes=hashes)
