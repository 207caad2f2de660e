"""Work in several threads gives what one gives, in order."""

import time

import pytest
import torch
import xarray as xr

import gandid
from gandid.generators import Generator
from gandid.threads import can_be_copied, copied, in_threads


def test_results_come_in_the_order_of_the_items_and_replicas_are_never_shared():
    busy, before = set(), torch.get_num_threads()

    def work(replica, item):
        assert replica not in busy
        busy.add(replica)
        time.sleep(0.002 * (item % 3))
        busy.remove(replica)
        return item * item, torch.get_num_threads()

    torch.set_num_threads(4)
    found = list(in_threads(work, range(30), ["a", "b"]))
    assert found == [(item * item, 2) for item in range(30)]
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def test_an_error_ends_the_work():
    done = []

    def work(replica, item):
        if item == 3:
            raise ValueError("three")
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        list(in_threads(work, range(1000), "ab"))
    assert len(done) < 20


def test_work_in_threads_has_the_precision_of_who_asks():
    def work(replica, item):
        return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    with torch.autocast("cpu", torch.bfloat16):
        assert set(in_threads(work, range(4), "ab")) == {torch.bfloat16}
    assert set(in_threads(work, range(4), "ab")) == {torch.float32}


def test_a_copy_has_the_weights_and_modules_of_its_own():
    network = Generator((8, 8), 8)
    twin = copied(network)
    assert twin.layer1 is not network.layer1
    assert twin.layer1.conv.weight is network.layer1.conv.weight
    assert can_be_copied([network])

    class Unknown(torch.nn.Module):
        pass

    assert not can_be_copied([network, torch.nn.Sequential(Unknown())])
    assert not can_be_copied([lambda images: images])


@pytest.fixture
def alone():
    """One thread within each operation, however many work: for more of them a library may add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_threads_measure_the_panel_of_one(alone):
    """Exactly: what a task gives depends on nothing but the task."""
    study = gandid.Study(gandid.load_generator("rooms"), gandid.load_segmenter("rooms"))
    panels = []
    for study.workers in (1, 2):
        panels.append(study.run({"rug": [0, 1], "lamp": [2]}, hold="first", latents=24))
    xr.testing.assert_identical(*panels)


def test_threads_rank_as_one_does(alone):
    """Exactly where the batches are the same; gradients and ablations of all passes are made in threads, too."""
    study = gandid.Study(gandid.load_generator("rooms"), gandid.load_segmenter("rooms"), layer="layer8")
    study.rows = 24
    relations = []
    for study.workers in (1, 2):
        relations.append(study.relate(7, targets=["rug"], ranking="screened", units=4))
    xr.testing.assert_identical(*relations)
