"""From a file to what it holds: PyTorch's two serializations, the pickles of Karras et al., and safetensors."""

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
from gandid.generators.checkpoints import formats, inert
from gandid.generators.pggan import Generator
from gandid.generators.storage import build_generator, read_safetensors

LARGEST_FILE = 2 * 2**30  # bytes; a 1024 px network with its discriminator and optimizers has 0.7 GiB
LARGEST_INDEX = 64 * 2**20  # bytes of the pickle that names a zip archive's tensors
MOST_ENTRIES = 20_000  # of a zip archive: one for each tensor
MAGIC = 0x1950A86A20F9469CFC6C  # begins PyTorch's legacy serialization


class Config(inert.Settings):
    """What `torch.load` makes of `models.utils.config.BaseConfig`: attributes in `state`, and nothing else."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


Config.__module__, Config.__qualname__ = "models.utils.config", "BaseConfig"  # by which torch.load knows it


def read_checkpoint(path: Path) -> Generator:
    """Read the generator of a checkpoint, whatever project wrote it: recognized by content.

    Nothing in the file is executed, and what is allocated is bounded by the file's size.

    Parameters
    ----------
    path : Path
        gandid's own safetensors; PyTorch (zip or legacy) or safetensors with the weights' names of GAN Dissection,
        PyTorch GAN Zoo, GenForce or pro-gan-pth; or the pickles of Karras et al. (2018).

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
                return build_generator(path, about, weights) if about else formats.find_generator(weights)
            if view[:4] == b"PK\x03\x04":
                return formats.find_generator(_read_zip(file, view))
            return formats.find_generator(_read_pickle(file, view))
    except UsageError as error:
        told = str(error)
        raise UsageError(told if told.startswith(str(path)) else f"{path} {told}") from error
    except Exception as error:  # of a damaged file anything may come
        told = f"{type(error).__name__}: {inert.short(str(error))}"
        raise UsageError(f"{path} is damaged or cut short ({told})") from error


def _view(file: BinaryIO) -> mmap.mmap:
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise UsageError("is empty")
    if size > LARGEST_FILE:
        raise UsageError(f"has {size / 2**30:.1f} GiB, more than the {LARGEST_FILE / 2**30:.0f} GiB that are read")
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_zip(file: BinaryIO, view: mmap.mmap) -> Any:
    entries, position = 0, 0
    while (position := view.find(b"PK\x01\x02", position) + 1) > 0:
        entries += 1
        if entries > MOST_ENTRIES:
            raise UsageError(f"is an archive of more than {MOST_ENTRIES:,} entries")
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if any(name.startswith(("/", "\\")) or ".." in name for name in names):
            raise UsageError("is refused: the archive names a file outside of itself")
        if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in infos):
            raise UsageError("is refused: it is a compressed archive, which PyTorch does not write")
        if len(set(names)) < len(names) or sum(info.file_size for info in infos) > len(view):
            raise UsageError("is refused: entries of the archive lie on top of each other")
        if any(name.endswith("/constants.pkl") for name in names):
            raise UsageError("is refused: it is a TorchScript archive, which holds code; save the state_dict() instead")
        indices = [info for info in infos if info.filename.endswith("/data.pkl")]
        if len(indices) != 1 or len({name.partition("/")[0] for name in names}) != 1:
            raise UsageError("is an archive, but none of PyTorch's")
        if indices[0].file_size > LARGEST_INDEX:
            raise UsageError(f"is refused: its list of tensors has {indices[0].file_size // 2**20} MiB")
        unpickler = inert.Unpickler(inert.Stream(archive.read(indices[0])), inert.TORCH)
    unpickler.load()
    stored = {info.filename.rpartition("/data/")[2]: info.file_size for info in infos}
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
    inert.Unpickler(stream, {}).load()  # version of the serialization
    inert.Unpickler(stream, {}).load()  # of the machine that wrote it
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
    """Let PyTorch load what was read without running anything and found to be harmless."""
    if sum(read.storages.values()) > len(view):
        raise UsageError(f"is damaged: it promises {sum(read.storages.values()):,} bytes of weights, more than it has")
    file.seek(0)
    with warnings.catch_warnings(), torch.serialization.safe_globals([Config]):
        warnings.simplefilter("ignore")  # of old serializations, which are what is expected here
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            told = str(error).rpartition("WeightsUnpickler error: ")[2].partition("\n")[0]
            raise UsageError(f"is refused by PyTorch: {inert.short(told)}") from error
