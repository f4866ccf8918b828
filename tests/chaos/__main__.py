"""`python -m tests.chaos`."""

from __future__ import annotations

from tests.chaos.run import main

if __name__ == "__main__":
    main()
