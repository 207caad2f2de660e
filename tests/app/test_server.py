"""Who may ask, and what is served."""

import json
import pickle
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import gradio as gr
from asking import COOKIE, EVENT, TOKEN, Asking, asking
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gandid.app import page as page_module
from gandid.app import server
from gandid.app.models import Model
from gandid.app.page import Page
from gandid.errors import GandidError, UsageError

LIVE = "ws://127.0.0.1:7860/live"
FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    (runs / "rug" / ".hidden").mkdir(parents=True)
    (runs / "rug" / "report.html").write_text("<p>found</p>")
    (runs / "rug" / ".hidden" / "x").write_text("no")
    (runs / ".cache").mkdir()
    (runs / ".cache" / "x").write_text("no")
    (tmp_path / "secret.txt").write_text("no")
    (runs / "rug" / "link").symlink_to(tmp_path / "secret.txt")
    return runs


def client(runs: Path) -> TestClient:
    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.File()
    return Asking(blocks, {}, runs).client


def test_only_files_of_runs_are_served(runs: Path) -> None:
    page = client(runs)
    assert page.get("/runs/rug/report.html").text == "<p>found</p>"
    outside = [
        "/runs/../secret.txt",
        "/runs/%2e%2e/secret.txt",
        "/runs/rug/%2e%2e/%2e%2e/secret.txt",
        "/runs/rug/..%2f..%2fsecret.txt",
        f"/runs/{runs.parent}/secret.txt",
        f"/runs//{runs.parent}/secret.txt",
        "/runs/rug/link",
        "/runs/.cache/x",
        "/runs/rug/.hidden/x",
        "/runs/rug",
        "/runs/",
        "/runs/rug/report.html%00",
    ]
    for path in outside:
        assert page.get(path).status_code == 404, path
    # Gradio's own way to a file knows neither the runs nor anything else.
    for file in (
        runs / "rug" / "report.html",
        runs.parent / "secret.txt",
        Path("/etc/hostname"),
        Path(server.__file__),
    ):
        assert page.get(f"/gradio_api/file={file}").status_code == 404, file


def test_no_page_may_fetch_from_elsewhere(runs: Path) -> None:
    headers = client(runs).get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["connect-src"] == "'self' data: blob:"
    assert "http" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


def test_nothing_is_served_without_the_token(runs: Path) -> None:
    page = client(runs)
    page.cookies.clear()
    for path in (
        "/",
        "/runs/rug/report.html",
        "/gradio_api/info",
        "/?token=wrong",
        "/?token=",
        "/?token=é",
        "/theme.css",
    ):
        assert page.get(path).status_code == 401, path
    for path in ("/upload?name=a.pth", EVENT):
        assert page.post(path, content=b"x").status_code == 401
    with pytest.raises(WebSocketDisconnect), page.websocket_connect(LIVE):
        pass
    page.cookies.set("gandid-7861", TOKEN)  # that of a page on another port
    assert page.get("/").status_code == 401
    page.get("/", params={"token": TOKEN})
    assert page.get("/runs/rug/report.html").status_code == 200  # by the cookie


def test_the_token_leaves_the_address_and_a_redirect_leads_nowhere_else(runs: Path) -> None:
    page = client(runs)
    for asked, location in [
        (f"/?token={TOKEN}&target=rug", "./?target=rug"),
        (f"//evil.example/?token={TOKEN}", "./"),
        (f"//evil.example?token={TOKEN}", "./evil.example"),
        (f"/runs/rug/report.html?a=1&token={TOKEN}", "./report.html?a=1"),
    ]:
        answer = page.get(f"http://127.0.0.1:7860{asked}", headers={"x-forwarded-host": "evil.example"})
        assert (answer.status_code, answer.headers["location"]) == (303, location)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}={TOKEN};") and "HttpOnly" in cookie and "SameSite=strict" in cookie
    answer = page.get("/", headers={"x-forwarded-host": "evil.example", "x-forwarded-proto": "https"})
    assert answer.status_code == 200 and "evil.example" not in answer.text


