from __future__ import annotations

from importlib import resources

import pytest

from underway.model import InternalError
from underway.store.migrate import Migration, packaged_migrations
from underway.store.timescale import DatabaseFeatures, Edition


def test_packaged_migrations_come_in_order_from_the_first() -> None:
    versions = [migration.version for migration in packaged_migrations()]
    assert versions == sorted(versions)
    assert versions[0] == 1


def test_packaged_migrations_are_all_the_files_of_the_folder() -> None:
    folder = resources.files("underway.store").joinpath("migrations")
    assert sorted(m.label for m in packaged_migrations()) == sorted(f.name for f in folder.iterdir() if f.name.endswith(".sql"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001_a.sql", "0001_b.sql"], "two migrations have one number: '0001_[ab].sql' and '0001_[ab].sql'"),
        (["1_a.sql"], "a migration must be named like '0001_what.sql', got '1_a.sql'"),
    ],
    ids=["same-number", "odd-name"],
)
def test_packaged_migrations_with_a_bad_folder_say_what_is_wrong(
    names: list[str], message: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("package")
    (folder / "migrations").mkdir()
    for name in names:
        (folder / "migrations" / name).write_text("SELECT 1;\n")
    monkeypatch.setattr(resources, "files", lambda _: folder)
    with pytest.raises(InternalError, match=f"^{message}$"):
        packaged_migrations()


def test_migration_digest_is_the_same_for_both_line_endings() -> None:
    assert Migration(1, "a", "SELECT 1;\nSELECT 2;\n").sha256 == Migration(1, "a", "SELECT 1;\r\nSELECT 2;\r\n").sha256


def test_features_of_plain_postgresql_say_what_is_missing() -> None:
    assert DatabaseFeatures("18.4", None, None, Edition.NONE).table() == {
        "PostgreSQL": "18.4",
        "TimescaleDB": "off: not on this server",
        "hypertables": "off: plain tables",
        "columnstore": "off: needs the community edition",
        "continuous aggregates": "off: needs the community edition; reading_hourly is a plain view",
        "retention": "off: nothing is dropped",
    }


def test_features_of_the_community_edition_name_what_uses_them() -> None:
    tables = ("expectation", "reading")
    features = DatabaseFeatures(
        "17.5", "2.24.0", "2.24.0", Edition.COMMUNITY, tables, tables, ("reading_hourly",), (("reading", "2 years"),)
    )
    assert features.table() == {
        "PostgreSQL": "17.5",
        "TimescaleDB": "2.24.0, community edition",
        "hypertables": "expectation, reading",
        "columnstore": "expectation, reading",
        "continuous aggregates": "reading_hourly",
        "retention": "reading after 2 years",
    }
