"""Migrations make what the code expects, twice do no harm, and an older ledger is refused."""

from __future__ import annotations

import stat

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, select, text

from coursewire.errors import Code, CoursewireError, InvalidConfiguration, LedgerOutdated
from coursewire.installation import KEY_NAME, read_key
from coursewire.ledger.engine import open_ledger
from coursewire.ledger.migrate import check, known_revisions, migrate
from coursewire.ledger.tables import handlers, metadata
from coursewire.settings import build_settings
from workers.app import main as worker
from workers.sweep import main as sweep

HANDLERS = {"audit": {}, "certificates": {}}


@pytest.fixture
def settings(tmp_path):
    return build_settings({"handlers": HANDLERS}, data_dir=tmp_path / "data")


def query(settings, statement):
    engine = open_ledger(settings)
    with engine.begin() as db:
        found = list(db.execute(statement))
    engine.dispose()
    return found


def test_the_migrations_make_the_tables_of_the_code(settings):
    migrate(settings)
    engine = open_ledger(settings)
    with engine.begin() as db:
        ours = {table.name for table in metadata.sorted_tables}

        def only_ours(item, name, kind, reflected, compare_to):
            return kind != "table" or name in ours

        context = MigrationContext.configure(db, opts={"include_object": only_ours})
        assert compare_metadata(context, metadata) == []
        found = set(inspect(db).get_table_names())
    engine.dispose()
    assert {"certificates_awarded", "progress_states"} <= found


def test_migrating_twice_changes_nothing(settings):
    migrate(settings)
    key = read_key(settings)
    migrate(settings)
    check(settings)
    assert read_key(settings) == key
    assert [row.name for row in query(settings, select(handlers).order_by("name"))] == [
        "audit",
        "certificates",
    ]


def test_a_handler_that_is_no_longer_configured_is_named_and_stays(settings, tmp_path):
    migrate(settings)
    fewer = build_settings({"handlers": {"audit": {}}}, data_dir=settings.data_dir)
    assert migrate(fewer) == ["certificates"]
    assert len(query(settings, select(handlers))) == 2


def test_a_ledger_that_was_never_migrated_is_refused(settings):
    with pytest.raises(LedgerOutdated):
        check(settings)


def test_an_older_ledger_is_refused_and_a_newer_one_accepted(settings):
    migrate(settings)
    query(settings, text("UPDATE alembic_version SET version_num = '9999' RETURNING 1"))
    check(settings)
    query(settings, text("DELETE FROM alembic_version RETURNING 1"))
    with pytest.raises(LedgerOutdated):
        check(settings)


def test_the_ledger_and_the_key_are_their_owners_only(settings):
    migrate(settings)
    for name in (KEY_NAME, "ledger.sqlite3"):
        assert stat.S_IMODE((settings.data_dir / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700


def test_another_installation_key_is_refused(settings):
    """With it, every event that is sent again would be a new one."""
    migrate(settings)
    other = build_settings({"installation_key": "another"}, data_dir=settings.data_dir)
    with pytest.raises(CoursewireError) as caught:
        migrate(other)
    assert caught.value.code is Code.WRONG_INSTALLATION_KEY


def test_without_a_key_workers_say_what_to_do(settings):
    with pytest.raises(InvalidConfiguration, match="coursewire migrate"):
        read_key(settings)


def test_workers_and_sweep_refuse_an_older_ledger(settings):
    """The receiver does not use the ledger: it takes callbacks all the while."""
    migrate(settings)
    known = known_revisions()
    assert known == sorted(known)
    for revision in known[:-1]:
        query(settings, text(f"UPDATE alembic_version SET version_num = '{revision}' RETURNING 1"))
        with pytest.raises(LedgerOutdated):
            worker(settings, ["ingest"])
        with pytest.raises(LedgerOutdated):
            sweep(settings)


def test_a_program_that_was_rolled_back_leaves_a_newer_ledger_alone(settings):
    """Migrations are additive: `up` of the older release migrates before it starts, and must start."""
    migrate(settings)
    query(settings, text("UPDATE alembic_version SET version_num = '9999' RETURNING 1"))
    assert migrate(settings) == []
    assert query(settings, text("SELECT version_num FROM alembic_version")) == [("9999",)]
