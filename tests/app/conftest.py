"""What the tests of the page share: the embedded networks on a layer of few units, the page as a real process, and a browser."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from planted import PlantedGenerator, PlantedSegmenter
from served import Served, serve

from gandid import load_generator, load_segmenter
from gandid.app.models import Model, Ranked

if TYPE_CHECKING:
    from asking import Asking
    from browsing import Reader

    from gandid.app.page import Page

LAYER = "layer8"  # of 32 units: ranked within seconds


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(load_generator("rooms"), load_segmenter("rooms"), tmp_path_factory.mktemp("cache"), LAYER)
    yield model
    model.rankings.close()


@pytest.fixture(scope="session")
def ranked(model: Model) -> Ranked:
    """The first ranking of the layer; not a later one, for the ranking goes on meanwhile."""
    ranked = model.rankings.wait(LAYER, 4, timeout=120)
    assert ranked.relation is not None
    return ranked


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(PlantedGenerator(), PlantedSegmenter(), tmp_path_factory.mktemp("cache"), "paint")
    yield model
    model.rankings.close()


@pytest.fixture(scope="session")
def planted_page(planted: Model, tmp_path_factory: pytest.TempPathFactory) -> "Page":
    """The page on tiny networks, whose effects are known."""
    pytest.importorskip("gradio")
    from gandid.app.page import Page

    page = Page(planted, tmp_path_factory.mktemp("runs"), "cpu")
    planted.rankings.wait("paint", 16, timeout=60)
    return page


@pytest.fixture(scope="session")
def asked(planted_page: "Page") -> "Asking":
    """The page on tiny networks, and a client of it."""
    from asking import asking

    return asking(planted_page)


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = serve(tmp_path_factory.mktemp("runs"), "--layer", LAYER)
    yield served
    served.process.terminate()
    served.process.wait(20)


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Reader"]:
    pytest.importorskip("selenium")
    from browsing import Reader
    from chromium import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield Reader(driver)
