"""Downloads from a real server that serves, stalls, cuts, lies and refuses, onto disks that are full or read-only."""

import hashlib
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

import gandid
from gandid.errors import GandidError
from gandid.generators import NAMED, NamedModel, download
from gandid.generators.download import fetch

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dissect_32px.pth"
CONTENT = Random(0).randbytes(1_300_000)


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; the other attributes make it behave badly."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.status, self.requests = CONTENT, 200, 0
        self.headers: dict[str, str] = {}  # more of them, or others
        self.cut: int | None = None  # bytes of the body after which the connection ends
        self.pause = 0.0  # seconds before the body

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/model.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self):
        server = self.server
        server.requests += 1
        self.send_response(server.status)
        for name, value in {"Content-Length": str(len(server.content)), **server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        time.sleep(server.pause)
        self.wfile.write(server.content[: server.cut])


@contextmanager
def serving():
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GANDID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


def named(url: str, content: bytes = CONTENT) -> NamedModel:
    return NamedModel(
        name="test/model",
        resolution=32,
        megabytes=len(content) / 1e6,
        source="the test",
        licence="none",
        default_layer="layer4",
        why="it is there",
        url=url,
        sha256=hashlib.sha256(content).hexdigest()[:8],
    )


def refused(model: NamedModel) -> str:
    """The one line that says why there is no file; and nothing is left but the lock."""
    with pytest.raises(GandidError) as caught:
        fetch(model)
    assert {path.name for path in download.cache_folder().iterdir()} <= {"model.pth.lock"}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def nobody() -> str:
    """The URL of a port at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/model.pth"


def test_a_file_is_downloaded_once(server, cache, capsys):
    assert fetch(named(server.url)) == cache / "model.pth"
    assert (cache / "model.pth").read_bytes() == CONTENT
    assert {path.name for path in cache.iterdir()} == {"model.pth", "model.pth.lock"}
    fetch(named(server.url))
    assert server.requests == 1
    assert capsys.readouterr() == ("", "")  # a bar is drawn on a terminal alone


def test_what_a_killed_process_left_is_removed(server, cache):
    cache.mkdir()
    (cache / ".123-model.pth").write_bytes(CONTENT[:1000])
    fetch(named(server.url))
    assert not (cache / ".123-model.pth").exists()


def test_without_gandid_cache_the_platforms_folder_is_used(monkeypatch, tmp_path):
    monkeypatch.delenv("GANDID_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform.startswith("linux"):
        assert download.cache_folder() == tmp_path / "gandid"
    monkeypatch.setenv("GANDID_CACHE", "~/models")
    assert download.cache_folder() == Path.home() / "models"


def test_a_named_model_is_downloaded_and_loaded(server, monkeypatch):
    server.content = FIXTURE.read_bytes()
    monkeypatch.setitem(NAMED, "test/model", named(server.url, server.content))
    generator = gandid.load_generator("test/model")
    z = torch.randn(2, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    assert generator.name == "test/model" and generator.resolution == 32
    assert torch.equal(generator(z), gandid.load_generator(FIXTURE)(z))


@pytest.mark.slow
def test_the_papers_setting_runs_as_written(server, tmp_path, monkeypatch):
    """With small networks of random weights in place of the authors' files, and so few of the 20 units."""
    from gandid.cli import app

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    server.content = FIXTURE.read_bytes()
    monkeypatch.setitem(NAMED, "dissect/livingroom", named(server.url, server.content))
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 8, 8],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        id2label=dict(enumerate(["wall", "floor", "chair", "painting, picture", "lamp", "light"])),
    )
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "segmenter")
    preparation = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "segmenter" / "preprocessor_config.json").write_text(json.dumps(preparation))

    example = Path(__file__).parents[2] / "examples" / "liu2020.yaml"
    small = ["--segmenter", str(tmp_path / "segmenter"), "--units", "4", "--latents", "8", "--ranking-latents", "2"]
    done = CliRunner().invoke(app, ["run", "--config", str(example), "--out", str(tmp_path / "run"), *small])
    assert done.exit_code == 0, done.output
    effects = pd.read_csv(tmp_path / "run" / "effects.csv", keep_default_na=False)
    assert set(effects.target) == {"chair", "painting", "lamp", "light"}
    assert (tmp_path / "run" / "report.html").is_file()


