"""The parts of the page and where they stand."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from gandid.app import words
from gandid.app.models import Model
from gandid.app.state import MOST_UNITS, State
from gandid.panel.table import EXACT_CONTROLS

SHOWN = ("target", "mode", "count", "alpha", "layer", "control", "hold", "number", "seed")  # of a state, by a part each
HERE = Path(__file__).parent / "static"
CHECKPOINTS = [".pth", ".pt", ".pkl", ".safetensors"]
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif"]
MONO = ["ui-monospace", "SF Mono", "Menlo", "Consolas", "Liberation Mono", "monospace"]
HELD = "Live, it divides by what the edited image gives. Held capped, it amplifies no more than in the unedited image; held frozen, exactly as much."
SITES = "A site is one normalization: the first after the edit, or all that follow."
STUDY = (
    "<h2>Run as a study</h2><p class='note'>The same edit on many images, with intervals, checks and a report. "
    "The address of this page is a permanent link to what you see.</p>"
)


class Components:
    """The parts of the page; make it within `gr.Blocks`. Each attribute is a part that is read or changed.

    `values` are the parts that say what is asked for: those of a `State`, the study's name and latents, and `shown`, the query of what
    the page shows. `set` are those that a move may change; what is only told stands in places of the page that its scripts fill.
    """

    def __init__(self, model: Model):
        _html(_place("brand", "<p><b>gandid</b></p>"), "brand")
        self.shown = gr.Textbox("", visible=False)  # a part like the others, so that the server keeps nothing
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Experiment", id="experiment"):
                _html(_place("finding", "<h1>Making a first image …</h1>"), "finding")
                _html(_place("range") + _place("status"), "status")
                self._bench(model)
                _html("".join(_place(name) for name in ("strip", "doses", "layers")), "around")
                with gr.Column(elem_classes="panel-card"):
                    _html(_place("about", "<h2>Units</h2>"), "about-units")
                    self.listed = _html({}, "units", "units", html_template="")
                self._study()
                self._uploads(model)
            with gr.Tab("Finished runs", id="runs") as self.finished:
                self.gallery = _html("<p class='empty'>Looking …</p>", "gallery")
        self.values = {name: getattr(self, name) for name in ("shown", *SHOWN, "name", "latents")}
        self.set = [self.canvas, self.listed, self.shown, *(getattr(self, name) for name in SHOWN)]

    def _bench(self, model: Model) -> None:
        """The pictures, and beside them the hand and the numbers."""
        with gr.Row(elem_id="bench"):
            self.canvas = _html({}, "canvas", "canvas", html_template="")
            with gr.Column(elem_classes="panel-card", elem_id="hand", min_width=200):
                self._hand(model)
            with gr.Column(elem_id="numbers", min_width=200):
                _html(_place("here"), "numbers-here")
                _html(_place("numbers"), "numbers-all", "live")

    def _hand(self, model: Model) -> None:
        _html(_place("edits"), "edits")
        place = model.layers.index(model.default_layer) + 1
        controls = list(EXACT_CONTROLS)
        sites = [("first site", "first"), ("all sites", "all")]
        self.target = gr.Radio(list(model.objects), value=model.objects[0], label="Object", elem_id="target")
        self.mode = gr.Radio(
            [("Ablate", "ablate"), ("Insert", "insert")], value="ablate", label="Its units", elem_id="mode"
        )
        slider: dict[str, Any] = {"buttons": []}
        self.count = gr.Slider(1, MOST_UNITS, 20, step=1, label="Number of units", elem_id="count", **slider)
        self.alpha = gr.Slider(
            0, 1, 1, step=0.05, label="Dose (alpha): how far its units are moved", elem_id="alpha", **slider
        )
        self.layer = gr.Slider(1, max(len(model.layers), 2), place, step=1, label="Layer", elem_id="layer", **slider)
        self.control = gr.Radio(
            controls, value=State.control, label="Normalization is held", info=HELD, elem_id="control"
        )
        self.hold = gr.Radio(sites, value=State.hold, label="Where it is held", info=SITES, elem_id="hold")
        with gr.Row(elem_id="images"):
            whole: dict[str, Any] = {"precision": 0, "minimum": 0, "min_width": 60}
            self.number = gr.Number(0, label="Image", elem_id="number", **whole)
            self.seed = gr.Number(0, label="Seed", elem_id="seed", **whole)
            _html(_place("steps"), "steps")

    def _study(self) -> None:
        with gr.Row(elem_id="keeping"):
            with gr.Column(elem_classes="panel-card", scale=5, min_width=300):
                _html(STUDY)
                self.name = gr.Textbox(label="Name (made if left empty)", max_length=60, elem_id="name")
                _html(_place("named"), "named")
                self.latents = gr.Slider(
                    64, 4096, 512, step=64, label="Images (latents)", elem_id="latents", buttons=[]
                )
                with gr.Row():
                    self.start = gr.Button("Run as a study", variant="primary", elem_id="start", min_width=140)
                    self.stop = gr.Button("Stop", elem_id="stop", min_width=90)
                _html(_place("progress", words.progress(None, 0, 0)), "progress")
            with gr.Column(elem_classes="panel-card", scale=7, min_width=300):
                _html("<h2>Share</h2>")
                _html(_place("keep"), "keep", "copy")

    def _uploads(self, model: Model) -> None:
        segmenter = escape(str(getattr(model.segmenter, "name", type(model.segmenter).__name__)))
        with gr.Accordion("Another generator", open=False, elem_id="another"):
            _html(
                "<p class='note'>Any public PG-GAN checkpoint (.pth, .pt, .pkl, .safetensors) of up to 400 MB. Nothing in the file "
                f"is executed. The segmenter stays the one that the page was started with ({segmenter}).</p>"
            )
            kinds = ",".join(CHECKPOINTS)
            field = f"<label>Checkpoint <input type='file' accept='{kinds}'></label><p role='status'></p>"
            _html(field, "upload", "upload")


def look() -> dict[str, Any]:
    """Theme and style. No font of Gradio's, for they come from elsewhere; the colours are those of `app.css`."""
    css = (HERE / "app.css").read_text(encoding="utf-8")
    return {"theme": gr.themes.Base(font=FONTS, font_mono=MONO), "css": css}


def _html(value: Any, name: str | None = None, script: str | None = None, **options: Any) -> gr.HTML:
    """A part of HTML of that name, with the script that serves it."""
    js = (HERE / f"{script}.js").read_text(encoding="utf-8") if script else None
    return gr.HTML(value, elem_id=name, apply_default_css=False, js_on_load=js, **options)


def _place(name: str, text: str = "") -> str:
    """Where the scripts put what the server sends under that name."""
    return f"<div data-part='{name}'>{text}</div>"
