"""The page works for many tabs at once, and for long."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

pytest.importorskip("gradio")

import httpx
import uvicorn
from asking import COOKIE, EVENT, TOKEN, Asking
from websockets.asyncio.client import connect

from gandid.app import server
from gandid.app.layout import SHOWN

TABS, EDITS, MEASURED = 20, 200, 12
MORE = (
    60 * 2**20
)  # bytes by which the process may have grown after so much; a hundred edits of a leak of 1 MB would be more


@pytest.fixture
def address(asked: Asking) -> Iterator[str]:
    """The page on tiny networks, behind a real server."""
    with server.listen("127.0.0.1", 0) as sock:
        running = uvicorn.Server(uvicorn.Config(asked.client.app, log_level="error", ws="websockets-sansio"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]})
        thread.start()
        yield f"127.0.0.1:{sock.getsockname()[1]}"
        running.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.slow
def test_twenty_tabs_are_served_within_bounds(asked: Asking, address: str) -> None:
    headers = {"Cookie": f"{COOKIE}={TOKEN}", "Origin": f"http://{address}"}
    process = psutil.Process()
    sizes: list[int] = []
    measured: list[int] = []
    draw, values = asked.names["draw"], asked.events[asked.names["draw"]]
    alpha = SHOWN.index("alpha") + 1

    async def listen(tab: int) -> None:
        """One tab: it shows another dose than the others, and hears the numbers of 64 latents."""
        async with connect(f"ws://{address}/live", additional_headers=headers) as live:
            await live.send(f"?units=0&alpha={1 - tab / 100}" if tab < MEASURED else "?")
            while True:
                if "64 of 64 measured" in json.loads(await live.recv()).get("numbers", ""):
                    measured.append(tab)

    async def edit(client: httpx.AsyncClient, first: int) -> None:
        for number in range(first, EDITS, TABS):
            sent = [*values[:alpha], number / EDITS, *values[alpha + 1 :]]
            answer = await client.post(EVENT, json={"fn_index": draw, "data": sent})
            assert answer.status_code == 200, answer.text
            query = answer.json()["data"][0]["query"]
            assert f"alpha={number / EDITS:g}" in query or number == EDITS
            sizes.append(process.memory_info().rss)

    async def work() -> None:
        tabs = [asyncio.create_task(listen(tab)) for tab in range(TABS)]
        async with httpx.AsyncClient(base_url=f"http://{address}", headers=headers, timeout=120) as client:
            await asyncio.gather(*(edit(client, first) for first in range(TABS)))
        end = time.monotonic() + 120
        while len(measured) < MEASURED and time.monotonic() < end:
            assert not any(tab.done() for tab in tabs)
            await asyncio.sleep(0.1)
        for tab in tabs:
            tab.cancel()
        await asyncio.gather(*tabs, return_exceptions=True)

    asyncio.run(work())
    assert sorted(measured) == list(range(MEASURED))
    assert len(sizes) == EDITS
    assert process.memory_info().rss - sizes[EDITS // 10] < MORE
