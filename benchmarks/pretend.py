"""A pretend Wix with something in it, for benchmarks of what asks it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processor.processes import Child, free_port, wait_until
from processor.system import LOCALHOST, Control

PROCESSOR = (sys.executable, "-m", "processor")


@contextmanager
def a_loaded_sandbox(folder: Path, **volume: int) -> Iterator[Control]:
    """A sandbox of its own process, loaded with `volume`: the options of `processor sandbox load`."""
    data = ["--data", str(folder / "sandbox")]
    chosen = [word for name, value in volume.items() for word in (f"--{name}", str(value))]
    subprocess.run([*PROCESSOR, "sandbox", "load", *data, *chosen], check=True, stdout=subprocess.DEVNULL)
    port = free_port()
    child = Child(
        "sandbox",
        [*PROCESSOR, "sandbox", "--port", str(port), *data, "--calls-per-minute", "1000000"],
        environ=dict(os.environ),
        log_file=folder / "sandbox.log",
    )
    control = Control(f"http://{LOCALHOST}:{port}")
    child.start()
    try:
        wait_until(control.is_up, what="the sandbox", seconds=60, children=[child])
        yield control
    finally:
        control.close()
        child.stop()


def settings_for(control: Control) -> dict[str, str]:
    """What a process needs to ask this sandbox, at any pace and without waiting for it to settle."""
    app = control.get("app")
    return {
        "WIX_API_URL": control.base_url,
        "WIX_APP_ID": app["appId"],
        "WIX_APP_SECRET": app["appSecret"],
        "WIX_PUBLIC_KEYS": app["publicKey"],
        "WIX_CALLS_PER_MINUTE": "1000000",
        "SETTLING_SECONDS": "0",
    }
