"""Ports that are chosen here and listened on by a child a little later."""

from __future__ import annotations

import os
import subprocess
import sys

from processor import processes
from processor.processes import LATELY_MAX, free_port

OTHER = """
import random, sys
from processor import processes
random.sample = lambda ports, number: [int(one) for one in sys.argv[1:]]
print(processes.free_port())
"""


def test_no_other_process_is_given_a_port_that_was_given_lately() -> None:
    taken, left = free_port(), free_port()
    given_here = [str(taken), str(left)]
    os.close(processes._lately.pop())  # of the second
    given = subprocess.run(
        [sys.executable, "-c", OTHER, *given_here], check=True, capture_output=True, text=True
    )

    assert int(given.stdout) == left


def test_only_the_newest_are_held() -> None:
    ports = [free_port() for _ in range(LATELY_MAX + 20)]

    assert len(set(ports[-LATELY_MAX:])) == LATELY_MAX
    assert len(processes._lately) == LATELY_MAX
