"""Studies that are started from the page, and the gallery of those that are finished."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gandid.app.state import State, decode_region
from gandid.config import StudyConfig
from gandid.errors import GandidError, UsageError
from gandid.panel.store import read_panel
from gandid.report.findings import findings, headline
from gandid.report.run import read
from gandid.runs import is_finished, read_config

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
NAMING = "name the study with letters, digits, dots, dashes and underscores, such as rug-capped"
MOST_LATENTS = 100_000


def config_of(state: State, *, generator: str, segmenter: str, latents: int) -> StudyConfig:
    """The study of a settled state whose units are named: its object, its control and sites, on `latents` latents.

    A study edits a rectangle: a region is the one around it. Other objects' units are ablated with those of the one in hand, where
    they are in the same way; else they are left out (`left_out` says so).
    """
    shared = {name: getattr(state, name) for name in ("layer", "control", "hold", "alpha", "seed")}
    edits = state.edits() if _alike(state) else state.edits()[:1]
    targets = {state.target: tuple(dict.fromkeys(unit for each in edits for unit in each.units or ()))}
    given = {"generator": generator, "segmenter": segmenter, "targets": targets, "latents": latents, "edit": state.mode}
    given["region"] = _around(state)
    return StudyConfig.check(**given, **shared)


def _alike(state: State) -> bool:
    """Whether all edits are one: that in hand alone, or ablations that go as far, at the same places."""
    return not state.also or {("ablate", state.alpha, state.region)} == {
        (each.mode, each.alpha, each.region) for each in state.edits()
    }


def _around(state: State) -> tuple[float, float, float, float] | None:
    """The rectangle around a state's region, as shares of the image's width and height; None for everywhere."""
    mask = decode_region(state.region) if state.region else np.zeros((1, 1), bool)
    if not mask.any():
        return None
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    (h, w) = mask.shape
    return float(columns[0] / w), float(rows[0] / h), float((columns[-1] + 1) / w), float((rows[-1] + 1) / h)


def left_out(state: State) -> str:
    """What a study cannot do of what a state asks for, in words; empty if it can do all."""
    if not _alike(state):
        done = "insertion" if state.mode == "insert" else "ablation"
        return f"A study makes one edit: the {done} of {state.target}, and not what is edited beside it."
    if around := _around(state):
        mask = decode_region(state.region)
        share = (around[2] - around[0]) * (around[3] - around[1])
        if mask.sum() < round(share * mask.size):
            return "A study edits a rectangle: the one around the region."
    return ""


def arguments(config: StudyConfig, out: Path) -> list[str]:
    """The words of the command that runs a study whose targets' units are named; what is at its default is left out."""
    words = ["run"]
    for name, value in _changed(config).items():
        if name == "targets":
            name, value = "target", [f"{target}={','.join(map(str, units))}" for target, units in value.items()]
        if name == "region":
            value = ",".join(f"{share:g}" for share in value)
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name}", str(one)]
    return [*words, "--out", str(out)]


def command(config: StudyConfig, out: Path) -> str:
    """What one would type to run a study."""
    return shlex.join(["gandid", *arguments(config, out)])


def python(config: StudyConfig, out: Path) -> str:
    """The same in Python."""
    options = {
        name: value for name, value in _changed(config).items() if name not in ("generator", "segmenter", "layer")
    }
    seed = options.pop("seed", 0)
    lines = "".join(f"    {name}={value!r},\n" for name, value in options.items())
    return f"""import gandid

generator = gandid.load_generator({config.generator!r})
segmenter = gandid.load_segmenter({config.segmenter!r})
study = gandid.Study(generator, segmenter, layer={config.layer!r}, seed={seed})
panel = study.run(
{lines}    store={str(out)!r},
)
print(gandid.did(panel).summary())
"""


