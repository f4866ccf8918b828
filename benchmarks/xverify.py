import os
from processor import wiring
from processor.config import Settings
from processor.wix.signature import verify
from processor.wix.parse import parse_claims, parse_event
s=Settings.read(os.environ)
keys=wiring.public_keys(s)
def app(environ, start_response):
    b=environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    v=verify(b,keys)
    c=parse_claims(v.claims)
    e=parse_event(c, link_fqdn=s.wix_link_fqdn)
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "0")])
    return [b""]
