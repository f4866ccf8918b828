"""What migrations would do to a busy database: squawk over the SQL that Alembic would run.

Each migration by itself, as it is run: a transaction of its own, and apart what it does outside of one. Alembic's own
version table is left out: its columns are not ours to choose. Ends with squawk's status, which is not 0 for a warning
either.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION_TABLE = re.compile(r"^CREATE TABLE alembic_version \(.*?^\);\n", re.DOTALL | re.MULTILINE)
TRANSACTION = re.compile(r"^BEGIN;$.*?^COMMIT;$\n?", re.DOTALL | re.MULTILINE)


def main() -> int:
    """Squawk's exit status."""
    alembic = [sys.executable, "-m", "alembic", "upgrade", "head", "--sql"]
    made = subprocess.run(alembic, cwd=ROOT, check=False, capture_output=True, text=True)
    if made.returncode != 0:
        print(made.stderr, end="", file=sys.stderr)
        print("migrations: alembic cannot write its SQL; see above.", file=sys.stderr)
        return made.returncode
    sql, removed = VERSION_TABLE.subn("", made.stdout)
    if removed != 1:
        print("migrations: Alembic's version table was not found in its SQL.", file=sys.stderr)
        return 1
    squawk = [str(Path(sys.executable).with_name("squawk")), "--config", ".squawk.toml"]
    # The time limits set at the beginning hold for the session, and so for every migration.
    limits, begin, rest = sql.partition("BEGIN;\n")
    parts = [*TRANSACTION.findall(begin + rest), *filter(str.strip, TRANSACTION.split(begin + rest))]
    found = 0
    for number, migration in enumerate(parts, start=1):
        command = [*squawk, "--stdin-filepath", f"migration-{number}.sql"]
        status = subprocess.run(
            command, cwd=ROOT, check=False, input=limits + migration, text=True
        ).returncode
        found = found or status
    return found


if __name__ == "__main__":
    sys.exit(main())
