"""Fixtures: one Hub for all tests of a process, empty at the beginning of each test.

pytest_plugins = ("tests.loopback_hub.fixtures",)
"""

from collections.abc import Iterator

import pytest

from tests.loopback_hub.server import LoopbackHub


@pytest.fixture(scope="session")
def listening_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """Keep one Hub with Xet storage listening."""
    with LoopbackHub(xet_folder=tmp_path_factory.mktemp("xet")) as hub:
        yield hub


@pytest.fixture
def hub(listening_hub: LoopbackHub) -> LoopbackHub:
    """Return an empty Hub."""
    listening_hub.reset()
    return listening_hub
