"""No file of this machine comes back that was not meant to: neither through an event of the page nor through a route."""

import base64
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("gradio")

import gradio as gr
from asking import EVENT, Asking

from gandid.app import server
from gandid.app.page import Page

SECRET = "for-the-eyes-of-the-owner-alone"
META = {"_type": "gradio.FileData"}


@dataclass
class Elsewhere:
    """What must not come back: files outside of the folder of runs, and a server on this machine."""

    folder: Path
    secret: Path
    pipe: Path
    address: str
    asked: list[str] = field(default_factory=list)
    """What was fetched from the server."""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("secret.pth", "secret.svg", "secret.txt", "state.json"):
        (folder / name).write_text(json.dumps([SECRET]))
    os.mkfifo(folder / "pipe")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        address = f"http://127.0.0.1:{other.server_address[1]}"
        here = Elsewhere(folder, folder / "secret.pth", folder / "pipe", address)
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield here
        other.shutdown()


def holds_secret(content: bytes) -> bool:
    whole = json.dumps([SECRET]).encode()
    return SECRET.encode() in content or any(base64.b64encode(each) in content for each in (whole, SECRET.encode()))


def attacks(elsewhere: Elsewhere, uploads: Path) -> list[Any]:
    """Values that look to Gradio like a file."""
    path = str(elsewhere.secret)
    file = {"path": path, "meta": META}
    return [
        file,
        file | {"url": f"/gradio_api/file={path}", "orig_name": "a.pth", "size": 5, "mime_type": ""},
        file | {"is_stream": True},
        file | {"path": str(elsewhere.folder / "secret.svg")},
        {"path": path},
        [[file], file],
        {"video": {"subtitles": [file]}, "value": file},
        {"__type__": "update", "value": file, "choices": [["a", file]]},
        file | {"path": os.path.relpath(path)},
        file | {"path": f"{uploads}/{os.path.relpath(path, uploads)}"},
        file | {"path": f"file://{path}"},
        {"path": "a.pth", "url": f"file://{path}", "meta": META},
        {"path": f"{elsewhere.address}/secret.pth"},
        file | {"path": f"/gradio_api/file={path}"},
        file | {"path": str(elsewhere.pipe)},
        path,
        f"file://{path}",
        f"{elsewhere.address}/secret.pth",
    ]


def test_no_event_takes_a_file(asked: Asking, planted_page: Page, elsewhere: Elsewhere) -> None:
    page = asked
    assert set(page.names) == {"draw", "change", "arrive", "run", "stop", "runs"}
    for attack, value in enumerate(attacks(elsewhere, planted_page.runs / ".cache")):
        for number, usual in page.events.items():
            # One as every input; the others at one input of each event, for they differ in what is told and not in where.
            for place in range(len(usual)) if attack == 0 else [attack % len(usual)] if usual else []:
                answer = page.event(number, [*usual[:place], value, *usual[place + 1 :]])
                assert answer.status_code == 422 or isinstance(value, str), (value, number, place)
                assert not holds_secret(answer.content), (value, number, place)
        for number in page.events:
            assert not holds_secret(page.event(number, page.events[number], event_data=value).content)
    copies = [file for file in planted_page.runs.rglob("*") if file.is_file() and holds_secret(file.read_bytes())]
    assert not copies
    assert not elsewhere.asked  # the server fetched nothing itself


