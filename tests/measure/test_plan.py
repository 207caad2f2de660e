"""The dry run counts the images that are made."""

import pytest
from planted import PlantedGenerator, PlantedSegmenter

from gandid.config import StudyConfig
from gandid.measure.plan import plan
from gandid.study import Study


class Counting(PlantedSegmenter):
    images = 0

    def __call__(self, images):
        # Two by themselves are looked at again after each task, to see that the networks keep no state.
        self.images += len(images) if len(images) > 2 else 0
        return super().__call__(images)


ASKED = {"targets": {"a": (0,), "b": (1,)}, "latents": 70}
EXTRAS = {"dose": (0, 0.5, 0.8, 1), "placebos": 50, "sites": "shapley"}


def measured(**asked):
    """Images that a run of named units labels; its examples among them."""
    segmenter = Counting()
    Study(PlantedGenerator(), segmenter, layer="paint", seed=3).run(**ASKED, **asked)
    return segmenter.images


def test_it_counts_the_images_of_every_kind_of_arm():
    study = Study(PlantedGenerator(), PlantedSegmenter(), layer="paint", seed=3)
    plain, whole = (plan(study, StudyConfig.check(**ASKED, **asked), lambda folder: None) for asked in ({}, EXTRAS))
    # The reference; live and three held arms, since capped:first is frozen:first. Then another dose, and two strengths.
    assert plain.images == 70 * (1 + 2 * 4) + 70 * (1 + 2) + 70 * (1 + 2 * 2)
    # What is shown of a target, so that its other arms are made, is known of some latents only.
    assert whole.images - plain.images == pytest.approx(measured(**EXTRAS) - measured(), rel=0.1)
    # Two doses and two draws of live and four held arms, but for live at dose 0.8, which is there; one site has no coalitions.
    assert whole.arms == (6 + 1 + 2) + (2 * 5 - 1) + 2 * 5
    assert whole.rows - plain.rows == 2 * (70 * 9 + 64 * 10)
    assert whole.seconds > 0 and whole.disk > 0
