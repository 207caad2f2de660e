"""Types: the rule at its bounds, probabilities against the exact binomial, and what they must not depend on."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from panels import make_panel
from planted_scene import SceneGenerator, SceneSegmenter
from scipy import stats

import gandid
from gandid.errors import UsageError
from gandid.relation.types import COLUMNS, classify, rule, sentences, types
from gandid.studies import StudyConfig, open_panel, write_estimates
from gandid.studies.config import TypeBounds
from gandid.studies.folder import types_in_words
from gandid.studies.merge import merge

BOUNDS = TypeBounds()  # 0.8 removed, 0.5 concentration, 0.05 in-painted
NOISE = 4 * np.sqrt(0.25 / 2000)  # of a share of 2,000 resamples


def test_the_rule_at_its_bounds():
    removed = [0.79, 0.8, 0.8, 0.8, 1.0, 1.0]
    inpainted = [0.0, 0.049, 0.05, 0.0, 1.0, 0.0]
    concentration = [1.0, 0.5, 0.5, 0.49, 0.49, 1.0]
    assert classify(removed, inpainted, concentration, BOUNDS).tolist() == [
        "type-1", "disentangled", "type-2", "type-1", "type-1", "disentangled",
    ]  # fmt: skip
    assert classify(1, 0.3, 1, TypeBounds(inpainted=0.4)) == "disentangled"


def panel_of(lost: np.ndarray, painted: np.ndarray, hole: np.ndarray) -> xr.Dataset:
    """A panel in which so many pixels of target `a` are lost, and turn into object `b`, in each latent."""
    n = len(hole)
    inside = np.zeros((n, 1, 3, 3), np.int32)  # reference, live, held; wall, a, b
    inside[:, 0, 0, 1] = hole
    inside[:, 0, 1:, 0] = (lost - painted)[:, None]
    inside[:, 0, 1:, 1] = (hole - lost)[:, None]
    inside[:, 0, 1:, 2] = painted[:, None]
    pixels = inside.copy()
    pixels[..., 0] += 100 - pixels.sum(axis=-1)
    return xr.Dataset(
        {
            "pixels": (("latent", "target", "arm", "object"), pixels),
            "inside": (("latent", "target", "arm", "object"), inside),
            "units": (("target", "rank"), np.array([[0, -1]], np.int32)),
        },
        coords={
            "latent": np.arange(n), "target": ["a"], "arm": ["reference", "live", "capped:first"],
            "object": ["wall", "a", "b"], "edit": ("arm", [False, True, True]),
            "control": ("arm", ["none", "none", "capped"]), "held": ("arm", ["none", "none", "first"]),
            "background": ("object", [True, False, False]),
        },
        attrs={"image_pixels": 100},
    )  # fmt: skip


def relation_of(drop: np.ndarray) -> xr.Dataset:
    """A relation of target `a` from the losses (latents, units) of its area."""
    full = np.stack([np.zeros_like(drop), drop, np.zeros_like(drop)], axis=2).astype(np.float32)
    return xr.Dataset(
        {"drop": (("latent", "unit", "object"), full), "ace": (("unit", "object"), full.mean(axis=0))},
        coords={"object": ["wall", "a", "b"]},
    )


CONCENTRATED = relation_of(np.tile([1.0, 0.0, 0.0], (8, 1)))


@pytest.mark.parametrize(("n", "of"), [(50, 41), (40, 31), (4000, 3220)])
def test_the_probability_from_the_effects_latents_is_binomial(n, of):
    """Each latent loses all of the target or nothing: `removed` of a resample is a binomial share."""
    lost = np.zeros(n, int)
    # In a large panel neighbours are resampled together: shuffled, they are a sample of independent groups.
    lost[np.random.default_rng(0).permutation(n)[:of]] = 10
    (row,) = types(panel_of(lost, 0 * lost, np.full(n, 10)), CONCENTRATED, BOUNDS).to_dict("records")
    below = stats.binom.cdf(np.ceil(0.8 * n) - 1, n, of / n)
    assert row["removed"] == of / n
    assert row["p_type_1"] == pytest.approx(below, abs=NOISE + 0.02 * (n > 1024))
    assert row["p_type_1"] + row["p_disentangled"] == pytest.approx(1)
    assert row["type"] == ("type-1" if of / n < 0.8 else "disentangled")


def test_removed_and_inpainted_are_resampled_together():
    """In half of the latents nothing is lost, in the others half of it turns into b: the two shares go hand in hand."""
    lost = np.repeat([0, 10], 30)
    bounds = TypeBounds(removed=0.5, inpainted=0.25)
    (row,) = types(panel_of(lost, lost // 2, np.full(60, 10)), CONCENTRATED, bounds).to_dict("records")
    # Whenever enough is removed, enough is in-painted: nothing is ever disentangled.
    assert row["p_disentangled"] == 0
    assert row["p_type_1"] == pytest.approx(stats.binom.cdf(29, 60, 0.5), abs=NOISE)
    assert row["inpainted_objects"] == 0.25


def test_the_probability_from_the_ranking_latents_is_binomial():
    """Each latent of the ranking has its whole effect in unit 0 or in unit 1: the share of unit 0 is a binomial share."""
    drop = np.zeros((30, 3))
    drop[:16, 0] = drop[16:, 1] = 0.1
    n = 20
    panel = panel_of(np.full(n, 10), np.zeros(n, int), np.full(n, 10))
    (row,) = types(panel, relation_of(drop), BOUNDS).to_dict("records")
    assert row["share_top"] == pytest.approx(16 / 30)
    assert row["effective_units"] == pytest.approx(1 / ((16 / 30) ** 2 + (14 / 30) ** 2))
    # Below a half, type-1; at a half exactly rounding decides.
    least, most = stats.binom.cdf([14, 15], 30, 16 / 30)
    assert least - NOISE <= row["p_type_1"] <= most + NOISE
    assert row["type"] == "disentangled"


def test_after_a_screening_what_was_expected_counts():
    """Unit 0 was ablated on all latents, the others on a few; the rest is what the screening expects."""
    n, drop = 20, np.array([[0.1, 0.06, 0.05]] * 8 + [[0.1, 0.0, 0.0]] * 2)
    relation, whole = relation_of(drop), relation_of(drop)
    relation["expected"] = whole["drop"]
    relation["exact"] = ("unit", np.array([True, False, False]))
    relation["drop"][3:, 1:] = np.nan
    panel = panel_of(np.full(n, 10), np.zeros(n, int), np.full(n, 10))
    frame = types(panel, relation, BOUNDS)
    pd.testing.assert_frame_equal(frame, types(panel, whole, BOUNDS))
    assert frame["share_top"].item() == pytest.approx(1 / 1.88)
    # The others carry 0.11 on eight latents of ten: more than unit 0 only where none of the two is drawn.
    assert frame["p_type_1"].item() == pytest.approx(stats.binom.sf(9, 10, 0.8), abs=NOISE)


def panel_and_relation(n: int, seed: int = 0) -> tuple[xr.Dataset, xr.Dataset]:
    panel = make_panel(n, ("window", "lamp"), noise=0.1, seed=seed)
    rng = np.random.default_rng(seed)
    drop = rng.exponential(1, (24, 40, panel.sizes["object"])) * np.arange(40)[:, None] - 3
    relation = xr.Dataset(
        {"drop": (("latent", "unit", "object"), drop), "ace": (("unit", "object"), drop.mean(axis=0))},
        coords={"object": panel["object"].values},
    )
    return panel, relation


def test_the_order_of_latents_and_where_they_lie_do_not_matter(tmp_path):
    panel, relation = panel_and_relation(80)
    frame = types(panel, relation, BOUNDS)
    assert list(frame.columns) == list(COLUMNS)
    assert frame["target"].tolist() == ["window", "lamp"]
    shuffled = panel.isel(latent=np.random.default_rng(1).permutation(80))
    pd.testing.assert_frame_equal(types(shuffled, relation, BOUNDS), frame)
    panel.to_zarr(tmp_path / "panel.zarr", zarr_format=2)
    with xr.open_zarr(tmp_path / "panel.zarr", chunks=None) as lazy:
        pd.testing.assert_frame_equal(types(lazy, relation, BOUNDS), frame)


def test_they_agree_with_the_effects():
    panel, relation = panel_and_relation(80)
    effects = gandid.did(panel).to_frame()
    for row in types(panel, relation, BOUNDS).to_dict("records"):
        rows = effects[(effects.target == row["target"]) & (effects.arm == "capped:first")]
        assert row["removed"] == rows.loc[rows.outcome == "removed", "tau_live"].item()
        objects = rows[(rows.outcome == "inpainted") & (rows.kind == "object")]
        assert row["inpainted_objects"] == pytest.approx(objects["tau_live"].sum())
        nothing = rows[(rows.outcome == "inpainted") & (rows.kind == "unknown")]
        assert row["unknown"] == pytest.approx(nothing["tau_live"].sum())
        assert sum(row[f"p_{name}"] for name in ("disentangled", "type_1", "type_2")) == pytest.approx(1)


def test_what_cannot_be_told_is_left_out():
    panel, relation = panel_and_relation(40)
    relation["ace"].loc[{"object": "lamp"}] = -0.1
    assert types(panel, relation, BOUNDS)["target"].tolist() == ["window"]
    panel = make_panel(40, ("window", "lamp"), absent=["window"])
    assert types(panel, relation, BOUNDS)["target"].tolist() == []


def test_in_words():
    row = dict(
        target="rug", removed=0.934, inpainted_objects=0.071, share_top=0.66, gini=0.8, effective_units=12.0, type="type-2",
        p_disentangled=0.002, p_type_1=0.028, p_type_2=0.97, removed_bound=0.8, inpainted_bound=0.05,
        concentration_bound=0.5, unknown=0.004,
    )  # fmt: skip
    frame = pd.DataFrame(
        [row, row | dict(type="disentangled", p_disentangled=1.0, p_type_1=0, p_type_2=0, unknown=0.3)]
    )
    assert sentences(frame, {"rug": 20}) == [
        "rug is type-2 entangled with probability 0.97 (type-1 0.03): 93.4 % of it is removed, 7.1 % turns into other "
        "objects, and its 20 units carry 66.0 % of the positive ACE.",
        "rug is disentangled with probability 1.00: 93.4 % of it is removed, 7.1 % turns into other objects, 30.0 % into "
        "nothing that the segmenter knows, and its 20 units carry 66.0 % of the positive ACE.",
    ]
    assert rule(frame) == (
        "Types: type-1 entangled if less than 80 % of an object is removed or its edited units carry less than 50 % of the "
        "positive ACE on it; otherwise type-2 entangled if other objects take 5 % of its pixels or more, and disentangled if not."
    )


def scene(store, **asked):
    study = gandid.Study(SceneGenerator(), SceneSegmenter(), layer="scene", seed=3)
    config = StudyConfig.check(**dict(units=1, hold="first", latents=30, ranking_latents=20) | asked)
    return study.execute(config, store=store)


def test_a_run_has_the_types_of_the_planted_scene(tmp_path):
    """Half of `a` turns into b where normalization lets it; `b` and `c` turn into wall."""
    scene(tmp_path / "run")
    frame = pd.read_csv(tmp_path / "run" / "types.csv", index_col="target")
    assert frame["type"].to_dict() == {"a": "type-2", "b": "disentangled", "c": "disentangled"}
    assert (frame[["removed", "share_top", "effective_units"]] == 1).all(axis=None)
    assert (frame["gini"] == 3 / 4).all()
    assert frame.loc["a", "p_type_2"] == frame.loc["b", "p_disentangled"] == 1
    words = types_in_words(tmp_path / "run")
    assert "80 %" in words[0]
    assert words[2] == (
        "b is disentangled with probability 1.00: 100.0 % of it is removed, 0.0 % turns into other objects, and its 1 unit "
        "carries 100.0 % of the positive ACE."
    )


def test_they_follow_the_panel_and_the_bounds(tmp_path):
    def read(name):
        return (tmp_path / name / "types.csv").read_bytes()

    scene(tmp_path / "whole")
    unbroken = read("whole")
    # Grown: the types are those of all latents.
    scene(tmp_path / "grown", latents=10)
    assert read("grown") != unbroken
    scene(tmp_path / "grown")
    assert read("grown") == unbroken
    # Merged.
    for k in (1, 2):
        scene(tmp_path / f"part-{k}", chunk=f"{k}/2")
    merge([tmp_path / "part-1", tmp_path / "part-2"], tmp_path / "merged")
    assert read("merged") == unbroken
    # Reported again.
    (tmp_path / "whole" / "types.csv").unlink()
    write_estimates(tmp_path / "whole", open_panel(tmp_path / "whole"))
    assert read("whole") == unbroken
    # Other bounds are another table of the same study, and no reason to measure anything.
    before = (tmp_path / "whole" / "effects.csv").stat().st_mtime_ns
    scene(tmp_path / "whole", types={"inpainted": 0.9})
    frame = pd.read_csv(tmp_path / "whole" / "types.csv")
    assert frame["type"].tolist() == ["disentangled"] * 3
    assert yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())["types"]["inpainted"] == 0.9
    assert (tmp_path / "whole" / "effects.csv").stat().st_mtime_ns == before
    scene(tmp_path / "whole")
    assert read("whole") == unbroken


def test_without_a_ranking_there_are_none(tmp_path):
    scene(tmp_path / "run", targets={"a": [0]})
    assert not (tmp_path / "run" / "types.csv").exists()
    assert types_in_words(tmp_path / "run") == []


def test_bounds_are_shares(tmp_path):
    scene(tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("removed: 0.8", "removed: most"))
    with pytest.raises(UsageError, match=r"types.removed: input should be a valid number.* \(got 'most'\)"):
        write_estimates(tmp_path / "run", open_panel(tmp_path / "run"))
    with pytest.raises(UsageError, match=r"types.removed: input should be less than or equal to 1 \(got 80\)"):
        StudyConfig.check(types={"removed": 80})
