"""The page: its parts, and what happens when one of them is moved. What is computed stands in the modules that it calls."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from gandid.app import experiment, studies, words
from gandid.app.canvas import canvas_value, units_value
from gandid.app.models import Model, Ranked
from gandid.app.state import MOST_UNITS, State, read_query
from gandid.app.stream import tallies
from gandid.errors import GandidError, UsageError
from gandid.generators import load_generator
from gandid.interventions import EXACT_CONTROLS

HERE = Path(__file__).parent / "static"
POLL = 1.0  # seconds between two looks at what goes on in the background
WAIT = 3.0  # seconds that a fresh page waits for the ranking before it shows an image without an edit
RANKED = 16  # latents of a ranking from which an effect to begin with is looked for
PAUSE = (
    0.4  # seconds without a move before many images are made: a slider that is being dragged has the machine for itself
)
SESSIONS = 1000  # pages that are remembered
DIGEST = 12  # hexadecimal digits of an upload's SHA-256 that name it
CHECKPOINTS = [".pth", ".pt", ".pkl", ".safetensors"]
CONTROL_LABELS = {"capped": "capped: may not amplify more", "frozen": "frozen: as without the edit"}
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif"]
MONO = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace"]
BRAND = (
    "<p><b>gandid</b>Ablate an object inside an image generator, and see what its normalization does to the rest.</p>"
)
STUDY = (
    "<h2>Run as a study</h2><p class='note'>The same edit on many images, with intervals, checks and a report. "
    "The address of this page is a permanent link to what you see.</p>"
)


class Page:
    """What all visitors of the page share: the networks, the folder of runs, and the study that runs.

    Parameters
    ----------
    model : Model
        The generator that the page is started with.
    runs : Path
        Where studies are kept, and the only folder that is served.
    device : str
        Of the networks and of the studies.
    """

    def __init__(self, model: Model, runs: Path, device: str):
        self.model, self.models = model, {"": model}
        self.runs, self.device = runs, device
        self.jobs = studies.Jobs(runs, device)
        self._experiments: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: State | None = None
        model.rankings.get(model.default_layer)  # the first ranking starts before anybody looks

    def of(self, state: State) -> tuple[Model, Ranked, State]:
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

    def note(self, session: str, key: str) -> int:
        """The number of the experiment that a visitor makes now; it grows whenever `key`, which tells them apart, is another."""
        with self._lock:
            known, number = self._experiments.pop(session, ("", 0))
            self._experiments[session] = (key, number + (key != known))
            while len(self._experiments) > SESSIONS:
                self._experiments.popitem(last=False)
            return self._experiments[session][1]

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
    model = page.model
    with gr.Blocks(title="gandid: what does normalization do?", analytics_enabled=False, fill_width=True) as blocks:
        _html(BRAND, "brand")
        units, region, generator = gr.State(None), gr.State(""), gr.State("")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Experiment", id="experiment"):
                finding = _html("<h1>Making a first image …</h1>", "finding")
                status = _html("", "status")
                canvas = _drawn("canvas")
                with gr.Row(elem_id="choices"):
                    target = gr.Radio(list(model.objects), label="Object", elem_id="target", scale=6, min_width=300)
                    number = gr.Number(
                        0, label="Image", precision=0, minimum=0, elem_id="number", scale=1, min_width=80
                    )
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed", scale=1, min_width=80)
                    following = gr.Button("Next image", elem_id="next", variant="primary", scale=1, min_width=120)
                with gr.Row(elem_id="workbench"):
                    with gr.Column(elem_classes="panel-card", scale=4, min_width=300):
                        _html("<h2>Edit</h2>")
                        mode = gr.Radio(
                            [("Ablate", "ablate"), ("Insert", "insert")], label="What to do", elem_id="mode"
                        )
                        count = gr.Slider(1, MOST_UNITS, 20, step=1, label="Number of units", elem_id="count")
                        alpha = gr.Slider(0, 1, 1, step=0.05, label="Strength (alpha)", elem_id="alpha")
                        layer = gr.Slider(
                            1,
                            len(model.layers),
                            model.layers.index(model.default_layer) + 1,
                            step=1,
                            label="Layer",
                            elem_id="layer",
                        )
                        controls = [(CONTROL_LABELS.get(name, name), name) for name in EXACT_CONTROLS]
                        control = gr.Radio(controls, label="Normalization is held, for comparison", elem_id="control")
                        sites = [("first site", "first"), ("all sites", "all")]
                        hold = gr.Radio(sites, label="Where it is held", elem_id="hold")
                    here = _html("", "numbers-here", scale=4, min_width=280)
                    everywhere = _html("", "numbers-all", scale=5, min_width=300)
                with gr.Column(elem_classes="panel-card"):
                    about = _html("<h2>Units</h2>", "about-units")
                    listed = _drawn("units")
                    automatic = gr.Button("Tick the first again", elem_id="automatic", size="sm")
                with gr.Row(elem_id="keeping"):
                    with gr.Column(elem_classes="panel-card", scale=5, min_width=300):
                        _html(STUDY)
                        name = gr.Textbox(label="Name (made if left empty)", max_length=60, elem_id="name")
                        latents = gr.Slider(64, 4096, 512, step=64, label="Images (latents)", elem_id="latents")
                        with gr.Row():
                            start = gr.Button("Run as a study", variant="primary", elem_id="start", min_width=140)
                            stop = gr.Button("Stop", elem_id="stop", min_width=90, interactive=False)
                        progress = _html(words.progress(None, 0, 0), "progress")
                    with gr.Column(elem_classes="panel-card", scale=7, min_width=300):
                        _html("<h2>Reproduce</h2>")
                        keep = gr.HTML("", elem_id="keep", js_on_load=_script("copy"), apply_default_css=False)
                with gr.Accordion("Another generator", open=False, elem_id="another"):
                    _html(_about_uploads(model))
                    upload = gr.File(label="Checkpoint", file_types=CHECKPOINTS, elem_id="upload")
                    uploaded = _html("", "uploaded")
            with gr.Tab("Finished runs", id="runs") as finished:
                gallery = _html("<p class='empty'>Looking …</p>", "gallery")
        experimented = gr.State(
            None
        )  # what tells this experiment from another, see `shown`; the image's number does not
        fresh = gr.State(
            None
        )  # the address of a page that waits for an effect to begin with, as long as nothing is moved
        timer = gr.Timer(POLL)

        inputs = [
            generator,
            seed,
            number,
            layer,
            target,
            units,
            count,
            alpha,
            control,
            hold,
            mode,
            region,
            name,
            latents,
        ]

        def read(values: tuple[Any, ...]) -> State:
            of, seed, number, layer, target, units, count, alpha, control, hold, mode, region, *_ = values
            model = page.models.get(of, page.model)
            layer = model.layers[min(max(int(layer or 1), 1), len(model.layers)) - 1]
            chosen = None if units is None else tuple(units)
            seed, number = (max(0, min(int(value or 0), 2**31 - 1)) for value in (seed, number))
            count, alpha = int(count or 1), float(alpha or 0)
            return State(of, seed, number, layer, target or "", chosen, count, alpha, control, hold, mode, region)

        def shown(session: str, state: State, values: tuple[Any, ...]) -> dict[Any, Any]:
            """Everything that changes on the page for a state, where `values` are those of the inputs before."""
            try:
                model, ranked, state = page.of(state)
                view = experiment.look(state, model, ranked)
            except UsageError as error:  # such as the insertion of what is never seen, or a layer with nothing to hold
                raise gr.Error(str(error), print_exception=False) from None
            ticked = experiment.chosen(state, ranked) or ()
            said = words.finding(view, model.segmenter.classes, model.objects, len(ticked))
            runner = model.runner(state.layer)
            place = (
                f"Layer: {state.layer}, {runner.units} units on {runner.map_size[0]} × {runner.map_size[1]} positions"
            )
            key = f"{ranked.latents}?{replace(state, number=0, units=ticked).query()}"
            page.note(session, key)
            return {
                # The address names the units, so that a finer ranking does not change what a link shows.
                canvas: canvas_value(view, model, replace(state, units=ticked or None).query()),
                finding: f"<h1>{escape(said)}</h1>",
                status: words.ranking(ranked, state.layer),
                here: words.numbers_here(view, model.segmenter.classes, model.segmenter.background),
                about: words.units(state.target, len(ticked), by_hand=state.units is not None),
                listed: units_value(view, ranked, ticked),
                keep: _reproduce(page, model, state, ticked, values),
                experimented: key,
                target: gr.update(
                    value=state.target, choices=words.choices(view, model.segmenter.classes, model.objects)
                ),
                layer: gr.update(label=place, maximum=len(model.layers)),
                count: gr.update(maximum=max(min(MOST_UNITS, runner.units), len(ticked))),
                units: state.units,
                region: state.region,
            } | _moved(state, {number: state.number, count: len(state.units or ()) or state.count}, values)

        def _moved(state: State, wanted: dict[Any, Any], values: tuple[Any, ...]) -> dict[Any, Any]:
            """The values that are not what their parts show already; a slider that is being dragged must not be set back."""
            return {
                part: gr.update(value=value, **({"maximum": max(MOST_UNITS, value)} if part is count else {}))
                for part, value in wanted.items()
                if value != values[inputs.index(part)]
            }

        def draw(request: gr.Request, *values: Any) -> dict[Any, Any]:
            return shown(str(request.session_hash), read(values), values)

        def draw_ranked(request: gr.Request, *values: Any) -> dict[Any, Any]:
            return shown(str(request.session_hash), replace(read(values), units=None), values)

        def next_image(request: gr.Request, *values: Any) -> dict[Any, Any]:
            state = read(values)
            return shown(str(request.session_hash), replace(state, number=state.number + 1), values)

        def choose(request: gr.Request, event: gr.EventData, *values: Any) -> dict[Any, Any]:
            return shown(str(request.session_hash), replace(read(values), target=str(event.object), units=None), values)

        def brush(request: gr.Request, event: gr.EventData, *values: Any) -> dict[Any, Any]:
            asked = read_query({"region": str(event.region)}).region
            return shown(str(request.session_hash), replace(read(values), region=asked), values)

        def tick(request: gr.Request, event: gr.EventData, *values: Any) -> dict[Any, Any]:
            ticked = read_query({"units": ".".join(map(str, event.units))}).units
            if ticked is None:
                raise gr.Error("Keep one unit ticked at least: without one there is no edit.", print_exception=False)
            return shown(str(request.session_hash), replace(read(values), units=ticked), values)

        def opened(session: str, state: State, values: tuple[Any, ...]) -> dict[Any, Any]:
            """As `shown`, and every part is set."""
            model, _, state = page.of(state)
            there = shown(session, state, values)
            there[layer] = gr.update(**_plain(there[layer]), value=model.layers.index(state.layer) + 1)
            parts = {alpha: state.alpha, control: state.control, hold: state.hold, mode: state.mode, seed: state.seed}
            return there | parts | {generator: state.generator}

        def arrive(request: gr.Request, *values: Any) -> dict[Any, Any]:
            asked = read_query(request.query_params)
            page.restore(asked.generator)
            begin = page.opening(WAIT) if asked == State() else asked
            _, _, state = page.of(begin or State())
            return opened(str(request.session_hash), state, values) | {fresh: None if begin else state.query()}

        def refresh(
            request: gr.Request, waiting: str | None, before: str | None, said: str, *values: Any
        ) -> dict[Any, Any]:
            """Once the ranking has come further, draw again: other units may be first now."""
            session = str(request.session_hash)
            _, ranked, state = page.of(read(values))
            if waiting is not None:
                begin = page.opening() if waiting == state.query() else None
                if begin or waiting != state.query():
                    return opened(session, begin or state, values) | {fresh: None}
            if before is not None and not before.startswith(f"{ranked.latents}?"):
                return shown(session, state, values)
            told = words.ranking(ranked, state.layer, fresh=waiting is not None)
            return {status: gr.skip() if told == said else told}

        def measure(request: gr.Request, *values: Any) -> Iterator[str]:
            session = str(request.session_hash)
            mine = page.current(session)
            model, ranked, state = page.of(read(values))
            ticked = experiment.chosen(state, ranked)
            if ticked is None:
                yield words.numbers_all(None, state, "Waiting for the first ranking of the units …")
                return
            yield words.numbers_all(None, state, "Measuring …")
            time.sleep(PAUSE)
            for tally in tallies(model, state, ticked, abandoned=lambda: page.current(session) != mine):
                yield words.numbers_all(tally, state)

        def watch(before: str) -> dict[Any, Any]:
            """How far the study is."""
            job = page.jobs.current
            text = words.progress(job, *(page.jobs.progress() if job and job.running else (0, 0)))
            if text == before:
                return {progress: gr.skip()}
            running = job is not None and job.running
            return {progress: text, stop: gr.update(interactive=running), start: gr.update(interactive=not running)}

        def run(*values: Any) -> dict[Any, Any]:
            model, ranked, state = page.of(read(values))
            ticked = experiment.chosen(state, ranked)
            if ticked is None:
                raise gr.Error("The units are not ranked yet: wait a moment.", print_exception=False)
            *_, name, latents = values
            try:
                config = _config(page, model, state, ticked, int(latents))
                page.jobs.start(config, name.strip() or studies.free_name(page.runs, _wanted(state)))
            except GandidError as error:
                raise gr.Error(str(error), print_exception=False) from None
            return watch("")

        def halt() -> None:
            if page.jobs.current is not None:
                page.jobs.current.stop()

        def take(path: str | None) -> dict[Any, Any]:
            try:
                loaded = page.take(Path(path or ""))
            except GandidError as error:
                return {uploaded: f"<p role='alert' class='problem'>{escape(str(error))}</p>"}
            return {generator: loaded, uploaded: f"<p role='status'>{escape(Path(path or '').name)} is loaded.</p>"}

        outputs = [
            canvas,
            finding,
            status,
            here,
            about,
            listed,
            keep,
            experimented,
            target,
            layer,
            count,
            units,
            region,
            number,
        ]
        # Quick ones: while one is under way only the last of the moves after it counts.
        quick: dict[str, Any] = dict(show_progress="hidden", trigger_mode="always_last", concurrency_limit=4)
        gr.on([e.input for e in (alpha, control, hold, mode, number, seed)], draw, inputs, outputs, **quick)
        gr.on([count.input, target.input, layer.input, automatic.click], draw_ranked, inputs, outputs, **quick)
        gr.on([name.change, latents.change], lambda *v: _reproduce_again(page, read, v), inputs, keep, **quick)
        following.click(next_image, inputs, outputs, **quick)
        canvas.select(choose, inputs, outputs, **quick)
        canvas.input(brush, inputs, outputs, **quick)
        listed.input(tick, inputs, outputs, **quick)
        hidden: dict[str, Any] = dict(show_progress="hidden", concurrency_limit=8)
        everything = [*outputs, seed, alpha, control, hold, mode, generator, fresh]
        blocks.load(arrive, inputs, everything, **hidden)
        timer.tick(refresh, [fresh, experimented, status, *inputs], everything, **hidden)
        timer.tick(watch, progress, [progress, stop, start], **hidden)
        # The long one: a newer experiment abandons it, see `Page.note`.
        experimented.change(measure, inputs, everywhere, trigger_mode="multiple", **hidden)
        start.click(run, inputs, [progress, stop, start], **hidden)
        stop.click(halt, **hidden)
        upload.upload(take, upload, [generator, uploaded], **hidden).then(draw_ranked, inputs, outputs, **hidden)
        finished.select(lambda: words.runs(studies.gallery(page.runs), page.runs.name), None, gallery, **hidden)
    return blocks, {"theme": _theme(), "css": (HERE / "app.css").read_text(encoding="utf-8")}


def _html(text: str, name: str | None = None, **options: Any) -> gr.HTML:
    return gr.HTML(text, elem_id=name, apply_default_css=False, js_on_load=None, **options)


def _drawn(name: str) -> gr.HTML:
    """A part that its own script draws."""
    return gr.HTML({}, html_template="", js_on_load=_script(name), elem_id=name, apply_default_css=False)


def _script(name: str) -> str:
    return (HERE / f"{name}.js").read_text(encoding="utf-8")


def _theme() -> gr.themes.Base:
    """No font of Gradio's: they come from elsewhere. The colours are those of `app.css`."""
    return gr.themes.Base(font=FONTS, font_mono=MONO)


