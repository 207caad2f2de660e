"""The page's words and tables: from views, tallies and rankings to HTML. No torch, no page here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from gandid.report.pictures import gradient, heat

if TYPE_CHECKING:
    from gandid.app.experiment import View
    from gandid.app.models import Ranked
    from gandid.app.stream import Tally
    from gandid.app.studies import Entry, Job

MANY = 16  # objects up to which all can be chosen in every image
WORTH = 0.005  # share from which a difference in one image is worth a word
SUPPORT = {
    "strain": "strain",
    "realism": "realism",
    "unknown": "unknown pixels",
    "unknown_inside": "unknown pixels in the hole",
    "uncertain": "uncertain pixels",
}


def percent(share: float) -> str:
    """A share as a reader says it: `64 %`."""
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def points(share: float) -> str:
    """A difference of shares without its sign: `3.4 points`."""
    value = f"{100 * abs(share):.1f}".removesuffix(".0")
    return f"{value} point{'' if value == '1' else 's'}"


def finding(view: View, classes: Sequence[str], objects: Sequence[str], units: int) -> str:
    """What is seen in this image, in one or two sentences of plain text."""
    state, shares = view.state, view.shares(len(classes))
    k = list(classes).index(state.target)
    if not view.measured.any():
        return f"There is no {state.target} in this image. Choose another object, or take the next image."
    if not view.edited:
        return f"This image has a {state.target}. The units that make it are being looked for."
    some = f"the {units} {state.target} units" if units != 1 else f"one {state.target} unit"
    part = "" if state.alpha == 1 else f" by {percent(state.alpha)}"
    where = "all sites" if state.hold == "all" else "the first site"
    if state.mode == "insert":
        before, live, held = shares[:, k]
        said = f"Inserting {some}{part} makes {percent(live)} of the region {state.target} (before: {percent(before)})."
        if abs(live - held) < WORTH:
            return f"{said} With normalization held at {where} it is the same: here normalization has no part in it."
        more = "adds" if live > held else "takes away"
        return f"{said} With normalization held at {where} it is {percent(held)}: normalization {more} {points(live - held)}."
    live, held = 1 - shares[1:, k]
    within = " in the region" if state.region else ""
    said = f"Ablating {some}{part}{within} removes {percent(live)} of this {state.target}."
    others = [c for c in objects if c != state.target]
    painted = {c: float(shares[1, i] - shares[2, i]) for i, c in enumerate(classes) if c in others}
    most = max(painted, key=lambda c: abs(painted[c]), default="")
    extra = ""
    if most and abs(painted[most]) >= 2 * WORTH:
        extra = f" It turns {points(painted[most])} {'more' if painted[most] > 0 else 'less'} of it into {most}."
    if abs(live - held) < WORTH:
        same = f"{said} With normalization held at {where} as much goes"
        return (
            f"{same}.{extra.replace(' It ', ' But normalization ')}"
            if extra
            else f"{same}: here normalization changes nothing of it."
        )
    if held > live:
        return f"{said} With normalization held at {where}, {percent(held)} goes: normalization paints {points(live - held)} of it back.{extra}"
    return f"{said} With normalization held at {where}, only {percent(held)} goes: normalization removes {points(live - held)} more.{extra}"


def ranking(ranked: Ranked, layer: str, *, fresh: bool = False) -> str:
    """How far the ranking of a layer's units is."""
    if ranked.problem:
        return f"<p role='alert' class='problem'>The units of {escape(layer)} cannot be ranked: {escape(ranked.problem)}</p>"
    if ranked.latents == 0:
        text = (
            f"Finding the units of {layer} that make each object: {ranked.done:.0f} of {ranked.of} first images done …"
        )
    elif ranked.finished:
        text = f"Units of {layer} ranked on {ranked.latents} images."
    else:
        text = f"Units of {layer} ranked on {ranked.latents} images; the ranking goes on ({ranked.done:.0f} of {ranked.of}) …"
    then = " Then the page turns to an effect to begin with." if fresh else ""
    return f"<p role='status'>{escape(text)}{then}</p>"


