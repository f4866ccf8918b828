"""`python -m tests.simulation`."""

from tests.simulation.run import main

main(prog_name="python -m tests.simulation")
