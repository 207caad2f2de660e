"""The page's words and tables: from views, tallies and rankings to HTML. PyTorch and Gradio are not needed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import numpy as np

from gandid.app.state import LATENTS, MOST_EDITS, STRIP, State
from gandid.report.pictures import gradient, heat, picture
from gandid.text import listed, number, signed

if TYPE_CHECKING:
    from gandid.app.around import Effect
    from gandid.app.models import Ranked
    from gandid.app.stream import Tally
    from gandid.app.studies import Entry, Job
    from gandid.app.views import View

MANY = 16  # objects up to which all can be chosen in every image
WORTH = 0.005  # share from which a difference in one image is worth a word
TITLES = {
    "numbers": f"First {LATENTS} images",
    "strip": "The same edit on other images",
    "doses": "By dose",
    "layers": "By layer",
}
NAMES = {"removed": "{} removed", "inpainted": "becomes {}", "inserted": "{} inserted", "displaced": "lost by {}"}


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
    if not view.measured.any():
        return f"There is no {state.target} in this image. Choose another object, or take the next image."
    if not view.edited:
        return f"This image has a {state.target}. The units that make it are being looked for."
    beside = [each.title for each in state.edits()[1:]]
    beside_it = f" Edited besides: {listed(beside)}." if beside else ""
    what = f"the {units} {state.target} units" if units != 1 else f"one {state.target} unit"
    what += "" if state.alpha == 1 else f" by {percent(state.alpha)}"
    held_at = f"With normalization held at {'all sites' if state.hold == 'all' else 'the first site'}"
    before, live, held = shares[:, list(classes).index(state.target)]
    gap, same = points(live - held), abs(live - held) < WORTH
    others = [(k, name) for k, name in enumerate(classes) if name in objects and name != state.target]
    painted = {name: float(shares[1, k] - shares[2, k]) for k, name in others}
    most = max(painted, key=lambda name: abs(painted[name]), default="")
    turns = ""
    if most and abs(painted[most]) >= 2 * WORTH:
        turns = f"turns {points(painted[most])} {'more' if painted[most] > 0 else 'less'} of it into {most}."
    if state.mode == "insert":
        text = f"Inserting {what} makes {percent(live)} of the region {state.target} (before: {percent(before)}). {held_at} it is"
        text += (
            " the same" if same else f" {percent(held)}: normalization {'adds' if live > held else 'takes away'} {gap}."
        )
        nothing = ": here normalization has no part in it."
    else:
        nothing, within = ": here normalization changes nothing of it.", " in the region" if state.region else ""
        text = f"Ablating {what}{within} removes {percent(1 - live)} of this {state.target}. {held_at}"
        if same:
            text += " as much goes"
            if max(live, held) < WORTH and not turns:
                nothing = ": all of it, either way. Fewer units or a lower dose may show more."
        elif live > held:
            text += f", {percent(1 - held)} goes: normalization paints {gap} of it back."
        else:
            text += f", only {percent(1 - held)} goes: normalization removes {gap} more."
    if same:
        text += f". But normalization {turns}" if turns else nothing
    elif turns:
        text += f" It {turns}"
    return text + beside_it


def edits(view: View, classes: Sequence[str], objects: Sequence[str], colours: Sequence[Sequence[int]]) -> str:
    """The edits of the image: a click takes one in hand, its cross lets go of it, and the last one adds another."""
    state, chips = view.state, ""
    edited = {each.target: each for each in sorted(state.edits(), key=lambda each: list(classes).index(each.target))}
    for target, each in edited.items() if len(edited) > 1 else ():
        in_hand = target == state.target
        colour = "#fff" if in_hand else "rgb({} {} {})".format(*colours[list(classes).index(target)])
        current = " aria-current='true'" if in_hand else ""
        take = _turn(f"<i style='background:{colour}'></i>{escape(each.title)}", target=target)
        leave = _turn("×", f"aria-label='No longer edit {escape(target)}'", drop=target)
        chips += f"<li{current}>{take}{leave}</li>"
    shown = sorted(
        set(objects) - set(edited), key=lambda name: -int((view.labels[0] == list(classes).index(name)).sum())
    )
    if shown and len(edited) < MOST_EDITS:
        chips += f"<li>{_turn('+ Edit another object, too', add=shown[0])}</li>"
    return f"<ul class='chips'>{chips}</ul>"


def steps(state: State) -> str:
    """The ways to the images before and after that show the object."""
    first = "disabled" if state.number == 0 else ""
    following = _turn(f"Next with a {escape(state.target)}", "id='next'", step=1)
    return _turn("Previous", f"id='previous' {first}", step=-1) + following


def _turn(text: str, attributes: str = "", **news: object) -> str:
    """A button that changes what the page shows."""
    return f"<button type='button' data-turn='{urlencode(news)}' {attributes}>{text}</button>"


def ranking(ranked: Ranked, layer: str, *, fresh: bool = False) -> str:
    """How far the ranking of a layer's units is."""
    if ranked.problem:
        return f"<p role='alert' class='problem'>The units of {escape(layer)} cannot be ranked: {escape(ranked.problem)}</p>"
    done = f"{ranked.done:.0f} of {ranked.stage}"
    if ranked.latents == 0:
        text = f"Finding the units of {layer} that make each object: {done} first images done …"
    elif ranked.finished:
        text = f"Units of {layer} ranked on {ranked.latents} images."
    else:
        text = (
            f"Units of {layer} ranked on {ranked.latents} images; the ranking goes on ({done}), and may choose others …"
        )
    then = " Then the page turns to an effect to begin with." if fresh else ""
    return f"<p role='status'>{escape(text)}{then}</p>"


