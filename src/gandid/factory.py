"""What the user's own Python file makes: `FILE.py:FACTORY`.

The file is run, as `python FILE.py` would run it, because the user named it. Nothing else in the package executes what it
reads.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from gandid.errors import GandidError, UsageError, first_line

PREFIX = "gandid_user_"  # of the names of modules made here


def is_factory(name: str) -> bool:
    """Whether a name is of the form `FILE.py:FACTORY`."""
    return ".py:" in name


def digest(name: str) -> str:
    """SHA-256 of the file of `FILE.py:FACTORY`: it decides what is made as weights do, and counts in fingerprints."""
    return hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest()


def call_factory(name: str) -> Any:
    """Run a file and give what its factory returns.

    Parameters
    ----------
    name : str
        `FILE.py:FACTORY`. Modules beside the file can be imported by it, whatever other modules have their names.

    Raises
    ------
    UsageError
        If there is no such file or factory, or it fails; the line names the file, and the traceback goes with the error.
    """
    path, _, factory = name.rpartition(":")
    file = Path(path).absolute()
    if not file.is_file():
        raise UsageError(f"{path} is not a file: write FILE.py:FACTORY, a file and the function in it")
    with _own_errors(path, file), _importable(file.parent):
        module = _run(file)
        if not callable(getattr(module, factory, None)):
            raise UsageError(f"{path} has no function '{factory}'")
        return getattr(module, factory)()


def user_modules() -> list[ModuleType]:
    """The modules that were made of users' files: no other process can import them by name."""
    return [module for name, module in sys.modules.items() if name.startswith(PREFIX)]


def _run(file: Path) -> ModuleType:
    """Execute a file as a module of a name that no other file has."""
    name = f"{PREFIX}{hashlib.sha256(str(file).encode()).hexdigest()[:8]}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there for the file's classes
    spec.loader.exec_module(module)
    return module


@contextmanager
def _own_errors(path: str, file: Path) -> Iterator[None]:
    """Whatever the user's code raises, as one line that says where."""
    try:
        yield
    except GandidError:
        raise
    except (Exception, SystemExit) as error:
        line = getattr(error, "lineno", None)  # of a file that does not parse
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == str(file):
                line = trace.tb_lineno
            trace = trace.tb_next
        where = f"{path}, line {line}" if line else path
        raise UsageError(f"{where}: {first_line(error)}") from error


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of a folder be imported, as they can be where a script of that folder runs.

    Modules of their names that came from elsewhere (beside another factory, say) step aside meanwhile.
    """
    beside = {file.stem for file in folder.glob("*.py")} | {file.parent.name for file in folder.glob("*/__init__.py")}
    beside -= {"gandid", "torch", *sys.stdlib_module_names}

    def modules(names: set[str]) -> dict[str, ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}

    sources = {name: getattr(module, "__file__", None) for name, module in modules(beside).items() if name in beside}
    foreign = {name for name, source in sources.items() if not (source and Path(source).is_relative_to(folder))}
    before = modules(foreign)
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in modules(foreign):
            del sys.modules[name]
        sys.modules.update(before)
