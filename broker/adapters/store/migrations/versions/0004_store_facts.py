"""What tells this store from every other: tokens in Vault carry it."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    facts = op.create_table(
        "store_facts",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("fact", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.bulk_insert(facts, [{"name": "identity", "fact": secrets.token_hex(16)}])


def downgrade() -> None:
    op.drop_table("store_facts")
