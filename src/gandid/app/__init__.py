"""The interactive page: find an effect by hand, then turn it into a study. Needs gradio (`pip install 'gandid[app]'`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from gandid.errors import GandidError


def serve(
    *,
    generator: str = "rooms",
    segmenter: str = "rooms",
    layer: str | None = None,
    runs: Path = Path("runs"),
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    browser: bool = True,
    device: str = "cpu",
    announce: Callable[[str], None] = print,
) -> None:
    """Serve the page until interrupted.

    Parameters
    ----------
    generator, segmenter, layer
        As in `gandid.Study`.
    runs : Path
        Folder of runs: studies are written there, and nothing else is served.
    host : str
        Address to listen on.
    port : int, optional
        The first free one from 7860 on by default.
    token : str, optional
        What a visitor must know; made by chance, and kept in `runs`, by default.
    browser : bool
        Whether to open the page.
    device : str
        Device of the networks.
    announce : callable
        Given the address, with its token, once the page answers.

    Raises
    ------
    GandidError
        If gradio is not installed.
    UsageError
        If a network, the layer, the port or the token will not do.
    """
    try:
        # Whenever it is imported, Gradio writes type stubs of its components into its own folder, which takes half of the time and may
        # not be allowed; of a component without a source file it writes none.
        with patch("inspect.getfile", side_effect=OSError):
            import gradio as _  # noqa: F401
        from gandid.app import server
    except ImportError as error:
        raise GandidError("the page needs gradio: pip install 'gandid[app]'") from error
    from gandid.app.live import Live
    from gandid.app.models import Model
    from gandid.app.page import Page, build
    from gandid.generators import load_generator
    from gandid.generators.named import own_segmenter
    from gandid.segmenters import load_segmenter

    token = server.choose_token(runs / ".cache" / "token", token)
    sock = server.listen(host, port)
    network = load_generator(generator, device)
    model = Model(network, load_segmenter(segmenter or own_segmenter(generator), device), runs / ".cache", layer)
    page = Page(model, runs, device)
    try:
        cookie = f"gandid-{sock.getsockname()[1]}"
        app = server.make_app(*build(page), token=token, runs=runs, take=page.take, live=Live(page).tab, cookie=cookie)
        server.serve(app, sock, token=token, browser=browser, announce=announce)
    finally:
        page.close()
