"""A file from which a measurement that was cut short goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gandid.panel.store import explained


class Journal:
    """Arrays of float32 in a file, one after the other in the order in which they were measured.

    A program that asks for the same arrays in the same order is given what the file holds; the rest is measured and
    added. So a measurement that was killed goes on with the numbers on which it had based its decisions, and loses one
    array. The arrays may be cut into other batches the second time. Without a path everything is measured, and nothing
    kept.
    """

    def __init__(self, path: Path | None):
        self._path, self._position = path, 0

    def take(self, shape: tuple[int, ...], measure: Callable[[], np.ndarray]) -> np.ndarray:
        """The next array (*shape*), float32: from the file, or else from `measure()`."""
        size = 4 * math.prod(shape)
        if self._path is None:
            return np.asarray(measure(), np.float32)
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._position)
                content = file.read(size)
            if len(content) == size:
                self._position += size
                return np.frombuffer(content, np.float32).reshape(shape).copy()
        values = np.asarray(measure(), np.float32)
        with explained(self._path), self._path.open("ab") as file:
            file.truncate(self._position)  # part of an array, where a writer was killed
            file.write(values.tobytes())
        self._position += size
        return values
