import pytest

from simulators.town import Town, build_town


@pytest.fixture(scope="session")
def small_town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    return build_town(1, "net3", folder=tmp_path_factory.mktemp("net3"))


@pytest.fixture(scope="session")
def big_town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    return build_town(1, "ky4", folder=tmp_path_factory.mktemp("ky4"))
