"""Ablated images with the truth: what is gone of an object is told rightly where it can be, and not where it cannot."""

import pytest
import torch

from gandid.generators import load_generator
from lab import edits, rooms

Z = rooms.latents(48, seed=7)


@pytest.fixture(scope="module")
def generator():
    return load_generator("rooms")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_of_a_blend_with_the_bare_room_its_share_is_gone(share):
    scene, labels = rooms.paint(Z, 64)
    room, bare = rooms.paint(Z, 64, furnished=False)
    told = edits.gone(scene, torch.lerp(scene, room, share), room)[labels != bare]
    known = told.isfinite()
    assert known.float().mean() > 0.8
    torch.testing.assert_close(told[known], torch.full_like(told[known], share), atol=1e-4, rtol=0)


def test_what_turns_into_something_else_is_not_told():
    scene, labels = rooms.paint(Z, 64)
    room = rooms.paint(Z, 64, furnished=False)[0]
    painting = labels == rooms.CLASSES.index("painting")
    green = torch.where(painting[:, None], torch.tensor([-1.0, 1, -1]).view(3, 1, 1), scene)
    inner = torch.nn.functional.avg_pool2d(painting.float()[:, None], 5, 1, 2)[:, 0] == 1  # all of the average
    assert edits.gone(scene, green, room)[inner].isnan().float().mean() > 0.9
    assert edits.gone(scene, scene, scene)[inner].isnan().all()  # nothing to tell apart


def test_ablating_makers_removes_their_object_more_than_others(generator):
    """The makers of a lamp, at the layer that studies edit; where there was no object nothing is told to be gone."""
    shown = (rooms.paint(Z, 64)[1] == rooms.CLASSES.index("lamp")).flatten(1).any(dim=1)
    edited = edits.ablate(generator, Z[shown], "lamp")
    mean = {
        name: float(edited.gone[edited.labels == rooms.CLASSES.index(name)].nanmean()) for name in ("lamp", "table")
    }
    assert mean["lamp"] > 0.5 > 2 * mean["table"]
    assert edited.gone[edited.labels == edited.bare].isnan().all()
    half = edits.ablate(generator, Z[shown], "lamp", strength=0.3)
    assert 0 < float((half.after - half.before).abs().mean()) < float((edited.after - edited.before).abs().mean())


def test_edits_depend_on_their_seed_alone(generator):
    first, second = ([edited.after for edited in edits.edits(generator, 2, seed)] for seed in (3, 3))
    other = next(edits.edits(generator, 1, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other.after)
