"""Owns the service that all hostile tests share: starting one takes longer than attacking it."""

from collections.abc import Iterator

import pytest

from tests.exposed import Exposed, exposed_service


@pytest.fixture(scope="session")
def _exposed(tmp_path_factory) -> Iterator[Exposed]:
    with exposed_service(tmp_path_factory.mktemp("exposed")) as exposed:
        yield exposed


@pytest.fixture
def exposed(_exposed: Exposed) -> Exposed:
    """With a provider that answers as usual, until a test has it play something else."""
    _exposed.provider.play()
    return _exposed
