"""The page within this process, asked as its own scripts ask it, and as they never would."""

from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from gandid.app import server
from gandid.app.live import Live
from gandid.app.page import Page, build

EVENT = server.EVENT
TOKEN = "correct-horse-battery"
COOKIE = "gandid-7860"


class Asking:
    """A client that has the token, and the events of the page with the values that its parts hold at first."""

    def __init__(self, blocks: Any, look: dict[str, Any], runs: Path, page: Page | None = None):
        def refuse(part: Path, name: str) -> str:
            raise AssertionError("nothing is uploaded here")

        take = refuse if page is None else page.take
        live = None if page is None else Live(page).tab
        app = server.make_app(blocks, look, token=TOKEN, runs=runs, take=take, live=live, cookie=COOKIE)
        at = "http://127.0.0.1:7860"
        self.client = TestClient(app, base_url=at, cookies={COOKIE: TOKEN}, follow_redirects=False)
        self.client.headers["origin"] = at
        self.events = {
            number: [getattr(part, "value", None) for part in event.inputs] for number, event in blocks.fns.items()
        }
        self.names = {event.api_name: number for number, event in blocks.fns.items()}

    def event(self, number: int | str, data: Any, **more: Any) -> httpx.Response:
        """Ask for an event, by its number or its name."""
        index = self.names[number] if isinstance(number, str) else number
        return self.client.post(EVENT, json={"fn_index": index, "data": data} | more)


def asking(page: Page) -> Asking:
    """Ask a page."""
    return Asking(*build(page), page.runs, page)
