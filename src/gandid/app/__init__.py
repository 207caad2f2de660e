"""The interactive page: find an effect by hand, then turn it into a study. Needs gradio (`pip install 'gandid[app]'`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

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
        Address to listen on. Anything but this machine's own demands a token.
    port : int, optional
        The first free one from 7860 on by default.
    token : str, optional
        What a visitor must know; made by chance where `host` needs one.
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
    # Gradio keeps what is uploaded, and would keep it among the system's temporary files.
    os.environ["GRADIO_TEMP_DIR"] = str((runs / ".cache" / "uploads").resolve())
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise GandidError("the page needs gradio: pip install 'gandid[app]'") from error
    from gandid.app import server
    from gandid.app.models import Model
    from gandid.app.page import Page, build
    from gandid.generators import load_generator
    from gandid.generators.named import own_segmenter
    from gandid.segmenters import load_segmenter

    token = server.choose_token(host, token)
    sock = server.listen(host, port)
    network = load_generator(generator, device)
    model = Model(network, load_segmenter(segmenter or own_segmenter(generator), device), runs / ".cache", layer)
    page = Page(model, runs, device)
    app = server.make_app(*build(page), token=token, runs=runs, close=page.close)
    server.serve(app, sock, token=token, browser=browser, announce=announce)
