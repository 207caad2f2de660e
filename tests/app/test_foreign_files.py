"""No file of this machine comes back that was not meant to: neither through an endpoint of the page nor through a route."""

import base64
import contextlib
import http.client
import http.server
import itertools
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

pytest.importorskip("gradio")

import gradio as gr
from fastapi.testclient import TestClient
from served import Served

from gandid.app import server
from gandid.app.models import Model
from gandid.app.page import Page, build

SECRET = "for-the-eyes-of-the-owner-alone"
META = {"_type": "gradio.FileData"}
EVERYWHERE = ("file", "in a list", "named pipe")  # attacks that are tried as every single input
PATIENCE = 10.0  # seconds for an answer; a server that opened the named pipe never gives one


class Visitor:
    """Asks the page without a browser: paths go out exactly as they are written."""

    def __init__(self, address: str):
        at = urlsplit(address)
        self.port, self.sessions = at.port, itertools.count()
        self.headers = {"Origin": f"http://{at.netloc}"}
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        self.connection.request("GET", f"{at.path}?{at.query}")
        answer = self.connection.getresponse()
        answer.read()
        if cookie := answer.headers.get("set-cookie"):  # a page with a token
            self.headers["Cookie"] = cookie.split(";")[0]

    def ask(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> tuple[int, bytes]:
        """The status and the answer."""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = self.headers | ({} if content is None else {"Content-Type": kind})
        for attempt in range(2):
            try:
                self.connection.request(method, path, content, headers)
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except ConnectionError:  # the server closes a connection after an error of its own
                self.connection.close()
                if attempt:
                    raise
            except TimeoutError as error:
                self.connection.close()
                error.add_note(f"{method} {path}")
                raise
        raise AssertionError("not reached")

    def stream(self, path: str, most: float = PATIENCE) -> tuple[int, bytes]:
        """The status and the beginning of an answer that may have no end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=most)
        read = b""
        try:
            connection.request("GET", path, headers=self.headers)
            answer = connection.getresponse()
            while (part := answer.read1(2**16)) and len(read) < 2**22:
                read += part
            return answer.status, read
        except (TimeoutError, http.client.IncompleteRead):
            return 0, read
        finally:
            connection.close()

    def upload(self, name: str, content: bytes) -> str:
        """What the upload answers: the name under which it keeps the file."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        form = head.encode() + content + b"\r\n--x--\r\n"
        status, answer = self.ask("POST", "/gradio_api/upload", form, kind="multipart/form-data; boundary=x")
        assert status == 200, answer
        (kept,) = json.loads(answer)
        return str(kept)


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
    # Should the server have opened the pipe, it waits for a writer: let it end.
    with contextlib.suppress(OSError):
        os.close(os.open(folder / "pipe", os.O_WRONLY | os.O_NONBLOCK))


def holds_secret(content: bytes) -> bool:
    whole = json.dumps([SECRET]).encode()
    return SECRET.encode() in content or any(base64.b64encode(each) in content for each in (whole, SECRET.encode()))


def attacks(elsewhere: Elsewhere, uploads: Path) -> dict[str, Any]:
    """Values that look to Gradio like a file, by what is tried with them."""
    path = str(elsewhere.secret)
    file = {"path": path, "meta": META}
    return {
        "file": file,
        "with its address": file
        | {"url": f"/gradio_api/file={path}", "orig_name": "a.pth", "size": 5, "mime_type": ""},
        "stream": file | {"is_stream": True},
        "picture": file | {"path": str(elsewhere.folder / "secret.svg")},
        "without meta": {"path": path},
        "in a list": [[file], file],
        "in a dict": {"video": {"subtitles": [file]}, "value": file},
        "as an update": {"__type__": "update", "value": file, "choices": [["a", file]]},
        "relative": file | {"path": os.path.relpath(path)},
        "through the cache": file | {"path": f"{uploads}/{os.path.relpath(path, uploads)}"},
        "file address": file | {"path": f"file://{path}"},
        "file address beside": {"path": "a.pth", "url": f"file://{path}", "meta": META},
        "web address": file | {"path": f"{elsewhere.address}/secret.pth"},
        "web address beside": {"path": "a.pth", "url": f"{elsewhere.address}/secret.pth", "meta": META},
        "own address": file | {"path": f"/gradio_api/file={path}"},
        "named pipe": file | {"path": str(elsewhere.pipe)},
    }


def ways(visitor: Visitor, number: int, name: str, data: list[Any], keys: list[str]) -> Iterator[tuple[str, Any]]:
    """Every address that takes the inputs of an event, with the body that it wants."""
    yield f"/gradio_api/run/{name}", {"data": data}
    yield "/gradio_api/run/predict/", {"data": data, "fn_index": number}
    yield f"/gradio_api/api/{name}", {"data": data}
    yield f"/gradio_api/call/{name}", {"data": data}
    yield f"/gradio_api/call/v2/{name}", dict(zip(keys, data, strict=False))
    session = f"foreign{next(visitor.sessions)}"
    yield "/gradio_api/queue/join", {"data": data, "fn_index": number, "session_hash": session, "trigger_id": None}


def everything_told(visitor: Visitor, path: str, body: Any) -> bytes:
    """What an event answers, be it at once or through a stream, and what lies under each name that the answer gives."""
    status, told = visitor.ask("POST", path, body)
    if status == 200 and path.endswith("/queue/join"):
        told += visitor.stream(f"/gradio_api/queue/data?session_hash={body['session_hash']}")[1]
    elif status == 200 and "/call/" in path:
        told += visitor.stream(f"{path}/{json.loads(told)['event_id']}")[1]
    # An error quotes a value as Python does.
    for quoted in set(re.findall(rb"""["']((?:/|http)[^"'\\]{1,500})["']""", told)):
        name = quoted.decode().split("/gradio_api/file=")[-1]
        told += visitor.ask("GET", f"/gradio_api/file={quote(name)}")[1]
    return told


@pytest.mark.slow
def test_no_endpoint_takes_a_file_that_was_not_uploaded(page: Served, elsewhere: Elsewhere) -> None:
    visitor, uploads = Visitor(page.address), page.runs / ".cache" / "uploads"
    config = json.loads(visitor.ask("GET", "/config")[1])
    named = json.loads(visitor.ask("GET", "/gradio_api/info?all_endpoints=true")[1])["named_endpoints"]
    shown = {part["id"]: part["props"].get("value") for part in config["components"]}
    endpoints = config["dependencies"]
    assert len(endpoints) >= 15
    assert {f"/{each['api_name']}" for each in endpoints} >= set(named)
    tried = attacks(elsewhere, uploads)
    kinds = list(tried)
    for attack, each in itertools.product(tried, endpoints):  # the pipe last: it would hide what the others do
        number, name, value = each["id"], str(each["api_name"]), tried[attack]
        keys = [part["parameter_name"] for part in named.get(f"/{name}", {"parameters": []})["parameters"]]
        usual = [shown.get(part) for part in each["inputs"]]
        for place in range(len(usual)):
            if attack not in EVERYWHERE and (place + kinds.index(attack)) % 4:
                continue  # the others at some of the inputs of each endpoint: they differ in what is told, not in where
            every = ways(visitor, number, name, [*usual[:place], value, *usual[place + 1 :]], keys)
            for path, body in every if attack == "file" else itertools.islice(every, 1):
                assert not holds_secret(everything_told(visitor, path, body)), f"{attack}, to {path}, input {place}"
        told = everything_told(visitor, f"/gradio_api/run/{name}", {"data": usual, "event_data": value})
        assert not holds_secret(told), f"{attack}, to {name}, as the data of the event"
    for attack, value in tried.items():
        for path, body in [
            ("/gradio_api/component_server", {"session_hash": "a", "component_id": 1, "fn_name": "ls", "data": value}),
            ("/gradio_api/stream/a", {"data": [value]}),
            ("/gradio_api/cancel", {"session_hash": "a", "fn_index": 0, "event_id": "a", "data": value}),
        ]:
            assert not holds_secret(everything_told(visitor, path, body)), f"{attack}, to {path}"
    copies = [file for file in page.runs.rglob("*") if file.is_file() and holds_secret(file.read_bytes())]
    assert not copies
    assert not elsewhere.asked  # the server fetched nothing itself
    assert visitor.ask("GET", "/config")[0] == 200  # and still answers


def test_an_uploaded_file_is_taken(page: Served) -> None:
    visitor = Visitor(page.address)
    kept = visitor.upload("../../own.pth", b"nothing of the kind")
    assert Path(kept).is_relative_to(page.runs / ".cache" / "uploads")
    file = {"path": kept, "meta": META, "orig_name": "own.pth", "url": f"{page.address}gradio_api/file={kept}"}
    status, answer = visitor.ask("POST", "/gradio_api/run/take", {"data": [file]})
    assert status == 200 and b"own.pth is not a checkpoint" in answer
    # A file beside it was not uploaded, though it lies in the same folder.
    beside = Path(kept).with_name("beside.pth")
    beside.write_bytes(b"nothing of the kind")
    assert visitor.ask("POST", "/gradio_api/run/take", {"data": [file | {"path": str(beside)}]})[0] == 403


def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A page that gives back whatever it is given: the worst that an event could do."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "runs" / ".cache" / "uploads"))
    with gr.Blocks(analytics_enabled=False) as blocks:
        parts = [gr.JSON(), gr.File(), gr.HTML(), gr.State()]
        gr.Button().click(lambda *values: values, parts, parts, api_name="echo")
    app = server.make_app(blocks, {}, token=None, runs=tmp_path / "runs", close=lambda: None)
    return TestClient(app, base_url="http://127.0.0.1:7860")


def test_no_way_of_writing_a_body_hides_a_file(
    tmp_path: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, path = echo(tmp_path, monkeypatch), json.dumps(str(elsewhere.secret))
    meta = '"meta": {"_type": "gradio.FileData"}'
    body = '{"data": [%s, null, null, null]}'
    twice = body % f'{{"path": "a", "path": {path}, {meta}}}'
    bodies = {
        "plain": (body % f'{{"path": {path}, {meta}}}').encode(),
        "the name given twice": twice.encode(),
        "the data given twice": twice.replace('{"data"', '{"data": [], "data"').encode(),
        "escaped": (body % f'{{"p\\u0061th": {path}, {meta}}}').encode(),
        "UTF-16": (body % f'{{"path": {path}, {meta}}}').encode("utf-16"),
        "with a mark": b"\xef\xbb\xbf" + (body % f'{{"path": {path}, {meta}}}').encode(),
        "deep": (body % ("[" * 400 + f'{{"path": {path}, {meta}}}' + "]" * 400)).encode(),
        "too deep": (body % ("[" * 50_000 + f'{{"path": {path}, {meta}}}' + "]" * 50_000)).encode(),
        # What the JSON part takes apart itself, after all checks of what came in.
        "a string": (body % json.dumps(f'{{"path": {path}, {meta}}}')).encode(),
    }
    for how, content in bodies.items():
        for kind in ("application/json", "text/plain", "application/vnd.api+json", "multipart/form-data; boundary=x"):
            answer = page.post("/gradio_api/run/echo", content=content, headers={"Content-Type": kind})
            assert how == "a string" or 400 <= answer.status_code < 500, (how, kind, answer.text)
            assert not holds_secret(answer.content), (how, kind)
            for name in re.findall(r'"path":"([^"]+)"', answer.text):
                assert not holds_secret(page.get(f"/gradio_api/file={name}").content), (how, kind)
    answer = page.post("/gradio_api/run/echo", json={"data": [{"a": [1, "é"]}, None, "text", None]})
    assert answer.status_code == 200 and answer.json()["data"][0] == {"a": [1, "é"]}


def test_nothing_but_the_upload_takes_a_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = echo(tmp_path, monkeypatch)
    form = {"session_hash": "a", "component_id": "1", "fn_name": "ls"}
    for path in ("/gradio_api/process_recording", "/gradio_api/component_server", "/login", "/gradio_api/call/v2/echo"):
        for name in ("video", "file"):
            answer = page.post(path, data=form, files={name: ("a.mp4", b"x" * 100)})
            assert 400 <= answer.status_code < 500, path
    assert not list(tmp_path.rglob("*.mp4"))
    assert page.post("/gradio_api/run/echo", content=b"[" + b"1," * server.BODY_LIMIT + b"1]").status_code == 413


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


@pytest.mark.slow
def test_no_route_answers_with_a_file_of_elsewhere(
    page: Served, elsewhere: Elsewhere, model: Model, tmp_path: Path
) -> None:
    blocks, look = build(Page(model, tmp_path / "runs", "cpu"))
    app = server.make_app(blocks, look, token=None, runs=tmp_path / "runs", close=lambda: None)
    routes = list(all_routes(app.routes))
    paths = {route.path for route in routes}
    assert {"/runs/{path:path}", "/gradio_api/file={path_or_url:path}", "/static/{path:path}"} <= paths
    visitor, names = Visitor(page.address), tricks(elsewhere, page.runs)
    names_once = [name for name in names if "/" not in name and "%25" not in name and "%5C" not in name]  # for a query
    for route in routes:
        dependant = getattr(route, "dependant", None)
        own = {each.name for each in getattr(dependant, "query_params", ())}
        asked = own | {"deep_link", "page", "path", "__theme"}
        endless = any(
            each in route.path for each in ("heartbeat", "queue/data", "upload_progress", "{event_id}", "reload")
        )
        keys = "&".join(f"{key}=%s" for key in sorted(asked))
        written = [re.sub(r"\{[^}]*\}", name.replace("\\", "\\\\"), route.path) for name in names if "{" in route.path]
        written += [f"{re.sub(r'{[^}]*}', 'a', route.path)}?{keys.replace('%s', name)}" for name in names_once]
        for method, path in itertools.product(sorted(route.methods), written[::20] if endless else written):
            if endless:
                told = visitor.stream(path, most=0.3)[1]
            else:
                told = visitor.ask(method, path, {} if method == "POST" else None)[1]
            assert not holds_secret(told), f"{method} {path}"
    for name in names:  # and where no route is
        for start in ("", "/", "/gradio_api/", "/runs/", "//", "/gradio_api/file", "/gradio_api/file="):
            path = f"/{(start + name).lstrip('/')}" if not start.startswith("//") else start + name
            assert not holds_secret(visitor.ask("GET", path)[1]), path
    assert not elsewhere.asked
    assert visitor.ask("GET", "/config")[0] == 200
