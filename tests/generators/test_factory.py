"""A generator from the user's own file, and what such a file can do wrong."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gandid
from gandid import cli
from gandid.errors import UsageError
from gandid.runs import fingerprint

EXAMPLE = Path(__file__).parents[2] / "examples" / "your_gan.py"
NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    latent_dim = 3
    def __init__(self):
        super().__init__()
        self.paint = nn.ConvTranspose2d(3, 4, 4)
        self.norm = nn.BatchNorm2d(4)
        self.colour = nn.Conv2d(4, 3, 1)
    def forward(self, z):
        return self.colour(self.norm(self.paint(z[:, :, None, None])))

def make():
    torch.manual_seed(5)
    return Net()
"""


def written(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return f"{folder / name}:make"


def test_the_factory_makes_the_generator(tmp_path):
    name = written(tmp_path, NETWORK)
    generator = gandid.load_generator(name)
    assert (generator.name, generator.latent_dim, generator.training) == (name, 3, False)
    torch.manual_seed(5)
    assert torch.equal(generator.paint.weight, nn.ConvTranspose2d(3, 4, 4).weight)
    assert generator(torch.zeros(2, 3)).shape == (2, 3, 4, 4)


def test_what_lies_beside_the_file_can_be_imported_and_nothing_is_left(tmp_path):
    written(tmp_path, NETWORK, "beside_the_factory.py")
    before = list(sys.path)
    name = written(
        tmp_path,
        "from dataclasses import dataclass\nfrom beside_the_factory import make\n@dataclass\nclass Unused:\n    a: 'int'\n",
    )
    assert gandid.load_generator(name).latent_dim == 3
    assert sys.path == before


def test_another_file_is_another_generator(tmp_path):
    """The weights are the same, the images are not: a study must tell them apart."""
    fingerprints = set()
    for text in (NETWORK, NETWORK.replace("return self.colour", "return -self.colour")):
        fingerprints.add(fingerprint(gandid.load_generator(written(tmp_path, text))))
    assert len(fingerprints) == 2


def test_files_of_one_name_are_modules_of_their_own(tmp_path):
    """Also the files beside two factories, and whatever has the name already."""
    made, before = [], sys.modules.get("helper_of_mine")
    for k, folder in enumerate([tmp_path / "a", tmp_path / "b", tmp_path / "c"]):
        folder.mkdir()
        written(folder, f"SHIFT = {k}\n", "helper_of_mine.py")
        text = NETWORK.replace("import torch\n", "import torch\nimport helper_of_mine\n", 1)
        text = text.replace("return self.colour(", "return helper_of_mine.SHIFT + self.colour(")
        made.append(gandid.load_generator(written(folder, text)))
    assert len({type(one.network).__module__ for one in made}) == 3
    z = torch.zeros(1, 3)
    for k, one in enumerate(made):
        torch.testing.assert_close(one(z), made[0](z) + k)
    sys.modules.pop("helper_of_mine", None)
    assert before is None


def test_the_length_of_latents_may_be_a_number_of_numpy(tmp_path):
    name = written(tmp_path, NETWORK.replace("latent_dim = 3", "import numpy; latent_dim = numpy.int64(3)"))
    assert gandid.Study(gandid.load_generator(name), gandid.load_segmenter(f"{EXAMPLE}:colours"), layer="paint").runner


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def make(:\n", r"mine.py, line 1: SyntaxError: "),
        ("import torch\nimport no_such_library\n", r"mine.py, line 2: ModuleNotFoundError: No module named 'no_such_library'$"),
        ("def make():\n    x = 1\n    return x / 0\n", r"mine.py, line 3: ZeroDivisionError: division by zero$"),
        ("import sys\nsys.exit('no weights')\n", r"mine.py, line 2: SystemExit: no weights$"),
        ("import torch\ndef make():\n    return torch.load('nowhere.pt')\n", r"mine.py, line 3: FileNotFoundError: .*nowhere.pt"),
        ("def make():\n    raise ValueError('first\\nsecond')\n", r"mine.py, line 2: ValueError: first$"),
        ("made = None\n", r"mine.py has no function 'make'"),
        ("def make():\n    return 7\n", r"mine.py:make returned a int: it must return a torch.nn.Module"),
        ("from torch import nn\ndef make():\n    return nn.ReLU()\n", r"mine.py:make: .* set its attribute latent_dim"),
    ],
)  # fmt: skip
def test_a_fault_of_the_file_is_one_line(tmp_path, text, line):
    with pytest.raises(UsageError, match=line) as refused:
        gandid.load_generator(written(tmp_path, text))
    assert "\n" not in str(refused.value)


def test_there_must_be_a_file(tmp_path):
    with pytest.raises(UsageError, match=r"none\.py is not a file"):
        gandid.load_generator(f"{tmp_path}/none.py:make")


def test_the_command_line_says_it_in_a_line_and_debug_shows_all(tmp_path, monkeypatch, capsys):
    name = written(tmp_path, "def make():\n    return 1 / 0\n")
    arguments = [
        "gandid",
        "run",
        "--generator",
        name,
        "--layer",
        "x",
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and f"{tmp_path / 'mine.py'}, line 2" in line and "ZeroDivisionError" in line
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(sys, "argv", [*arguments, "--debug"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "return 1 / 0" in capsys.readouterr().err


def test_the_example_runs_as_it_says():
    study = gandid.Study(
        gandid.load_generator(f"{EXAMPLE}:make"), gandid.load_segmenter(f"{EXAMPLE}:colours"), layer="net.0"
    )
    assert study.runner.downstream == ("net.1", "net.4")
    assert study.runner.closed_form and all(study.runner.responds.values())
    panel = study.run({"bright": [0, 1, 2, 3]}, control=["capped", "frozen"], latents=16)
    assert panel.attrs["image_pixels"] == 32 * 32
    assert panel["gain_error"].max() < 1e-5
    effects = gandid.did(panel).to_frame().query("control == 'capped' and held == 'all'")
    assert effects.query("outcome == 'removed' and contrast == 'did'")["did"].abs().item() > 0
    assert 0.05 < (panel["pixels"].sel(arm="reference", object="bright").mean() / 1024) < 0.95
