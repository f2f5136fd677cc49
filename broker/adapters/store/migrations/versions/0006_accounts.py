"""As whom a backend knows whoever logs in with a credential."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("leases", sa.Column("account", text, nullable=True))


def downgrade() -> None:
    op.drop_column("leases", "account")