def test_no_way_of_writing_a_body_hides_a_file(tmp_path: Path, elsewhere: Elsewhere) -> None:
    with gr.Blocks(analytics_enabled=False) as blocks:
        parts = [gr.JSON(), gr.File(), gr.HTML(), gr.State()]
        gr.Button().click(lambda *values: values, parts, parts)  # the worst that an event could do
    page, path = Asking(blocks, {}, tmp_path / "runs"), json.dumps(str(elsewhere.secret))
    meta = '"meta": {"_type": "gradio.FileData"}'
    body = '{"fn_index": 0, "data": [%s, null, null, null]}'
    twice = body % f'{{"path": "a", "path": {path}, {meta}}}'
    bodies = {
        "plain": (body % f'{{"path": {path}, {meta}}}').encode(),
        "the name given twice": twice.encode(),
        "the data given twice": twice.replace('"data"', '"data": [], "data"').encode(),
        "escaped": (body % f'{{"p\\u0061th": {path}, {meta}}}').encode(),
        "UTF-16": (body % f'{{"path": {path}, {meta}}}').encode("utf-16"),
        "with a mark": b"\xef\xbb\xbf" + (body % f'{{"path": {path}, {meta}}}').encode(),
        "deep": (body % ("[" * 400 + f'{{"path": {path}, {meta}}}' + "]" * 400)).encode(),
        "too deep": (body % ("[" * 50_000 + f'{{"path": {path}, {meta}}}' + "]" * 50_000)).encode(),
    }
    for how, content in bodies.items():
        for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
            answer = page.client.post(EVENT, content=content, headers={"Content-Type": kind})
            assert answer.status_code == 422, (how, kind, answer.text)
    # What the JSON part takes apart itself, after all checks of what came in.
    answer = page.event(0, [f'{{"path": {path}, {meta}}}', None, None, None])
    for name in re.findall(r'"path":"([^"]+)"', answer.text):
        assert not holds_secret(page.client.get(f"/gradio_api/file={name}").content)
    assert page.client.post(EVENT, content=b"[" + b"1," * server.BODY_LIMIT + b"1]").status_code == 413
    assert page.event(0, ["[1]", None, "text", None]).json()["data"][0] == [1]


def all_routes(routes: Any) -> Iterator[Any]:
    """The routes that have a path, those of what is mounted and included among them."""
    for route in routes:
        inner = getattr(route, "original_router", route)  # how newer versions of FastAPI include a router
        if getattr(inner, "routes", None):
            yield from all_routes(inner.routes)
        else:
            yield route


def tricks(elsewhere: Elsewhere, runs: Path) -> list[str]:
    """Names of the secret, as a path of an address may hold them."""
    secret = elsewhere.folder / "secret.txt"
    outward = [f"{'../' * up}{str(secret)[1:]}" for up in (1, 3, 12)] + [os.path.relpath(secret, runs)]
    plain = [str(secret), f"/{secret}", f"/.{secret}", f"./{secret}", f"~{secret}", f"~/../..{secret}", *outward]
    plain += [f"{runs}/{os.path.relpath(secret, runs)}", f"runs/../../{outward[-1]}", f"file://{secret}"]
    plain += [f"/proc/self/root{secret}", f"/proc/self/cwd/{os.path.relpath(secret)}", str(elsewhere.pipe)]
    plain += [f"{elsewhere.address}/secret.txt", str(elsewhere.folder), f"..{elsewhere.folder}"]
    encoded = [quote(name, safe="") for name in plain]
    dots = [name.replace("..", "%2e%2e") for name in plain if ".." in name]
    twice = [quote(name, safe="") for name in encoded]
    return [*map(quote, plain), *encoded, *dots, *twice, *(name.replace("%2F", "%5C") for name in encoded)]


def test_the_page_answers_where_it_must_and_nowhere_else(
    asked: Asking, planted_page: Page, elsewhere: Elsewhere
) -> None:
    page = asked
    routes = list(all_routes(page.client.app.routes))
    needed = {
        "/", "/live", "/upload", "/runs/{path:path}", "/theme.css", "/favicon.ico", "/static/{path:path}",
        "/assets/{path:path}", "/gradio_api/run/{api_name}", "/manifest.json", "/gradio_api/app_id",
    }  # fmt: skip
    assert needed <= {route.path for route in routes}
    assert len({route.path for route in routes} - needed) > 40
    for route in routes:
        path = re.sub(r"\{[^}]*\}", "a", route.path)
        for method in getattr(route, "methods", None) or ():
            if route.path not in needed or path == f"{EVENT.rsplit('/', 1)[0]}/a":
                answer = page.client.request(method, path)
                assert answer.status_code == 404 and (method == "HEAD" or "no such page" in answer.text), path
    for name in tricks(elsewhere, planted_page.runs):
        for start in ("//", "/runs/", "/static/", "/assets/"):
            answer = page.client.get(f"http://127.0.0.1:7860{start}{name}")
            assert not holds_secret(answer.content), (start, name)
    assert not elsewhere.asked
