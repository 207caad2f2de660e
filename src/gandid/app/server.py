"""The server of the page: who may ask, and what is served."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote, urlsplit

# Before gradio is imported anywhere: it would ask its makers for the newest version, and count this start.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# While it is imported, it reads and parses its own source to write stubs for editors beside it: more than half of its time.
with mock.patch("inspect.getfile", side_effect=OSError):
    import gradio as gr

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.routing import Route, WebSocketRoute

from gandid.errors import GandidError, UsageError

UPLOAD_LIMIT = 400 * 2**20  # bytes; the largest public PG-GAN checkpoint has 277 MB
BODY_LIMIT = 2**17  # bytes of any other request; the page's own have some hundreds
EVENT = "/gradio_api/run/predict"
# What the page itself asks for. Gradio has some eighty routes more: none of them is answered.
ALLOWED = re.compile(rf"/|/live|/upload|/gradio_api/app_id|/theme\.css|/favicon\.ico|/(assets|static|runs)/.+|{EVENT}")
# Whatever a page may hold, the browser fetches nothing from elsewhere. Gradio's own scripts need eval and inline ones.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Guard:
    """Lets in who has the token, and what comes from the page itself; and forbids pages to fetch from elsewhere.

    The token is taken from the address once and kept in a cookie, so that it does not stay in addresses, logs and histories.
    Browsers send the cookies of one port to all ports of a host: so it has a name of its own per port, and a request that says
    from which page it comes, as all do that write, must come from this one.
    """

    def __init__(self, app: Any, token: str, cookie: str):
        self.app, self.token, self.cookie = app, token, cookie

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        # By these Gradio would put any host into the addresses of the page.
        scope["headers"] = [each for each in scope["headers"] if not each[0].startswith(b"x-forwarded-")]
        refused = self._refused(HTTPConnection(scope))
        if refused is not None and scope["type"] == "http":
            await refused(scope, receive, send)
        elif refused is not None:  # a web socket
            await send({"type": "websocket.close", "code": 1008})
        else:

            async def send_guarded(message: Any) -> None:
                if message["type"] == "http.response.start":
                    headers = MutableHeaders(scope=message)
                    headers.update(HEADERS)
                    del headers["access-control-allow-origin"], headers["access-control-allow-credentials"]
                await send(message)

            await self.app(scope, receive, send_guarded)

    def _refused(self, request: HTTPConnection) -> Response | None:
        """The answer to a request that is not let in."""
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return PlainTextResponse("This page takes nothing from other pages.", 403)
        if request.scope["path"] == "/manifest.json":  # which browsers ask for without a cookie
            return Response('{"name": "gandid"}', media_type="application/manifest+json")
        given = request.query_params.get("token")
        if given is not None and _same(given, self.token):
            rest = "&".join(part for part in request.url.query.split("&") if not part.startswith("token="))
            # Relative, so that it neither loses the prefix of a proxy nor leads to another host.
            here = quote(request.scope["path"].rsplit("/", 1)[-1])
            answer = Response(status_code=303, headers={"location": f"./{here}{'?' + rest if rest else ''}"})
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
            return answer
        if not _same(request.cookies.get(self.cookie, ""), self.token):
            return PlainTextResponse("This page needs its token: open the address that `gandid app` printed.", 401)
        if not ALLOWED.fullmatch(request.scope["path"]):
            return PlainTextResponse("There is no such page.", 404)
        return None


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


class Asked(BaseModel):
    """What an event of the page is sent, as far as it is let through: texts and numbers, and no objects.

    Wherever an object has a `path`, Gradio takes it for a file: it opens it, or fetches it if it is an address, and keeps a copy.
    The number of the visitor's session is left out: Gradio keeps a copy of the page for each, and this page needs none.
    """

    data: list[str | int | float | None]
    fn_index: int
    event_data: dict[str, str | bool | int | float | None] | None = None
    trigger_id: int | None = None


class Door:
    """Lets through to the events of the page what they can take; `inputs` says of each how many values that is."""

    def __init__(self, app: Any, inputs: Mapping[int, int]):
        self.app, self.inputs = app, inputs

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != EVENT:
            await self.app(scope, receive, send)
            return
        body = bytearray()
        async for chunk in Request(scope, receive).stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                await PlainTextResponse("The request is too large.", 413)(scope, receive, send)
                return
        try:
            asked = Asked.model_validate_json(bytes(body))
            if len(asked.data) != self.inputs.get(asked.fn_index):
                raise ValueError("no event of the page takes so many values")
        except ValueError:
            await PlainTextResponse("The page does not ask this.", 422)(scope, receive, send)
            return
        content = asked.model_dump_json().encode()
        scope["headers"] = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        whole = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive_again() -> Any:
            return whole.pop() if whole else await receive()

        await self.app(scope, receive_again, send)


class Uploads:
    """Takes uploaded checkpoints, one at a time; `take` is given a file and its name, and says what it is called by the page.

    What was uploaded is deleted as soon as it was taken or refused.
    """

    def __init__(self, folder: Path, take: Callable[[Path, str], str]):
        self.folder, self.take = folder, take
        self._busy = False

    async def receive(self, request: Request) -> Response:
        """Answer with the name, or with why there is none."""
        if self._busy:
            return PlainTextResponse("Another checkpoint is being read: wait a moment.", 409)
        self._busy = True
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{secrets.token_hex(8)}.part"
        try:
            size = 0
            with part.open("wb") as out:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > UPLOAD_LIMIT:
                        return PlainTextResponse(f"It is larger than {UPLOAD_LIMIT // 2**20} MB.", 413)
                    out.write(chunk)
            name = Path(request.query_params.get("name", "")).name
            return PlainTextResponse(await run_in_threadpool(self.take, part, name))
        except GandidError as error:
            return PlainTextResponse(str(error), 422)
        except ClientDisconnect:
            return Response(status_code=400)
        finally:
            self._busy = False
            part.unlink(missing_ok=True)


def serve_runs(app: FastAPI, runs: Path) -> None:
    """Serve the files of the folder of runs, and nothing beside it: no hidden file, no link that leads out."""
    root = runs.resolve()

    @app.get("/runs/{path:path}")
    def file(path: str) -> Response:
        asked = root / path
        try:
            real = asked.resolve()
            inside = real.is_relative_to(root) and real.is_file()
        except (OSError, ValueError):
            inside = False
        if not inside or any(part.startswith(".") for part in Path(path).parts):
            return PlainTextResponse("There is no such file among the runs.", 404)
        return FileResponse(real)


def make_app(
    blocks: Any,
    look: dict[str, Any],
    *,
    token: str,
    runs: Path,
    take: Callable[[Path, str], str],
    live: Any,
    cookie: str,
) -> FastAPI:
    """The whole application: the guards, the files of runs, uploads (`take`), the stream of each tab (`live`), and the page."""
    own = [
        Route("/upload", Uploads(runs / ".cache" / "uploads", take).receive, methods=["POST"]),
        WebSocketRoute("/live", live),
    ]
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, routes=own)
    app.add_middleware(Door, inputs={number: len(event.inputs) for number, event in blocks.fns.items()})
    app.add_middleware(Guard, token=token, cookie=cookie)  # the outermost: nobody else's body is read
    serve_runs(app, runs)
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        allowed_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        **look,
    )


def listen(host: str, port: int | None) -> socket.socket:
    """A socket on the port, or on the first free one from 7860 on where none was asked for.

    Raises
    ------
    UsageError
        If the port is taken, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for attempt in range(1 if port is not None else 40):
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port if port is not None else 7860 + attempt))
            found.listen()  # or a page that is started at the same time has the same port
            return found
        except OSError as error:
            found.close()
            problem = error.strerror
    where = f"{host}:{port}" if port is not None else f"{host}, ports 7860 to 7899"
    raise UsageError(f"cannot listen on {where} ({problem}): choose another --port or --host")


