"""Who may ask, and what is served."""

import pickle
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import gradio as gr
from fastapi.testclient import TestClient

from gandid.app import server
from gandid.app.models import Model
from gandid.app.page import Page
from gandid.errors import GandidError, UsageError

FIXTURES = Path(__file__).parent.parent / "fixtures"
TOKEN = "correct horse battery"


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


def client(runs: Path, *, token: str | None = None) -> TestClient:
    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.File()
    app = server.make_app(blocks, {}, token=token, runs=runs, close=lambda: None)
    return TestClient(app, base_url="http://127.0.0.1:7860", follow_redirects=False)


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
        assert page.get(f"/gradio_api/file={file}").status_code in (403, 404), file


def test_no_page_may_fetch_from_elsewhere(runs: Path) -> None:
    headers = client(runs).get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["connect-src"] == "'self' data: blob:"
    assert "http" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_without_a_token_only_this_machine_is_named(runs: Path, name: str) -> None:
    page = client(runs)
    assert page.get("/config", headers={"host": name}).status_code == 403
    for own in ("127.0.0.1:1", "localhost:7860", "[::1]:7860"):
        assert page.get("/runs/rug/report.html", headers={"host": own}).status_code == 200


def test_with_a_token_nothing_is_served_without_it(runs: Path) -> None:
    page = client(runs, token=TOKEN)
    for path in ("/", "/config", "/runs/rug/report.html", "/gradio_api/info", "/?token=wrong", "/?token=", "/?token=é"):
        assert page.get(path).status_code == 401, path
    assert page.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
    first = page.get("/", params={"token": TOKEN, "target": "rug"})
    assert (first.status_code, first.headers["location"]) == (303, "/?target=rug")  # the token leaves the address
    assert "HttpOnly" in first.headers["set-cookie"] and "SameSite=strict" in first.headers["set-cookie"]
    assert page.get("/runs/rug/report.html").status_code == 200  # by the cookie


def test_a_token_is_demanded_where_others_can_reach_the_page() -> None:
    assert server.choose_token("127.0.0.1", None) is server.choose_token("localhost", None) is None
    assert server.choose_token("::1", None) is None
    made = {server.choose_token(host, None) for host in ("0.0.0.0", "10.0.0.7", "::", "example.org")}
    assert len(made) == 4 and all(token and len(token) >= 32 for token in made)
    assert server.choose_token("127.0.0.1", TOKEN) == TOKEN
    with pytest.raises(UsageError, match="12 characters"):
        server.choose_token("0.0.0.0", "short")


def test_uploads_are_limited(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UPLOAD_LIMIT", 1000)
    page = client(runs)
    assert page.post("/gradio_api/upload", files={"files": ("a.pth", b"x" * 500)}).status_code == 200
    assert page.post("/gradio_api/upload", files={"files": ("a.pth", b"x" * 5000)}).status_code == 413


def test_an_uploaded_checkpoint_is_loaded_and_kept_by_its_digest(model: Model, tmp_path: Path) -> None:
    page = Page(model, tmp_path / "runs", "cpu")
    name = page.take(FIXTURES / "dissect_32px.pth")
    assert page.take(FIXTURES / "dissect_32px.pth") == name  # once
    assert page.models[name].runner(page.models[name].default_layer).image_size == (32, 32)
    assert [file.name for file in (tmp_path / "runs" / "uploads").iterdir()] == [f"{name}.pth"]
    later = Page(model, tmp_path / "runs", "cpu")  # the page was started again; a link names the upload
    for other in ("../uploads/x", "*", name[:-1], ""):
        later.restore(other)
    assert list(later.models) == [""]
    later.restore(name)
    assert list(later.models) == ["", name]
    for each in (page, later):
        each.models[name].rankings.close()


def test_an_upload_runs_nothing_whatever_it_is_called(model: Model, tmp_path: Path) -> None:
    page = Page(model, tmp_path / "runs", "cpu")
    code = f"import pathlib\ndef make(): pathlib.Path({str(tmp_path / 'run')!r}).touch()"
    for name in ("own.py:make.pth", "own.py", "own.py:make"):  # what `--generator` would run
        (tmp_path / name).write_text(code)
        with pytest.raises(UsageError, match="checkpoint"):
            page.take(tmp_path / name)

    class Touch:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "run",))

    (tmp_path / "own.pkl").write_bytes(pickle.dumps(Touch()))
    with pytest.raises(GandidError):
        page.take(tmp_path / "own.pkl")
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "runs" / "uploads").iterdir())


def test_a_taken_port_is_one_clear_line() -> None:
    with server.listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UsageError, match="choose another --port"):
            server.listen("127.0.0.1", taken.getsockname()[1])
    server.listen("127.0.0.1", None).close()
