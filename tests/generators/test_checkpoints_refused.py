"""Hostile and damaged checkpoints: one clear line, nothing executed, no more memory than the file is large."""

import io
import json
import os
import pickle
import resource
import struct
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from gandid.errors import GandidError, UsageError
from gandid.generators import Generator, load_generator
from gandid.generators.checkpoints import read_checkpoint, reading
from gandid.generators.storage import save_generator

FIXTURES = Path(__file__).parents[1] / "fixtures"
FILES = sorted(path for path in FIXTURES.iterdir() if path.suffix in (".pth", ".pkl"))


def told(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(UsageError) as error:
        load_generator(path)
    line = str(error.value)
    assert line.startswith(str(path)) and "\n" not in line and len(line) < 600
    return line.removeprefix(str(path)).strip()


def found_in(path: Path) -> Generator | str:
    """The generator in a file, or the line with which it is refused; any other error is a failure."""
    try:
        return read_checkpoint(path)
    except GandidError as error:
        return str(error)


def is_good(found: Generator | str) -> bool:
    return isinstance(found, Generator) or (isinstance(found, str) and "\n" not in found)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def dissect() -> OrderedDict:
    return torch.load(FIXTURES / "dissect_32px.pth", weights_only=True)


def saved(found, path: Path, modern: bool = True) -> Path:
    torch.save(found, path, _use_new_zipfile_serialization=modern)
    return path


# Hostile: what it wants to run is named, and not run


class Runs:
    """Pickled as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("wrap", ["pickle0", "pickle2", "pickle4", "pickle5", "zip", "legacy"])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "os.system"), (eval, "builtins.eval"), (bytearray, "builtins.bytearray")]
)
def test_code_is_named_and_not_run(tmp_path, wrap, function, name):
    mark = tmp_path / "executed"
    command = {os.system: f"touch {mark}", eval: f"open({str(mark)!r}, 'w')", bytearray: 10**13}[function]
    found = {**dissect(), "extra": Runs(function, command)} if wrap in ("zip", "legacy") else Runs(function, command)
    if wrap.startswith("pickle"):
        path = written(tmp_path / "hostile.pth", pickle.dumps(found, int(wrap[-1])))
    else:
        path = saved(found, tmp_path / "hostile.pth", wrap == "zip")
    line = told(path)
    assert "it wants to run" in line and name in line
    assert not mark.exists()


def test_source_code_in_a_tensorflow_pickle_stays_text():
    """The fixture carries `raise SystemExit`."""
    assert b"raise SystemExit" in (FIXTURES / "karras_tf_32px.pkl").read_bytes()
    load_generator(FIXTURES / "karras_tf_32px.pkl")


def test_code_among_the_variables_of_a_tensorflow_pickle(tmp_path):
    data = (FIXTURES / "karras_tf_32px.pkl").read_bytes()
    assert data.count(b"numpy._core.multiarray") == 1
    data = data.replace(b"numpy._core.multiarray", b"os.aaaaaaaaaaaaaaaaaaa")  # as long
    assert "it wants to run os.aaaaaaaaaaaaaaaaaaa.scalar" in told(written(tmp_path / "k.pkl", data))


def test_a_whole_pickled_network_is_refused_by_the_name_of_its_class(tmp_path):
    for modern in (True, False):
        line = told(saved(torch.nn.Conv2d(3, 3, 3), tmp_path / "whole.pth", modern))
        assert "torch.nn.modules.conv.Conv2d" in line or "whole pickled network" in line


def test_an_array_of_objects_is_refused(tmp_path, monkeypatch):
    module = types.ModuleType("tfutil")
    module.Network = type("Network", (), {"__module__": "tfutil"})
    monkeypatch.setitem(sys.modules, "tfutil", module)
    network = module.Network()
    network.variables = [("ToRGB_lod0/weight", np.array([1, "two", None], dtype=object))]
    for protocol in (2, 4, 5):
        assert "none of numbers" in told(written(tmp_path / "k.pkl", pickle.dumps(network, protocol)))


# Hostile: what it wants to allocate


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


HUGE = (2**40).to_bytes(8, "little")
BOMBS = {
    "an array of a terabyte": b"\x80\x05\x96" + HUGE,
    "bytes of a terabyte": b"\x80\x04\x8e" + HUGE,
    "a text of a terabyte": b"\x80\x04\x8d" + HUGE,
    "a frame of a terabyte": b"\x80\x04\x95" + HUGE,
    "a memo of four billion": b"\x80\x02Nr\xff\xff\xff\xff.",
    "an array of NumPy of a terabyte": pickle.dumps(Runs(np.ndarray, (2**40,)), 4),
    "a million lists": b"\x80\x02" + b"]" * 1_000_000 + b".",
    "a million nested lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "a billion laughs": b"\x80\x02]q\x00" + b"".join(b"](h%cq%ch%ce" % (n, 60, n) for n in range(40)) + b".",
    "a tuple that takes forever to hash": b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 64 + b"}q\x01h\x00Ns.",
    "a tuple that takes forever to print": b"\x80\x02ctorch\nSize\n)q\x00" + b"h\x00h\x00\x86q\x00" * 64 + b"Q.",
    "a number without end": b"\x80\x02\x8b\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_in_pickles(tmp_path, bomb):
    before = peak()
    as_zip = tmp_path / "bomb.pth"
    with zipfile.ZipFile(as_zip, "w") as archive:
        archive.writestr("archive/data.pkl", BOMBS[bomb])
        archive.writestr("archive/version", "3\n")
    legacy = pickle.dumps(reading.MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    for path in [written(tmp_path / "b", BOMBS[bomb]), written(tmp_path / "c", legacy + BOMBS[bomb]), as_zip]:
        assert told(path)
    assert peak() - before < 500 * 2**20


def storage_pickle(numel: int, size: tuple[int, ...], stride: tuple[int, ...], *more) -> bytes:
    """One tensor of a storage that may be smaller than it says."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, found):
            return ("storage", torch.FloatStorage, "0", "cpu", numel, *more) if found == "here" else None

    buffer = io.BytesIO()
    call = Runs(torch._utils._rebuild_tensor_v2, "here", 0, size, stride, False, OrderedDict())
    Pickler(buffer, 2).dump({"layer1.conv.weight": call})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("numel", "size", "stride", "line"),
    [
        (2**40, (2**40,), (1,), "promises"),
        (4, (2**40,), (1,), "a tensor reaches beyond its storage"),
        (4, (2, 2, 2), (2, 2, 2), "a tensor reaches beyond its storage"),
        (4, (2,), (-1,), "a tensor reaches beyond its storage"),
        (4, (2**20, 2**20, 3, 3), (0, 0, 0, 0), "of more numbers than it stores"),
        (4, (1,) * 1000, (1,) * 1000, "too many dimensions"),
    ],
)
def test_tensors_larger_than_the_file(tmp_path, numel, size, stride, line):
    before = peak()
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("archive/data.pkl", storage_pickle(numel, size, stride))
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", "3\n")
    legacy = b"".join(pickle.dumps(part, 2) for part in (reading.MAGIC, 1001, {"little_endian": True}))
    legacy += storage_pickle(numel, size, stride, None) + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16)
    for path in (tmp_path / "zip", written(tmp_path / "legacy", legacy)):
        found = told(path)
        assert line in found or (numel > 4 and "fewer bytes of weights than it promises" in found)
    assert peak() - before < 200 * 2**20