def numbers_here(view: View, classes: Sequence[str], background: Sequence[str]) -> str:
    """The table of this image."""
    state, shares, k = view.state, view.shares(len(classes)), list(classes).index(view.state.target)
    if not view.edited or not view.measured.any():
        why = "Nothing to count yet." if view.measured.any() else f"No {state.target} here, so nothing to count."
        return _card("This image", f"<p class='empty'>{escape(why)}</p>")
    if state.mode == "ablate":
        rows = [_row("target", f"{state.target} removed", *(1 - shares[1:, k]))]
        verb, whole = "becomes", f"the {state.target}’s original pixels"
    else:
        rows = [_row("target", f"{state.target} in the region", *shares[1:, k])]
        verb, whole = "stays or becomes", "the region’s pixels"
    for place, each in enumerate(state.edits()[1:], start=1):
        if view.counted[place].any():
            there = view.shares(len(classes), place)[1:, list(classes).index(each.target)]
            name = f"{each.target} removed" if each.mode == "ablate" else f"{each.target} in its region"
            rows.append(_row("object", name, *(1 - there if each.mode == "ablate" else there)))
    for i in np.argsort(-shares[1:].max(axis=0), kind="stable"):
        if i != k and shares[1:, i].max() >= WORTH:
            kind = "background" if classes[i] in background or classes[i] == "unknown" else "object"
            rows.append(_row(kind, f"{verb} {classes[i]}", *shares[1:, i]))
    caption = f"Share of {escape(whole)} ({int(view.measured.sum()):,}). Unknown: what the segmenter has no name for."
    return _card("This image", _table(caption, "live − held", rows) + _gain(view.gain))


def measured(part: str, found: Any, state: State, waiting: str = "") -> str:
    """What a part of the page says that is measured in the background; why nothing is known yet, where nothing is `found`."""
    if found is None:
        return _card(TITLES[part], f"<p class='empty'>{escape(waiting)}</p>")
    body = _numbers if part == "numbers" else _strip if part == "strip" else _curve
    return _card(TITLES[part], body(found, state))


def _strip(found: Sequence[Effect], state: State) -> str:
    """The images that are known by now, each with its effect, and places for the others."""
    items, gaps = "", [one.live - one.held for one in found]
    for one, gap in zip(found, gaps, strict=True):
        known = gap == gap
        size = signed(100 * gap) if known else "none here"
        size = f"<b>{size}</b>" if known and abs(gap) == np.nanmax(np.abs(gaps)) else size
        style = f"title='{_shares(one)}'" if known else "class='absent'"
        image = f"<img src='{picture(one.image)}' alt='Image {one.turn['number']}:'>" if one.image is not None else ""
        items += f"<li>{_turn(f'{image}<span>{size}</span>', style, **one.turn)}</li>"
    items += "<li><button type='button' disabled><i></i><span>…</span></button></li>" * (STRIP - len(found))
    unit = f"each {escape(state.target)}" if state.mode == "ablate" else "the region"
    return f"<p class='note'>Live − held, in points of {unit}. Click one to go there.</p><ol class='strip'>{items}</ol>"


