"""The first ledger"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("event_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("handler", sa.String(length=64), nullable=False),
        sa.Column("token", sa.String(length=36), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("event_id", "handler", "token"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=True),
        sa.Column("receipt_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("event_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("audit_by_event", "audit", ["event_id"], unique=False)
    op.create_index("audit_by_receipt", "audit", ["receipt_id"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("event_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("handler", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("crashes", sa.SmallInteger(), nullable=False),
        sa.Column("token", sa.String(length=36), nullable=True),
        sa.Column("claimed_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("code", sa.String(length=32), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("event_id", "handler"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "deliveries_dead",
        "deliveries",
        ["handler", "event_id"],
        unique=False,
        sqlite_where=sa.text("state = 'dead'"),
        postgresql_where=sa.text("state = 'dead'"),
    )
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["handler", "due_at", "event_id"],
        unique=False,
        sqlite_where=sa.text("state IN ('pending', 'retrying')"),
        postgresql_where=sa.text("state IN ('pending', 'retrying')"),
    )
    op.create_index(
        "deliveries_open",
        "deliveries",
        ["handler", "event_id"],
        unique=False,
        sqlite_where=sa.text("state IN ('pending', 'retrying', 'running')"),
        postgresql_where=sa.text("state IN ('pending', 'retrying', 'running')"),
    )
    op.create_index(
        "deliveries_running",
        "deliveries",
        ["handler", "token"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "deliveries_suspect",
        "deliveries",
        ["handler", "due_at"],
        unique=False,
        sqlite_where=sa.text("state IN ('pending', 'retrying') AND crashes > 0"),
        postgresql_where=sa.text("state IN ('pending', 'retrying') AND crashes > 0"),
    )
    op.create_table(
        "duplicates",
        sa.Column("receipt_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.PrimaryKeyConstraint("receipt_id", "item"),
        sqlite_with_rowid=False,
    )
    op.create_index("duplicates_by_event", "duplicates", ["event_id"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("receipt_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("depth", sa.SmallInteger(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("wire_type", sa.String(length=128), nullable=False),
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("learner_id", sa.Text(), nullable=True),
        sa.Column("unknown_fields", sa.SmallInteger(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("events_by_learner", "events", ["learner_id"], unique=False)
    op.create_index("events_by_receipt", "events", ["receipt_id"], unique=False)
    op.create_table(
        "handlers",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("uses", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("wants", sa.JSON(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "inbox_generations",
        sa.Column("generation", sa.String(length=36), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("receipts_before", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("generation"),
    )
    op.create_table(
        "installation",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "keys",
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("event_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("content", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quarantine",
        sa.Column("receipt_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("wire_type", sa.String(length=128), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("event_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("quarantined_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("receipt_id", "item"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reappends",
        sa.Column("entry", sa.String(length=48), nullable=False),
        sa.Column("receipt_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.PrimaryKeyConstraint("entry"),
    )
    op.create_table(
        "receipts",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("method", sa.String(length=8), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("headers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("remote_address", sa.String(length=64), nullable=True),
        sa.Column("verified_by", sa.String(length=32), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("entry", sa.String(length=48), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("receipts_by_outcome", "receipts", ["outcome", "source"], unique=False)


def downgrade() -> None:
    op.drop_index("receipts_by_outcome", table_name="receipts")
    op.drop_table("receipts")
    op.drop_table("reappends")
    op.drop_table("quarantine")
    op.drop_table("keys")
    op.drop_table("installation")
    op.drop_table("inbox_generations")
    op.drop_table("handlers")
    op.drop_index("events_by_receipt", table_name="events")
    op.drop_index("events_by_learner", table_name="events")
    op.drop_table("events")
    op.drop_index("duplicates_by_event", table_name="duplicates")
    op.drop_table("duplicates")
    op.drop_index(
        "deliveries_suspect",
        table_name="deliveries",
        sqlite_where=sa.text("state IN ('pending', 'retrying') AND crashes > 0"),
        postgresql_where=sa.text("state IN ('pending', 'retrying') AND crashes > 0"),
    )
    op.drop_index(
        "deliveries_running",
        table_name="deliveries",
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.drop_index(
        "deliveries_open",
        table_name="deliveries",
        sqlite_where=sa.text("state IN ('pending', 'retrying', 'running')"),
        postgresql_where=sa.text("state IN ('pending', 'retrying', 'running')"),
    )
    op.drop_index(
        "deliveries_due",
        table_name="deliveries",
        sqlite_where=sa.text("state IN ('pending', 'retrying')"),
        postgresql_where=sa.text("state IN ('pending', 'retrying')"),
    )
    op.drop_index(
        "deliveries_dead",
        table_name="deliveries",
        sqlite_where=sa.text("state = 'dead'"),
        postgresql_where=sa.text("state = 'dead'"),
    )
    op.drop_table("deliveries")
    op.drop_index("audit_by_receipt", table_name="audit")
    op.drop_index("audit_by_event", table_name="audit")
    op.drop_table("audit")
    op.drop_table("attempts")
