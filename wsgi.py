"""The WSGI application, configured from the environment: `granian --interface wsgi wsgi:app` or `gunicorn wsgi:app`."""

import os

from processor import logs, wiring
from processor.web import create_front
from processor.web.patience import Patience

_services = wiring.from_environ("web", os.environ)
logs.configure(_services.settings.log_level, _services.settings.log_format, process="web")
app = Patience(create_front(_services), _services.settings.web_threads)
