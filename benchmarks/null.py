"""The null design: an empty Flask route that reads the body. What server and framework cost by themselves."""

from __future__ import annotations

from flask import Flask, Response, request

app = Flask(__name__)


@app.post("/webhooks/wix")
def receive() -> Response:
    """Answer 200, whatever came."""
    request.get_data(cache=False)
    return Response(status=200)
