"""The command line as a user meets it: exit statuses, one line per error, one screen of results."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml

from gandid.cli import app, main
from gandid.estimation import COLUMNS
from gandid.verdicts import verdict

LAMP = ["--target", "lamp", "--latents", "24", "--ranking-latents", "4", "--hold", "first"]
EXAMPLE = str(Path(__file__).parents[2] / "examples" / "your_gan.py")
OWN = ["run", "--generator", f"{EXAMPLE}:make", "--segmenter", f"{EXAMPLE}:colours", "--layer", "net.0"]
OWN += ["--target", "bright", "--units", "4", "--latents", "16", "--ranking-latents", "16"]


@dataclass
class Done:
    status: int
    out: str
    err: str


def gandid(*arguments: str, cwd: Path) -> Done:
    """Run a command in this process, which has PyTorch already."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        for context in (contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)):
            stack.enter_context(context)
        left = stack.enter_context(pytest.raises(SystemExit))
        main(arguments)
    return Done(left.value.code, out.getvalue(), err.getvalue())


def process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a command as a shell does."""
    command = [sys.executable, "-m", "gandid", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, env=os.environ | environment)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("cli")
    return folder, gandid("run", *LAMP, "--out", "run", cwd=folder)


def test_a_run_writes_everything_and_nothing_else(finished):
    folder, done = finished
    assert done.status == 0, done.err
    names = {path.name for path in (folder / "run").iterdir()}
    assert names >= {"config.yaml", "panel.zarr", "effects.csv", "relation.csv", "checks.csv", "report.html", "figures"}
    assert names >= {"relation.zarr", "types.csv", "examples.npz"}
    effects = pd.read_csv(folder / "run" / "effects.csv")
    assert tuple(effects.columns[: len(COLUMNS)]) == tuple(COLUMNS)
    assert [path.name for path in folder.iterdir()] == ["run"]
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert config["resolved"]["command"].startswith("gandid run --target lamp")


def test_results_fit_a_screen_without_colour(finished):
    _, done = finished
    lines = done.out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert "\x1b" not in done.out and "nan" not in done.out
    assert sum(line.startswith("lamp ") for line in lines) == 1
    assert lines[-1].endswith("run/report.html")


def test_a_log_has_a_line_for_the_begin_of_each_phase(finished):
    _, done = finished
    few, unseen, *lines = sorted(done.err.splitlines(), key=lambda line: ": 0 of " in line)
    assert "on 4 latents only" in few and "no image of the ranking shows lamp" in unseen
    phases = [line.split(maxsplit=1)[1] for line in lines]
    assert len(phases) >= 3 and all(": 0 of " in phase for phase in phases)
    assert "\x1b" not in done.err


def test_the_table_for_programs_is_that_of_the_files(finished):
    folder, _ = finished
    done = gandid("report", "run", "--json", cwd=folder)
    [table] = json.loads(done.out)
    assert done.status == 0 and done.err == ""
    assert table["finished"] and table["latents"] == 24
    key = ["target", "object", "outcome", "arm"]
    effects = (
        pd.read_csv(folder / "run" / "effects.csv")
        .query("contrast in ['did', 'strength']")
        .drop_duplicates(key)
        .set_index(key)
    )
    for row in table["effects"]:
        written = effects.loc[tuple(row[name] for name in key)]
        assert row["did"] == written["did"] and row["verdict"] == verdict(written.to_dict())
    assert list(table["verdicts"]) == ["lamp"]
    checks = pd.read_csv(folder / "run" / "checks.csv")
    assert sum(table["flagged"].values()) == (checks["verdict"] != "ok").sum()


def test_quiet_is_quiet_and_verbose_says_more(finished):
    folder, done = finished
    quiet = gandid("report", "run", "--quiet", cwd=folder)
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")
    assert len(gandid("report", "run", "-v", cwd=folder).out) > 2 * len(done.out)


def test_the_same_command_again_computes_nothing_and_another_is_refused(finished):
    folder, _ = finished
    stamp = (folder / "run" / "panel.zarr" / ".zmetadata").stat().st_mtime_ns
    assert gandid("run", *LAMP, "--out", "run", cwd=folder).status == 0
    assert (folder / "run" / "panel.zarr" / ".zmetadata").stat().st_mtime_ns == stamp
    refused = gandid("run", *LAMP, "--out", "run", "--alpha", "0.5", cwd=folder)
    assert refused.status == 2 and "alpha" in refused.err and len(refused.err.splitlines()) == 1


def test_a_finished_run_grows_by_arms_alone(finished):
    folder, _ = finished
    before = pd.read_csv(folder / "run" / "effects.csv").query("contrast == 'did'").reset_index(drop=True)
    done = gandid("run", *LAMP, "--out", "run", "--placebos", "2", cwd=folder)
    assert done.status == 0, done.err
    after = pd.read_csv(folder / "run" / "effects.csv")
    pd.testing.assert_frame_equal(after.query("contrast == 'did'").reset_index(drop=True), before)
    assert set(after.query("contrast == 'placebo'").draw) == {0, 1, 2}


def test_a_full_disk_is_one_line_and_the_report_before_stays(finished, tmp_path):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    drawing = tmp_path / "run" / "figures" / "effects-removed.svg"
    drawing.unlink()
    drawing.symlink_to("/dev/full")
    page = (tmp_path / "run" / "report.html").read_bytes()
    done = gandid("report", "run", "-q", cwd=tmp_path)
    assert done.status == 1 and "no space left" in done.err and len(done.err.splitlines()) == 1
    assert (tmp_path / "run" / "report.html").read_bytes() == page


def test_an_unfinished_run_is_called_so_in_every_output(finished, tmp_path):
    shutil.copytree(finished[0] / "run", tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config | {"latents": 40}))
    done = gandid("report", "run", cwd=tmp_path)
    assert done.status == 0 and "Not finished: 24 of 40 images" in done.out
    assert "24 of 40 images are measured" in (tmp_path / "run" / "report.html").read_text()
    [table] = json.loads(gandid("report", "run", "--json", cwd=tmp_path).out)
    assert not table["finished"] and "24 of 40" in table["unfinished"]


def test_a_report_is_made_anew_from_the_panel_alone(finished):
    folder, _ = finished
    (folder / "run" / "report.html").unlink()
    effects = (folder / "run" / "effects.csv").read_bytes()
    assert gandid("report", "run", cwd=folder).status == 0
    assert (folder / "run" / "report.html").is_file()
    assert (folder / "run" / "effects.csv").read_bytes() == effects


def test_a_study_is_planned_before_it_is_run(tmp_path):
    asked = ["--target", "lamp=1,2", "--hold", "first", "--latents", "30", "--dry-run"]
    done = gandid("run", *asked, cwd=tmp_path)
    assert done.status == 0, done.err
    plan = dict(line.split(None, 1) for line in done.out.splitlines())
    # Both controls are one arm at the first site: reference, live and held are made once each.
    # So are reference and what is compared, of the other dose, and of two strengths together.
    assert plan["images"] == str(30 * (3 + 2 + (1 + 2)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_parts_of_a_study_are_merged(tmp_path):
    asked = ["--target", "lamp=1,2", "--hold", "first", "--control", "capped", "--latents", "16"]
    for part in ("1", "2"):
        assert gandid("run", *asked, "--chunk", f"{part}/2", "--out", f"part-{part}", cwd=tmp_path).status == 0
    done = gandid("merge", "part-1", "part-2", "--out", "whole", "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    assert json.loads(done.out)[0]["latents"] == 16 and (tmp_path / "whole" / "report.html").is_file()


def test_several_layers_are_a_run_each(tmp_path):
    asked = [*OWN[:5], *OWN[7:], "--layer", "net.0", "--layer", "net.3", "--out", "runs"]
    done = gandid(*asked, "--json", cwd=tmp_path)
    assert done.status == 0, done.err
    assert [Path(table["run"]).name for table in json.loads(done.out)] == ["net.0", "net.3"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["net.0", "net.3"]
    refused = gandid(*OWN, "--layer", "net.9", "--out", "others", cwd=tmp_path)
    assert refused.status == 2 and "net.9" in refused.err and not (tmp_path / "others").exists()


def test_a_run_that_no_image_shows_anything_of_has_failed(tmp_path):
    done = gandid("run", "--target", "lamp=1,2", "--latents", "1", "--out", "run", cwd=tmp_path)
    assert done.status == 1 and "too few images" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--generator", "palaces"], "unknown generator 'palaces'"),
        (["run", "--segmenter", "eyes"], "unknown segmenter 'eyes'"),
        (["run", "--layer", "layer77"], "unknown layer 'layer77'"),
        (["run", "--target", "sofa"], "unknown class 'sofa'"),
        (["run", "--target", "lamp=1,999"], "unit 999 is out of range"),
        (["run", "--target", "Lamp"], "did you mean 'lamp'"),
        (["run", "--target", "lamp=one"], "unknown class 'lamp=one'"),
        (["run", "--target", "lamp=1,"], "write CLASS=UNIT,UNIT"),
        (["run", "--target", "lamp=1", "--target", "rug"], "--target rug: name its units too"),
        (["run", "--until", "5"], "until: give less than 1"),
        (["run", "--seed", str(2**64)], f"seed: give less than {2**64}"),
        (["run", "--target", "lamp=1", "--target", "lamp=2"], "given twice"),
        (["run", "--device", "abacus"], "abacus"),
        (["run", "--latents", "0"], "latents"),
        (["run", "--latens", "3"], "--latents"),
        (["run", "--control", "thawed"], "thawed"),
        (["run", "--memory", "much"], "4GiB"),
        (["run", "--memory", "1KB"], "too little"),
        (["run", "--config", "absent.yaml"], "absent.yaml"),
        (["run", "--config", "typo.yaml"], "typo.yaml: unknown setting 'latens': did you mean 'latents'"),
        (["run", "--generator", "letter.txt"], "letter.txt is not a checkpoint"),
        (["run", "--out", "letters"], "letters exists and is not a run"),
        (["report", "letters"], "letters is not a run"),
        (["models", "palaces"], "unknown generator 'palaces'"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(tmp_path, arguments, words):
    (tmp_path / "letter.txt").write_text("dear reader")
    (tmp_path / "typo.yaml").write_text("latens: 3\n")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear reader")
    before = sorted(tmp_path.rglob("*"))
    done = gandid(*arguments, cwd=tmp_path)
    assert done.status == 2
    assert words in done.err and "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path):
    for arguments in (["run", "--generator", "palaces", "--debug"], ["--debug", "run", "--generator", "palaces"]):
        done = gandid(*arguments, cwd=tmp_path)
        assert done.status == 2 and "Traceback" in done.err


@pytest.mark.parametrize("command", list(app.commands))
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself_with_an_example(tmp_path, command, flag):
    done = gandid(command, flag, cwd=tmp_path)
    assert done.status == 0 and f"Example: gandid {command}" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_commands_are_summed_up_in_whole_sentences_and_arguments_explained(tmp_path):
    summaries = gandid("--help", cwd=tmp_path).out.partition("Commands:\n")[2].splitlines()[: len(app.commands)]
    assert all(line.endswith(".") and not line.endswith("...") for line in summaries)
    assert all(getattr(param, "help", "") for command in app.commands.values() for param in command.params)


def test_the_options_of_a_run_stand_in_groups(tmp_path):
    lines = gandid("run", "--help", cwd=tmp_path).out.splitlines()
    groups = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert groups == ["What:", "How many:", "Controls:", "Credibility:", "Machine:", "Output:"]


def test_flags_win_over_the_file(tmp_path):
    (tmp_path / "study.yaml").write_text("targets: [lamp]\nlatents: 300\nranking_latents: 4\nhold: [first]\n")
    asked = ["--config", "study.yaml", "--latents", "16", "--target", "rug=1,2", "--out", "run"]
    done = gandid("run", *asked, cwd=tmp_path)
    assert done.status == 0, done.err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["latents"], config["hold"], config["targets"]) == (16, ["first"], {"rug": [1, 2]})


def test_a_model_is_described(tmp_path):
    done = gandid("models", "rooms", cwd=tmp_path)
    assert done.status == 0, done.err
    words = done.out.split()
    assert {"layer4", "8", "x", "layer5.norm", "output.norm"} <= set(words) and "rug" in done.out
    own = gandid("models", f"{EXAMPLE}:make", "--segmenter", f"{EXAMPLE}:colours", cwd=tmp_path)
    assert (
        own.status == 0
        and "net.0" in own.out
        and "net.1 (Hypersphere), net.4 (GroupNorm)" in own.out
        and "middling (background)" in own.out
    )
    assert "rooms-twin" in gandid("models", cwd=tmp_path).out


@pytest.mark.slow
def test_a_ranking_that_is_killed_goes_on_and_leaves_nothing_else(tmp_path):
    def relate(name: str) -> list[str]:
        words = ["relate", "--layer", "layer7", "--latents", "24", "--out", f"{name}/units.csv"]
        return [sys.executable, "-m", "gandid", *words]

    started = subprocess.Popen(relate("cut"), cwd=tmp_path, stderr=subprocess.DEVNULL)
    while not (kept := list(tmp_path.glob("cut/.units-*.ranking"))) or not kept[0].stat().st_size:
        assert started.poll() is None, "it ended before it had kept anything"
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "cut" / "units.csv").exists()
    for name in ("cut", "whole"):
        assert gandid(*relate(name)[3:], cwd=tmp_path).status == 0
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["units.csv", "units.zarr"]
    assert (tmp_path / "cut" / "units.csv").read_bytes() == (tmp_path / "whole" / "units.csv").read_bytes()


def test_a_users_own_generator_is_studied_in_a_terminal_that_knows_ascii_alone(tmp_path):
    done = process(*OWN, "--out", "own", cwd=tmp_path, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert b"bright" in done.stdout and max(done.stdout) < 128
    assert (tmp_path / "own" / "report.html").is_file()


def test_screening_needs_probabilities_and_says_so(tmp_path):
    refused = gandid(*OWN, "--ranking", "screened", "--out", "screened", cwd=tmp_path)
    assert refused.status == 2 and "--ranking exact" in refused.err
    assert list(tmp_path.iterdir()) == []


def test_the_shell_is_told_how_to_complete(tmp_path):
    words = {"COMP_WORDS": "gandid run --lat", "COMP_CWORD": "2"}
    done = process(cwd=tmp_path, _GANDID_COMPLETE="bash_complete", **words)
    assert b"--latents" in done.stdout


@pytest.mark.slow
def test_the_six_questions_are_answered(tmp_path):
    asked = ["--target", "lamp=1,2", "--latents", "8", "--ranking-latents", "4", "--out", "run"]
    asked += [f"--control={control}" for control in ("capped", "frozen", "mean", "twin")]
    assert gandid("run", *asked, cwd=tmp_path).status == 0
    done = gandid("run", *asked, "--sites", "shapley", "--dose", "--placebos", "3", cwd=tmp_path)
    assert done.status == 0, done.err
    contrasts = set(pd.read_csv(tmp_path / "run" / "effects.csv")["contrast"])
    assert contrasts >= {
        "did",
        "strength",
        "slope",
        "dose",
        "step",
        "share",
        "placebo",
        "second",
        "difference",
        "corrected",
    }
    checks = set(pd.read_csv(tmp_path / "run" / "checks.csv")["check"])
    assert checks >= {
        "dose",
        "parallel_trends",
        "shapley_efficiency",
        "placebo_units",
        "placebo_object",
        "baseline_area",
    }
    assert checks >= {"ground_truth", "second_segmenter"}