def test_what_comes_from_another_page_is_refused(asked: Asking) -> None:
    page, own = asked, asked.client.headers["origin"]
    for origin in ("http://evil.example", "http://127.0.0.1:8000", "null", "http://127.0.0.1", ""):
        page.client.headers["origin"] = origin
        for path in ("/upload?name=a.pth", EVENT):
            assert page.client.post(path, content=b"{}").status_code == 403
        assert page.client.get("/").status_code == 403  # it could be read, if Gradio lets that page read it
        with pytest.raises(WebSocketDisconnect), page.client.websocket_connect(LIVE):
            pass
    page.client.headers["origin"] = own
    assert "access-control-allow-origin" not in page.client.get("/").headers
    with page.client.websocket_connect(LIVE) as live:
        assert "progress" in live.receive_json()


def test_a_token_is_made_and_kept_for_the_next_start(tmp_path: Path) -> None:
    kept = tmp_path / ".cache" / "token"
    made = server.choose_token(kept, None)
    assert len(made) >= 32 and kept.stat().st_mode & 0o077 == 0
    assert server.choose_token(kept, None) == made
    assert server.choose_token(tmp_path / "other", None) != made
    assert server.choose_token(kept, TOKEN) == TOKEN
    for bad in ("short", "a b c d e f g h", "ééééééééééééé", "12345678901;"):
        with pytest.raises(UsageError, match="12 or more"):
            server.choose_token(kept, bad)


def test_uploads_are_limited_and_leave_nothing(
    asked: Asking, planted_page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = asked.client
    uploads = planted_page.runs / ".cache" / "uploads"
    bad = page.post("/upload?name=../own.pth", content=b"nothing of the kind")
    assert bad.status_code == 422 and bad.text.startswith("own.pth is not a checkpoint")
    assert page.post("/upload", content=b"x").status_code == 422
    monkeypatch.setattr(server, "UPLOAD_LIMIT", 1000)
    assert page.post("/upload?name=a.pth", content=b"x" * 5000).status_code == 413
    assert not list(uploads.iterdir()) and not list((planted_page.runs / "uploads").iterdir())


def test_an_uploaded_checkpoint_is_loaded_and_kept_by_its_digest(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Page(model, tmp_path / "runs", "cpu")
    page = asking(shared).client
    content = (FIXTURES / "dissect_32px.pth").read_bytes()
    name = page.post("/upload?name=own.pth", content=content).text
    assert page.post("/upload?name=own.pth", content=content).text == name  # once
    found, uploaded = shared.find(name)
    assert found == name and uploaded.runner(uploaded.default_layer).image_size == (32, 32)
    assert [file.name for file in (tmp_path / "runs" / "uploads").iterdir()] == [f"{name}.pth"]
    later = Page(model, tmp_path / "runs", "cpu")  # the page was started again; a link names the upload
    for other in ("../uploads/x", "*", name[:-1], "", str(FIXTURES / "dissect_32px.pth")):
        assert later.find(other) == ("", model)
    assert later.find(name)[0] == name
    # Another takes its place, where there is one alone; a page that shows the first has it back.
    monkeypatch.setattr(page_module, "LOADED", 1)
    monkeypatch.setattr(page_module, "KEPT", 1)
    second = page.post("/upload?name=b.pth", content=(FIXTURES / "dissect_old_32px.pth").read_bytes()).text
    assert list(shared._loaded) == [second]
    assert [file.stem for file in (tmp_path / "runs" / "uploads").iterdir()] == [second]
    for each in (*shared._loaded.values(), *later._loaded.values()):
        each.rankings.close()


def test_an_upload_runs_nothing_whatever_it_is_called(planted_page: Page, tmp_path: Path) -> None:
    code = f"import pathlib\ndef make(): pathlib.Path({str(tmp_path / 'run')!r}).touch()"
    for name in ("own.py:make.pth", "own.py", "own.py:make"):  # what `--generator` would run
        (tmp_path / "part").write_text(code)
        with pytest.raises(UsageError, match="checkpoint"):
            planted_page.take(tmp_path / "part", name)

    class Touch:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "run",))

    (tmp_path / "part").write_bytes(pickle.dumps(Touch()))
    with pytest.raises(GandidError):
        planted_page.take(tmp_path / "part", "own.pkl")
    assert not (tmp_path / "run").exists()
    assert not list((planted_page.runs / "uploads").iterdir())


