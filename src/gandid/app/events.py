"""What happens when a part of the page is moved. What is computed stands in the modules that are called here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from gandid.app import studies, views, words
from gandid.app.canvas import canvas_value, colours, units_value
from gandid.app.layout import SHOWN, Components
from gandid.app.models import Model
from gandid.app.state import MOST_UNITS, State, read_parts, read_query
from gandid.config import StudyConfig
from gandid.errors import GandidError, UsageError
from gandid.segmenters import name_of

if TYPE_CHECKING:
    from gandid.app.page import Page

WAIT = 3.0  # seconds that a fresh page waits for the ranking before it shows an image without an edit

Changes = dict[Any, Any]  # by part of the page, its new value or an update of it
# The values of `Components.values`, by name; with them `news`, what was clicked, and `query`, that of the page's address.
Given = dict[str, Any]


class Events:
    """The events of the page.

    A method that an event calls is given what the parts say, and returns what changes on the page. None of them knows who asks:
    whatever the page shows stands in its own parts, and a server that was started anew goes on.
    """

    def __init__(self, page: Page, parts: Components):
        self.page, self.parts = page, parts

    def connect(self, blocks: gr.Blocks) -> None:
        """Connect every part; call it within `blocks`."""
        p, values = self.parts, list(self.parts.values.values())
        # Each is one request. While one is under way, only the last of the moves after it counts; but Gradio would forget
        # what that move said, so that the pictures see to it themselves. (A `change` would send a text as the event's data,
        # which the door takes for no event of the page.)
        moves = [p.values[name].input for name in (*SHOWN, "name", "latents")]
        for triggers, event, inputs, outputs in (
            (moves, self.draw, values, p.set),
            ([p.canvas.input, p.listed.input], self.change, values, p.set),
            ([blocks.load], self.arrive, values, p.set),
            ([p.start.click], self.run, values, []),
            ([p.stop.click], self.page.jobs.stop, [], []),
            ([p.finished.select], self.runs, [], [p.gallery]),
        ):
            gr.on(
                triggers,
                self._event(event) if inputs else event,
                inputs,
                outputs,
                api_name=event.__name__,
                queue=False,
                preprocess=False,
                show_progress="hidden",
                trigger_mode="multiple" if event == self.change else "always_last",
            )

    def _event(self, event: Callable[..., Any]) -> Callable[..., Any]:
        """What Gradio calls: it names the values, and tells the visitor what cannot be done, in words, and nobody else."""

        def asked(data: gr.EventData, request: gr.Request, *values: Any) -> Any:
            given = dict(zip(self.parts.values, values, strict=True))
            try:
                return event(given | {"news": data._data or {}, "query": request.query_params})
            except GandidError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return asked

    # Moves of the hand

    def draw(self, given: Given) -> Changes:
        """Show what the parts say."""
        return self._shown(self._read(given), given)

    def change(self, given: Given) -> Changes:
        """Take over what was clicked, brushed or ticked: a whole state (`query`), fields of one, or one of these.

        `step` leads to the next image with the object (or, -1, the one before), `add` takes an object in hand beside those that are
        edited, and `drop` lets go of one.
        """
        news = {name: str(value) for name, value in given["news"].items()}
        if "query" in news:
            return self._shown(read_query(news["query"]), given)
        found, state = read_query(news), self._read(given)
        state = state.moved(**{name: getattr(found, name) for name in news if name in State.__dataclass_fields__})
        others = {other.target: other for other in state.edits()}
        if news.get("step") in ("1", "-1"):
            model, _, settled = self.page.settled(state)
            state = replace(state, number=views.neighbour(settled, model, int(news["step"])))
        elif (added := news.get("add")) and added not in others:
            alone = State(
                state.generator, state.seed, state.number, state.layer, added, control=state.control, hold=state.hold
            )
            state = alone.beside(list(others.values()))
        elif others.pop(news.get("drop", ""), None) and others:
            state = state.moved(target=next(iter(others))).beside(list(others.values())[1:])
        return self._shown(state, given)

    # A page that comes

    def arrive(self, given: Given) -> Changes:
        """Show what the address asks for, or an effect to begin with."""
        asked = read_query(given["query"])
        begin = self.page.opening(WAIT) if asked == State() else asked
        return self._shown(begin or asked, given, fresh=begin is None)

    # Studies

    def run(self, given: Given) -> None:
        """Start a study."""
        model, ranked, state = self.page.settled(self._read(given))
        asked = views.named(state, ranked)
        if not asked.units:
            raise UsageError("The units are not ranked yet: wait a moment.")
        config, name = self._study(model, asked, given)
        self.page.jobs.start(config, name or studies.free_name(self.page.runs, studies.usual_name(asked)))

    def runs(self) -> str:
        """Show the finished runs."""
        folder, job = self.page.runs, self.page.jobs.current
        stopped = [name for name in studies.stopped(folder) if not (job and job.running and job.name == name)]
        return words.runs(studies.gallery(folder), folder.name, stopped)

    # From values to a state, and from a state to the page

    def _read(self, given: Given) -> State:
        """The state that was shown, with what the parts say by now."""
        shown = read_query(str(given["shown"]))
        layers, place = self.page.find(shown.generator)[1].layers, given["layer"]
        if not isinstance(place, int) or not 1 <= place <= len(layers):
            raise UsageError(f"layer: the page has {len(layers)}")
        return shown.moved(**read_parts({name: given[name] for name in SHOWN} | {"layer": layers[place - 1]}))

    def _shown(self, state: State, given: Given, *, fresh: bool = False) -> Changes:
        """Everything that changes on the page for a state."""
        p = self.parts
        model, ranked, state = self.page.settled(state)
        view, asked = views.look(state, model, ranked), views.named(state, ranked)
        units, classes, runner = asked.units or (), model.segmenter.classes, model.runner(state.layer)
        # What a part says already is not set: a slider that is dragged must not be set back.
        now = {name: getattr(state, name) for name in SHOWN} | {"layer": model.layers.index(state.layer) + 1}
        set_anew = {p.values[name]: gr.update(value=value) for name, value in now.items() if given[name] != value}
        most = {p.layer: max(len(model.layers), 2), p.count: max(min(MOST_UNITS, runner.units), state.count, 2)}
        limits = {part: gr.update(maximum=maximum) | set_anew.get(part, {}) for part, maximum in most.items()}
        limits[p.layer]["label"] = f"Layer: {state.layer}, {runner.units} units"
        html = {
            "brand": words.brand(model.name, name_of(model.segmenter), uploaded=bool(state.generator)),
            "finding": f"<h1>{escape(words.finding(view, classes, model.objects, len(units)))}</h1>",
            "edits": words.edits(view, classes, model.objects, colours(len(classes))),
            "steps": words.steps(state),
            "here": words.numbers_here(view, classes, model.segmenter.background),
            "about": words.units(state.target, len(units), by_hand=state.units is not None),
            **self._reproduce(model, asked, given),
        }
        ranking = [state.generator, state.layer, None if state.units else ranked.latents]
        # The address names the units, so that a finer ranking does not change what a link shows.
        canvas = canvas_value(view, model, asked.query()) | {"html": html, "ranked": ranking, "fresh": fresh}
        return {
            p.canvas: canvas,
            p.listed: units_value(view, ranked, units),
            p.shown: state.query(),
            **set_anew,
            **limits,
            p.target: gr.update(value=state.target, choices=words.choices(view, classes, model.objects)),
        }

    def _study(self, model: Model, asked: State, given: Given) -> tuple[StudyConfig, str]:
        """The study of a state whose units are named, and the name that it was given."""
        networks = {"generator": model.name, "segmenter": name_of(model.segmenter)}
        return studies.config_of(asked, **networks, latents=given["latents"]), str(given["name"] or "").strip()

    def _reproduce(self, model: Model, asked: State, given: Given) -> dict[str, str]:
        """What reproduces a state whose units are named: a command, Python, a configuration; and what speaks against the name."""
        if not asked.units:
            return {
                "keep": "<p class='empty'>As soon as the units are ranked, the command stands here.</p>",
                "named": "",
            }
        config, name = self._study(model, asked, given)
        out = self.page.runs / (name or studies.usual_name(asked))
        texts = {
            "Command": studies.command(config, out),
            "Python": studies.python(config, out),
            "Configuration": studies.as_yaml(config),
        }
        problem = f"<p class='problem' role='alert'>{escape(studies.problem(self.page.runs, name))}</p>"
        return {"keep": words.keep(texts, studies.left_out(asked)), "named": problem}