def as_yaml(config: StudyConfig) -> str:
    """The configuration for `gandid run --config`; what is at its default is left out."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # a tenth of the time: this is done at every move
    return str(yaml.dump(_changed(config), Dumper=dumper, sort_keys=False, default_flow_style=None, width=100))


def _changed(config: StudyConfig) -> dict[str, Any]:
    """The fields that are not at their default."""
    return config.model_dump(mode="json", exclude_defaults=True)


def usual_name(state: State) -> str:
    """The name of a study that was given none."""
    inserted = "inserted-" if state.mode == "insert" else ""
    return f"{inserted}{state.target}-{state.layer}-{state.control}-{state.hold}"


def free_name(runs: Path, wanted: str) -> str:
    """A folder name in `runs` that is not taken: the wanted one, or that with a number."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-.") or "study"
    names = (base if i == 1 else f"{base}-{i}" for i in range(1, 10_000))
    return next(name for name in names if not (runs / name).exists())


def problem(runs: Path, name: str) -> str:
    """What is to be known of a study's name before it is started, in words; empty if it is free, or none is given."""
    if name and not NAME.fullmatch(name):
        return f"“{name}” cannot be its name: {NAMING}."
    if name and (runs / name).exists():
        return f"There is a run {name} already: the same study goes on there, and another is refused."
    return ""


@dataclass
class Job:
    """A study that runs in a process of its own: `stop` ends it, and a later start goes on."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    """What it has printed."""
    stopped: bool = False

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether the process has ended with an error of its own."""
        return not self.running and self.process.returncode != 0 and not self.stopped

    @property
    def reason(self) -> str:
        """The last line that it has printed: of a study that has failed, why."""
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it gave no reason"

    def stop(self) -> None:
        """Interrupt the study, if it runs; what it has measured is kept."""
        if self.running:
            self.stopped = True
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
            raise UsageError(NAMING)
        if config.latents > MOST_LATENTS:
            raise UsageError(f"a study from the page has at most {MOST_LATENTS:,} latents: use a terminal for more")
        with self._lock:
            if self.current is not None and self.current.running:
                raise UsageError(f"the study {self.current.name} is still running: wait for it, or stop it")
            log = self.runs / ".cache" / "study.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            words = [sys.executable, "-m", "gandid", *arguments(config, self.runs / name), "--device", self.device]
            with log.open("wb") as out:
                process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
            self.current = Job(name, process, log)
            return self.current

    def progress(self) -> tuple[int, int]:
        """Latents that are in the panel of the current study, and how many it will have."""
        assert self.current is not None
        folder = self.runs / self.current.name
        try:
            whole = int(read_config(folder)["latents"])
            return int(read_panel(folder / "panel.zarr").sizes["latent"]), whole
        except (GandidError, OSError, KeyError, TypeError, ValueError):
            return 0, 0

    def stop(self) -> None:
        """Interrupt what is running."""
        if self.current is not None:
            self.current.stop()


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
    folders = [f for f in runs.iterdir() if f.is_dir() and not f.name.startswith(".") and is_finished(f)]
    stamps = {folder: (folder / "effects.csv").stat().st_mtime_ns for folder in folders}
    ordered = sorted(folders, key=stamps.__getitem__, reverse=True)
    entries = [_entry(folder, stamps[folder], (folder / "report.html").is_file()) for folder in ordered]
    return [entry for entry in entries if entry is not None]


def stopped(runs: Path) -> list[str]:
    """The runs of a folder that were begun and not finished."""
    begun = [config.parent for config in runs.glob("[!.]*/config.yaml")]
    return sorted(folder.name for folder in begun if not is_finished(folder))


@lru_cache(1000)
def _entry(folder: Path, stamp: int, report: bool) -> Entry | None:
    """What is shown of a run whose effects were written at the time `stamp`; None if it cannot be read."""
    try:
        run = read(folder)
        text = headline(run, findings(run))
    except (GandidError, OSError, KeyError, ValueError):
        return None
    return Entry(folder.name, text, tuple(run.targets), str(run.attrs.get("layer", "")), run.latents, report)
