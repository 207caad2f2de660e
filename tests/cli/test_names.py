"""Whatever a class is called, all that a run writes is read back as it was."""

import pytest
import torch
from test_cli import EXAMPLE, gandid

from gandid import Study
from gandid.config import StudyConfig
from gandid.errors import UsageError
from gandid.estimation import read_effects
from gandid.factory import call_factory
from gandid.report import build
from gandid.report.run import read
from gandid.runs import read_relation
from gandid.segmenters import FunctionSegmenter

NAMES = ["null", "NA", "True", "007", "", "a=b", "other objects", "x" * 300, '<b>/../é, "q" ']


def label(images: torch.Tensor) -> torch.Tensor:
    return (images.mean(dim=1) * 40).round().long() % len(NAMES)


def segmenter() -> FunctionSegmenter:
    return FunctionSegmenter(label, NAMES)


def test_names_that_look_like_something_else_come_back_from_every_file(tmp_path):
    study = Study(call_factory(f"{EXAMPLE}:make").eval(), segmenter(), "net.0")
    options = {"units": 2, "latents": 6, "ranking_latents": 3, "hold": ["first"], "control": ["capped"]}
    panel = study.run(NAMES, store=tmp_path, **options)
    effects, run = read_effects(tmp_path, panel), read(tmp_path)
    assert effects.targets == run.targets == run.objects == NAMES
    others = {target: set(NAMES) - {target} | {"other objects"} for target in NAMES}
    inpainted = effects.main.query("outcome == 'inpainted'").groupby("target")["object"].agg(set)
    assert inpainted.to_dict() == others
    shown = (panel["pixels"].values[0, :, 0, 0] >= max(1, 0.003 * 32 * 32)).sum(axis=0)
    assert [run.seen(name) for name in NAMES] == shown.tolist()
    assert list(dict.fromkeys(run.relation["object"])) == read_relation(tmp_path)["object"].values.tolist() == NAMES
    assert set(run.types["target"]) <= set(NAMES)
    assert StudyConfig.read(tmp_path / "config.yaml").targets == tuple(NAMES)
    build(tmp_path)
    files = [path.name for path in (tmp_path / "figures").glob("examples-*.png")]
    assert len(files) == len(run.examples) and max(map(len, files)) < 100


@pytest.mark.parametrize(
    ("word", "targets"),
    [("a=b", ["a=b"]), ("a=b=3,4", {"a=b": [3, 4]}), ("a=3=", ["a=3"]), ("a=3", {"a": [3]}), ("null", ["null"])],
)
def test_a_target_may_be_called_anything(tmp_path, monkeypatch, word, targets):
    asked = []
    monkeypatch.setattr("gandid.study.Study.check", lambda self, config, folder: asked.append(config) or 1 / 0)
    gandid("run", "--target", word, cwd=tmp_path)
    assert asked[0].model_dump(mode="json")["targets"] == targets


def test_names_of_several_lines_are_refused():
    with pytest.raises(UsageError, match="one line"):
        FunctionSegmenter(label, ["a", "b\nc"])
