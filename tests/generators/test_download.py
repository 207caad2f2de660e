"""Downloads from a real server that serves, stalls, cuts, lies and refuses, onto real disks that are full or read-only."""

import hashlib
import json
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import gandid
from gandid.cli import app
from gandid.errors import GandidError
from gandid.generators import NAMED, NamedModel, download
from gandid.generators.download import fetch

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dissect_32px.pth"
CHUNK = 1 << 16
CONTENT = Random(0).randbytes(20 * CHUNK + 12345)


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; the other attributes make it behave badly."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag = CONTENT, '"one"'
        self.headers: dict[str, str] = {}  # more of them, or others
        self.status = 200
        self.ranges = True
        self.skip = 0  # bytes by which a range begins later than asked for
        self.cut: int | None = None  # bytes of a body after which the connection ends
        self.pause = 0.0  # seconds before each chunk
        self.stall = threading.Event()  # set: bodies stop after one chunk
        self.seen: list[dict[str, str]] = []  # headers of requests
        self.sent_for: Counter[str] = Counter()  # bytes of bodies, by path

    @property
    def sent(self) -> int:
        return self.sent_for.total()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/model.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self):
        server = self.server
        server.seen.append({name.lower(): value for name, value in self.headers.items()})
        if self.path.startswith("/to/"):  # redirects to what follows
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, status, extra = server.content, server.status, {}
        asked = self.headers.get("Range")
        if asked and server.ranges and self.headers.get("If-Range", server.tag) == server.tag:
            first = int(asked.removeprefix("bytes=").removesuffix("-")) + server.skip
            status = 206 if first < len(body) else 416
            span = f"{first}-{len(body) - 1}" if status == 206 else "*"
            extra = {"Content-Range": f"bytes {span}/{len(body)}"}
            body = body[first:]
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "ETag": server.tag, **extra, **server.headers}
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        end = len(body) if server.cut is None else server.cut
        for start in range(0, min(end, len(body)), CHUNK):
            time.sleep(server.pause)
            try:
                self.wfile.write(body[start : min(start + CHUNK, end)])
            except OSError:
                return  # the client went away
            server.sent_for[self.path] += len(body[start : min(start + CHUNK, end)])
            if server.stall.is_set():
                time.sleep(1)
                return


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
    """The one line that says why there is no file; and there is none."""
    with pytest.raises(GandidError) as caught:
        fetch(model)
    assert not download.cached_file(model).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left(folder: Path) -> set[str]:
    """What a download left behind, but for the lock."""
    return {path.name for path in folder.iterdir()} - {"model.pth.lock"}


def test_a_file_is_downloaded_once(server, cache):
    model = named(server.url)
    assert fetch(model) == cache / "model.pth"
    assert (cache / "model.pth").read_bytes() == CONTENT
    assert left(cache) == {"model.pth"}
    fetch(model)
    assert len(server.seen) == 1 and server.sent == len(CONTENT)


def test_progress_is_shown_on_a_terminal_and_nowhere_else(server, capsys, monkeypatch):
    fetch(named(server.url))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if it were one
    server.pause = 0.02
    fetch(named(server.url.replace("model", "model2")))
    shown = capsys.readouterr()
    assert shown.out == "" and "downloading test/model" in shown.err and "/1.3 MB" in shown.err


