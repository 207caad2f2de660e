"""What happens when a part of the page is moved. What is computed stands in the modules that are called here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import gradio as gr

from gandid.app import experiment, studies, words
from gandid.app.canvas import canvas_value, units_value
from gandid.app.layout import Components
from gandid.app.models import Model
from gandid.app.state import MOST_UNITS, State, read_parts, read_query
from gandid.config import StudyConfig
from gandid.errors import GandidError, UsageError
from gandid.segmenters import name_of

if TYPE_CHECKING:
    from gandid.app.page import Page

WAIT = 3.0  # seconds that a fresh page waits for the ranking before it shows an image without an edit

Changes = dict[Any, Any]  # by part of the page, its new value or an update of it


def _told(event: Callable[..., Any]) -> Callable[..., Any]:
    """Tell the visitor what cannot be done, in words, and nobody else."""

    @wraps(event)
    def told(*arguments: Any) -> Any:
        try:
            return event(*arguments)
        except GandidError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return told


class Events:
    """The events of the page.

    A method that an event calls is given the values of `Components.values`, in their order, and returns what changes on the page.
    None of them knows who asks: whatever the page shows stands in its own parts, and a server that was started anew goes on.
    """

    def __init__(self, page: Page, parts: Components):
        self.page, self.parts = page, parts

    def connect(self, blocks: gr.Blocks) -> None:
        """Connect every part; call it within `blocks`."""
        p, values = self.parts, list(self.parts.values.values())
        # Each is one request. While one is under way, only the last of the moves after it counts; but Gradio would forget
        # what that move said, so that the pictures see to it themselves.
        moves = [part.input for part in (p.alpha, p.control, p.hold, p.number, p.seed)]
        ranked = [p.count.input, p.target.input, p.layer.input, p.automatic.click]
        for triggers, event, inputs, outputs in (
            (moves, self.draw, values, p.drawn),
            (ranked, self.draw_ranked, values, p.drawn),
            ([p.canvas.input, p.listed.input], self.change, values, p.drawn),
            ([p.mode.input], self.draw_anew, values, p.drawn),
            ([p.following.click], self.next_image, values, p.drawn),
            ([p.previous.click], self.previous_image, values, p.drawn),
            ([p.canvas.submit], self.show, values, p.set),
            ([blocks.load], self.arrive, values, p.set),
            ([p.name.change, p.latents.change], self.reproduce, values, [p.keep]),
            ([p.start.click], self.run, values, []),
            ([p.stop.click], self.halt, [], []),
            ([p.finished.select], self.runs, [], [p.gallery]),
        ):
            gr.on(
                triggers,
                event,
                inputs,
                outputs,
                api_name=event.__name__,
                queue=False,
                preprocess=False,
                show_progress="hidden",
                trigger_mode="multiple" if event in (self.change, self.show) else "always_last",
            )

    # Moves of the hand

    @_told
    def draw(self, *values: Any) -> Changes:
        """Show what the parts say."""
        return self._shown(self._read(values), values)

    @_told
    def draw_ranked(self, *values: Any) -> Changes:
        """As `draw`, with the first units of the ranking."""
        return self._shown(replace(self._read(values), units=None), values)

    @_told
    def draw_anew(self, *values: Any) -> Changes:
        """As `draw`, without the region: an insertion begins in the middle, an ablation everywhere."""
        return self._shown(replace(self._read(values), region=""), values)

    @_told
    def next_image(self, *values: Any) -> Changes:
        """Show the next image that has the object."""
        return self._beside(values, 1)

    @_told
    def previous_image(self, *values: Any) -> Changes:
        """Show the image before that has the object."""
        return self._beside(values, -1)

    def _beside(self, values: tuple[Any, ...], step: int) -> Changes:
        model, _, state = self.page.settled(self._read(values))
        number = experiment.neighbour(state, model, step)
        return self._shown(replace(self._read(values), number=number), values)

    @_told
    def change(self, event: gr.EventData, *values: Any) -> Changes:
        """Take over a part of a state: the object that was clicked, the region that was brushed, the units that are ticked."""
        news = event._data or {}
        if news.get("units") == "":
            raise UsageError("Keep one unit ticked at least: without one there is no edit.")
        found = read_query(news)
        state = replace(
            self._read(values), **{name: getattr(found, name) for name in news if name in State.__dataclass_fields__}
        )
        return self._shown(replace(state, units=None) if "target" in news else state, values)

    # A page that comes

    @_told
    def show(self, event: gr.EventData, *values: Any) -> Changes:
        """Show the state of an address: one that was shown before, or the effect to begin with."""
        return self._opened(read_query(dict(parse_qsl(str((event._data or {}).get("query", ""))))), values)

    @_told
    def arrive(self, request: gr.Request, *values: Any) -> Changes:
        """Show what the address asks for, or an effect to begin with."""
        asked = read_query(request.query_params)
        begin = self.page.opening(WAIT) if asked == State() else asked
        return self._opened(begin or asked, values, fresh=begin is None)

    # Studies

    @_told
    def run(self, *values: Any) -> None:
        """Start a study."""
        model, ranked, state = self.page.settled(self._read(values))
        units = experiment.chosen(state, ranked)
        if units is None:
            raise UsageError("The units are not ranked yet: wait a moment.")
        name = self._name(values)
        config = self._config(model, state, units, values)
        self.page.jobs.start(config, name or studies.free_name(self.page.runs, _usual_name(state)))

    def halt(self) -> None:
        """Stop the study."""
        if self.page.jobs.current is not None:
            self.page.jobs.current.stop()

    def runs(self) -> str:
        """Show the finished runs."""
        folder, job = self.page.runs, self.page.jobs.current
        stopped = [name for name in studies.stopped(folder) if not (job and job.running and job.name == name)]
        return words.runs(studies.gallery(folder), folder.name, stopped)

    @_told
    def reproduce(self, *values: Any) -> str:
        """Show the command again, after a change of name or number of latents."""
        model, ranked, state = self.page.settled(self._read(values))
        return self._reproduce(model, state, experiment.chosen(state, ranked) or (), values)

    # From values to a state, and from a state to the page

    def _given(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self.parts.values, values, strict=True))

    def _read(self, values: tuple[Any, ...]) -> State:
        """The state that the parts are in."""
        given = self._given(values)
        layers = self.page.find(str(given["generator"]))[1].layers
        place = given["layer"]
        if not isinstance(place, int) or not 1 <= place <= len(layers):
            raise UsageError(f"layer: the page has {len(layers)}")
        return read_parts(given | {"layer": layers[place - 1]})

    def _name(self, values: tuple[Any, ...]) -> str:
        return str(self._given(values)["name"] or "").strip()

    def _shown(self, state: State, values: tuple[Any, ...], *, fresh: bool = False) -> Changes:
        """Everything that changes on the page for a state, where `values` are those of the parts before."""
        p = self.parts
        model, ranked, state = self.page.settled(state)
        view = experiment.look(state, model, ranked)
        units = experiment.chosen(state, ranked) or ()
        classes, runner = model.segmenter.classes, model.runner(state.layer)
        return {
            # The address names the units, so that a finer ranking does not change what a link shows.
            p.canvas: canvas_value(view, model, replace(state, units=units or None).query())
            | {"ranked": [state.generator, state.layer, None if state.units else ranked.latents], "fresh": fresh},
            p.brand: words.brand(model.name, name_of(model.segmenter), uploaded=bool(state.generator)),
            p.following: f"Next with a {state.target}",
            p.finding: f"<h1>{escape(words.finding(view, classes, model.objects, len(units)))}</h1>",
            p.here: words.numbers_here(view, classes, model.segmenter.background),
            p.about: words.units(state.target, len(units), by_hand=state.units is not None),
            p.listed: units_value(view, ranked, units),
            p.keep: self._reproduce(model, state, units, values),
            p.target: gr.update(value=state.target, choices=words.choices(view, classes, model.objects)),
            p.layer: gr.update(
                label=f"Layer: {state.layer}, {runner.units} units",
                maximum=max(len(model.layers), 2),
            ),
            p.count: gr.update(maximum=max(min(MOST_UNITS, runner.units), len(units), 2)),
            p.generator: state.generator,
            p.units: ".".join(map(str, state.units or ())),
            p.region: state.region,
        } | self._set_right(state, values)

    def _set_right(self, state: State, values: tuple[Any, ...]) -> Changes:
        """The number and the count where they are not what is shown; a slider that is dragged must not be set back."""
        p, given, count = self.parts, self._given(values), len(state.units or ()) or state.count
        changes: Changes = {} if given["number"] == state.number else {p.number: gr.update(value=state.number)}
        if given["count"] != count:
            changes[p.count] = gr.update(value=count, maximum=max(MOST_UNITS, count))
        return changes

    def _opened(self, state: State, values: tuple[Any, ...], *, fresh: bool = False) -> Changes:
        """As `_shown`, and every part is set."""
        p = self.parts
        model, _, state = self.page.settled(state)
        changes = self._shown(state, values, fresh=fresh)
        changes[p.layer] = {**changes[p.layer], "value": model.layers.index(state.layer) + 1}
        return changes | {p.values[name]: getattr(state, name) for name in ("seed", "alpha", "control", "hold", "mode")}

    def _config(self, model: Model, state: State, units: tuple[int, ...], values: tuple[Any, ...]) -> StudyConfig:
        latents = self._given(values)["latents"]
        return studies.config_of(
            state, units, generator=model.name, segmenter=name_of(model.segmenter), latents=latents
        )

    def _reproduce(self, model: Model, state: State, units: tuple[int, ...], values: tuple[Any, ...]) -> str:
        """What reproduces a state: a command, Python and a configuration; and what a study leaves out of it."""
        if not units:
            return "<p class='empty'>As soon as the units are ranked, the command stands here.</p>"
        config = self._config(model, state, units, values)
        out = self.page.runs / (self._name(values) or _usual_name(state))
        texts = {
            "Command": studies.command(config, out),
            "Python": studies.python(config, out),
            "Configuration": studies.as_yaml(config),
        }
        return words.keep(texts, studies.left_out(state), studies.problem(self.page.runs, self._name(values)))


def _usual_name(state: State) -> str:
    """The name of a study that was given none."""
    return f"{state.target}-{state.layer}-{state.control}-{state.hold}"
