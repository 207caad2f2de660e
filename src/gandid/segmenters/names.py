"""Names of classes: unique ones, and which of them are background."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gandid.errors import UsageError, did_you_mean

UNKNOWN = "unknown"  # the class of pixels that a segmenter declines to name

# What is seen where an object is gone: surfaces and open stretches, in the words of ADE20K, Cityscapes, COCO-Stuff
# and Pascal VOC. Left out on purpose, and so objects: what scene generators are known to draw as things of their own
# and what people ablate (tree, plant, vegetation), and what one can take out of a room or a street and see something
# of this list behind it (window, door, curtain, rug, stairs, bridge, fence, column, counter).
BACKGROUND = frozenset(
    {"background", "wall", "floor", "ceiling", "sky", "clouds", "fog"}
    | {"building", "house", "skyscraper"}
    | {"road", "sidewalk", "pavement", "path", "dirt track", "runway"}
    | {"earth", "ground", "land", "terrain", "field", "playingfield", "grass", "sand", "dirt", "gravel", "mud", "snow"}
    | {"mountain", "hill", "rock", "water", "sea", "river", "lake"}
)


def name_classes(labels: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give each label a name of its own, and tell which names are background.

    Parameters
    ----------
    labels : sequence of str
        As a model's configuration has them: perhaps synonyms with commas between, perhaps the same word twice.

    Returns
    -------
    names : tuple of str
        The first synonym; where another label before has that name, with the label's number behind it; `class N`
        where there is none.
    background : tuple of str
        The names whose first synonym, up to a hyphen (COCO's `wall-brick`), is in `BACKGROUND`, in any case.
    """
    names: list[str] = []
    background: list[str] = []
    for number, label in enumerate(labels):
        word = name = label.split(",")[0].strip() or f"class {number}"
        while name in names:
            name = f"{name} {number}"
        names.append(name)
        if word.lower().split("-")[0] in BACKGROUND:
            background.append(name)
    return tuple(names), tuple(background)


def check_classes(classes: Any, background: Any, name: str) -> None:
    """Raise `UsageError` unless the classes of a segmenter are names of one line, all different, and its background some of them."""
    named = isinstance(classes, list | tuple) and all(isinstance(one, str) for one in classes)
    if (
        not named
        or not classes
        or len(set(classes)) < len(classes)
        or any(len(f"{n}.".splitlines()) > 1 for n in classes)
    ):
        shown = list(classes) if named else classes
        raise UsageError(f"the classes of {name} must be a tuple of names of one line, all different, not {shown!r}")
    if not isinstance(background, str | list | tuple | set | frozenset):
        raise UsageError(f"the background of {name} must be a tuple of its classes, perhaps (), not {background!r}")
    check_background(background, classes)


def check_background(background: Iterable[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Give a user's background classes as a tuple. Raises `UsageError` if one of them is no class."""
    chosen = (background,) if isinstance(background, str) else tuple(background)
    for name in chosen:
        if name not in classes:
            hint = did_you_mean(name, classes)
            raise UsageError(f"unknown background class '{name}'{hint} the classes are {', '.join(classes)}")
    return chosen