def test_without_gandid_cache_the_platforms_folder_is_used(monkeypatch, tmp_path):
    monkeypatch.delenv("GANDID_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform.startswith("linux"):
        assert download.cache_folder() == tmp_path / "gandid"
    monkeypatch.setenv("GANDID_CACHE", "~/models")
    assert download.cache_folder() == Path.home() / "models"


def test_a_named_model_is_downloaded_and_loaded(server, cache, monkeypatch):
    server.content = FIXTURE.read_bytes()
    monkeypatch.setitem(NAMED, "test/model", named(server.url, server.content))
    generator = gandid.load_generator("test/model")
    z = torch.randn(2, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    assert generator.name == "test/model" and generator.resolution == 32
    assert torch.equal(generator(z), gandid.load_generator(FIXTURE)(z))
    gandid.load_generator("test/model")
    assert len(server.seen) == 1


@pytest.mark.slow
def test_the_papers_setting_runs_as_written(server, tmp_path, monkeypatch):
    """With small networks of random weights in place of the authors' files, and so few of the 20 units."""
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
    effects = pd.read_csv(tmp_path / "run" / "effects.csv")
    assert set(effects.target) == {"chair", "painting", "lamp", "light"}
    assert (tmp_path / "run" / "report.html").is_file()
    assert server.sent == len(server.content)


class TestInterrupted:
    def test_what_was_got_stays_and_the_next_call_goes_on(self, server, cache):
        server.cut = 5 * CHUNK
        assert f"broke after {5 * CHUNK} of {len(CONTENT)} bytes" in refused(named(server.url))
        assert (cache / "model.pth.part").read_bytes() == CONTENT[: 5 * CHUNK]
        server.cut = None
        assert fetch(named(server.url)).read_bytes() == CONTENT
        assert server.seen[-1]["range"] == f"bytes={5 * CHUNK}-" and server.seen[-1]["if-range"] == '"one"'
        assert server.sent == len(CONTENT)  # nothing was sent twice
        assert left(cache) == {"model.pth"}

    @settings(max_examples=20)
    @given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=4), ranges=st.booleans(), tag=st.booleans())
    def test_however_often_it_is_cut_the_file_is_the_same(self, cuts, ranges, tag):
        with serving() as server, tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setenv("GANDID_CACHE", folder)
            server.ranges, server.headers = ranges, {} if tag else {"ETag": ""}
            file, part = Path(folder, "model.pth"), Path(folder, "model.pth.part")
            for server.cut in cuts:
                with suppress(GandidError):
                    fetch(named(server.url))
                assert file.exists() != part.exists()
                assert file.read_bytes() == CONTENT if file.exists() else CONTENT.startswith(part.read_bytes())
            server.cut = None
            assert fetch(named(server.url)).read_bytes() == CONTENT
            assert left(Path(folder)) == {"model.pth"}

    def test_a_cut_that_the_server_does_not_confess_is_found_out(self, server, cache):
        server.cut, server.headers = 5 * CHUNK, {"Content-Length": ""}
        assert "should begin with" in refused(named(server.url))
        assert left(cache) == set()

    def test_a_server_that_ignores_ranges_sends_everything_again(self, server, cache):
        server.cut = 5 * CHUNK
        refused(named(server.url))
        server.cut, server.ranges = None, False
        assert fetch(named(server.url)).read_bytes() == CONTENT
        assert server.sent == 5 * CHUNK + len(CONTENT)

    def test_a_file_that_changed_meanwhile_is_taken_whole(self, server, cache):
        server.cut = 5 * CHUNK
        refused(named(server.url))
        server.cut, server.tag, server.content = None, '"two"', CONTENT[::-1]
        assert fetch(named(server.url, CONTENT[::-1])).read_bytes() == CONTENT[::-1]
        assert server.seen[-1]["if-range"] == '"one"'

    def test_a_weak_tag_is_not_asked_for_but_the_date_is(self, server, cache):
        date = "Mon, 02 Nov 2020 10:00:00 GMT"
        server.cut, server.tag, server.headers = CHUNK, 'W/"weak"', {"Last-Modified": date}
        refused(named(server.url))
        refused(named(server.url))
        assert server.seen[-1]["if-range"] == date

    def test_a_part_longer_than_the_file_is_dropped(self, server, cache):
        cache.mkdir()
        (cache / "model.pth.part").write_bytes(CONTENT + b"more")
        assert fetch(named(server.url)).read_bytes() == CONTENT
        assert ["range" in headers for headers in server.seen] == [True, False]  # 416, then the whole file

    def test_a_range_that_begins_elsewhere_is_not_appended(self, server, cache):
        server.cut = 5 * CHUNK
        refused(named(server.url))
        server.cut, server.skip = None, 7
        assert fetch(named(server.url)).read_bytes() == CONTENT

    def test_a_part_that_is_already_whole_needs_no_server(self, cache):
        cache.mkdir()
        (cache / "model.pth.part").write_bytes(CONTENT)
        assert fetch(named(nobody())).read_bytes() == CONTENT
        assert left(cache) == {"model.pth"}

    def test_a_spoilt_part_is_found_out_and_removed(self, server, cache):
        cache.mkdir()
        (cache / "model.pth.part").write_bytes(b"\0" * CHUNK)
        assert "should begin with" in refused(named(server.url))
        assert left(cache) == set()
        assert fetch(named(server.url)).read_bytes() == CONTENT

    def test_a_killed_process_leaves_no_file_and_the_next_goes_on(self, server, cache):
        server.pause = 0.05
        process, _ = start(server.url, cache)
        until(lambda: server.sent > 4 * CHUNK)
        process.kill()
        process.join()
        assert left(cache) == {"model.pth.part", "model.pth.part.version"}
        server.pause = 0
        assert fetch(named(server.url)).read_bytes() == CONTENT
        assert int(server.seen[-1]["range"].removeprefix("bytes=")[:-1]) > 0

    def test_a_server_that_falls_silent_is_given_up(self, server, cache, monkeypatch):
        monkeypatch.setattr(download, "TIMEOUT", (1, 0.2))
        server.stall.set()
        assert "timed out" in refused(named(server.url))
        server.stall.clear()
        assert fetch(named(server.url)).read_bytes() == CONTENT
        assert server.seen[-1]["range"] == f"bytes={CHUNK}-"


