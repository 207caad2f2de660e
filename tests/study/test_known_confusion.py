"""Confusions are undone only where they were measured: on drawn rooms, as seen by their segmenter."""

import pytest

from gandid.runs import known_confusion, write_config
from gandid.segmenters import confusion


@pytest.mark.parametrize(
    ("generator", "segmenter", "known"),
    [
        ("rooms", "rooms", True),
        ("rooms-twin", "rooms", True),
        ("mine.py:make", "rooms", False),
        ("rooms", "eyes", False),
    ],
)
def test_a_confusion_is_known_of_rooms_alone(tmp_path, generator, segmenter, known):
    write_config(tmp_path, {"generator": generator, "segmenter": segmenter, "resolved": {}})
    found = known_confusion(tmp_path)
    assert found.equals(confusion("rooms")) if known else found is None
