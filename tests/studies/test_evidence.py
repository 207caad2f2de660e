"""What a run's stores say of its effects, from the run to its tables, where there is much to say and where there is nothing."""

import pandas as pd
import pytest
from planted import PlantedGenerator, PlantedSegmenter
from torch import nn

import gandid
from gandid.report import build
from gandid.studies.folder import estimates


class Plain(PlantedGenerator):
    def __init__(self):
        super().__init__(0.6)
        self.norm = nn.Identity()


def run(folder, latents):
    study = gandid.Study(PlantedGenerator(0.6), PlantedSegmenter(), "paint", seed=3, twins={"plain": Plain()})
    ask = {"control": ["capped", "mean", "twin"], "sites": "shapley", "dose": True, "placebos": 2}
    panel = study.run({"a": [0]}, **ask, latents=latents, ranking_latents=8, store=folder)
    return estimates(folder, panel)


def test_every_store_has_its_table_and_its_checks(tmp_path):
    effects = run(tmp_path / "run", 40)
    assert set(effects.evidence) == {"dose", "shapley", "placebos", "sensitivity", "twins"}
    checks = {"dose", "parallel_trends", "shapley_efficiency", "placebo_units", "baseline_area"}
    assert checks <= set(effects.checks["check"])
    for name, table in effects.evidence.items():
        kept = pd.read_csv(tmp_path / "run" / f"{name}.csv")
        pd.testing.assert_frame_equal(kept, table.reset_index(drop=True), check_dtype=False)
    # One site makes all of the effect, and b's pixels grow only once A is weak enough.
    shares = effects.evidence["shapley"].set_index(["outcome", "object"])
    did = effects.frame.set_index(["outcome", "object", "arm"]).loc[("inpainted", "b", "capped:all"), "did"]
    assert shares.loc[("inpainted", "b"), "share"] == pytest.approx(did)
    assert "Can it be believed?" in build(tmp_path / "run", effects).read_text(encoding="utf-8")


def test_where_nothing_is_estimable_nothing_is_said(tmp_path):
    effects = run(tmp_path / "run", 1)
    assert not effects.frame["estimable"].any()
    assert effects.evidence["dose"]["did"].isna().all()
    assert "sensitivity" not in effects.evidence
    build(tmp_path / "run", effects)
