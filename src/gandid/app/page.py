"""What all visitors of the page share, and the page itself put together."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from gandid.app import experiment, studies
from gandid.app.events import Events
from gandid.app.layout import CHECKPOINTS, Components, look
from gandid.app.models import Model, Ranked
from gandid.app.state import State
from gandid.errors import GandidError, UsageError
from gandid.generators import load_generator

RANKED = 16  # latents of a ranking from which an effect to begin with is looked for
SESSIONS = 1000  # pages that are remembered
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
        self.model, self.models = model, {"": model}
        self.runs, self.device = runs, device
        self.jobs = studies.Jobs(runs, device)
        self._experiments: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: State | None = None
        model.rankings.get(model.default_layer)  # the first ranking starts before anybody looks

    def settled(self, state: State) -> tuple[Model, Ranked, State]:
        """The model of a state, what is known of its units, and the state made one that the model has."""
        state = state if state.generator in self.models else replace(state, generator="")
        model = self.models[state.generator]
        ranked = model.rankings.get(state.layer if state.layer in model.layers else model.default_layer)
        with model.hand:
            return model, ranked, experiment.settle(state, model)

    def opening(self, timeout: float = 0) -> State | None:
        """The state of a fresh page: an object on whose removal normalization acts. None while the ranking is too coarse."""
        if self._opening is None:
            ranked = self.model.rankings.wait(self.model.default_layer, RANKED, timeout)
            if ranked.relation is not None and ranked.latents >= RANKED:
                self._opening = experiment.opening(self.model, ranked)
        return self._opening

    def note(self, session: str, key: str) -> None:
        """Note which experiment a visitor makes now: its number grows whenever `key`, which tells them apart, is another."""
        with self._lock:
            known, number = self._experiments.pop(session, ("", 0))
            self._experiments[session] = (key, number + (key != known))
            while len(self._experiments) > SESSIONS:
                self._experiments.popitem(last=False)

    def current(self, session: str) -> int:
        """The number of the experiment that a visitor made last."""
        return self._experiments.get(session, ("", 0))[1]

    def close(self) -> None:
        """End what goes on in the background."""
        self.jobs.close()
        for model in self.models.values():
            model.rankings.close()

    def take(self, upload: Path) -> str:
        """Load an uploaded checkpoint and keep it beside the runs; returns its name among `models`.

        It is kept under its digest and never under its own name: `load_generator` would run a file that is named FILE.py:FACTORY.

        Raises
        ------
        GandidError
            If it is no generator's checkpoint.
        """
        if upload.suffix not in CHECKPOINTS:
            raise UsageError(f"a checkpoint ends in {', '.join(CHECKPOINTS)}, and {upload.name} does not")
        content = upload.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:DIGEST]
        kept = self.runs / "uploads" / f"{digest}{upload.suffix}"
        if digest not in self.models:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
            try:
                self._load(digest, kept)
            except GandidError as error:
                kept.unlink()
                raise UsageError(str(error).replace(str(kept), upload.name)) from error
        return digest

    def restore(self, name: str) -> None:
        """Load what was uploaded before the page was started, if a link names it."""
        if name not in self.models and re.fullmatch(rf"[0-9a-f]{{{DIGEST}}}", name):
            for kept in (self.runs / "uploads").glob(f"{name}.*"):
                self._load(name, kept)

    def _load(self, name: str, kept: Path) -> None:
        network = load_generator(kept, self.device)
        self.models[name] = Model(network, self.model.segmenter, self.runs / ".cache")


def build(page: Page) -> tuple[gr.Blocks, dict[str, Any]]:
    """The blocks of the page, and its look, for `server.make_app`."""
    with gr.Blocks(title="gandid: what does normalization do?", analytics_enabled=False, fill_width=True) as blocks:
        Events(page, Components(page.model)).connect(blocks)
    return blocks, look()