def numbers_here(view: View, classes: Sequence[str], background: Sequence[str]) -> str:
    """The table of this image."""
    state = view.state
    title = "This image"
    if not view.edited or not view.measured.any():
        why = "Nothing to count yet." if view.measured.any() else f"No {state.target} here, so nothing to count."
        return _card(title, f"<p class='empty'>{escape(why)}</p>")
    shares, k = view.shares(len(classes)), list(classes).index(state.target)
    rows: list[tuple[str, str, float, float]] = []
    if state.mode == "ablate":
        rows.append((f"{state.target} removed", "target", 1 - shares[1, k], 1 - shares[2, k]))
        verb = "becomes"
    else:
        rows.append((f"{state.target} in the region", "target", shares[1, k], shares[2, k]))
        verb = "stays or becomes"
    for i in sorted(range(len(classes)), key=lambda i: -shares[1:, i].max()):
        if i != k and shares[1:, i].max() >= WORTH:
            kind = "background" if classes[i] in background or classes[i] == "unknown" else "object"
            rows.append((f"{verb} {classes[i]}", kind, shares[1, i], shares[2, i]))
    what = f"the {state.target}’s original pixels" if state.mode == "ablate" else "the region’s pixels"
    body = "".join(
        f"<tr class='{kind}'><th scope='row'>{escape(name)}</th><td>{100 * live:.1f}</td><td>{100 * held:.1f}</td>"
        f"<td class='did'>{_signed(live - held)}</td></tr>"
        for name, kind, live, held in rows
    )
    head = "<tr><th scope='col'>%</th><th scope='col'>live</th><th scope='col'>held</th><th scope='col'>live − held</th></tr>"
    caption = f"Share of {escape(what)} ({int(view.measured.sum()):,})."
    return _card(
        title,
        f"<table><caption>{caption}</caption><thead>{head}</thead><tbody>{body}</tbody></table>{_gain(view.gain, 'this image')}",
    )


def numbers_all(tally: Tally | None, state: Any, waiting: str = "") -> str:
    """The table of the first latents, as far as they are measured."""
    title = "First 64 images"
    if tally is None:
        return _card(title, f"<p class='empty'>{escape(waiting or 'Measuring …')}</p>")
    done = "" if tally.latents >= tally.of else f"<progress max='{tally.of}' value='{tally.latents}'></progress> "
    told = f"{done}{tally.latents} of {tally.of} measured; {tally.images} show a {escape(state.target)}."
    if not tally.rows or not np.isfinite(tally.rows[0].did):
        return _card(title, f"<p class='empty'>{told} Too few to estimate from.</p>")
    names = {"removed": "{} removed", "inpainted": "becomes {}", "area": "area of {}"}
    body = ""
    for row in tally.rows:
        kind = "background" if row.background else "target" if row.object == state.target else "object"
        mark = " shown" if row.shown and not tally.strange else ""
        body += (
            f"<tr class='{kind}{mark}'><th scope='row'>{escape(names[row.outcome].format(row.object))}</th>"
            f"<td>{_plain(row.live)}</td><td>{_plain(row.held)}</td>"
            f"<td class='did'>{_signed(row.did)}<span>{_signed(row.low)} to {_signed(row.high)}</span></td></tr>"
        )
    head = "<tr><th scope='col'>%</th><th scope='col'>live</th><th scope='col'>held</th><th scope='col'>DID, 95 % interval</th></tr>"
    whole = "their original pixels" if state.mode == "ablate" else "the image (change)"
    note = f"Bold: beyond noise (q &lt; 0.05). Shares of {whole}."
    if tally.strange:
        why = ", ".join(SUPPORT.get(name, name) for name in tally.strange)
        note += f" <b class='flag'>The held images leave the network’s range ({escape(why)}): nothing is claimed from them.</b>"
    table = (
        f"<table><caption>{told}</caption><thead>{head}</thead><tbody>{body}</tbody></table><p class='note'>{note}</p>"
    )
    table += _gain(tally.gain_map, f"mean of {tally.latents}")
    return _card(title, table)