def rezipped(target: Path, change=lambda name, data: (name, data), **options) -> Path:
    with zipfile.ZipFile(FIXTURES / "dissect_32px.pth") as source, zipfile.ZipFile(target, "w", **options) as archive:
        for info in source.infolist():
            archive.writestr(*change(info.filename, source.read(info)))
    return target


def test_archives(tmp_path):
    path = tmp_path / "archive.pth"
    assert isinstance(load_generator(rezipped(path)), Generator)
    assert "compressed archive" in told(rezipped(path, compression=zipfile.ZIP_DEFLATED))
    assert "fewer bytes of weights" in told(
        rezipped(path, lambda name, data: (name, data[:-4] if "/data/" in name else data))
    )
    with pytest.warns(UserWarning, match="Duplicate"):
        rezipped(path, lambda name, data: (name.replace("/data/1", "/data/0"), data))
    assert "on top of each other" in told(path)
    changed = rezipped(path, lambda name, data: (name.replace("/version", "/constants.pkl"), data))
    assert "TorchScript" in told(changed)
    torch.jit.script(torch.nn.Conv2d(3, 3, 1)).save(path)
    assert "TorchScript" in told(path)
    np.savez(tmp_path / "numbers.npz", a=np.zeros(3))
    assert "is an archive, but none of PyTorch's" in told(tmp_path / "numbers.npz")


