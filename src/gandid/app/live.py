"""The stream of each open tab: it says what it shows, and is told what is learned of it meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, CapacityLimiter, create_task_group, sleep, to_thread
from starlette.websockets import WebSocket, WebSocketDisconnect

from gandid.app import words
from gandid.app.around import doses, layers, strip
from gandid.app.state import LONGEST, STRIP, State, read_query
from gandid.app.stream import tallies
from gandid.errors import GandidError

if TYPE_CHECKING:
    from gandid.app.page import Page

POLL = 0.5  # seconds between two looks at what goes on in the background
PAUSE = 0.4  # seconds without a move before many images are made: a slider that is dragged has the machine for itself
MOST_TABS = 200


class Live:
    """Serves the web socket of every tab. A hidden tab closes its own, and nothing is measured for it.

    A tab sends the address of what it shows; before the `?` of it `fresh`, if it waits for an effect to begin with. It is sent
    objects: HTML by the part of the page where it belongs (`numbers`, `range`, `strip`, `doses`, `layers`, `status`, `progress`); `stale`, those
    of them that are measured anew; `running`, whether a study runs; `ranked`, the generator, the layer, and the latents on which its
    units are ranked by now; and `opening`, the address of the effect to begin with.
    """

    def __init__(self, page: Page):
        self.page = page
        self._tabs = 0
        self._hand: CapacityLimiter | None = None
        self._lock = threading.Lock()
        self._news: tuple[float, dict[str, Any]] = (-POLL, {})

    async def tab(self, socket: WebSocket) -> None:
        """Serve one tab until it is closed."""
        if self._tabs >= MOST_TABS:
            await socket.close(1013)
            return
        self._hand = self._hand or CapacityLimiter(1)  # made where there is an event loop
        self._tabs += 1
        try:
            await socket.accept()
            await _Tab(socket, self).serve()
        finally:
            self._tabs -= 1

    async def step(self, work: Iterator[Any]) -> Any:
        """The next of an iterator, in a thread, one tab after the other; None at its end."""
        return await to_thread.run_sync(self._next, work, limiter=self._hand, abandon_on_cancel=True)

    def _next(self, work: Iterator[Any]) -> Any:
        with self._lock:  # the step before may have been abandoned, and goes on
            return next(work, None)

    def news(self) -> dict[str, Any]:
        """How far the study is; looked up for all tabs together."""
        seen, news = self._news
        if time.monotonic() > seen + POLL:
            jobs = self.page.jobs
            running = jobs.current is not None and jobs.current.running
            news = {
                "progress": words.progress(jobs.current, *(jobs.progress() if running else (0, 0))),
                "running": running,
            }
            self._news = time.monotonic(), news
        return news


class _Tab:
    """One tab: what it shows, and what it was told."""

    def __init__(self, socket: WebSocket, live: Live):
        self.socket, self.live, self.page = socket, live, live.page
        self.state, self.fresh = State(), False
        self.ranked: tuple[str, ...] = ()  # layers
        self.tasks = create_task_group()
        self._told: dict[str, Any] = {}
        self._asked: dict[str, tuple[Any, CancelScope]] = {}
        self._stale: set[str] = set()

    async def serve(self) -> None:
        """Read what the tab shows, and tell what is learned of it."""
        async with self.tasks:
            self.tasks.start_soon(self._watch)
            while (message := await self.socket.receive())["type"] == "websocket.receive":
                mark, _, query = str(message.get("text"))[: 4 * LONGEST].partition("?")
                self.state, self.fresh = read_query(query), mark == "fresh"
                self._begin()
            self.tasks.cancel_scope.cancel()

    def _begin(self) -> None:
        """Work at what is not known of the state that is shown, and no longer at what was asked for before."""
        state, strip_of = self.state, replace(self.state, number=self.state.number // STRIP * STRIP)
        for part, asked, work in (
            ("doses", replace(state, alpha=1.0), doses),
            ("strip", strip_of, strip),
            ("numbers", replace(state, number=0), tallies),
            ("layers", (state, self.ranked), layers),
        ):
            before, scope = self._asked.get(part, (None, CancelScope()))
            if asked != before:
                scope.cancel()
                self._asked[part] = asked, CancelScope()
                self.tasks.start_soon(self._measure, self._asked[part][1], part, work, state)

    async def _tell(self, **news: Any) -> None:
        """Send what is new."""
        new = {name: value for name, value in news.items() if self._told.get(name) != value}
        self._told |= new
        if new:
            with suppress(WebSocketDisconnect, RuntimeError):  # it is closed, which the reading side is told, too
                await self.socket.send_json(new)

    async def _watch(self) -> None:
        """Tell how far the ranking and the study are."""
        while True:
            await self._tell(**await to_thread.run_sync(self._look))
            if self._asked:
                self._begin()
            await sleep(POLL)

    def _look(self) -> dict[str, Any]:
        try:
            model, ranked, settled = self.page.settled(self.state)
            begin = self.page.opening() if self.fresh else None
        except GandidError:  # which the hand is told
            return self.live.news()
        self.ranked = tuple(layer for layer in model.layers if model.rankings.known(layer).relation is not None)
        news = self.live.news() | {"ranked": [settled.generator, settled.layer, ranked.latents]}
        news["status"] = words.ranking(ranked, settled.layer, fresh=self.fresh and begin is None)
        return news | ({"opening": begin.query()} if begin else {})

    async def _measure(self, scope: CancelScope, part: str, work: Callable[..., Iterator[Any]], state: State) -> None:
        """Tell what is found for a part of the page, as it is found."""

        async def tell(found: Any, asked: State, waiting: str = "") -> None:
            self._stale.discard(part)
            news = {part: words.measured(part, found, asked, waiting), "stale": sorted(self._stale)}
            await self._tell(**news, **({"range": words.range_left(found)} if part == "numbers" else {}))

        with scope:
            if not all(each.units for each in state.edits()):
                await tell(None, state, "Waiting for the first ranking of the units …")
                return
            self._stale.add(part)
            await self._tell(stale=sorted(self._stale), **({"range": ""} if part == "numbers" else {}))
            await sleep(PAUSE)
            try:
                model, _, settled = await to_thread.run_sync(self.page.settled, state)
                steps = work(model, settled)
                while (found := await self.live.step(steps)) is not None:
                    await tell(found, settled)
            except GandidError as error:
                await tell(None, state, str(error))
