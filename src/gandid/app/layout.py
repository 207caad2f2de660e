"""The parts of the page and where they stand."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from gandid.app import words
from gandid.app.models import Model
from gandid.app.state import MOST_UNITS, State
from gandid.panel.arms import EXACT_CONTROLS

HERE = Path(__file__).parent / "static"
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


class Components:
    """The parts of the page; make it within `gr.Blocks`. Each attribute is a part that is read or changed.

    `values` are the parts that say what is asked for: those of a `State`, and the study's name and latents. `drawn` are the parts
    that a move changes, and `set` all that an address does.
    """

    def __init__(self, model: Model):
        _html(BRAND, "brand")
        # What a state says and nothing shows. They are parts like the others, and not kept by the server.
        self.generator, self.units, self.region = (gr.Textbox("", visible=False) for _ in range(3))
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Experiment", id="experiment"):
                self._pictures(model)
                self._workbench(model)
                self._unit_list()
                self._study()
                self._uploads(model)
            with gr.Tab("Finished runs", id="runs") as self.finished:
                self.gallery = _html("<p class='empty'>Looking …</p>", "gallery")
        self.values = {name: getattr(self, name) for name in (*State.__dataclass_fields__, "name", "latents")}
        shown = [self.canvas, self.finding, self.here, self.about, self.listed, self.keep]
        moved = [self.generator, self.target, self.layer, self.count, self.units, self.region, self.number]
        self.drawn = [*shown, *moved]
        self.set = [*self.drawn, self.seed, self.alpha, self.control, self.hold, self.mode]

    def _pictures(self, model: Model) -> None:
        self.finding = _html("<h1>Making a first image …</h1>", "finding")
        _html(_told_here("status"), "status")
        self.canvas = _scripted("canvas")
        with gr.Row(elem_id="choices"):
            self.target = gr.Radio(
                list(model.objects), value=model.objects[0], label="Object", elem_id="target", scale=6, min_width=300
            )
            whole: dict[str, Any] = {"precision": 0, "minimum": 0, "scale": 1, "min_width": 80}
            self.number = gr.Number(0, label="Image", elem_id="number", **whole)
            self.seed = gr.Number(0, label="Seed", elem_id="seed", **whole)
            self.following = gr.Button("Next image", elem_id="next", variant="primary", scale=1, min_width=120)

    def _workbench(self, model: Model) -> None:
        layers = len(model.layers)
        place = model.layers.index(model.default_layer) + 1
        controls = [(CONTROL_LABELS.get(name, name), name) for name in EXACT_CONTROLS]
        sites = [("first site", "first"), ("all sites", "all")]
        with gr.Row(elem_id="workbench"):
            with gr.Column(elem_classes="panel-card", scale=4, min_width=300):
                _html("<h2>Edit</h2>")
                self.mode = gr.Radio(
                    [("Ablate", "ablate"), ("Insert", "insert")], value="ablate", label="What to do", elem_id="mode"
                )
                self.count = gr.Slider(1, MOST_UNITS, 20, step=1, label="Number of units", elem_id="count")
                self.alpha = gr.Slider(0, 1, 1, step=0.05, label="Strength (alpha)", elem_id="alpha")
                self.layer = gr.Slider(1, max(layers, 2), place, step=1, label="Layer", elem_id="layer")
                self.control = gr.Radio(
                    controls, value=State.control, label="Normalization is held, for comparison", elem_id="control"
                )
                self.hold = gr.Radio(sites, value=State.hold, label="Where it is held", elem_id="hold")
            self.here = _html("", "numbers-here", scale=4, min_width=280)
            self.everywhere = gr.HTML(
                _told_here("numbers"),
                elem_id="numbers-all",
                js_on_load=_script("live"),
                apply_default_css=False,
                scale=5,
                min_width=300,
            )

    def _unit_list(self) -> None:
        with gr.Column(elem_classes="panel-card"):
            self.about = _html("<h2>Units</h2>", "about-units")
            self.listed = _scripted("units")
            self.automatic = gr.Button("Tick the first again", elem_id="automatic", size="sm")

    def _study(self) -> None:
        with gr.Row(elem_id="keeping"):
            with gr.Column(elem_classes="panel-card", scale=5, min_width=300):
                _html(STUDY)
                self.name = gr.Textbox(label="Name (made if left empty)", max_length=60, elem_id="name")
                self.latents = gr.Slider(64, 4096, 512, step=64, label="Images (latents)", elem_id="latents")
                with gr.Row():
                    self.start = gr.Button("Run as a study", variant="primary", elem_id="start", min_width=140)
                    self.stop = gr.Button("Stop", elem_id="stop", min_width=90, interactive=False)
                _html(_told_here("progress", words.progress(None, 0, 0)), "progress")
            with gr.Column(elem_classes="panel-card", scale=7, min_width=300):
                _html("<h2>Reproduce</h2>")
                self.keep = gr.HTML("", elem_id="keep", js_on_load=_script("copy"), apply_default_css=False)

    def _uploads(self, model: Model) -> None:
        segmenter = escape(str(getattr(model.segmenter, "name", type(model.segmenter).__name__)))
        with gr.Accordion("Another generator", open=False, elem_id="another"):
            _html(
                "<p class='note'>Any public PG-GAN checkpoint (.pth, .pt, .pkl, .safetensors) of up to 400 MB. Nothing in the file "
                f"is executed. The segmenter stays the one that the page was started with ({segmenter}).</p>"
            )
            kinds = ",".join(CHECKPOINTS)
            gr.HTML(
                f"<label>Checkpoint <input type='file' accept='{kinds}'></label><p role='status'></p>",
                elem_id="upload",
                js_on_load=_script("upload"),
                apply_default_css=False,
            )


def look() -> dict[str, Any]:
    """Theme and style. No font of Gradio's, for they come from elsewhere; the colours are those of `app.css`."""
    css = (HERE / "app.css").read_text(encoding="utf-8")
    return {"theme": gr.themes.Base(font=FONTS, font_mono=MONO), "css": css}


def _html(text: str, name: str | None = None, **options: Any) -> gr.HTML:
    return gr.HTML(text, elem_id=name, apply_default_css=False, js_on_load=None, **options)


def _told_here(name: str, text: str = "") -> str:
    """Where the tab's stream puts what it is told under that name."""
    return f"<div data-told='{name}'>{text}</div>"


def _scripted(name: str) -> gr.HTML:
    """A part that its own script draws."""
    return gr.HTML({}, html_template="", js_on_load=_script(name), elem_id=name, apply_default_css=False)


def _script(name: str) -> str:
    return (HERE / f"{name}.js").read_text(encoding="utf-8")