def _plain(update: dict[str, Any]) -> dict[str, Any]:
    """What an update sets."""
    return {key: value for key, value in update.items() if key != "__type__"}


def _about_uploads(model: Model) -> str:
    segmenter = escape(str(getattr(model.segmenter, "name", type(model.segmenter).__name__)))
    return (
        "<p class='note'>Any public PG-GAN checkpoint (.pth, .pt, .pkl, .safetensors) of up to 400 MB. Nothing in the file is "
        f"executed. The segmenter stays the one that the page was started with ({segmenter}).</p>"
    )


def _wanted(state: State) -> str:
    """The name of a study that was given none."""
    return f"{state.target}-{state.layer}-{state.control}-{state.hold}"


def _config(page: Page, model: Model, state: State, units: tuple[int, ...], latents: int) -> Any:
    return studies.config_of(
        state, units, generator=model.name, segmenter=str(getattr(model.segmenter, "name", "")), latents=latents
    )


def _reproduce(page: Page, model: Model, state: State, units: tuple[int, ...], values: tuple[Any, ...]) -> str:
    """What reproduces a state: a command, Python and a configuration; and what a study leaves out of it."""
    if not units:
        return "<p class='empty'>As soon as the units are ranked, the command stands here.</p>"
    *_, name, latents = values
    config = _config(page, model, state, units, int(latents))
    out = page.runs / (name.strip() or _wanted(state))
    texts = {
        "Command": studies.command(config, out),
        "Python": studies.python(config, out),
        "Configuration": studies.as_yaml(config),
    }
    return words.keep(texts, studies.left_out(state))


def _reproduce_again(page: Page, read: Any, values: tuple[Any, ...]) -> str:
    model, ranked, state = page.of(read(values))
    return _reproduce(page, model, state, experiment.chosen(state, ranked) or (), values)
