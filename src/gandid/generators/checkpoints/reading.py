"""From a file to what it holds: PyTorch's two serializations, the pickles of Karras et al., and safetensors.

PyTorch's own guard (`weights_only`) runs nothing, either, but does not suffice against damaged or hostile files: a pickle
of 300 bytes, of tuples in tuples as a key, keeps it busy forever, and before version 2.13 it read beyond the end of a
storage that is shorter than promised. So its files are read inertly first.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from gandid.errors import UsageError
from gandid.files import read_safetensors
from gandid.generators.checkpoints import inert
from gandid.generators.checkpoints.candidates import find_generator
from gandid.generators.pggan import Generator
from gandid.generators.storage import build_generator

LARGEST_FILE = 2 * 2**30  # bytes; a 1024 px network with its discriminator and optimizers has 0.7 GiB
MAGIC = 0x1950A86A20F9469CFC6C  # begins PyTorch's legacy serialization


class Config(inert.Settings):
    """What `torch.load` makes of `models.utils.config.BaseConfig`: attributes in `state`, and nothing else."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


Config.__module__, Config.__qualname__ = "models.utils.config", "BaseConfig"  # by which torch.load knows it


def read_checkpoint(path: Path, network: str = "") -> Generator:
    """Read the generator of a checkpoint, whatever project wrote it: recognized by content.

    Nothing in the file is executed, and what is allocated is bounded by the file's size.

    Parameters
    ----------
    path : Path
        gandid's own safetensors; PyTorch (zip or legacy) or safetensors with the weights' names of GAN Dissection,
        PyTorch GAN Zoo, GenForce or pro-gan-pth; or the pickles of Karras et al. (2018).
    network : str
        Which of several generators in the file, as `Generator.source` names it; by default the moving average.

    Returns
    -------
    Generator
        On the CPU, in float32, ready for inference.

    Raises
    ------
    UsageError
        One line that says what is wrong with the file.
    """
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read: the permission is missing")
    try:
        with open(path, "rb") as file, contextlib.closing(_view(file)) as view:
            if view[8:9] == b"{":  # the length of a header in JSON, and the header
                about, weights = read_safetensors(path)
                return build_generator(path, about, weights) if about else find_generator(weights, network)
            return find_generator((_read_zip if view[:4] == b"PK\x03\x04" else _read_pickle)(file, view), network)
    except UsageError as error:
        line = str(error)
        raise UsageError(line if line.startswith(str(path)) else f"{path} {line}") from error
    except Exception as error:  # of a damaged file anything may come
        line = f"{type(error).__name__}: {inert.short(str(error))}"
        raise UsageError(f"{path} is damaged or cut short ({line})") from error


def _view(file: BinaryIO) -> mmap.mmap:
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise UsageError("is empty")
    if size > LARGEST_FILE:
        raise UsageError(f"has {size / 2**30:.1f} GiB, more than the {LARGEST_FILE / 2**30:.0f} GiB that are read")
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_zip(file: BinaryIO, view: mmap.mmap) -> Any:
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if any(name.endswith("/constants.pkl") for name in sizes):
            raise UsageError("is refused: it is a TorchScript archive, which holds code; save the state_dict() instead")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise UsageError("is refused: it is a compressed archive, which PyTorch does not write")
        if len(sizes) < len(archive.infolist()) or sum(sizes.values()) > len(view):
            raise UsageError("is refused: entries of the archive lie on top of each other")
        index = [name for name in sizes if name.endswith("/data.pkl")]
        if len(index) != 1:
            raise UsageError("is an archive, but none of PyTorch's")
        unpickler = inert.Unpickler(inert.Stream(archive.read(index[0])), inert.TORCH)
    unpickler.load()
    stored = {name.rpartition("/data/")[2]: size for name, size in sizes.items()}
    if any(size > stored.get(key, -1) for key, size in unpickler.storages.items()):
        raise UsageError("is damaged: it holds fewer bytes of weights than it promises")
    return _load(file, view, unpickler)


def _read_pickle(file: BinaryIO, view: mmap.mmap) -> Any:
    if view[257:262] == b"ustar":
        raise UsageError("is a tar archive, which PyTorch has not written since 2017: save it anew with a later one")
    if view[:1] != b"\x80" and not _is_old_pickle(view):
        raise UsageError(
            "is not a checkpoint: neither PyTorch's, nor safetensors, nor a pickle of Karras et al. (2018)"
        )
    stream = inert.Stream(view)
    first = inert.Unpickler(stream, inert.KARRAS).load()
    if first != MAGIC:
        return first
    for _ in ("the serialization's version", "the machine that wrote it"):
        inert.Unpickler(stream, {}).load()
    unpickler = inert.Unpickler(stream, inert.TORCH)
    unpickler.load()
    return _load(file, view, unpickler)


def _is_old_pickle(view: mmap.mmap) -> bool:
    """Whether a text is a pickle of protocol 0 or 1, which none of these files is, but hostile ones are."""
    try:
        return len(view) < 2**20 and len(list(pickletools.genops(view[:]))) > 1
    except Exception:
        return False


def _load(file: BinaryIO, view: mmap.mmap, read: inert.Unpickler) -> Any:
    """Let PyTorch load what was read inertly and found to be harmless."""
    promised = sum(read.storages.values())
    if promised > len(view):
        raise UsageError(f"is damaged: it promises {promised:,} bytes of weights, more than it has")
    file.seek(0)
    with warnings.catch_warnings(), torch.serialization.safe_globals([Config]):
        warnings.simplefilter("ignore")  # of old serializations, which are what is expected here
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            line = str(error).rpartition("WeightsUnpickler error: ")[2].partition("\n")[0]
            raise UsageError(f"is refused by PyTorch: {inert.short(line)}") from error