class TestRefused:
    @pytest.mark.parametrize("status", [404, 503])
    def test_an_error_of_the_server(self, server, cache, status):
        server.status = status
        line = refused(named(server.url))
        assert str(status) in line and server.url in line and str(cache / "model.pth") in line

    def test_a_connection_that_breaks(self, server, cache):
        server.cut = 500_000
        assert str(cache / "model.pth") in refused(named(server.url))
        server.cut = None
        assert fetch(named(server.url)).read_bytes() == CONTENT

    def test_a_cut_that_the_server_does_not_confess(self, server):
        server.cut, server.headers = 500_000, {"Content-Length": "500000"}
        assert f"should begin with {hashlib.sha256(CONTENT).hexdigest()[:8]}" in refused(named(server.url))

    def test_another_file(self, server):
        server.content = CONTENT[::-1]
        assert hashlib.sha256(CONTENT[::-1]).hexdigest() in refused(named(server.url))

    def test_a_server_that_falls_silent_is_given_up(self, server, monkeypatch):
        monkeypatch.setattr(download, "TIMEOUT", 0.2)
        server.pause = 1
        assert "timed out" in refused(named(server.url))

    def test_redirects_to_nowhere(self, server):
        server.status, server.headers = 302, {"Location": server.url, "Content-Length": "0"}
        assert "redirects" in refused(named(server.url))

    def test_offline_it_is_said_what_to_put_where_and_that_is_used(self, cache):
        model = named(nobody())
        line = refused(model)
        for part in ("refused", model.url, str(cache / "model.pth"), model.sha256):
            assert part in line
        (cache / "model.pth").write_bytes(CONTENT)
        assert fetch(model) == cache / "model.pth"

    def test_a_wrong_file_put_there_by_hand_is_told_and_left_alone(self, server, cache):
        cache.mkdir()
        (cache / "model.pth").write_bytes(b"another")
        with pytest.raises(GandidError, match="should begin with"):
            fetch(named(server.url))
        assert (cache / "model.pth").read_bytes() == b"another" and not server.requests

    def test_the_command_line_says_it_in_one_line(self, tmp_path):
        """A named model where the only way out, a proxy, is closed."""
        environment = {**os.environ, "HTTPS_PROXY": nobody(), "https_proxy": nobody()}
        code = "from gandid.cli import main; main()"
        arguments = ["run", "--generator", "dissect/livingroom", "--out", str(tmp_path / "run")]
        done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        for part in (NAMED["dissect/livingroom"].url, str(tmp_path / "cache" / "proggan_"), "begin with 5ef336dd"):
            assert part in done.stderr
        assert not (tmp_path / "run").exists()


MOUNTS = """
mount -t tmpfs -o size=1m none full
mount -t tmpfs -o ro none readonly
mount --bind filled filled
mount -o remount,bind,ro filled
"""

ON_EACH = """
import json, os
from gandid.errors import GandidError
from gandid.generators import NamedModel
from gandid.generators.download import fetch
for folder in ("full", "readonly", "filled"):
    os.environ["GANDID_CACHE"] = folder
    try:
        line = fetch(eval(os.environ["MODEL"]))
    except GandidError as error:
        line = error
    print(json.dumps([folder, str(line), os.listdir(folder)]))
"""


def test_disks_that_are_full_or_read_only(tmp_path):
    """The kernel refuses the writes: each cache folder is mounted for one process alone."""
    for name in ("full", "readonly", "filled"):
        (tmp_path / name).mkdir()
    (tmp_path / "filled" / "model.pth").write_bytes(CONTENT)
    private = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-ec"]
    try:
        subprocess.run([*private, MOUNTS], cwd=tmp_path, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting in a private namespace is not permitted here: {error}")
    with serving() as server:
        done = subprocess.run(
            [*private, MOUNTS + 'exec "$0" -c "$1"', sys.executable, ON_EACH],
            cwd=tmp_path,
            env={**os.environ, "MODEL": repr(named(server.url)), "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    found = {name: (line, after) for name, line, after in map(json.loads, done.stdout.splitlines())}
    line, after = found["full"]
    assert "No space left on device" in line and "make room" in line and after == ["model.pth.lock"]
    line, after = found["readonly"]
    assert "cannot use the cache folder" in line and "Read-only file system" in line and after == []
    line, after = found["filled"]
    assert line.endswith("filled/model.pth") and after == ["model.pth"]


def test_a_cache_that_is_no_folder(server, cache):
    cache.write_text("a letter")
    with pytest.raises(GandidError, match=r"cannot use the cache folder .* set GANDID_CACHE"):
        fetch(named(server.url))
    assert cache.read_text() == "a letter" and not server.requests


APART = multiprocessing.get_context("forkserver")  # imports the package once for all
APART.set_forkserver_preload(["gandid.generators.download"])


def fetch_apart(url: str, cache: Path, limit: int | None, said) -> None:
    os.environ.update(GANDID_CACHE=str(cache), NO_PROXY="127.0.0.1")
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        said.send(str(fetch(named(url))))
    except GandidError as error:
        said.send(str(error))


def start(url: str, cache: Path, limit: int | None = None):
    """A process of its own that fetches the model, and the pipe in which it says where that is, or why not."""
    here, there = APART.Pipe()
    APART.Process(target=fetch_apart, args=(url, cache, limit, there), daemon=True).start()
    return here


@pytest.mark.slow
def test_two_processes_download_one_file_once(server, cache):
    server.pause = 0.5
    both = [start(server.url, cache), start(server.url, cache)]
    assert [said.recv() for said in both] == [str(cache / "model.pth")] * 2
    assert (cache / "model.pth").read_bytes() == CONTENT
    assert server.requests == 1


def test_a_limit_on_a_files_size(server, cache):
    line = start(server.url, cache, limit=300_000).recv()
    assert "File too large" in line and "make room" in line
