"""The command line, as a user meets it: real processes, exit statuses, one line per error."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from gandid.did import COLUMNS


def gandid(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from gandid.cli import main; main()", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("cli")
    arguments = ["--target", "lamp", "--latents", "24", "--ranking-latents", "4", "--hold", "first", "--out", "run"]
    return folder, gandid("run", *arguments, cwd=folder)


def test_a_run_writes_everything_and_says_what_it_found(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (folder / "run").iterdir()}
    assert names >= {"config.yaml", "panel.zarr", "effects.csv", "relation.csv", "checks.csv", "report.html", "figures"}
    assert names >= {"relation.zarr", "types.csv"}
    effects = pd.read_csv(folder / "run" / "effects.csv")
    assert tuple(effects.columns[: len(COLUMNS)]) == tuple(COLUMNS)
    assert set(effects.held) == {"first"} and set(effects.control) == {"capped", "frozen"}
    assert "Ablating the" in done.stdout and "lamp" in done.stdout
    assert "Types: type-1 entangled if less than 80 %" in done.stdout and "\nlamp is " in done.stdout
    assert done.stdout.rstrip().endswith("run/report.html")
    assert [p.name for p in folder.iterdir()] == ["run"]


def test_the_same_command_again_computes_nothing_and_another_is_refused(finished):
    folder, _ = finished
    stamp = (folder / "run" / "config.yaml").stat().st_mtime_ns
    arguments = ["--target", "lamp", "--ranking-latents", "4", "--hold", "first", "--out", "run"]
    assert gandid("run", *arguments, "--latents", "24", cwd=folder).returncode == 0
    assert (folder / "run" / "config.yaml").stat().st_mtime_ns == stamp
    refused = gandid("run", *arguments, "--latents", "24", "--alpha", "0.5", cwd=folder)
    assert refused.returncode == 2
    assert "run holds another study (alpha 1.0 there, 0.5 here)" in refused.stderr


def test_a_finished_run_is_given_its_figure(finished):
    folder, _ = finished
    effects = (folder / "run" / "effects.csv").stat().st_mtime_ns
    asked = [
        "--target",
        "lamp",
        "--latents",
        "24",
        "--ranking-latents",
        "4",
        "--hold",
        "first",
        "--out",
        "run",
        "--figure",
    ]
    done = gandid("run", *asked, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert {"after.zarr", "insertion.zarr"} <= {path.name for path in (folder / "run").iterdir()}
    assert (
        "relation after ablation" in done.stderr
        and "insertion" in done.stderr
        and "running the arms" not in done.stderr
    )
    assert (folder / "run" / "effects.csv").stat().st_mtime_ns == effects


def test_a_study_is_planned_before_it_is_run(tmp_path):
    done = gandid("run", "--target", "lamp=1,2", "--hold", "first", "--latents", "30", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(None, 1) for line in done.stdout.splitlines())
    # Both controls are one arm at the first site: reference, live and held are made once each, and again for the second segmenter.
    assert told["arms"] == "4 per target" and told["rows"] == "120" and told["images"] == "180"
    assert "on one worker (cpu)" in told["time"] and told["disk"].endswith("MiB")
    assert list(tmp_path.iterdir()) == []


def test_what_makes_an_effect_believable_is_planned_too(tmp_path):
    ask = ["--target", "lamp=1,2", "--hold", "first", "--control", "capped", "--latents", "4", "--dry-run"]
    done = gandid("run", *ask, "--dose", "--sites", "shapley", "--placebos", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(None, 1) for line in done.stdout.splitlines())
    # Twice reference, live and held; 10 doses of them; all sets of 7 sites, live among them, and the reference; 3 sets of units.
    assert told["images"] == f"{4 * (2 * 3 + 10 * 3 + 2**7 + 1 + 3 * 3)}"


@pytest.mark.slow
def test_the_six_questions_are_answered_and_a_finished_run_answers_more(tmp_path):
    ask = ["--target", "lamp=1,2", "--latents", "8", "--ranking-latents", "4", "--out", "run"]
    ask += [f"--control={control}" for control in ("capped", "frozen", "mean", "twin")]
    done = gandid("run", *ask, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    assert {"second.csv", "sensitivity.csv", "twins.csv"} <= {path.name for path in folder.iterdir()}
    panel = (folder / "panel.zarr" / ".zmetadata").stat().st_mtime_ns
    done = gandid("run", *ask, "--sites", "shapley", "--dose", "--placebos", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (folder / "panel.zarr" / ".zmetadata").stat().st_mtime_ns == panel
    assert {"dose.csv", "shapley.csv", "placebos.csv"} <= {path.name for path in folder.iterdir()}
    checks = set(pd.read_csv(folder / "checks.csv")["check"])
    assert {
        "dose",
        "parallel_trends",
        "shapley_efficiency",
        "placebo_units",
        "placebo_object",
        "baseline_area",
    } <= checks
    assert {"uncertain", "ground_truth", "second_segmenter"} <= checks
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Can it be believed?" in page and "Not asked in this run" not in page


def test_parts_of_a_study_are_merged(tmp_path):
    asked = ["--target", "lamp=1,2", "--hold", "first", "--control", "capped", "--latents", "8"]
    for part in ("1", "2"):
        assert gandid("run", *asked, "--chunk", f"{part}/2", "--out", f"part-{part}", cwd=tmp_path).returncode == 0
    done = gandid("merge", "part-1", "part-2", "--out", "whole", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "8 latents" in done.stdout and (tmp_path / "whole" / "report.html").is_file()


def test_a_report_is_made_anew_from_the_panel_alone(finished):
    folder, _ = finished
    (folder / "run" / "report.html").unlink()
    effects = (folder / "run" / "effects.csv").read_bytes()
    assert gandid("report", "run", cwd=folder).returncode == 0
    assert (folder / "run" / "report.html").is_file()
    assert (folder / "run" / "effects.csv").read_bytes() == effects


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "--generator", "palaces"], "unknown generator 'palaces'"),
        (["run", "--segmenter", "eyes"], "unknown segmenter 'eyes'"),
        (["run", "--layer", "layer77"], "unknown layer 'layer77'"),
        (["run", "--target", "sofa"], "unknown class 'sofa'"),
        (["run", "--target", "lamp=1,999"], "unit 999 is out of range"),
        (["run", "--target", "lamp=one"], "write CLASS=UNIT,UNIT"),
        (["run", "--device", "abacus"], "unknown device 'abacus'"),
        (["run", "--latents", "0"], "latents"),
        (["run", "--control", "thawed"], "control"),
        (["run", "--config", "absent.yaml"], "cannot read the configuration"),
        (["run", "--generator", "letter.txt"], "letter.txt is not a checkpoint"),
        (["run", "--out", "letters"], "letters exists and is not a run"),
        (["report", "letters"], "letters is not a run"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(tmp_path, arguments, told):
    (tmp_path / "letter.txt").write_text("dear reader")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear reader")
    before = sorted(tmp_path.rglob("*"))
    done = gandid(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_shows_the_traceback(tmp_path):
    done = gandid("run", "--generator", "palaces", "--debug", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    "command", [["run"], ["relate"], ["report"], ["models"], ["train", "generator"], ["train", "segmenter"]]
)
def test_every_command_explains_itself_with_an_example(tmp_path, command):
    done = gandid(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Example: gandid {' '.join(command)}" in done.stdout


def test_flags_win_over_the_file(tmp_path):
    (tmp_path / "study.yaml").write_text("targets: [lamp]\nlatents: 300\nranking_latents: 4\nhold: [first]\n")
    done = gandid(
        "run", "--config", "study.yaml", "--latents", "16", "--target", "rug=1,2", "--out", "run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["latents"], config["hold"], config["targets"]) == (16, ["first"], {"rug": [1, 2]})
    assert config["resolved"]["chosen"] == {"rug": [1, 2]}


def test_a_ranking_that_is_killed_goes_on_and_leaves_nothing_else(tmp_path):
    def relate(name: str) -> list[str]:
        words = ["relate", "--layer", "layer7", "--latents", "24", "--out", f"{name}/units.csv"]
        return [sys.executable, "-c", "from gandid.cli import main; main()", *words]

    started = subprocess.Popen(relate("cut"), cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not (kept := list(tmp_path.glob("cut/.units-*.ranking"))) or not kept[0].stat().st_size:
        assert started.poll() is None, "it ended before it had kept anything"
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "cut" / "units.csv").exists()
    for name in ("cut", "whole"):
        subprocess.run(relate(name), cwd=tmp_path, check=True, capture_output=True)
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["units.csv", "units.zarr"]
    assert (tmp_path / "cut" / "units.csv").read_bytes() == (tmp_path / "whole" / "units.csv").read_bytes()


def test_a_users_own_generator_is_studied_as_the_readme_says(tmp_path):
    example = str(Path(__file__).parents[2] / "examples" / "your_gan.py")
    asked = ["run", "--generator", f"{example}:make", "--segmenter", f"{example}:colours", "--layer", "net.0"]
    asked += ["--target", "bright", "--units", "4", "--latents", "16", "--ranking-latents", "64"]
    done = gandid(*asked, "--out", "own", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Ablating the 4 units of bright" in done.stdout
    refused = gandid(*asked, "--screen", "--out", "screened", cwd=tmp_path)
    assert refused.returncode == 2
    assert "no probabilities that can be differentiated" in refused.stderr and "use --ranking exact" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
