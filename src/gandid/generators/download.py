"""The file of a named model: downloaded into a cache when first used, resumed, verified, and never half there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from http.client import responses
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
import requests
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gandid.errors import GandidError
from gandid.generators.named import NamedModel

TIMEOUT = (10.0, 60.0)  # seconds to connect, and without a byte
_CHUNK = 1 << 16  # bytes; what is read of an unfinished chunk is lost when the connection is


def cache_folder() -> Path:
    """The folder of downloads: what `GANDID_CACHE` says, else the platform's cache folder for gandid."""
    chosen = os.environ.get("GANDID_CACHE") or platformdirs.user_cache_dir("gandid", appauthor=False)
    return Path(chosen).expanduser().absolute()


def cached_file(model: NamedModel) -> Path:
    """Where the file of a named model is, or will be once it is downloaded."""
    return model.weights or cache_folder() / Path(urlsplit(model.url).path).name


def fetch(model: NamedModel) -> Path:
    """Find the file of a named model, downloading it if it is not here yet.

    The download goes into a `.part` file beside the final place, which an interrupted download leaves behind and the
    next one continues, and is renamed only when its SHA-256 begins with `model.sha256`. Those few digits tell a damaged
    file from a whole one; they do not vouch for its author, which is why checkpoints are read as data alone. A file that
    was put there by hand is verified as well. Two processes that want the same file download it once.

    Parameters
    ----------
    model : NamedModel

    Returns
    -------
    Path

    Raises
    ------
    GandidError
        If the file cannot be had: no network, not found, cut off, not the right file, no place for it on the disk.
    """
    if model.weights:
        return model.weights
    path = cached_file(model)
    part = path.with_name(path.name + ".part")
    try:
        if path.is_file():  # before anything is written, so that a folder which only others may fill is of use
            return _verified(path, model)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _progress() as progress:
            task = progress.add_task(f"waiting for another download of {model.name}", total=None)
            with FileLock(f"{path}.lock"):
                if path.is_file():  # the other one finished it
                    return _verified(path, model)
                progress.update(task, description=f"downloading {model.name}")
                if not (part.is_file() and _matches(part, model)):
                    _download(model, path, part, lambda done, total: progress.update(task, completed=done, total=total))
                part.rename(path)
                _version_file(part).unlink(missing_ok=True)
    except OSError as error:
        raise GandidError(
            f"cannot use the cache folder {path.parent} ({error.strerror or error}): "
            "set GANDID_CACHE to a folder that can be written to"
        ) from error
    return path


def _download(model: NamedModel, path: Path, part: Path, told: Callable[[int, int | None], None]) -> None:
    """Complete `part`; nothing is left of it if it can never become the file."""
    try:
        while not _receive(model, path, part, told):
            _remove(part)
        found = _sha256(part)
    except requests.RequestException as error:
        host = urlsplit(model.url).hostname
        raise GandidError(f"cannot reach {host} ({_reason(error)}): {_by_hand(model, path)}") from error
    except OSError as error:
        _remove(part)  # or the disk would stay full
        raise GandidError(
            f"cannot write {path} ({error.strerror or error}): make room for about {model.megabytes:.0f} MB or set "
            "GANDID_CACHE to a folder on another disk; what was downloaded is removed"
        ) from error
    if not found.startswith(model.sha256):
        _remove(part)
        raise GandidError(
            f"{model.url} is not {model.name}: its SHA-256 is {found} and should begin with {model.sha256}; "
            "what was downloaded is removed"
        )


def _receive(model: NamedModel, path: Path, part: Path, told: Callable[[int, int | None], None]) -> bool:
    """Get what is missing of `part`; False if what is there is no beginning of what the server has."""
    version = _version_file(part)
    done = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"}  # the bytes as they are stored, or a range would mean something else
    if done:
        headers["Range"] = f"bytes={done}-"
        if version.is_file():
            headers["If-Range"] = version.read_text(encoding="utf-8")
    with requests.get(model.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        continued = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if done and (status == 416 or (status == 206 and not continued)):
            return False
        if status != 200 and not (done and status == 206):
            raise GandidError(f"{model.url} answered {status} {responses.get(status, '')}: {_by_hand(model, path)}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise GandidError(f"{response.url} is a web page and not the file: {_by_hand(model, path)}")
        if status == 200:  # the whole file, whatever was asked for
            done = 0
            _remove(part)
            if validator := _validator(response):
                version.write_text(validator, encoding="utf-8")
        remaining = response.raw.length_remaining
        total = None if remaining is None else done + remaining
        with part.open("ab") as file:
            try:
                for chunk in response.iter_content(_CHUNK):
                    done += file.write(chunk)
                    told(done, total)
            except requests.RequestException as error:
                raise GandidError(
                    f"the connection to {urlsplit(response.url).hostname} broke after {done} of "
                    f"{total or 'unknown'} bytes ({_reason(error)}): they are kept, and the same command again goes on"
                ) from error
            file.flush()
            os.fsync(file.fileno())  # the new name must not reach the disk before the bytes do
    return True


def _validator(response: requests.Response) -> str | None:
    """What `If-Range` may carry (RFC 9110, 13.1.5): a strong entity tag, or else the date of the last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified")


def _version_file(part: Path) -> Path:
    """Remembers which version of the file `part` is the beginning of."""
    return part.with_name(part.name + ".version")


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _matches(path: Path, model: NamedModel) -> bool:
    return _sha256(path).startswith(model.sha256)


def _verified(path: Path, model: NamedModel) -> Path:
    """The file, if it is the right one; it may be somebody's own, so a wrong one is left alone."""
    if not _matches(path, model):
        raise GandidError(
            f"{path} is not {model.name}: its SHA-256 is {_sha256(path)} and should begin with {model.sha256}; "
            "remove it to download it anew"
        )
    return path


def _reason(error: BaseException) -> str:
    """The innermost cause, in its own words: `requests` wraps it several times."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def _by_hand(model: NamedModel, path: Path) -> str:
    return f"get {model.url} elsewhere and put it at {path}; its SHA-256 must begin with {model.sha256}"


def _progress() -> Progress:
    """A bar where somebody watches, and nothing in a log."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