GARBAGE = [
    None,
    "",
    "x",
    "<script>",
    -1,
    0,
    10**9,
    10**40,
    1.5,
    float("nan"),
    float("inf"),
    True,
    [],
    {},
    "9" * 5000,
    "\0",
]


@pytest.mark.slow
def test_garbage_is_told_to_whom_sends_it_and_to_nobody_else(
    asked: Asking, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    page = asked
    usual = {number: values[:] for number, values in page.events.items()}
    told = []
    for number, values in usual.items():
        for place in range(len(values)):
            for i, value in enumerate(GARBAGE):
                if (i + place + number) % 6 == 0:  # each kind is sent as each input, though not to each event
                    content = json.dumps({"fn_index": number, "data": [*values[:place], value, *values[place + 1 :]]})
                    told.append(page.client.post(EVENT, content=content))
        for wrong in ([], [None] * 50, None, "x"):
            if wrong != values:
                assert page.event(number, wrong).status_code == 422
        for event in (
            {"units": "a"},
            {"region": "9x9:zz"},
            {"target": "x" * 500},
            {"query": "alpha=nan&units=-"},
            {"a": "b"},
        ):
            told.append(page.event(number, values, event_data=event))
    for number in (-1, 99, 10**30, None, "x"):
        assert page.client.post(EVENT, json={"fn_index": number, "data": []}).status_code == 422
    assert page.client.post(EVENT, json=dict(fn_index=0, data=usual[0], session_hash="x", trigger_id=10**9)).is_success
    with page.client.websocket_connect(LIVE) as live:
        for text in ("", "?", "nonsense", "?units=a&alpha=nan", "fresh?" + "x" * 10_000, "\0"):
            live.send_text(text)
        live.send_bytes(b"\xff")
        live.send_text("?target=a&units=0")
        while "of 64 measured" not in live.receive_json().get("numbers", ""):
            pass
    assert {answer.status_code for answer in told} == {200, 422, 500}
    assert all("error" in answer.json() for answer in told if answer.status_code == 500)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err and not [r for r in caplog.records if r.levelname in ("ERROR", "CRITICAL")]


def test_a_tab_is_told_what_is_new_of_what_it_shows(asked: Asking) -> None:
    def anew() -> set[str]:
        """What is measured anew, until something is known of all of it."""
        parts, stale = set[str](), None
        while not parts or stale:
            stale = live.receive_json().get("stale", stale)
            parts |= set(stale or ())
        return parts

    with asked.client.websocket_connect(LIVE) as live:
        live.send_text("?target=a&units=0&number=2")
        assert anew() == {"doses", "strip", "layers", "numbers"}
        live.send_text("?target=a&units=0&number=5")  # another image of the same strip
        assert anew() == {"doses", "layers"}
        live.send_text("?target=a&units=0&number=5&alpha=0.5")  # a dose of the same curve
        assert anew() == {"strip", "layers", "numbers"}
        live.send_text("?target=a&number=5")
        while "Waiting for the first ranking" not in live.receive_json().get("strip", ""):
            pass


def test_a_taken_port_is_one_clear_line() -> None:
    with server.listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UsageError, match="choose another --port"):
            server.listen("127.0.0.1", taken.getsockname()[1])
    server.listen("127.0.0.1", None).close()
