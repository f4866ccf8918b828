"""prototype: deferred answers + combining verification"""
import os, threading
from collections import deque
from processor import wiring
from processor.config import Settings
from processor.wix.signature import verify
from processor.wix.parse import parse_claims, parse_event
import granian.server.mp as mp
s=Settings.read(os.environ)
keys=wiring.public_keys(s)
H=[("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "0")]
todo=deque()
sem=threading.Semaphore
MODE=os.environ.get("XMODE","plain")
N=int(os.environ.get("XN","1"))
role=[threading.Lock() for _ in range(N)]
def work(proto,b):
    v=verify(b,keys)
    c=parse_claims(v.claims)
    e=parse_event(c, link_fqdn=s.wix_link_fqdn)
    proto.response_bytes(200,H,b"")
def plain(proto,scope):
    b=scope["wsgi.input"].read(int(scope["CONTENT_LENGTH"]))
    work(proto,b)
def combine(proto,scope):
    b=scope["wsgi.input"].read(int(scope["CONTENT_LENGTH"]))
    todo.append((proto,b))
    while todo:
        for r in role:
            if r.acquire(False): break
        else: return
        try:
            while True:
                try: p,b=todo.popleft()
                except IndexError: break
                work(p,b)
        finally: r.release()
orig=mp._wsgi_call_wrap
def wrap(cb,so,fmt=None):
    o=orig(cb,so,fmt)
    f=plain if MODE=="plain" else combine
    def runner(proto,scope):
        if scope["PATH_INFO"]=="/webhooks/wix" and scope["REQUEST_METHOD"]=="POST":
            return f(proto,scope)
        return o(proto,scope)
    return runner
mp._wsgi_call_wrap=wrap
def app(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", H)
    return [b""]