def _gain(values: np.ndarray, name: str) -> str:
    """A gain map with its scale."""
    low, high = min(1.0, float(values.min())), max(1.001, float(values.max()))
    alt = f"Gain at the first site, {name}: from {values.min():.2f} to {values.max():.2f}."
    return (
        f"<figure class='gain'><img src='{heat(values, low, high, 'magma')}' alt='{escape(alt)}'><figcaption>Gain at the first "
        f"site, {escape(name)}: how much more the surviving units are amplified.<span class='bar'><span>× {low:.2f}</span>"
        f"<i style='background:{gradient('magma')}'></i><span>× {high:.2f}</span></span></figcaption></figure>"
    )


def units(target: str, ticked: int, *, by_hand: bool) -> str:
    """What the list of units shows."""
    if not ticked:
        return "<h2>Units</h2><p class='empty'>As soon as they are ranked, they are listed here.</p>"
    how = "ticked by hand" if by_hand else "ticked"
    return (
        f"<h2>Units</h2><p class='note'>Ordered by their effect on {escape(target)} when ablated alone (ACE, in points of the "
        f"image); {ticked} {how}. Each picture shows where the unit is active in this image.</p>"
    )


def choices(view: View, classes: Sequence[str], objects: Sequence[str]) -> list[tuple[str, str]]:
    """The objects to choose from, each with its share of the image; of many those that are in it, and the chosen one."""
    shares = {name: float((view.labels[0] == list(classes).index(name)).mean()) for name in objects}
    return [
        (f"{name}, {percent(share)}" if share else f"{name}, not here", name)
        for name, share in shares.items()
        if share or len(objects) <= MANY or name == view.state.target
    ]


def keep(texts: Mapping[str, str], note: str) -> str:
    """What reproduces the state: each text under its name, with a button that copies it."""
    said = f"<p class='note'>{escape(note)}</p>" if note else ""
    blocks = "".join(
        f"<div class='copy'><div class='copy-head'><h3>{escape(name)}</h3>"
        f"<button type='button' data-copy>Copy {escape(name if name == 'Python' else name.lower())}</button></div>"
        f"<pre tabindex='0' aria-label='{escape(name)}'>{escape(text)}</pre></div>"
        for name, text in texts.items()
    )
    return f"{said}{blocks}<p class='copied' role='status' aria-live='polite'></p>"


def progress(job: Job | None, done: int, of: int) -> str:
    """How far a study is, in words, with the link to its report when it is there."""
    if job is None:
        return "<p class='empty'>No study has been started from this page yet.</p>"
    name, link = escape(job.name), f"/runs/{quote(job.name)}/report.html"
    if job.running:
        if not of:
            return f"<p role='status'>{name}: starting …</p>"
        what = f"{done} of {of} latents measured" if done < of else "writing the report"
        return f"<p role='status'>{name}: {what} …</p><progress max='{of}' value='{done}' aria-label='Progress of {name}'></progress>"
    if job.failed:
        last = escape(next((line for line in reversed(job.lines) if line.strip()), "it said nothing"))
        return f"<p role='alert' class='problem'>{name} failed: {last}</p>"
    if job.stopped:
        return f"<p role='status'>{name} was stopped. What it measured is kept: the same command goes on.</p>"
    return f"<p role='status'>{name} is finished. <a class='report' href='{link}' target='_blank' rel='noopener'>Open its report</a></p>"


def runs(entries: Sequence[Entry], folder: str) -> str:
    """The gallery of finished runs."""
    if not entries:
        return (
            f"<p class='empty'>No finished run in <code>{escape(folder)}</code> yet. Start one with “Run as a study”, "
            "or with <code>gandid run</code> in a terminal.</p>"
        )
    cards = ""
    for entry in entries:
        name = escape(entry.name)
        link = f"/runs/{quote(entry.name)}/report.html"
        title = f"<a href='{link}' target='_blank' rel='noopener'>{name}</a>" if entry.report else name
        facts = f"{escape(', '.join(entry.targets))} · {escape(entry.layer)} · {entry.latents:,} latents"
        cards += f"<li><h3>{title}</h3><p class='facts'>{facts}</p><p>{escape(entry.headline)}</p></li>"
    return f"<ul class='runs'>{cards}</ul>"


def _card(title: str, body: str) -> str:
    return f"<section class='card'><h3>{escape(title)}</h3>{body}</section>"


def _signed(share: float) -> str:
    text = f"{100 * share:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _plain(share: float) -> str:
    return _signed(share).removeprefix("+")
