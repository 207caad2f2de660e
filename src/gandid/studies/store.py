"""The panel on disk: a Zarr group that grows by latents, readable at any moment, whole at any moment.

One process writes. It appends the rows of some latents to every variable and only then publishes their new length, by
replacing the group's consolidated metadata, which is one file. A reader (`xarray.open_zarr`) goes by that file, so it sees a
chunk of latents in all variables or in none; a writer that was killed leaves nothing that counts, and the next one cuts off
what was not published. Zarr writes each file aside and renames it, and each chunk carries Zstandard's checksum, which is
verified whenever it is read.

Sums over latents (the maps) cannot be appended: they lie beside the group, in a file that is named after the number of
latents it holds and written before that number is published.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import xarray as xr
import zarr
from zarr.errors import ZarrUserWarning

from gandid.errors import GandidError
from gandid.files import replacing

# Latents per chunk in storage; what is computed at a time may be less. Few latents of a small variable would make many files.
WIDE, LATENTS_PER_CHUNK, LATENTS_PER_SMALL_CHUNK = ("pixels", "inside", "strain"), 512, 4096
# No filter: before a shuffling compressor it would leave nothing to shuffle.
COMPRESSOR = numcodecs.Zstd(1, checksum=True)
SUMMED = ("gain_map", "inpainted_map")  # means over the latents in the panel, kept as sums beside it


class PanelStore:
    """An open panel, in a folder or in memory, to which latents are appended.

    Parameters
    ----------
    root : Path or zarr.storage.MemoryStore
        The Zarr group.
    """

    def __init__(self, root: Path | zarr.storage.MemoryStore):
        self.root = root
        with verified(root):
            self._group = zarr.open_group(root, mode="r+", use_consolidated=False)
            published = zarr.open_group(root, mode="r", use_consolidated=True)
            self.latents: list[int] = [int(number) for number in np.asarray(published["latent"][:])]  # type: ignore[index]
            self._growing = [name for name, array in self._arrays() if _dimensions(array)[:1] == ["latent"]]
            self._cut()
        self.sums = read_sums(root)

    @classmethod
    def create(cls, root: Path | None, empty: xr.Dataset) -> PanelStore:
        """Make a panel without latents, from a dataset whose `latent` has length 0; in memory if `root` is None."""
        encoding = {}
        for name, variable in empty.variables.items():
            if variable.dims[:1] == ("latent",):
                latents = LATENTS_PER_CHUNK if name in WIDE else LATENTS_PER_SMALL_CHUNK
                encoding[name] = {"chunks": (latents, *variable.shape[1:]), "compressors": COMPRESSOR}
        target: Any = zarr.storage.MemoryStore() if root is None else root.with_name(f".{root.name}-new")
        with explained(root), _quiet():
            if root is not None:
                shutil.rmtree(target, ignore_errors=True)
            # Format 2: the third has no settled encoding of strings yet.
            empty.to_zarr(target, mode="w", zarr_format=2, encoding=encoding)
            if root is not None:
                target.rename(root)
        return cls(target if root is None else root)

    def append(self, rows: Mapping[str, np.ndarray], sums: Mapping[str, np.ndarray]) -> None:
        """Add latents: `rows` has every variable along `latent`, with the same number of rows; `sums` are added up.

        Raises
        ------
        GandidError
            If they cannot be written; what was there before stays as it is.
        """
        before = len(self.latents)
        numbers = [int(number) for number in rows["latent"]]
        after = before + len(numbers)
        with verified(self.root), _quiet():
            self._must_exist()
            for name in self._growing:
                array = self._array(name)
                array.resize((after, *array.shape[1:]))
                array[before:after] = rows[name]
            sums = {name: self.sums[name] + value for name, value in sums.items()}
            for name, value in sums.items():
                self._array(name)[...] = (value / after).astype(np.float32)
            if isinstance(self.root, Path):
                aside = _sums_file(self.root, after).with_suffix(".partial")
                with aside.open("wb") as file:
                    np.savez(file, **sums)  # type: ignore[arg-type]
                self._must_exist()
                aside.rename(_sums_file(self.root, after))
            zarr.consolidate_metadata(self.root, zarr_format=2)
        self.latents += numbers
        self.sums = dict(sums)
        if isinstance(self.root, Path):
            _sums_file(self.root, before).unlink(missing_ok=True)

    def read(self) -> xr.Dataset:
        """The panel as it stands; variables are read when they are used."""
        return read_panel(self.root)

    def _array(self, name: str) -> zarr.Array:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array

    def _arrays(self) -> Iterator[tuple[str, zarr.Array]]:
        for name in self._group.array_keys():
            yield name, self._array(name)

    def _must_exist(self) -> None:
        # Zarr would make the folder anew, with nothing of what was in it.
        if isinstance(self.root, Path) and not (self.root / ".zgroup").exists():
            raise GandidError(f"{self.root} was removed while the study ran: run the same command again")

    def _cut(self) -> None:
        """Remove what a writer that was killed had not published."""
        for name in self._growing:
            array = self._array(name)
            if array.shape[0] != len(self.latents):
                with _quiet():
                    array.resize((len(self.latents), *array.shape[1:]))
        if isinstance(self.root, Path):
            for left in self.root.rglob("*.partial"):
                left.unlink(missing_ok=True)
            for left in self.root.parent.glob(".sums-*"):
                if left != _sums_file(self.root, len(self.latents)):
                    left.unlink()


def read_panel(root: Path | zarr.storage.MemoryStore) -> xr.Dataset:
    """Open a panel lazily: variables are read, and their checksums verified, when they are used.

    Raises
    ------
    GandidError
        If there is no panel, or it is damaged.
    """
    with verified(root):
        return xr.open_zarr(root, chunks=None, consolidated=True)


def read_sums(root: Path | zarr.storage.MemoryStore) -> dict[str, np.ndarray]:
    """The sums over a panel's latents, as they were kept, or of its means where they were not (to float32's rounding)."""
    panel = read_panel(root)
    latents = panel.sizes["latent"]
    with verified(root):
        if isinstance(root, Path) and _sums_file(root, latents).is_file():
            with np.load(_sums_file(root, latents)) as stored:
                return {name: stored[name] for name in stored.files}
        return {name: panel[name].values.astype(np.float64) * latents for name in SUMMED if name in panel}


def write_dataset(path: Path, dataset: xr.Dataset) -> None:
    """Write a dataset as a Zarr group, a folder, whole or not at all."""
    with explained(path), replacing(path) as aside, _quiet():
        dataset.to_zarr(aside, mode="w", zarr_format=2)  # as the panel


def _dimensions(array: zarr.Array) -> list[str]:
    """Names of an array's dimensions, as xarray stores them."""
    return list(array.attrs["_ARRAY_DIMENSIONS"])  # type: ignore[arg-type]


def _sums_file(root: Path, latents: int) -> Path:
    return root.parent / f".sums-{latents}.npz"


@contextmanager
def explained(root: object) -> Iterator[None]:
    """Turn what a file system may raise into one line."""
    try:
        yield
    except OSError as error:
        raise GandidError(
            f"{root}: {(error.strerror or str(error)).lower()}; what was written before is kept"
        ) from error


@contextmanager
def verified(root: object) -> Iterator[None]:
    """As `explained`, and for what a damaged panel raises when it is read."""
    try:
        with explained(root):
            yield
    except (RuntimeError, KeyError, ValueError) as error:
        raise GandidError(f"{root} is damaged: {' '.join(str(error).split())}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Zarr's warning that consolidated metadata is no part of its specification: of version 2 it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        yield
