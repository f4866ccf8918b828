"""What migrations would do to a busy database: squawk over the SQL that Alembic would run.

Alembic's own version table is left out: its columns are not ours to choose. Ends with squawk's status, which
is not 0 for a warning either.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION_TABLE = re.compile(r"^CREATE TABLE alembic_version \(.*?^\);\n", re.DOTALL | re.MULTILINE)


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
    command = [*squawk, "--stdin-filepath", "migrations.sql"]
    return subprocess.run(command, cwd=ROOT, check=False, input=sql, text=True).returncode


if __name__ == "__main__":
    sys.exit(main())
