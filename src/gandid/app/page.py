"""What all visitors of the page share, and the page itself put together."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from gandid.app import studies, views
from gandid.app.events import Events
from gandid.app.layout import CHECKPOINTS, Components, look
from gandid.app.models import Model, Ranked
from gandid.app.state import State, read_query
from gandid.errors import GandidError, UsageError
from gandid.generators import load_generator

RANKED = 16  # latents of a ranking from which an effect to begin with is looked for
LOADED = 2  # uploaded generators that are held in memory; each takes its weights three times
KEPT = 8  # uploaded checkpoints that are kept on disk
DIGEST = 12  # hexadecimal digits of an upload's SHA-256 that name it


class Page:
    """What all visitors of the page share: the networks, the folder of runs, and the study that runs.

    Parameters
    ----------
    model : Model
        The generator that the page is started with.
    runs : Path
        Where studies are kept, and the only folder that is served.
    device : str
        Device of the networks and of the studies.
    """

    def __init__(self, model: Model, runs: Path, device: str):
        self.model, self.runs, self.device = model, runs, device
        self.jobs = studies.Jobs(runs, device)
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._opening: State | None = None
        ranked = model.rankings.get(model.default_layer)  # the first ranking starts before anybody looks
        stem = model.rankings.stem
        self._opened = stem.with_name(f"{stem.name}-{model.default_layer}.opening")
        if ranked.latents >= RANKED:
            with contextlib.suppress(OSError):
                self._opening = read_query(self._opened.read_text(encoding="utf-8"))

    def find(self, name: str) -> tuple[str, Model]:
        """The generator of that name, from disk if need be; the one that the page was started with if there is none."""
        with self._loading:
            if name not in self._loaded and re.fullmatch(rf"[0-9a-f]{{{DIGEST}}}", name):
                for kept in (self.runs / "uploads").glob(f"{name}.*"):
                    network = load_generator(kept, self.device)
                    self._loaded[name] = Model(network, self.model.segmenter, self.runs / ".cache")
            if name not in self._loaded:
                return "", self.model
            self._loaded.move_to_end(name)
            while len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)[1].rankings.close()
            return name, self._loaded[name]

    def settled(self, state: State) -> tuple[Model, Ranked, State]:
        """The model of a state, what is known of its units, and the state made one that the model has."""
        name, model = self.find(state.generator)
        ranked = model.rankings.get(state.layer if state.layer in model.layers else model.default_layer)
        with model.hand:
            return model, ranked, views.settle(replace(state, generator=name), model)

    def opening(self, timeout: float = 0) -> State | None:
        """The state of a fresh page: an object on whose removal normalization acts. None while the ranking is too coarse."""
        ranked = self.model.rankings.wait(self.model.default_layer, RANKED, 0 if self._opening else timeout)
        with self._lock:
            if self._opening is None and ranked.relation is not None and ranked.latents >= RANKED:
                self._opening = views.opening(self.model, ranked)
                self._opened.write_text(self._opening.query(), encoding="utf-8")
        return self._opening

    def close(self) -> None:
        """End what goes on in the background, without waiting long for it, and delete what is left of uploads."""
        self.jobs.stop()
        for model in (self.model, *self._loaded.values()):
            model.rankings.close(0.5)
        shutil.rmtree(self.runs / ".cache" / "uploads", ignore_errors=True)

    def take(self, part: Path, name: str) -> str:
        """Load a checkpoint that was uploaded as `name` and keep it beside the runs; returns what the page calls it.

        It is kept under its digest and never under its own name: `load_generator` would run a file that is named FILE.py:FACTORY.
        The study that may be started of it reads it there. Of more than `KEPT` the ones that were uploaded first are deleted.

        Raises
        ------
        GandidError
            If it is no generator's checkpoint.
        """
        suffix = Path(name).suffix
        if suffix not in CHECKPOINTS:
            raise UsageError(f"a checkpoint ends in {', '.join(CHECKPOINTS)}, and {name} does not")
        with part.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()[:DIGEST]
        kept = self.runs / "uploads" / f"{digest}{suffix}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        part.replace(kept)
        try:
            self.find(digest)
        except GandidError as error:
            kept.unlink()
            raise UsageError(str(error).replace(str(kept), name)) from error
        for old in sorted(kept.parent.iterdir(), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink()
        return digest


def build(page: Page) -> tuple[gr.Blocks, dict[str, Any]]:
    """The blocks of the page, and its look, for `server.make_app`."""
    with gr.Blocks(title="gandid: what does normalization do?", analytics_enabled=False, fill_width=True) as blocks:
        Events(page, Components(page.model)).connect(blocks)
    return blocks, look()
