"""The configuration: every field is declared once, and what is wrong is told in a line."""

import subprocess
import sys

import pytest
import yaml

from gandid.config import StudyConfig
from gandid.errors import UsageError
from gandid.latents import latents

GROUPS = {"What", "How many", "Controls", "Credibility", "Machine"}


def test_every_field_says_what_it_means_and_where_it_belongs():
    for name, field in StudyConfig.model_fields.items():
        assert field.description and field.description.endswith("."), name
        assert field.json_schema_extra["group"] in GROUPS


def test_a_configuration_survives_its_file(tmp_path):
    asked = StudyConfig.check(
        targets={"lamp": (3, 17)},
        dose=True,
        hold="first",
        segmenter_scales=(0.5, 1.0),
        until=0.01,
        types={"removed": 0.5},
    )
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(asked.model_dump(mode="json") | {"resolved": {"command": "gandid run"}}))
    assert StudyConfig.read(path) == asked
    assert StudyConfig.read(path, until=None).until is None


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"latent": 5}, "unknown setting 'latent': did you mean 'latents'"),
        ({"types": {"remove": 0.5}}, "unknown setting 'types.remove': did you mean 'removed'"),
        ({"units": 0}, "units: give more than 0, not 0"),
        ({"latents": "many"}, "latents: give a whole number, not 'many'"),
        ({"dose": (0.5, 2)}, "dose: give at most 1, not 2"),
        ({"until": 5}, "until: give less than 1, not 5"),
        ({"seed": 2**64}, f"seed: give less than {2**64}"),
        ({"control": ["thawed"]}, "control: choose 'capped', 'frozen', .* not 'thawed'"),
        ({"hold": []}, "hold: name at least one"),
        ({"targets": [None]}, "targets: give text, in quotes where it looks like something else, not None"),
        ({"targets": {"lamp": "x"}}, "targets: give a list, not 'x'"),
        ({"targets": {"lamp": [1, "x"]}}, "targets: give a whole number, not 'x'"),
        ({"types": 3}, "types: give settings by name"),
        ({"dose": (0,)}, "one of them above 0"),
        ({"twin": "x"}, "add --control twin"),
        ({"chunk": "1/2", "placebos": 3}, "leave out --chunk"),
        ({"chunk": "\u00b2/3"}, "chunk: write K/N"),
        ({"units": True}, "units: give a number, or a name in quotes, not True"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_that_names_the_file(tmp_path, values, line):
    with pytest.raises(UsageError, match=line) as error:
        StudyConfig.check("study.yaml", **values)
    assert str(error.value).startswith("study.yaml: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("latents: 5\nseed: 1\nlatents: 6\n", "'latents' is given twice, in lines 1 and 3"),
        ("targets:\n  rug: [1]\n  lamp: [2]\n  rug: [3]\n", r"'targets\.rug' is given twice, in lines 2 and 4"),
        ("targets: {rug: [1], 'rug': [2]}", "is given twice"),
        ("types:\n\tremoved: 0.5\n", "is not YAML: .*line 2"),
        ("latents: 5\n---\nlatents: 6\n", "is not YAML: .*another document"),
        ("targets: &a [*a]\n", "is not YAML"),
        ("latents: 2024-13-01\n", "is not YAML"),
        ("- latents\n", "holds no configuration"),
    ],
)
def test_a_file_that_can_be_misread_is_refused(tmp_path, text, line):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=line) as error:
        StudyConfig.read(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_what_a_merge_key_brings_is_no_second_value(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("types:\n  <<: {removed: 0.3, inpainted: 0.1}\n  removed: 0.4\n")
    assert StudyConfig.read(path).types.model_dump() == {"removed": 0.4, "concentration": 0.5, "inpainted": 0.1}


def test_no_two_seeds_have_the_same_latents():
    first = [float(latents(seed, [0], 1)) for seed in (0, 1, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1)]
    assert len(set(first)) == len(first)


def test_quick_rooms_load_no_torch():
    code = "import sys, gandid, gandid.config, gandid.runs, gandid.panel.store; gandid.did; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
