"""Studies that are started from the page, and the gallery of those that are finished."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gandid import did
from gandid.app.state import State
from gandid.errors import GandidError, UsageError
from gandid.files import replacing
from gandid.studies.config import StudyConfig
from gandid.studies.folder import is_finished, open_panel, read_config
from gandid.studies.store import read_panel

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
MOST_LATENTS = 100_000
HEADLINES = ".headlines.json"  # in the folder of runs: what the gallery says of each, so that it is read once


def config_of(state: State, units: tuple[int, ...], *, generator: str, segmenter: str, latents: int) -> StudyConfig:
    """The study of a settled state: its object and units, its control and sites, on `latents` latents.

    A study edits everywhere and ablates: a region, or an insertion, is left out (`left_out` says so).
    """
    return StudyConfig.check(
        generator=generator,
        segmenter=segmenter,
        layer=state.layer,
        targets={state.target: units},
        control=state.control,
        hold=state.hold,
        alpha=state.alpha,
        latents=latents,
        seed=state.seed,
    )


def left_out(state: State) -> str:
    """What of a state a study cannot do, in words; empty if nothing."""
    parts = []
    if state.mode == "insert":
        parts.append("A study does not insert: it ablates these units.")
    if state.region:
        parts.append("A study has no region: it edits everywhere.")
    return " ".join(parts)


def arguments(config: StudyConfig, out: Path) -> list[str]:
    """The words of the command that runs a study whose targets' units are named; what is at its default is left out."""
    told: list[str] = ["run"]
    default = StudyConfig()
    for name in ("generator", "segmenter", "layer"):
        value = getattr(config, name)
        if value is not None and (value != getattr(default, name) or name == "layer"):
            told += [f"--{name}", str(value)]
    assert isinstance(config.targets, dict)
    for target, units in config.targets.items():
        told += ["--target", f"{target}={','.join(map(str, units))}"]
    for name in ("control", "hold"):
        for value in getattr(config, name):
            told += [f"--{name}", value]
    for name in ("alpha", "latents", "seed"):
        if getattr(config, name) != getattr(default, name):
            told += [f"--{name}", str(getattr(config, name))]
    return [*told, "--out", str(out)]


def command(config: StudyConfig, out: Path) -> str:
    """As one would type it."""
    return shlex.join(["gandid", *arguments(config, out)])


def python(config: StudyConfig, out: Path) -> str:
    """The same in Python."""
    assert isinstance(config.targets, dict)
    targets = "{" + ", ".join(f"{name!r}: {list(units)}" for name, units in config.targets.items()) + "}"
    alpha = f" alpha={config.alpha}," if config.alpha != 1 else ""
    return f"""import gandid

generator = gandid.load_generator({config.generator!r})
segmenter = gandid.load_segmenter({config.segmenter!r})
study = gandid.Study(generator, segmenter, layer={config.layer!r}, seed={config.seed})
panel = study.run(
    targets={targets},
    control={list(config.control)}, hold={list(config.hold)}, latents={config.latents},{alpha}
    store={str(out)!r},
)
print(gandid.did(panel).summary())
"""


def as_yaml(config: StudyConfig) -> str:
    """The configuration for `gandid run --config`; what is at its default is left out."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)


def free_name(runs: Path, wanted: str) -> str:
    """A folder name in `runs` that is not taken: the wanted one, or that with a number."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-.") or "study"
    names = (base if i == 1 else f"{base}-{i}" for i in range(1, 10_000))
    return next(name for name in names if not (runs / name).exists())


@dataclass
class Job:
    """A study that runs in a process of its own, which outlives no page: `stop` ends it, and a later start goes on."""

    name: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    """The last that it said."""
    stopped: bool = False

    def __post_init__(self) -> None:
        self.listener = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            del self.lines[:-200]

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def failed(self) -> bool:
        return not self.running and self.process.returncode != 0 and not self.stopped

    def stop(self) -> None:
        """Interrupt the study; what it has measured is kept."""
        self.stopped = True
        if self.running:
            self.process.terminate()


class Jobs:
    """The studies of one folder of runs; one runs at a time, for they share the machine with the page."""

    def __init__(self, runs: Path, device: str = "auto"):
        self.runs, self.device = runs, device
        self.current: Job | None = None
        self._lock = threading.Lock()

    def start(self, config: StudyConfig, name: str) -> Job:
        """Start a study in a new folder of the runs, or go on with the one that is there.

        Raises
        ------
        UsageError
            If the name is no plain folder name, a study is running, or too many latents are asked for.
        """
        if not NAME.fullmatch(name):
            raise UsageError("name the study with letters, digits, dots, dashes and underscores, such as rug-capped")
        if config.latents > MOST_LATENTS:
            raise UsageError(
                f"from the page a study has {MOST_LATENTS:,} latents at most: start a larger one in a terminal"
            )
        with self._lock:
            if self.current is not None and self.current.running:
                raise UsageError(f"the study {self.current.name} is still running: wait for it, or stop it")
            self.runs.mkdir(parents=True, exist_ok=True)
            words = [
                sys.executable,
                "-c",
                "from gandid.cli import main; main()",
                *arguments(config, self.runs / name),
                "--device",
                self.device,
            ]
            process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
            )
            self.current = Job(name, process)
            self.current.listener.start()
            return self.current

    def progress(self) -> tuple[int, int]:
        """Latents that are in the panel of the current study, and how many it will have."""
        assert self.current is not None
        folder = self.runs / self.current.name
        try:
            whole = int(read_config(folder)["latents"])
            return int(read_panel(folder / "panel.zarr").sizes["latent"]), whole
        except (UsageError, GandidError, OSError, KeyError, TypeError, ValueError):
            return 0, 0

    def close(self) -> None:
        """Interrupt what is running."""
        if self.current is not None and self.current.running:
            self.current.stop()
            self.current.process.wait(10)


@dataclass(frozen=True)
class Entry:
    """A finished run, as the gallery shows it."""

    name: str
    headline: str
    targets: tuple[str, ...]
    layer: str
    latents: int
    report: bool


def gallery(runs: Path) -> list[Entry]:
    """The finished runs of a folder, the latest first; what cannot be read is left out."""
    if not runs.is_dir():
        return []
    known = _read_headlines(runs)
    entries, fresh = [], {}
    folders = [f for f in runs.iterdir() if f.is_dir() and not f.name.startswith(".") and is_finished(f)]
    for folder in sorted(folders, key=lambda f: (f / "effects.csv").stat().st_mtime, reverse=True):
        stamp = f"{(folder / 'effects.csv').stat().st_mtime_ns}"
        told = known.get(folder.name)
        if not told or told.get("stamp") != stamp:
            try:
                told = {"stamp": stamp, **_told(folder)}
            except (GandidError, OSError, ValueError, KeyError, pd.errors.ParserError):
                continue
        fresh[folder.name] = told
        about = {key: told[key] for key in ("headline", "layer", "latents")}
        report = (folder / "report.html").is_file()
        entries.append(Entry(folder.name, targets=tuple(told["targets"]), report=report, **about))
    if fresh != known:
        with replacing(runs / HEADLINES) as aside:
            aside.write_text(json.dumps(fresh), encoding="utf-8")
    return entries


def _told(folder: Path) -> dict[str, Any]:
    config, effects = read_config(folder), did.estimate(open_panel(folder))
    return {
        "headline": effects.sentences()[0],
        "targets": effects.targets,
        "layer": str(config.get("layer", "")),
        "latents": effects.latents,
    }


def _read_headlines(runs: Path) -> dict[str, Any]:
    try:
        known = json.loads((runs / HEADLINES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