class TestRefused:
    @pytest.mark.parametrize(("status", "phrase"), [(404, "404 Not Found"), (503, "503 Service Unavailable")])
    def test_an_error_of_the_server(self, server, cache, status, phrase):
        server.status = status
        told = refused(named(server.url))
        assert f"{server.url} answered {phrase}" in told and str(cache / "model.pth") in told
        assert left(cache) == set()

    def test_an_error_does_not_cost_what_was_got(self, server, cache):
        server.cut = 5 * CHUNK
        refused(named(server.url))
        server.status, server.ranges = 500, False
        assert "answered 500" in refused(named(server.url))
        assert (cache / "model.pth.part").stat().st_size == 5 * CHUNK

    def test_another_file(self, server, cache):
        server.content = CONTENT[::-1]
        told = refused(named(server.url))
        assert hashlib.sha256(CONTENT[::-1]).hexdigest() in told
        assert f"should begin with {hashlib.sha256(CONTENT).hexdigest()[:8]}" in told
        assert left(cache) == set()

    def test_a_page_to_log_in_to(self, server, cache):
        server.headers = {"Content-Type": "text/html; charset=utf-8"}
        told = refused(named(server.url.replace("/model.pth", f"/to/{server.url}")))
        assert f"{server.url} is a web page and not the file" in told
        assert left(cache) == set()

    def test_redirects_to_nowhere(self, server, cache):
        assert "cannot reach 127.0.0.1" in refused(named(server.url.replace("/model.pth", "/to/ftp://127.0.0.1/a.pth")))
        assert "redirects" in refused(named(server.url.replace("/model.pth", "/to/model.pth")))

    def test_a_redirect_to_the_file_is_followed_and_continued(self, server, cache):
        model = named(server.url.replace("/model.pth", f"/to/{server.url}"))
        server.cut = 5 * CHUNK
        refused(model)
        server.cut = None
        assert fetch(model).read_bytes() == CONTENT
        assert server.sent == len(CONTENT)

    def test_offline_it_is_said_what_to_put_where_and_that_is_used(self, cache):
        model = named(nobody())
        told = refused(model)
        for part in ("cannot reach 127.0.0.1", "refused", model.url, str(cache / "model.pth"), model.sha256):
            assert part in told
        (cache / "model.pth").write_bytes(CONTENT)
        assert fetch(model) == cache / "model.pth"

    def test_a_wrong_file_put_there_by_hand_is_told_and_left_alone(self, server, cache):
        cache.mkdir()
        (cache / "model.pth").write_bytes(b"another")
        with pytest.raises(GandidError, match="should begin with"):
            fetch(named(server.url))
        assert (cache / "model.pth").read_bytes() == b"another" and not server.seen

    def test_the_command_line_says_it_in_one_line(self, tmp_path):
        """A named model where the only way out, a proxy, is closed."""
        environment = {**os.environ, "HTTPS_PROXY": nobody(), "https_proxy": nobody()}
        code = "from gandid.cli import main; main()"
        arguments = ["run", "--generator", "dissect/livingroom", "--out", str(tmp_path / "run")]
        done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("gandid: cannot reach dissect.csail.mit.edu")
        for part in (NAMED["dissect/livingroom"].url, str(tmp_path / "cache" / "proggan_"), "begin with 5ef336dd"):
            assert part in done.stderr
        assert not (tmp_path / "run").exists()


