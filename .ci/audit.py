"""Known vulnerabilities of every locked package, asked of the package index by pip-audit.

Exit status: 0 when every package was looked up and none is known to be vulnerable, and also when the service
could not be reached, which is then said in a line with "NOT RUN"; AUDIT=required makes that a failure.
pip-audit by itself says "No known vulnerabilities found" when it could look up nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [
    *(sys.executable, "-m", "pip_audit", "--requirement", ".locks/development.txt"),
    *("--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"),
]


def main() -> int:
    """Ask, and say what was found."""
    done = subprocess.run(COMMAND, cwd=ROOT, check=False, capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return not_run((done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1])
    skipped = [package for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        return not_run("the vulnerability service knew none of the packages, as behind a mirror without it")
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for found in package["vulns"]:
            fixed = ", ".join(found.get("fix_versions") or []) or "no version yet"
            print(f"audit: {package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    for package in skipped:
        print(f"audit: {package['name']} was not looked up: {package['skip_reason']}")
    print(f"audit: {len(packages) - len(skipped)} of {len(packages)} packages, {len(vulnerable)} vulnerable")
    return 1 if vulnerable or skipped else 0


def not_run(why: str) -> int:
    """Say so plainly; silence would pass for a clean result."""
    print(f"audit: NOT RUN: {why}")
    return 1 if os.environ.get("AUDIT") == "required" else 0


if __name__ == "__main__":
    sys.exit(main())