def _curve(found: Sequence[Effect], state: State) -> str:
    """The outcome, live and held, at each dose or layer; a click goes there."""
    known = [(place + 0.5, one) for place, one in enumerate(found) if not np.isnan(one.live)]
    lines = columns = ""
    for regime in ("held", "live"):
        points = [f"{x:g},{1 - getattr(one, regime):.3f}" for x, one in known]
        dots = "".join(f"M{point}h0" for point in points)
        lines += f"<polyline class='{regime}' points='{' '.join(points)}'/><path class='{regime}' d='{dots}'/>"
    for one in found:
        [value] = one.turn.values()
        missing = bool(np.isnan(one.live))
        shares = one.problem or ("not known yet" if missing else _shares(one))
        style = f"class='{'absent' * missing}' title='{escape(shares)}' aria-label='{escape(f'{value}: {shares}')}'"
        label = str(value).removeprefix("layer").removesuffix(".0")
        columns += _turn(f"<span>{escape(label)}</span>", style + " disabled" * bool(one.problem), **one.turn)
    svg = f"<svg viewBox='0 -0.04 {len(found)} 1.08' preserveAspectRatio='none' aria-hidden='true'>{lines}</svg>"
    what = "removed" if state.mode == "ablate" else "in the region"
    note = f"<p class='note'>Of this image’s {escape(state.target)} {what}: <b>live</b>, and dashed <b>held</b>. Click to go there.</p>"
    return f"<div class='curve' style='--columns:{len(found)}'><i>100 %</i><i>0</i>{svg}{columns}</div>{note}"


def _shares(one: Effect) -> str:
    return f"{percent(one.live)} live, {percent(one.held)} held"


def _numbers(tally: Tally, state: State) -> str:
    """The table of the first latents, as far as they are measured."""
    bar = "" if tally.latents >= LATENTS else f"<progress max='{LATENTS}' value='{tally.latents}'></progress> "
    caption = f"{bar}{tally.latents} of {LATENTS} measured; {tally.images} show {f'a {escape(state.target)}' if state.mode == 'ablate' else 'the region'}."
    if not tally.rows["did"].notna().any():
        return f"<p class='empty'>{caption} Too few to estimate from.</p>"
    rows = []
    for one in tally.rows.to_dict("records"):
        kind = "target" if one["object"] == state.target else "object" if one["kind"] == "object" else "background"
        mark = " shown" if one["solid"] and not tally.strange else ""
        known = np.isfinite([one["ci_low"], one["ci_high"]]).all()
        interval = f"{signed(100 * one['ci_low'])} to {signed(100 * one['ci_high'])}" if known else "too few images"
        interval = f"<span>{interval}</span>"
        name = NAMES[one["outcome"]].format(one["object"])
        rows.append(_row(kind + mark, name, one["tau_live"], one["tau_held"], one["did"], interval))
    whole = "their original pixels" if state.mode == "ablate" else "the region"
    note = f"Bold: caused or prevented by normalization, by more than a point. Shares of {whole}."
    (most, gap), name = tally.strongest, escape(state.target[:1].upper() + state.target[1:])
    turn = _turn(f"{name} differs most in image {most}: {signed(100 * gap)}", number=most) if gap == gap else ""
    return turn + _table(caption, "live − held, 95 % interval", rows) + f"<p class='note'>{note}</p>"


def range_left(tally: Tally | None) -> str:
    """What stands under the finding while the held images of the first latents leave the network's range."""
    if tally is None or not tally.strange:
        return ""
    why = escape(", ".join(tally.strange))
    return (
        f"<p class='flag' role='status'>Over the first {tally.latents} images what is held here leaves the network’s range "
        f"(checks: {why}): nothing is claimed from it.</p>"
    )


def units(target: str, ticked: int, *, by_hand: bool) -> str:
    """What the list of units shows."""
    if not ticked:
        return "<h2>Units</h2><p class='empty'>As soon as they are ranked, they are listed here.</p>"
    how = "ticked by hand" if by_hand else "ticked"
    return (
        f"<h2>Units</h2><p class='note'>Ordered by their average causal effect (ACE): how many points of the image {escape(target)} "
        f"loses when the unit is ablated alone; {ticked} {how}. IoU: how well the unit's active places overlap with it. Energy: its "
        "share there. Each picture shows where the unit is active in this image.</p>"
        + _turn("Tick the first again", f"id='automatic' {'' if by_hand else 'disabled'}", units="")
    )


def choices(view: View, classes: Sequence[str], objects: Sequence[str]) -> list[tuple[str, str]]:
    """The objects to choose from, each with its share of the image; of many those that are in it, and the chosen one."""
    shares = {name: float((view.labels[0] == list(classes).index(name)).mean()) for name in objects}
    return [
        (f"{name}, {percent(share)}" if share else f"{name}, none", name)
        for name, share in shares.items()
        if share or len(objects) <= MANY or name == view.state.target
    ]


