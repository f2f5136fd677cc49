"""Which replica works on what; and, on PostgreSQL, texts that sort by their bytes, as everywhere else."""

import sqlalchemy as sa
from alembic import op

from broker.adapters.store.migrating import leave_behind

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TEXTS = """
SELECT table_name, column_name, CASE data_type WHEN 'text' THEN 'text' ELSE 'varchar(' || character_maximum_length || ')' END
FROM information_schema.columns
WHERE table_schema = current_schema() AND data_type IN ('text', 'character varying')
  AND table_name IN ('tasks', 'leases', 'task_tokens', 'audit_records', 'store_facts', 'quarantines', 'turns')
ORDER BY table_name, column_name
"""


def upgrade() -> None:
    for table in ("tasks", "leases"):
        op.add_column(table, sa.Column("claimed_by", sa.String(length=64), nullable=True))
        op.add_column(table, sa.Column("claimed_until", sa.BigInteger(), nullable=True))
    op.create_table(
        "turns",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    leave_behind(op.get_bind(), revision)
    if op.get_bind().dialect.name == "postgresql":
        for table, column, kind in op.get_bind().execute(sa.text(_TEXTS)).fetchall():
            op.execute(f'ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind} COLLATE "C"')


def downgrade() -> None:
    op.drop_table("turns")
    for table in ("leases", "tasks"):
        op.drop_column(table, "claimed_until")
        op.drop_column(table, "claimed_by")
