"""What happens when a part of the page is moved. What is computed stands in the modules that are called here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from gandid.app import experiment, studies, words
from gandid.app.canvas import canvas_value, units_value
from gandid.app.layout import Components
from gandid.app.models import Model
from gandid.app.state import MOST_UNITS, State, read_query
from gandid.app.stream import tallies
from gandid.config import StudyConfig
from gandid.errors import GandidError, UsageError

if TYPE_CHECKING:
    from gandid.app.page import Page

WAIT = 3.0  # seconds that a fresh page waits for the ranking before it shows an image without an edit
PAUSE = 0.4  # seconds without a move before many images are made: a slider that is dragged has the machine for itself
MOST = 2**31 - 1  # largest number of an image or seed

Changes = dict[Any, Any]  # by part of the page, its new value or an update of it


class Events:
    """The events of the page.

    A method that an event calls is given the values of `Components.values`, in their order, and returns what changes on the page.
    """

    def __init__(self, page: Page, parts: Components):
        self.page, self.parts = page, parts

    def connect(self, blocks: gr.Blocks) -> None:
        """Connect every part; call it within `blocks`."""
        p, values = self.parts, list(self.parts.values.values())
        # Quick ones: while one is under way only the last of the moves after it counts.
        quick: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "concurrency_limit": 4}
        moves = [part.input for part in (p.alpha, p.control, p.hold, p.mode, p.number, p.seed)]
        gr.on(moves, self.draw, values, p.drawn, **quick)
        ranked = [p.count.input, p.target.input, p.layer.input, p.automatic.click]
        gr.on(ranked, self.draw_ranked, values, p.drawn, **quick)
        gr.on([p.name.change, p.latents.change], self.reproduce, values, p.keep, **quick)
        p.following.click(self.next_image, values, p.drawn, **quick)
        p.canvas.select(self.choose, values, p.drawn, **quick)
        p.canvas.input(self.brush, values, p.drawn, **quick)
        p.listed.input(self.tick, values, p.drawn, **quick)
        hidden: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8}
        everything = [*p.drawn, p.seed, p.alpha, p.control, p.hold, p.mode, p.generator, p.fresh]
        blocks.load(self.arrive, values, everything, **hidden)
        p.timer.tick(self.refresh, [p.fresh, p.experimented, p.status, *values], everything, **hidden)
        p.timer.tick(self.watch, p.progress, [p.progress, p.stop, p.start], **hidden)
        # The long one: a newer experiment abandons it, see `Page.note`.
        p.experimented.change(self.measure, values, p.everywhere, trigger_mode="multiple", **hidden)
        p.start.click(self.run, values, [p.progress, p.stop, p.start], **hidden)
        p.stop.click(self.halt, **hidden)
        upload = p.upload.upload(self.take, p.upload, [p.generator, p.uploaded], **hidden)
        upload.then(self.draw_ranked, values, p.drawn, **hidden)
        p.finished.select(self.runs, None, p.gallery, **hidden)

    # Moves of the hand

    def draw(self, request: gr.Request, *values: Any) -> Changes:
        """Show what the parts say."""
        return self._shown(request, self._read(values), values)

    def draw_ranked(self, request: gr.Request, *values: Any) -> Changes:
        """As `draw`, with the first units of the ranking."""
        return self._shown(request, replace(self._read(values), units=None), values)

    def next_image(self, request: gr.Request, *values: Any) -> Changes:
        """Show the next image."""
        state = self._read(values)
        return self._shown(request, replace(state, number=state.number + 1), values)

    def choose(self, request: gr.Request, event: gr.EventData, *values: Any) -> Changes:
        """Take the object that was clicked in the picture."""
        return self._shown(request, replace(self._read(values), target=str(event.object), units=None), values)

    def brush(self, request: gr.Request, event: gr.EventData, *values: Any) -> Changes:
        """Take the region that was brushed."""
        region = read_query({"region": str(event.region)}).region
        return self._shown(request, replace(self._read(values), region=region), values)

    def tick(self, request: gr.Request, event: gr.EventData, *values: Any) -> Changes:
        """Take the units that are ticked."""
        ticked = read_query({"units": ".".join(map(str, event.units))}).units
        if ticked is None:
            raise _problem("Keep one unit ticked at least: without one there is no edit.")
        return self._shown(request, replace(self._read(values), units=ticked), values)

    def take(self, path: str | None) -> Changes:
        """Load an uploaded checkpoint."""
        p, name = self.parts, escape(Path(path or "").name)
        try:
            loaded = self.page.take(Path(path or ""))
        except GandidError as error:
            return {p.uploaded: f"<p role='alert' class='problem'>{escape(str(error))}</p>"}
        return {p.generator: loaded, p.uploaded: f"<p role='status'>{name} is loaded.</p>"}

    # A page that comes, and what is learned meanwhile

    def arrive(self, request: gr.Request, *values: Any) -> Changes:
        """Show what the address asks for, or an effect to begin with."""
        asked = read_query(request.query_params)
        self.page.restore(asked.generator)
        begin = self.page.opening(WAIT) if asked == State() else asked
        _, _, state = self.page.settled(begin or State())
        return self._opened(request, state, values) | {self.parts.fresh: None if begin else state.query()}

    def refresh(self, request: gr.Request, fresh: str | None, before: str | None, status: str, *values: Any) -> Changes:
        """Once the ranking has come further, draw again: other units may be first now."""
        _, ranked, state = self.page.settled(self._read(values))
        if fresh is not None:
            begin = self.page.opening() if fresh == state.query() else None
            if begin or fresh != state.query():
                return self._opened(request, begin or state, values) | {self.parts.fresh: None}
        if before is not None and not before.startswith(f"{ranked.latents}?"):
            return self._shown(request, state, values)
        text = words.ranking(ranked, state.layer, fresh=fresh is not None)
        return {self.parts.status: gr.skip() if text == status else text}

    def measure(self, request: gr.Request, *values: Any) -> Iterator[str]:
        """Count over many images, until the experiment is another."""
        session = str(request.session_hash)
        mine = self.page.current(session)
        model, ranked, state = self.page.settled(self._read(values))
        units = experiment.chosen(state, ranked)
        if units is None:
            yield words.numbers_all(None, state, "Waiting for the first ranking of the units …")
            return
        yield words.numbers_all(None, state, "Measuring …")
        time.sleep(PAUSE)
        for tally in tallies(model, state, units, abandoned=lambda: self.page.current(session) != mine):
            yield words.numbers_all(tally, state)

    # Studies

    def run(self, *values: Any) -> Changes:
        """Start a study."""
        model, ranked, state = self.page.settled(self._read(values))
        units = experiment.chosen(state, ranked)
        if units is None:
            raise _problem("The units are not ranked yet: wait a moment.")
        name = str(self._given(values)["name"]).strip()
        try:
            config = self._config(model, state, units, values)
            self.page.jobs.start(config, name or studies.free_name(self.page.runs, _usual_name(state)))
        except GandidError as error:
            raise _problem(str(error)) from None
        return self.watch("")

    def watch(self, before: str) -> Changes:
        """Show how far the study is."""
        p, job = self.parts, self.page.jobs.current
        running = job is not None and job.running
        text = words.progress(job, *(self.page.jobs.progress() if running else (0, 0)))
        if text == before:
            return {p.progress: gr.skip()}
        return {p.progress: text, p.stop: gr.update(interactive=running), p.start: gr.update(interactive=not running)}

    def halt(self) -> None:
        """Stop the study."""
        if self.page.jobs.current is not None:
            self.page.jobs.current.stop()

    def runs(self) -> str:
        """Show the finished runs."""
        return words.runs(studies.gallery(self.page.runs), self.page.runs.name)

    def reproduce(self, *values: Any) -> str:
        """Show the command again, after a change of name or number of latents."""
        model, ranked, state = self.page.settled(self._read(values))
        return self._reproduce(model, state, experiment.chosen(state, ranked) or (), values)

    # From values to a state, and from a state to the page

    def _given(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self.parts.values, values, strict=True))

    def _read(self, values: tuple[Any, ...]) -> State:
        """The state that the parts are in."""
        given = {name: value for name, value in self._given(values).items() if name not in ("name", "latents")}
        layers = self.page.models.get(given["generator"], self.page.model).layers
        given["layer"] = layers[min(max(int(given["layer"] or 1), 1), len(layers)) - 1]
        given |= {name: max(0, min(int(given[name] or 0), MOST)) for name in ("seed", "number")}
        given |= {"count": int(given["count"] or 1), "alpha": float(given["alpha"] or 0)}
        given |= {"target": given["target"] or "", "units": None if given["units"] is None else tuple(given["units"])}
        return State(**given)

    def _shown(self, request: gr.Request, state: State, values: tuple[Any, ...]) -> Changes:
        """Everything that changes on the page for a state, where `values` are those of the parts before."""
        p = self.parts
        try:
            model, ranked, state = self.page.settled(state)
            view = experiment.look(state, model, ranked)
        except UsageError as error:  # such as the insertion of what is never seen, or a layer with nothing to hold
            raise _problem(str(error)) from None
        units = experiment.chosen(state, ranked) or ()
        classes, runner = model.segmenter.classes, model.runner(state.layer)
        size = " × ".join(map(str, runner.map_size))
        key = f"{ranked.latents}?{replace(state, number=0, units=units).query()}"
        self.page.note(str(request.session_hash), key)
        return {
            # The address names the units, so that a finer ranking does not change what a link shows.
            p.canvas: canvas_value(view, model, replace(state, units=units or None).query()),
            p.finding: f"<h1>{escape(words.finding(view, classes, model.objects, len(units)))}</h1>",
            p.status: words.ranking(ranked, state.layer),
            p.here: words.numbers_here(view, classes, model.segmenter.background),
            p.about: words.units(state.target, len(units), by_hand=state.units is not None),
            p.listed: units_value(view, ranked, units),
            p.keep: self._reproduce(model, state, units, values),
            p.experimented: key,
            p.target: gr.update(value=state.target, choices=words.choices(view, classes, model.objects)),
            p.layer: gr.update(
                label=f"Layer: {state.layer}, {runner.units} units on {size} positions", maximum=len(model.layers)
            ),
            p.count: gr.update(maximum=max(min(MOST_UNITS, runner.units), len(units))),
            p.units: state.units,
            p.region: state.region,
        } | self._set_right(state, values)

    def _set_right(self, state: State, values: tuple[Any, ...]) -> Changes:
        """The number and the count where they are not what is shown; a slider that is dragged must not be set back."""
        p, given, count = self.parts, self._given(values), len(state.units or ()) or state.count
        changes: Changes = {} if given["number"] == state.number else {p.number: gr.update(value=state.number)}
        if given["count"] != count:
            changes[p.count] = gr.update(value=count, maximum=max(MOST_UNITS, count))
        return changes

    def _opened(self, request: gr.Request, state: State, values: tuple[Any, ...]) -> Changes:
        """As `_shown`, and every part is set."""
        p = self.parts
        model, _, state = self.page.settled(state)
        changes = self._shown(request, state, values)
        changes[p.layer] = {**changes[p.layer], "value": model.layers.index(state.layer) + 1}
        names = ("generator", "seed", "alpha", "control", "hold", "mode")
        return changes | {p.values[name]: getattr(state, name) for name in names}

    def _config(self, model: Model, state: State, units: tuple[int, ...], values: tuple[Any, ...]) -> StudyConfig:
        segmenter = str(getattr(model.segmenter, "name", ""))
        latents = int(self._given(values)["latents"])
        return studies.config_of(state, units, generator=model.name, segmenter=segmenter, latents=latents)

    def _reproduce(self, model: Model, state: State, units: tuple[int, ...], values: tuple[Any, ...]) -> str:
        """What reproduces a state: a command, Python and a configuration; and what a study leaves out of it."""
        if not units:
            return "<p class='empty'>As soon as the units are ranked, the command stands here.</p>"
        config = self._config(model, state, units, values)
        out = self.page.runs / (str(self._given(values)["name"]).strip() or _usual_name(state))
        texts = {
            "Command": studies.command(config, out),
            "Python": studies.python(config, out),
            "Configuration": studies.as_yaml(config),
        }
        return words.keep(texts, studies.left_out(state))


def _usual_name(state: State) -> str:
    """The name of a study that was given none."""
    return f"{state.target}-{state.layer}-{state.control}-{state.hold}"


def _problem(text: str) -> gr.Error:
    return gr.Error(text, print_exception=False)
