"""The server of the page: who may ask, and what is served."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Container
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# Before gradio is imported anywhere: it would ask its makers for the newest version, and count this start.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request

from gandid.errors import UsageError

COOKIE = "gandid-token"
UPLOAD_LIMIT = 400 * 2**20  # bytes; the largest public PG-GAN checkpoint has 277 MB
BODY_LIMIT = 2**20  # bytes of any other request; the page's own have some thousands
UPLOAD = "/gradio_api/upload"
# By these Gradio serves its copies of files, and what it fetches from elsewhere. The page shows nothing that needs them.
NOT_SERVED = ("/gradio_api/file=", "/gradio_api/file/", "/gradio_api/proxy=")
# Whatever a page may hold, the browser fetches nothing from elsewhere. Gradio's own scripts need eval and inline ones.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets in who names this machine (no token), or who has the token; and forbids pages to fetch from elsewhere.

    The token is taken from the address once and kept in a cookie, so that it does not stay in addresses, logs and histories.
    Without a token, requests must name a loopback address: a web page elsewhere whose name was made to point here does not.
    """

    def __init__(self, app: Any, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refused = self._refused(HTTPConnection(scope))
        if refused is not None and scope["type"] == "http":
            await refused(scope, receive, send)
        elif refused is not None:  # a web socket
            await send({"type": "websocket.close", "code": 1008})
        else:

            async def send_guarded(message: Any) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message).update(HEADERS)
                await send(message)

            await self.app(scope, receive, send_guarded)

    def _refused(self, request: HTTPConnection) -> Response | None:
        """The answer to a request that is not let in."""
        if self.token is None:
            name = request.headers.get("host", "").rsplit(":", 1)[0].strip("[]")
            if is_loopback(name):
                return None
            return PlainTextResponse("This page answers to 127.0.0.1 and localhost only.", 403)
        given = request.query_params.get("token")
        if given is not None and _same(given, self.token):
            rest = "&".join(part for part in request.url.query.split("&") if not part.startswith("token="))
            answer = RedirectResponse(f"{request.url.path}{'?' + rest if rest else ''}", 303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", path="/")
            return answer
        if _same(request.cookies.get(COOKIE, ""), self.token):
            return None
        return PlainTextResponse("This page needs its token: open the address that `gandid app` printed.", 401)


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


class Bodies:
    """Lets no request name a file but those that were uploaded, and lets nobody fetch what Gradio keeps.

    Wherever in a body an object has a `path`, Gradio takes it for a file: it opens it, or fetches it if it is an address, and
    keeps a copy. Its own check (see `make_app`) admits addresses and whatever lies in the folder of uploads. `uploaded` holds the
    names that the upload has answered.
    """

    def __init__(self, app: Any, uploaded: Container[str]):
        self.app, self.uploaded = app, uploaded

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] == UPLOAD:
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith(NOT_SERVED):
            await PlainTextResponse("Uploaded files are not served.", 403)(scope, receive, send)
            return
        body = bytearray()
        async for chunk in Request(scope, receive).stream():
            body += chunk
            if len(body) > BODY_LIMIT:
                await PlainTextResponse("The request is too large.", 413)(scope, receive, send)
                return
        refused = self._refused(bytes(body))
        if refused is not None:
            await refused(scope, receive, send)
            return
        whole = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receive_again() -> Any:
            return whole.pop() if whole else await receive()

        await self.app(scope, receive_again, send)

    def _refused(self, body: bytes) -> Response | None:
        """The answer to a body that is not let through."""
        paths: list[Any] = []

        def note(
            pairs: list[tuple[str, Any]],
        ) -> None:  # called for each object; a name that is given twice comes twice
            paths.extend(value for key, value in pairs if key == "path")

        try:
            if body:
                json.loads(body, object_pairs_hook=note)
        except (ValueError, RecursionError):  # a form: Gradio has more routes that take files than the upload
            return PlainTextResponse("The body is no JSON.", 400)
        if all(isinstance(name, str) and name in self.uploaded for name in paths):
            return None
        return PlainTextResponse("A file must be uploaded first.", 403)


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


def make_app(blocks: Any, look: dict[str, Any], *, token: str | None, runs: Path, close: Callable[[], None]) -> FastAPI:
    """The whole application: the guards, the files of runs, and the page at `/`."""
    import gradio as gr

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield
        close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Bodies, uploaded=blocks.upload_file_set)
    app.add_middleware(Guard, token=token)  # the outermost: nobody else's body is read
    serve_runs(app, runs)
    app = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=True,
        allowed_paths=[],
        max_file_size=UPLOAD_LIMIT,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        **look,
    )
    # Gradio checks no path of a file before its page was launched, and a mounted page never counts as launched.
    blocks.has_launched = True
    return app


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
            return found
        except OSError as error:
            found.close()
            problem = error.strerror
    where = f"{host}:{port}" if port is not None else f"{host}, ports 7860 to 7899"
    raise UsageError(f"cannot listen on {where} ({problem}): choose another --port or --host")


def serve(
    app: FastAPI, sock: socket.socket, *, token: str | None, browser: bool, announce: Callable[[str], None]
) -> None:
    """Serve until interrupted; `announce` is given the address to open, once it answers."""
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host
    address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(address)
            if browser:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    logging.getLogger("uvicorn.error").addFilter(_matters)
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
        Server(config).run(sockets=[sock])


def _matters(record: logging.LogRecord) -> bool:
    """Whether a message of the server is more than that it cut off, when it ended, the streams that open pages keep."""
    cut_off = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut_off and "graceful shutdown" not in record.getMessage()


def choose_token(host: str, token: str | None) -> str | None:
    """The token that the page demands: the one asked for; one of chance where others can reach it; None on this machine alone.

    Raises
    ------
    UsageError
        If the token is too short to keep anybody out.
    """
    if token is not None and len(token) < 12:
        raise UsageError("--token: choose one of 12 characters at least, or leave it out and one is made")
    return token if token is not None or is_loopback(host) else secrets.token_urlsafe(24)