def brand(generator: str, segmenter: str, *, uploaded: bool) -> str:
    """The line over the page: which networks are at work, and the way back from an uploaded one."""
    back = " <a href='./'>Back to the generator that the page was started with</a>" if uploaded else ""
    return f"<p><b>gandid</b>Generator <b>{escape(generator)}</b>, segmenter <b>{escape(segmenter)}</b>.{back}</p>"


def keep(texts: Mapping[str, str], note: str) -> str:
    """What reproduces the state: each text under its name, with a button that copies it; `note` is what a study leaves out."""
    blocks = "".join(
        f"<div class='copy'><div class='copy-head'><h3>{name}</h3>"
        f"<button type='button' data-copy>Copy {name if name == 'Python' else name.lower()}</button></div>"
        f"<pre tabindex='0' aria-label='{name}'{' data-address' if name == 'Link' else ''}>{escape(text)}</pre></div>"
        for name, text in {"Link": "", **texts}.items()
    )
    head = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"{head}<button type='button' data-save>Save the pictures</button>{blocks}<p class='copied' role='status' aria-live='polite'></p>"


def progress(job: Job | None, done: int, whole: int) -> str:
    """How far a study is, in words, with the link to its report when it is there."""
    if job is None:
        return "<p class='empty'>No study has been started from this page yet.</p>"
    name = escape(job.name)
    if job.running:
        if not whole:
            return f"<p role='status'>{name}: starting …</p>"
        what = f"{done} of {whole} latents measured" if done < whole else "running further arms, and writing the report"
        bar = f"<progress max='{whole}' value='{done}' aria-label='Progress of {name}'></progress>"
        return f"<p role='status'>{name}: {what} …</p>{bar}"
    if job.failed:
        return f"<p role='alert' class='problem'>{name} failed: {escape(job.reason)}</p>"
    if job.stopped:
        return f"<p role='status'>{name} was stopped. What it measured is kept: the same command goes on.</p>"
    return f"<p role='status'>{name} is finished. {_report(job.name, 'Open its report')}</p>"


def runs(entries: Sequence[Entry], folder: str, stopped: Sequence[str] = ()) -> str:
    """The gallery of finished runs, and the names of those that were stopped."""
    end = ""
    if stopped:
        names = ", ".join(f"<b>{escape(name)}</b>" for name in stopped)
        end = f"<p class='note'>Begun and not finished: {names}. The same study under the same name goes on.</p>"
    if not entries:
        return end + (
            f"<p class='empty'>No finished run in <code>{escape(folder)}</code> yet. Start one with “Run as a study”, "
            "or with <code>gandid run</code> in a terminal.</p>"
        )
    cards = ""
    for entry in entries:
        title = _report(entry.name, entry.name) if entry.report else escape(entry.name)
        facts = f"{escape(', '.join(entry.targets))} · {escape(entry.layer)} · {entry.latents:,} latents"
        cards += f"<li><h3>{title}</h3><p class='facts'>{facts}</p><p>{escape(entry.headline)}</p></li>"
    return f"<ul class='runs'>{cards}</ul>{end}"


def _report(run: str, text: str) -> str:
    link = f"/runs/{quote(run)}/report.html"
    return f"<a class='report' href='{link}' target='_blank' rel='noopener'>{escape(text)}</a>"


def _card(title: str, body: str) -> str:
    return f"<section class='card'><h3>{escape(title)}</h3>{body}</section>"


def _table(caption: str, last: str, rows: Iterable[str]) -> str:
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("%", "live", "held", last))
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _row(style: str, name: str, live: float, held: float, gap: float | None = None, interval: str = "") -> str:
    """A row of shares; their difference, where none is given, is that of the two."""
    cells = "".join(f"<td>{number(100 * value)}</td>" for value in (live, held))
    did = signed(100 * (live - held if gap is None else gap))
    return f"<tr class='{style}'><th scope='row'>{escape(name)}</th>{cells}<td class='did'>{did}{interval}</td></tr>"


def _gain(values: np.ndarray) -> str:
    """A gain map with its scale."""
    low, high = min(1.0, float(values.min())), max(1.001, float(values.max()))
    alt = f"Gain at the first site, this image: from {values.min():.2f} to {values.max():.2f}."
    return (
        f"<figure class='gain'><img src='{heat(values, low, high, 'magma')}' alt='{escape(alt)}'><figcaption>Gain at the first "
        f"site, this image: how much more the surviving units are amplified.<span class='bar'><span>× {low:.2f}</span>"
        f"<i style='background:{gradient('magma')}'></i><span>× {high:.2f}</span></span></figcaption></figure>"
    )
