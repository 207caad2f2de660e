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
    the page shows. `set` are those that a move may change.
    """

    def __init__(self, model: Model):
        self.brand = _html("<p><b>gandid</b></p>", "brand")
        self.shown = gr.Textbox("", visible=False)  # a part like the others, so that the server keeps nothing
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Experiment", id="experiment"):
                self._pictures()
                self._bench(model)
                self._around()
                self._unit_list()
                self._study()
                self._uploads(model)
            with gr.Tab("Finished runs", id="runs") as self.finished:
                self.gallery = _html("<p class='empty'>Looking …</p>", "gallery")
        self.values = {name: getattr(self, name) for name in ("shown", *SHOWN, "name", "latents")}
        drawn = [
            self.brand,
            self.canvas,
            self.edits,
            self.steps,
            self.finding,
            self.here,
            self.about,
            self.listed,
            self.keep,
        ]
        self.set = [*drawn, self.shown, *(getattr(self, name) for name in SHOWN)]

    def _pictures(self) -> None:
        self.finding = _html("<h1>Making a first image …</h1>", "finding")
        _html(_told_here("status"), "status")

    def _bench(self, model: Model) -> None:
        """The pictures, and beside them the hand and the numbers."""
        with gr.Row(elem_id="bench"):
            self.canvas = _scripted("canvas")
            with gr.Column(elem_classes="panel-card", elem_id="hand", min_width=200):
                self._hand(model)
            with gr.Column(elem_id="numbers", min_width=200):
                self.here = _html("", "numbers-here")
                self.everywhere = _live("numbers", elem_id="numbers-all")

    def _around(self) -> None:
        """The same edit on other images, at other doses and at other layers."""
        _html("".join(_told_here(name) for name in ("strip", "doses", "layers")), "around")

    def _hand(self, model: Model) -> None:
        self.edits = _html("", "edits")
        place = model.layers.index(model.default_layer) + 1
        controls = list(EXACT_CONTROLS)
        sites = [("first site", "first"), ("all sites", "all")]
        self.target = gr.Radio(list(model.objects), value=model.objects[0], label="Object", elem_id="target")
        self.mode = gr.Radio(
            [("Ablate", "ablate"), ("Insert", "insert")], value="ablate", label="Its units", elem_id="mode"
        )
        slider: dict[str, Any] = {"buttons": []}
        self.count = gr.Slider(1, MOST_UNITS, 20, step=1, label="Number of units", elem_id="count", **slider)
        self.alpha = gr.Slider(0, 1, 1, step=0.05, label="Strength (alpha)", elem_id="alpha", **slider)
        self.layer = gr.Slider(1, max(len(model.layers), 2), place, step=1, label="Layer", elem_id="layer", **slider)
        self.control = gr.Radio(
            controls, value=State.control, label="Normalization is held", info=HELD, elem_id="control"
        )
        self.hold = gr.Radio(sites, value=State.hold, label="Where it is held", info=SITES, elem_id="hold")
        with gr.Row(elem_id="images"):
            whole: dict[str, Any] = {"precision": 0, "minimum": 0, "min_width": 60}
            self.number = gr.Number(0, label="Image", elem_id="number", **whole)
            self.seed = gr.Number(0, label="Seed", elem_id="seed", **whole)
            self.steps = _html("", "steps")

    def _unit_list(self) -> None:
        with gr.Column(elem_classes="panel-card"):
            self.about = _html("<h2>Units</h2>", "about-units")
            self.listed = _scripted("units")

    def _study(self) -> None:
        with gr.Row(elem_id="keeping"):
            with gr.Column(elem_classes="panel-card", scale=5, min_width=300):
                _html(STUDY)
                self.name = gr.Textbox(label="Name (made if left empty)", max_length=60, elem_id="name")
                self.latents = gr.Slider(
                    64, 4096, 512, step=64, label="Images (latents)", elem_id="latents", buttons=[]
                )
                with gr.Row():
                    self.start = gr.Button("Run as a study", variant="primary", elem_id="start", min_width=140)
                    self.stop = gr.Button("Stop", elem_id="stop", min_width=90)
                _html(_told_here("progress", words.progress(None, 0, 0)), "progress")
            with gr.Column(elem_classes="panel-card", scale=7, min_width=300):
                _html("<h2>Share</h2>")
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


def _live(name: str, **options: Any) -> gr.HTML:
    """As `_told_here`, and the script that listens to the stream."""
    return gr.HTML(_told_here(name), js_on_load=_script("live"), apply_default_css=False, **options)


def _scripted(name: str) -> gr.HTML:
    """A part that its own script draws."""
    return gr.HTML({}, html_template="", js_on_load=_script(name), elem_id=name, apply_default_css=False)


def _script(name: str) -> str:
    return (HERE / f"{name}.js").read_text(encoding="utf-8")