def test_a_tar_of_old_pytorch_is_never_unpacked(tmp_path):
    with tarfile.open(tmp_path / "old.pth", "w") as archive:
        for name in ("../escaped", "storages", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert "tar archive" in told(tmp_path / "old.pth")
    assert not (tmp_path.parent / "escaped").exists()


# Damaged


def changed(tmp_path, change) -> Path:
    weights = dissect()
    change(weights)
    return saved(weights, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda w: w.pop("layer3.conv.weight"), "has no 'layer3.conv.weight'"),
        (lambda w: w.pop("layer8.wscale.b"), "has no 'layer8.wscale.b'"),
        (lambda w: w.pop("output_32x32.conv.weight"), "has no 'output_32x32.conv.weight'"),
        (lambda w: [w.pop(f"layer{n}.{end}") for n in (7, 8) for end in ("conv.weight", "wscale.b")], "some are missing"),
        (lambda w: w.update({"layer3.conv.weight": w["layer3.conv.weight"][0]}), "of shape (16, 3, 3), not of 4 dimensions"),
        (lambda w: w["layer5.conv.weight"].fill_(float("nan")), "NaN or infinite), in 'layer5.conv.weight'"),
        (lambda w: w["layer5.wscale.b"][:1].fill_(float("inf")), "NaN or infinite), in 'layer5.wscale.b'"),
        (lambda w: w.update({"layer4.conv.weight": torch.randn(12, 13, 3, 3)}), "where (12, 12, 3, 3) fits the others"),
        (lambda w: w.update({"layer4.conv.weight": torch.randn(12, 12, 3, 5)}), "where (12, 12, 3, 3) fits the others"),
        (lambda w: w.update({"layer4.wscale.b": torch.randn(7)}), "where (12,) fits the others"),
        (lambda w: w.update({"layer4.conv.weight": w["layer4.conv.weight"].long()}), "as torch.int64"),
        (lambda w: w.update({"layer4.conv.weight": torch.ones(12, 12, 3, 3).to_sparse()}), "is refused"),
        (lambda w: w.update({"layer4.conv.weight": torch.ones(0, 12, 3, 3)}), "of shape (0, 12, 3, 3)"),
        (lambda w: w.update({"layer1.conv.weight": torch.ones(2, 5000, 4, 4)}), "5000 numbers in a latent"),
        (lambda w: w.update({"layer3.conv.weight": torch.ones(3000, 1, 3, 3)}), "3000 channels in a stage, where 1 to 2048"),
        (lambda w: w.update({"output_32x32.conv.weight": torch.ones(1, 8, 1, 1)}), "makes images of 1 channels"),
        (lambda w: w.update({"layer999999999999.conv.weight": torch.ones(1)}) or w.update({"layer20.conv.weight": torch.ones(1)}), "layer9"),
    ],
)  # fmt: skip
def test_damaged_weights(tmp_path, change, line):
    assert line in told(changed(tmp_path, change))


def test_too_many_resolutions(tmp_path):
    weights = {"layer1.conv.weight": torch.ones(1, 1, 4, 4), "output.conv.weight": torch.ones(3, 1, 1, 1)}
    weights |= {f"layer{n}.conv.weight": torch.ones(1, 1, 3, 3) for n in range(2, 21)}
    weights |= {f"layer{n}.conv.bias": torch.ones(1) for n in range(1, 21)} | {"output.conv.bias": torch.ones(3)}
    assert "makes images of 4, 8, 16, ... or 1024 px" in told(saved(weights, tmp_path / "tall.pth"))


