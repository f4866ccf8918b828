"""The WSGI application, configured from the environment: `granian --interface wsgi wsgi:app` or `gunicorn wsgi:app`."""

import os

from processor import logs, wiring
from processor.web import bridge, create_front

_services = wiring.from_environ("web", os.environ)
logs.configure(_services.settings.log_level, _services.settings.log_format, process="web")
bridge.install()
app = create_front(_services)