class TestDisks:
    """The kernel refuses the writes: a full file system, a read-only one, a limit on a file's size."""

    def test_a_full_disk(self, mounted):
        told, after, sent = mounted["full"]
        assert "No space left on device" in told and "make room" in told and "GANDID_CACHE" in told
        assert sent > CHUNK  # it did begin
        assert after == ["model.pth.lock"]

    def test_a_read_only_disk(self, mounted):
        told, after, sent = mounted["readonly"]
        assert "cannot use the cache folder" in told and "Read-only file system" in told
        assert (after, sent) == ([], 0)

    def test_a_file_on_a_read_only_disk_is_used(self, mounted):
        told, after, sent = mounted["filled"]
        assert told.endswith("filled/model.pth")
        assert (after, sent) == (["model.pth"], 0)

    def test_a_limit_on_a_files_size(self, server, cache):
        _, said = start(server.url, cache, limit=300_000)
        told = said.recv()
        assert "File too large" in told and "make room" in told
        assert left(cache) == set()

    def test_a_cache_that_is_no_folder(self, server, cache):
        cache.write_text("a letter")
        with pytest.raises(GandidError, match=r"cannot use the cache folder .* set GANDID_CACHE"):
            fetch(named(server.url))
        assert cache.read_text() == "a letter" and not server.seen


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
        told = fetch(eval(os.environ["MODEL"].replace("DISK", folder)))
    except GandidError as error:
        told = error
    print(json.dumps([folder, str(told), os.listdir(folder)]))
"""


@pytest.fixture(scope="module")
def mounted(tmp_path_factory) -> dict[str, tuple[str, list[str], int]]:
    """Of each cache folder, mounted for one process alone: what it was told, what is left, what the server sent."""
    folder = tmp_path_factory.mktemp("disks")
    for name in ("full", "readonly", "filled"):
        (folder / name).mkdir()
    (folder / "filled" / "model.pth").write_bytes(CONTENT)
    private = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-ec"]
    try:
        subprocess.run([*private, MOUNTS], cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting in a private namespace is not permitted here: {error}")
    with serving() as server:
        model = repr(named(server.url.replace("/model.pth", "/DISK/model.pth")))
        done = subprocess.run(
            [*private, MOUNTS + 'exec "$0" -c "$1"', sys.executable, ON_EACH],
            cwd=folder,
            env={**os.environ, "MODEL": model, "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return {name: (told, after, server.sent_for[f"/{name}/model.pth"]) for name, told, after in rows}


def test_two_processes_download_one_file_once(server, cache):
    server.pause = 0.03
    both = [start(server.url, cache), start(server.url, cache)]
    assert [said.recv() for _, said in both] == [str(cache / "model.pth")] * 2
    assert (cache / "model.pth").read_bytes() == CONTENT
    assert len(server.seen) == 1 and server.sent == len(CONTENT)


APART = multiprocessing.get_context("forkserver")  # imports the package once for all
APART.set_forkserver_preload(["gandid.generators"])


def start(url: str, cache: Path, limit: int | None = None) -> tuple[multiprocessing.Process, Connection]:
    """A process of its own that fetches the model, and where it says where that is, or why not."""
    here, there = APART.Pipe()
    process = APART.Process(target=fetch_apart, args=(url, cache, limit, there), daemon=True)
    process.start()
    return process, here


def fetch_apart(url: str, cache: Path, limit: int | None, said: Connection) -> None:
    os.environ.update(GANDID_CACHE=str(cache), NO_PROXY="127.0.0.1")
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        said.send(str(fetch(named(url))))
    except GandidError as error:
        said.send(str(error))


def nobody() -> str:
    """The URL of a port at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/model.pth"


def until(true) -> None:
    for _ in range(6000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")
