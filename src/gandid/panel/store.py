"""The panel on disk: one Zarr group that grows by latents and by arms, readable at any moment, whole at any moment.

One process writes. It writes the rows that some arms were measured on and only then publishes them, by replacing the group's
consolidated metadata, which is one file: it has the length of every dimension, and how many rows each arm was measured on. A reader
goes by that file. A writer that was killed leaves nothing that counts, and the next one cuts off what was not published. Zarr writes
each file aside and renames it, and each chunk carries Zstandard's checksum, which is verified whenever it is read. What was not
measured is -1 or NaN, so that a chunk that was lost is seen, and never read as zeros.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import xarray as xr
import zarr
from zarr.errors import ZarrUserWarning

from gandid.errors import GandidError, UsageError
from gandid.files import is_aside, replacing
from gandid.panel.schema import FEATURED, SCHEMA, fill
from gandid.panel.table import APART

# Latents per chunk in storage; what is computed at a time may be less. Few latents of a small variable would make many files.
WIDE, LATENTS_PER_CHUNK, LATENTS_PER_SMALL_CHUNK = ("pixels", "inside", "strain"), 512, 4096
GROWING = {"segmenter": 1, "draws": 64}  # chunks along what may be added later
ARMS_PER_SMALL_CHUNK = 4096  # of a coordinate
# No filter: before a shuffling compressor it would leave nothing to shuffle.
COMPRESSOR = numcodecs.Zstd(1, checksum=True)
METADATA = ".zmetadata"  # what is published
MEASURED = "pixels"  # the variable that has the attribute `measured`: a group's own are not read from what is published
DERIVED = ("measured", "latents")  # coordinates that follow from the attribute `measured`

Root = Path | zarr.storage.MemoryStore


class PanelStore:
    """An open panel, in a folder or in memory.

    Parameters
    ----------
    root : Path or zarr.storage.MemoryStore
        The Zarr group.

    Attributes
    ----------
    latents : list of int
        The latents by number, in the order in which they were measured: the rows of the panel.
    arms : list of str
        Names of the arms.
    measured : numpy.ndarray
        Rows that each arm has been measured on, (segmenter, arm).
    """

    def __init__(self, root: Root):
        self.root = root
        with verified(root):
            group = zarr.open_group(root, mode="r+", use_consolidated=False)
            self._arrays: dict[str, zarr.Array] = dict(group.arrays())
            self._dims: dict[str, list[Any]] = {
                name: list(array.attrs["_ARRAY_DIMENSIONS"])  # type: ignore[arg-type]
                for name, array in self._arrays.items()
            }
            self._attributes = self._arrays[MEASURED].attrs
            if isinstance(root, Path):
                self._metadata = json.loads((root / METADATA).read_text(encoding="utf-8"))
                self._attributes = self._metadata["metadata"][f"{MEASURED}/.zattrs"]
                self._cut(root)
            self.latents: list[int] = np.asarray(self._arrays["latent"][:]).tolist()
            self.arms: list[str] = [str(name) for name in np.asarray(self._arrays["arm"][:])]
            self.measured = np.array(self._attributes["measured"], int)

    @classmethod
    def create(cls, root: Path | None, empty: xr.Dataset) -> PanelStore:
        """Make a panel of an empty one (`gandid.panel.schema.empty_panel`); in memory if `root` is None."""
        arms, encoding = empty.sizes["arm"], {}
        for name, variable in empty.variables.items():
            wide = name in WIDE
            chunk = GROWING | {
                "latent": LATENTS_PER_CHUNK if wide else LATENTS_PER_SMALL_CHUNK,
                "arm": arms if "latent" in variable.dims else ARMS_PER_SMALL_CHUNK,
            }
            chunk |= {"latent": FEATURED} if name == "features" else {}
            shape = tuple(chunk.get(str(dim), max(size, 1)) for dim, size in variable.sizes.items())
            encoding[name] = {"chunks": shape, "compressors": COMPRESSOR}
            if "latent" in variable.dims and name != "latent":
                encoding[name]["_FillValue"] = fill(variable.dtype)
        blank = _growing_names(empty.drop_vars(DERIVED)).copy()
        blank[MEASURED].attrs["measured"] = empty["measured"].values.tolist()
        encoding = {name: options for name, options in encoding.items() if name in blank.variables}
        target: Any = zarr.storage.MemoryStore() if root is None else root.with_name(f".{root.name}-new")
        with explained(root), _quiet():
            if root is not None:
                shutil.rmtree(target, ignore_errors=True)
            # Format 2: the third has no settled encoding of strings yet.
            blank.to_zarr(target, mode="w", zarr_format=2, encoding=encoding)
            if root is not None:
                target.rename(root)
        return cls(target if root is None else root)

    def read(self) -> xr.Dataset:
        """The panel as it stands; variables are read when they are used."""
        return read_panel(self.root)

    def extend(self, blank: xr.Dataset) -> None:
        """Add arms, draws or segmenters on which nothing has been measured yet.

        Parameters
        ----------
        blank : xarray.Dataset
            An empty panel with all that there is and all that is added, in this order.
        """
        old = self.read()
        for dim in ("arm", "segmenter", "object", "draws"):
            if blank[dim].values[: old.sizes[dim]].tolist() != old[dim].values.tolist():
                raise ValueError(f"the panel's {dim} are not the first of those that it is to have")
        named = _growing_names(blank)
        with verified(self.root), _quiet():
            self._must_exist()
            for name, array in self._arrays.items():
                sizes = {**blank.sizes, "latent": len(self.latents)}
                array.resize(tuple(sizes[dim] for dim in self._dims[name]))
                if "latent" not in self._dims[name]:
                    array[...] = named[name].values
            # A segmenter sees no pixel of a class that it does not know.
            for name in ("pixels", "inside") if blank.sizes["object"] > old.sizes["object"] else ():
                for segmenter, arm in np.ndindex(self.measured.shape):
                    rows = slice(int(self.measured[segmenter, arm]))
                    self._arrays[name][segmenter, rows, :, arm, old.sizes["object"] :] = 0
            measured = np.zeros((blank.sizes["segmenter"], blank.sizes["arm"]), int)
            measured[: self.measured.shape[0], : self.measured.shape[1]] = self.measured
            self._publish(measured)
        self.arms = blank["arm"].values.tolist()

    def write(self, arms: Sequence[str], segmenters: Sequence[int], start: int, rows: Mapping[str, np.ndarray]) -> None:
        """Write and publish what some arms, which stand together in the panel, were measured to be on some rows.

        Parameters
        ----------
        arms : sequence of str
        segmenters : sequence of int
            Numbers of those that labelled the images.
        start : int
            The first row. Rows beyond the panel's are appended to it: then `rows` has `latent`, too.
        rows : mapping of str to numpy.ndarray
            Variables along `latent`, of these arms and segmenters only. A segmenter that labelled the images of the first of the
            rows only has counts of -1 beyond.

        Raises
        ------
        GandidError
            If they cannot be written; what was there before stays as it is.
        """
        first, stop = self.arms.index(arms[0]), start + rows["pixels"].shape[1]
        at = {
            "segmenter": slice(segmenters[0], segmenters[0] + len(segmenters)),
            "latent": slice(start, stop),
            "arm": slice(first, first + len(arms)),
        }
        if self.arms[at["arm"]] != list(arms) or (self.measured[at["segmenter"], at["arm"]] < start).any():
            raise ValueError(f"arms {arms[0]} to {arms[-1]} cannot be written from row {start} on")
        length = max(stop, len(self.latents))
        with verified(self.root), _quiet():
            self._must_exist()
            for name, array in self._arrays.items():
                dims = self._dims[name]
                if "latent" in dims and array.shape[dims.index("latent")] != length:
                    array.resize(tuple(length if d == "latent" else s for d, s in zip(dims, array.shape, strict=True)))
                if name in rows:
                    array[tuple(at.get(dim, slice(None)) for dim in dims)] = rows[name]
            measured = self.measured.copy()
            known = (rows["inside"] >= 0).all(axis=(2, 3, 4))  # (segmenter, latent)
            ends = start + known.cumprod(axis=1).sum(axis=1)
            measured[at["segmenter"], at["arm"]] = np.maximum(measured[at["segmenter"], at["arm"]], ends[:, None])
            self._publish(measured)
        if "latent" in rows:
            self.latents += [int(number) for number in rows["latent"]]

    def _publish(self, measured: np.ndarray) -> None:
        self._attributes["measured"] = measured.tolist()
        if isinstance(self.root, Path):
            for name, array in self._arrays.items():
                self._metadata["metadata"][f"{name}/.zarray"]["shape"] = list(array.shape)
            self._must_exist()
            with replacing(self.root / METADATA) as aside:
                aside.write_text(json.dumps(self._metadata), encoding="utf-8")
        self.measured = measured

    def _must_exist(self) -> None:
        # Zarr would make the folder anew, with nothing of what was in it.
        if isinstance(self.root, Path) and not (self.root / ".zgroup").exists():
            raise GandidError(f"{self.root} was removed while the study ran: run the same command again")

    def _cut(self, root: Path) -> None:
        """Remove what a writer that was killed had not published."""
        with _quiet():
            for name, array in self._arrays.items():
                shape = tuple(self._metadata["metadata"][f"{name}/.zarray"]["shape"])
                if array.shape != shape:
                    array.resize(shape)
        for left in root.rglob("*"):
            if left.suffix == ".partial" or is_aside(left.name):
                left.unlink(missing_ok=True)


def read_panel(root: Root) -> xr.Dataset:
    """Open a panel lazily: variables are read, and their checksums verified, when they are used.

    Raises
    ------
    GandidError
        If there is no panel, or it is damaged.
    UsageError
        If it was made by another version of gandid.
    """
    panel = read_dataset(root)
    if panel.attrs.get("schema") != SCHEMA:
        raise UsageError(f"{root} was made by gandid {panel.attrs.get('version', '0.1')}: run the study again")
    for variable in panel.variables.values():
        variable.attrs.pop("_FillValue", None)  # -1 and NaN are what they are
    with verified(root):
        measured = np.array(panel[MEASURED].attrs.pop("measured"), int)
        strings = {name: panel[name] for name in panel.coords if panel[name].dtype.kind in "OT"}
        fixed = {name: (names.dims, np.array(names.values.tolist(), str)) for name, names in strings.items()}
        panel = panel.assign_coords(fixed)
        return panel.assign_coords(measured=(("segmenter", "arm"), measured), latents=("arm", measured[0]))


def read_dataset(root: Root) -> xr.Dataset:
    """Open any Zarr group of a run lazily; raises `GandidError` as `read_panel` does."""
    with verified(root):
        # Whole numbers stay whole numbers, also where -1 says that there are none.
        return xr.open_zarr(root, chunks=None, consolidated=isinstance(root, Path), mask_and_scale=False)


def write_dataset(path: Path, dataset: xr.Dataset) -> None:
    """Write a dataset as a Zarr group, a folder, whole or not at all."""
    with explained(path), replacing(path) as aside, _quiet():
        dataset.to_zarr(aside, mode="w", zarr_format=2)  # as the panel


def read_counts(
    panel: xr.Dataset, name: str, rows: slice, arms: Sequence[int] | None = None, segmenter: int = 0
) -> np.ndarray:
    """Read counts of a panel, and see that none is missing that was measured.

    Parameters
    ----------
    panel : xarray.Dataset
    name : {"pixels", "inside", "shared"}
    rows : slice
        Of `latent`, with start and stop.
    arms : sequence of int, optional
        Their places; all by default.
    segmenter : int
        Its place.

    Returns
    -------
    numpy.ndarray
        int32 (latent, target, arm, object), `shared` without the last; -1 where an arm was not measured, `pixels` of `APART` arms
        where it was not made, and `shared` of other networks.

    Raises
    ------
    GandidError
        If the panel is damaged.
    """
    places = np.arange(panel.sizes["arm"]) if arms is None else np.asarray(arms, int)
    source = panel.encoding.get("source", "the panel")
    together = len(places) > 0 and (np.diff(places) == 1).all()  # a slice is read much faster than picked places
    with verified(source):
        picked = slice(int(places[0]), int(places[-1]) + 1) if together else places
        counts = panel[name].isel(segmenter=segmenter, latent=rows, arm=picked)
        values = counts.transpose("latent", "target", "arm", ...).values
    if values.size == 0 or values.min() >= 0:
        return values
    start, _, _ = rows.indices(panel.sizes["latent"])
    measured = panel["measured"].values[segmenter, places]
    if name == "pixels":
        measured = np.where(np.isin(panel["block"].values[places].astype(str), APART), 0, measured)
    if name == "shared":
        measured = np.where(panel["network"].values[places] == "own", measured, 0)
    absent = (values < 0).any(axis=(1, *range(3, values.ndim))) & (start + np.arange(len(values))[:, None] < measured)
    if absent.any():
        lost = counts["latent"].values[absent.any(axis=1)]
        raise GandidError(f"{source} is damaged: counts are missing for latents {lost.min()} to {lost.max()}")
    return values


@contextmanager
def explained(root: object) -> Iterator[None]:
    """Turn what a file system may raise into one line."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # of Zarr, where a part is not there
            raise GandidError(f"{root} is damaged: {' '.join(str(error).split())}") from error
        raise GandidError(f"{root}: {error.strerror.lower()}; what was written before is kept") from error


@contextmanager
def verified(root: object) -> Iterator[None]:
    """As `explained`, and for what a damaged panel raises when it is read."""
    try:
        with explained(root):
            yield
    except (RuntimeError, KeyError, ValueError) as error:
        raise GandidError(f"{root} is damaged: {' '.join(str(error).split())}") from error


def _growing_names(dataset: xr.Dataset) -> xr.Dataset:
    """Names as strings of any length, so that longer ones can be added."""
    names = {name: dataset[name].astype(object) for name in dataset.coords if dataset[name].dtype.kind == "U"}
    return dataset.assign_coords(names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Zarr's warning that consolidated metadata is no part of its specification: of version 2 it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        yield
