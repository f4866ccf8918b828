"""Our service with the webhook served by Flask and a thread that waits: what `processor.web.front` saves."""

import os

from processor import logs, wiring
from processor.web import bridge, create_app
from processor.web.patience import Patience

_services = wiring.from_environ("web", os.environ)
logs.configure(_services.settings.log_level, _services.settings.log_format, process="web")
bridge.install()
app = Patience(create_app(_services), _services.settings.web_threads)
