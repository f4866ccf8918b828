"""months are archived

Revision: 0007, after 0006. What became of each month of tokens that left; and an erasure reaches a detached month, too,
as long as its table is there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

FORGET = """
    CREATE OR REPLACE FUNCTION forget_token() RETURNS trigger LANGUAGE plpgsql AS $$
    {declare}
    BEGIN
        DELETE FROM webhook_event_tokens
        WHERE received_at = OLD.received_at AND instance_id = OLD.instance_id AND event_id = OLD.event_id;
        {more}
        RETURN NULL;
    END $$"""


def upgrade() -> None:
    op.create_table(
        "token_archives",
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("partition", sa.Text(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("file_digest", sa.LargeBinary(), nullable=False),
        sa.Column("event_count", sa.BigInteger(), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("event_count >= 0", name=op.f("ck_token_archives_event_count_not_negative")),
        sa.CheckConstraint(
            "octet_length(file_digest) = 32", name=op.f("ck_token_archives_file_digest_is_sha256")
        ),
        sa.PrimaryKeyConstraint("partition", "archived_at", name=op.f("pk_token_archives")),
    )
    op.execute(
        FORGET.format(
            declare="DECLARE detached text;",
            more="""
        FOR detached IN SELECT a.partition FROM token_archives a
            WHERE to_regclass(a.partition) IS NOT NULL AND a.month = date_trunc('month', OLD.received_at AT TIME ZONE 'UTC')
        LOOP
            EXECUTE format('DELETE FROM %I WHERE received_at = $1 AND instance_id = $2 AND event_id = $3', detached)
            USING OLD.received_at, OLD.instance_id, OLD.event_id;
        END LOOP;""",
        )
    )


def downgrade() -> None:
    op.execute(FORGET.format(declare="", more=""))
    op.drop_table("token_archives")