def test_other_contents(tmp_path):
    renamed = {f"block{name}": value for name, value in dissect().items()}
    assert "its weights are called blocklayer1.conv.weight" in told(saved(renamed, tmp_path / "a"))
    discriminator = {"discriminator": {"layer0.weight": torch.ones(1)}}
    assert "a discriminator" in told(saved(discriminator, tmp_path / "b"))
    assert "no network" in told(saved({"epoch": 3}, tmp_path / "c"))
    loop: dict = {}
    loop |= {str(n): loop for n in range(100)}
    assert "no network" in told(saved(loop, tmp_path / "d"))
    assert told(written(tmp_path / "e", b"")) == "is empty"
    assert "is not a checkpoint" in told(written(tmp_path / "f", b"cat\ndog\nfish\n"))
    assert "is a folder" in told(tmp_path)
    with open(tmp_path / "g", "wb") as file:
        file.truncate(reading.LARGEST_FILE + 1)  # sparse: it takes no room
    assert "more than the 2 GiB that are read" in told(tmp_path / "g")
    save_file({"x": torch.ones(1)}, tmp_path / "h")
    assert "of no known PG-GAN: its weights are called x" in told(tmp_path / "h")


def test_our_own_files_that_lie(tmp_path):
    network = load_generator(FIXTURES / "dissect_32px.pth")
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    path = tmp_path / "lying.safetensors"

    def lying(changes: dict, **architecture) -> str:
        about = {"channels": [16, 12, 12, 8], "latent_dim": 16, "pixel_norm": True, **architecture}
        metadata = {"gandid": json.dumps({"kind": "generator", "architecture": about})}
        return told(written(path, save({**weights, **changes}, metadata)))

    before = peak()
    assert "1000000000 channels in a stage" in lying({}, channels=[10**9] * 4)
    assert "makes images of 4, 8, 16" in lying({}, channels=[16] * 1000)
    assert "does not hold the network that its own description names" in lying({}, channels=[2048] * 9)
    assert "does not hold the network" in lying({}, doors=3)
    assert "slope that is no number" in lying({}, slope="steep")
    assert "no finite floating-point numbers" in lying({"layer1.conv.bias": torch.full((16,), torch.nan)})
    assert "no finite floating-point numbers" in lying({"layer1.conv.bias": torch.ones(16, dtype=torch.int64)})
    assert peak() - before < 100 * 2**20
    whole = save_generator(network, path).read_bytes()
    assert "is not a readable safetensors file" in told(written(path, whole[:-100]))
    assert "is not a readable safetensors file" in told(written(path, (2**40).to_bytes(8, "little") + whole[8:]))


# Fuzzed

BYTES = {path.name: path.read_bytes() for path in FILES}
edits = st.tuples(
    st.floats(0, 1), st.binary(max_size=4), st.sampled_from(["anywhere", "near the start", "near the end"])
)


@settings(max_examples=120)
@given(st.sampled_from(sorted(BYTES)), st.lists(edits, max_size=4), st.floats(0, 1) | st.none())
def test_any_change_gives_a_generator_or_one_line(tmp_path_factory, name, edits, cut):
    data = bytearray(BYTES[name])
    for where, new, region in edits:
        reach = len(data) if region == "anywhere" else min(4000, len(data))
        start = int(where * reach) + (len(data) - reach if region == "near the end" else 0)
        data[start : start + len(new)] = new
    if cut is not None:
        del data[int(cut * len(data)) :]
    path = written(tmp_path_factory.getbasetemp() / "fuzzed", bytes(data))
    before = peak()
    assert is_good(found_in(path))
    assert peak() - before < 100 * 2**20


NAMES = st.sampled_from(["layer3", "layer1", "conv.weight", "wscale.b", "32x32", "weight", "output", ""])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 17), NAMES, st.text(max_size=12)), min_size=1, max_size=5))
def test_any_renaming_gives_a_generator_or_one_line(tmp_path_factory, renamings):
    weights = dissect()
    for number, old, new in renamings:
        name = list(weights)[number % len(weights)]
        weights[name.replace(old, new)] = weights.pop(name)
    path = saved(weights, tmp_path_factory.getbasetemp() / "renamed")
    assert is_good(found_in(path))


@settings(max_examples=80)
@given(st.binary(max_size=300))
def test_any_pickle_program_gives_inert_things_or_one_line(tmp_path_factory, program):
    path = written(tmp_path_factory.getbasetemp() / "program", b"\x80\x04" + program + b".")
    assert isinstance(found_in(path), str)
