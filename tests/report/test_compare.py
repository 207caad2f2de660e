"""Runs side by side: the numbers of each, and in what they differ."""

from pathlib import Path

import pandas as pd
import pytest
import xarray as xr
from report import invented

from gandid.cli import main
from gandid.errors import UsageError
from gandid.report.compare import build_comparison, compare, differences


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run like the other one, of another layer and with one more unit."""
    folder = invented.write(tmp_path_factory.mktemp("other") / "second")
    panel = xr.open_zarr(folder / "panel.zarr", consolidated=False).load()
    more = panel.isel(rank=[0]).assign(units=panel["units"].isel(rank=[0]) + 100)
    wider = xr.concat([panel, more], dim="rank", data_vars="minimal", coords="minimal", compat="override")
    wider.attrs["layer"] = "layer9"
    wider.drop_encoding().to_zarr(folder / "panel.zarr", mode="w", zarr_format=2)
    return folder


def test_every_run_keeps_its_own_numbers(run: Path, other: Path) -> None:
    table, runs = compare([run, other])
    for one, layer in zip(runs, ("layer4", "layer9"), strict=True):
        mine = table[table["run"] == str(one.path)]
        whole = pd.read_csv(one.path / "effects.csv").query(
            "contrast == 'did' and outcome == 'removed' and kind == 'target'"
        )
        for row in mine[mine["outcome"] == "removed"].to_dict("records"):
            arms = whole[
                (whole["target"] == row["target"]) & whole["did"].between(row["did"] - 1e-12, row["did"] + 1e-12)
            ]
            assert len(arms) or pd.isna(row["did"])
        assert set(mine["layer"]) == {layer}


def test_what_makes_a_comparison_unfair_is_told(run: Path, other: Path) -> None:
    said = " ".join(differences(compare([run, other])[1]))
    assert "units" in said and "seed" in said
    assert "generators" not in said


def test_the_page_is_one_file_that_names_all(run: Path, other: Path, tmp_path: Path) -> None:
    text = build_comparison(compare([run, other])[1], tmp_path / "compare.html").read_text(encoding="utf-8")
    assert run.name in text and other.name in text and "<svg" in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text


def test_one_run_is_no_comparison(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folders in ([run], [run, run]):
        with pytest.raises(UsageError):
            compare(folders)
    with pytest.raises(SystemExit) as end:
        main(["compare", str(run), str(tmp_path / "nothing")])
    assert end.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1
