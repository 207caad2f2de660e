"""The file of a named model: downloaded into a cache when it is first used, and verified."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
from filelock import FileLock

from gandid.errors import GandidError
from gandid.files import remove, replacing
from gandid.generators.named import NamedModel

TIMEOUT = 30.0  # seconds to connect, and without a byte


def cache_folder() -> Path:
    """The folder of downloads: what `GANDID_CACHE` says, else the platform's cache folder for gandid."""
    chosen = os.environ.get("GANDID_CACHE") or platformdirs.user_cache_dir("gandid", appauthor=False)
    return Path(chosen).expanduser().absolute()


def cached_file(model: NamedModel) -> Path:
    """Where the file of a named model is, or will be once it is downloaded."""
    return model.weights or cache_folder() / Path(urlsplit(model.url).path).name


def fetch(model: NamedModel) -> Path:
    """Find the file of a named model, downloading it if it is not here yet.

    The file takes its place only when it is whole and its SHA-256 begins with `model.sha256`. Those few digits tell a
    damaged file from a sound one; they do not vouch for its author, which is why checkpoints are read as data alone. A file
    that was put there by hand is verified as well. Two processes that want the same file download it once.

    Raises
    ------
    GandidError
        If the file cannot be had: no network, not found, cut off, not the right file, no place for it on the disk.
    """
    if model.weights:
        return model.weights
    path = cached_file(model)
    try:
        if not path.is_file():  # asked before anything is written: the folder may be one that only others can fill
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.is_file():  # another process may have downloaded it meanwhile
                    for rest in path.parent.glob(f".*-{path.name}"):
                        remove(rest)  # of a process that was killed
                    with replacing(path) as aside:
                        _download(model, path, aside)
        found = _sha256(path)
    except OSError as error:
        raise GandidError(
            f"cannot use the cache folder {path.parent} ({error.strerror or error}): "
            "set GANDID_CACHE to a folder that can be written to"
        ) from error
    if not found.startswith(model.sha256):  # it may be somebody's own: it is left alone
        raise GandidError(f"{path} is not {model.name} ({_digests(found, model)}): remove it to download it again")
    return path


def _download(model: NamedModel, path: Path, aside: Path) -> None:
    import pooch  # type: ignore[import-untyped]  # most who use gandid never download

    by_hand = f"download {model.url} elsewhere and put it at {path}; its SHA-256 must begin with {model.sha256}"
    try:
        pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)(model.url, str(aside), None)
    except OSError as error:
        if error.errno is None:  # an error of the network, not of the disk
            raise GandidError(f"cannot download {model.name} ({_reason(error)}): {by_hand}") from error
        raise GandidError(
            f"cannot write {path} ({error.strerror}): make room for about {model.megabytes:.0f} MB, or set GANDID_CACHE "
            "to a folder on another disk"
        ) from error
    found = _sha256(aside)
    if not found.startswith(model.sha256):
        raise GandidError(f"{model.url} gave another file than {model.name} ({_digests(found, model)}): {by_hand}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(found: str, model: NamedModel) -> str:
    return f"its SHA-256 is {found} and should begin with {model.sha256}"


def _reason(error: BaseException) -> str:
    """The innermost cause in its own words: `requests` wraps it several times."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")
