"""What the page says reproduces a state, does; and the gallery shows what is finished."""

import ast
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import PlantedGenerator, PlantedSegmenter

from gandid import Study, cli
from gandid.app import studies, words
from gandid.app.state import State, encode_region
from gandid.config import StudyConfig
from gandid.errors import UsageError
from gandid.report.findings import findings, headline
from gandid.report.run import read

STATES = [
    State(layer="layer8", target="rug"),
    State(layer="layer8", target="rug", region=encode_region(np.pad(np.ones((2, 3), bool), ((6, 0), (1, 4))))),
    State(layer="layer8", target="rug", mode="insert", region="2x2:c0", control="frozen"),
    State(layer="layer8", target="chest of drawers", control="frozen", hold="all", alpha=0.35, seed=4),
]


def config(state: State, latents: int = 512) -> StudyConfig:
    state = state if state.units else replace(state, units=(3, 17))
    return studies.config_of(state, generator="rooms", segmenter="rooms", latents=latents)


@pytest.mark.parametrize("state", STATES)
def test_the_command_asks_for_the_study_that_the_page_shows(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[StudyConfig, Path]] = []
    monkeypatch.setattr(Study, "check", lambda study, config, folder: asked.append((config, folder)))
    monkeypatch.setattr(Study, "execute", lambda *_, **__: None)
    monkeypatch.setattr("gandid.terminal.show", lambda *_: None)
    out = tmp_path / "with space"
    program, *arguments = shlex.split(studies.command(config(state, 300), out))
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert (program, ended.value.code) == ("gandid", 0)
    assert asked == [(config(state, 300), out)]


@pytest.mark.parametrize("state", STATES)
def test_the_configuration_is_read_back_as_it_was(state: State, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(studies.as_yaml(config(state)), encoding="utf-8")
    assert StudyConfig.read(file) == config(state)


@pytest.mark.parametrize("state", STATES)
def test_the_python_names_the_same_arms(state: State) -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(studies.python(config(state), Path("runs/x"))))
        if isinstance(node, ast.Call)
    ]
    run = next(call for call in calls if getattr(call.func, "attr", "") == "run")
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in run.keywords}
    assert given.pop("store") == "runs/x"
    assert StudyConfig.check(
        **config(state).model_dump(include={"generator", "segmenter", "layer", "seed"}), **given
    ) == config(state)


def test_what_a_study_cannot_do_is_said() -> None:
    assert studies.left_out(State()) == ""
    rectangle = STATES[1]
    assert config(rectangle).region == (1 / 8, 6 / 8, 4 / 8, 1.0)
    assert studies.left_out(rectangle) == ""
    assert "rectangle" in studies.left_out(State(region="2x2:60"))  # two opposite corners
    assert config(State(target="rug", region="2x2:60")).region == (0, 0, 1, 1)
    assert studies.left_out(STATES[2]) == ""
    assert (config(STATES[2]).edit, config(STATES[2]).region) == ("insert", (0, 0, 1, 0.5))


def test_edits_that_are_one_are_studied_together() -> None:
    rug, lamp = State(target="rug", units=(3, 17)), State(target="lamp", units=(17, 5))
    assert config(rug.beside([lamp])).targets == {"rug": (3, 17, 5)}
    assert studies.left_out(rug.beside([lamp])) == ""
    for other in (replace(lamp, alpha=0.5), replace(lamp, region="2x2:60"), replace(lamp, mode="insert")):
        assert config(rug.beside([other])).targets == {"rug": (3, 17)}
        assert "the ablation of rug, and not" in studies.left_out(rug.beside([other]))
    inserted = replace(rug, mode="insert", region="2x2:60").beside([lamp])
    assert config(inserted).targets == {"rug": (3, 17)}
    assert "the insertion of rug, and not" in studies.left_out(inserted)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, one that is not finished, and something else."""
    runs = tmp_path_factory.mktemp("runs")
    Study(PlantedGenerator(), PlantedSegmenter(), "paint").run(
        {"a": [0]}, control="capped", hold="first", latents=8, store=runs / "rug <1>"
    )
    (runs / "cut short").mkdir()
    (runs / "cut short" / "config.yaml").write_text("latents: 8\n")
    (runs / "notes.txt").write_text("no run")
    return runs


def test_the_gallery_shows_finished_runs_with_their_headline(runs: Path) -> None:
    [entry] = studies.gallery(runs)
    run = read(runs / "rug <1>")
    assert (entry.name, entry.latents, entry.layer, entry.targets) == ("rug <1>", 8, "paint", ("a",))
    assert entry.headline == headline(run, findings(run))
    assert studies.gallery(runs) == [entry]
    page = words.runs([entry], "runs")
    assert "rug &lt;1&gt;" in page and "<1>" not in page
    assert studies.gallery(runs / "nowhere") == []
    assert "No finished run" in words.runs([], "runs")


def test_what_was_begun_and_not_finished_is_listed(runs: Path) -> None:
    assert studies.stopped(runs) == ["cut short"]
    assert "<b>cut short</b>" in words.runs([], "runs", ["cut short"])


def test_a_name_is_checked_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "rug").mkdir()
    assert studies.problem(tmp_path, "") == studies.problem(tmp_path, "chair") == ""
    assert "cannot be its name" in studies.problem(tmp_path, "../rug")
    assert "already" in studies.problem(tmp_path, "rug")


def test_a_run_that_cannot_be_read_is_left_out(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "rug <1>", tmp_path / "damaged")
    (tmp_path / "damaged" / "checks.csv").write_text("nothing of the kind")
    assert studies.gallery(tmp_path) == []


def test_names_stay_inside_of_the_folder(tmp_path: Path) -> None:
    jobs = studies.Jobs(tmp_path, "cpu")
    for name in ("../outside", "a/b", ".hidden", "", "x" * 80, "a b", "C:\\x"):
        with pytest.raises(UsageError, match="name the study"):
            jobs.start(config(STATES[0]), name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "rug").mkdir()
    assert studies.free_name(tmp_path, "rug") == "rug-2"
    assert studies.NAME.fullmatch(studies.free_name(tmp_path, "../chest of drawers <1>"))


def test_one_study_runs_at_a_time_and_can_be_stopped(tmp_path: Path) -> None:
    jobs = studies.Jobs(tmp_path, "cpu")
    job = jobs.start(config(STATES[0], 100_000), "first")
    with pytest.raises(UsageError, match="still running"):
        jobs.start(config(STATES[0]), "second")
    assert "starting" in words.progress(job, 0, 0)
    job.stop()
    job.process.wait(20)
    assert not job.running and not job.failed
    assert "was stopped" in words.progress(job, 0, 0)


def test_a_study_that_fails_says_why(tmp_path: Path) -> None:
    jobs = studies.Jobs(tmp_path, "cpu")
    job = jobs.start(config(State(layer="layer99", target="rug")), "wrong")
    job.process.wait(120)
    assert job.failed
    assert "unknown layer" in words.progress(job, 0, 0)
    assert sys.executable not in words.progress(job, 0, 0)