def serve(app: FastAPI, sock: socket.socket, *, token: str, browser: bool, announce: Callable[[str], None]) -> None:
    """Serve until interrupted; `announce` is given the address to open, once it answers."""
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host
    address = f"http://{shown}:{port}/?token={token}"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(address)
            if browser:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    config = uvicorn.Config(
        app, log_level="error", access_log=False, timeout_graceful_shutdown=1, ws="websockets-sansio", ws_max_size=2**14
    )
    logging.getLogger("uvicorn.error").addFilter(_matters)
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
        Server(config).run(sockets=[sock])


def _matters(record: logging.LogRecord) -> bool:
    """Whether a message of the server is more than that it cut off, when it ended, the streams of open tabs."""
    cut_off = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut_off and "graceful shutdown" not in record.getMessage()


def choose_token(kept: Path, token: str | None) -> str:
    """The token that the page demands: the one asked for, or one of chance.

    That is kept in a file that none but its owner can read: a page that is open goes on after the next start.

    Raises
    ------
    UsageError
        If the token is too short to keep anybody out.
    """
    if token is None:
        with contextlib.suppress(OSError):
            token = kept.read_text(encoding="ascii")
        if token is None or len(token) < 12:
            token = secrets.token_urlsafe(24)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.unlink(missing_ok=True)
            with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(token)
    if not re.fullmatch(r"[\w.~-]{12,}", token, re.ASCII):
        raise UsageError("--token: choose 12 or more letters, digits, - and _, or leave it out and one is made")
    return token
