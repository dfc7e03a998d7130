"""A chat model's endpoint of our own, and the ways it can fail."""

import json
import threading
import urllib.request
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from modeling_mm_orient.data.paraphrases import Paraphraser

TEXTS = [f"text number {number}" for number in range(12)]
# what is sent first, then again and again, every so many seconds
ENDLESS = {
    "trickle": (b"200 OK\r\n\r\n", b" ", 0.05),
    "flood": (b"200 OK\r\n\r\n", b" " * 2**20, 0),
    "early": (b"103 Early\r\n\r\n", b"HTTP/1.1 103 Early\r\n\r\n", 0.05),
    "headers": (b"200 OK\r\n", b"X: y\r\n", 0.05),
    "empty": (b"200 OK\r\nContent-Encoding: deflate\r\n\r\n", b"\x00\x00\x00\xff\xff", 0.05),
}
GOOD = json.dumps(["one wording", "another wording", "One wording!", "a third"])


class Endpoint(ThreadingHTTPServer):
    """`faults` says per request, from 0, what goes wrong: a status, "hang", one of `ENDLESS`, "cut", "html", an
    answer to give instead, parts of the response (a dict), or the whole of it (bytes)."""

    daemon_threads = True

    def __init__(self, faults=lambda number: None, upstream=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.upstream, self.lock = faults, upstream, threading.Lock()
        self.requests, self.paid, self.keys, self.agents, self.bodies = 0, [], [], [], []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            number, server.requests = server.requests, server.requests + 1
            server.keys.append(self.headers.get("Authorization"))
            server.agents.append(self.headers.get("User-Agent"))
            server.bodies.append(body)
        fault = server.faults(number)
        if fault == "hang":
            server.closing.wait(5)
            return
        if isinstance(fault, str) and fault in ENDLESS:
            head, part, seconds = ENDLESS[fault]
            self.wfile.write(b"HTTP/1.1 " + head)
            with suppress(OSError):  # the client has gone
                while not server.closing.wait(seconds):
                    self.wfile.write(part)
            return
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            return
        if isinstance(fault, int):
            self.give(fault, {"error": "no"}, {"Retry-After": "0"} if fault == 429 else {})
            return
        if fault == "html":
            self.give(200, "<html>down for maintenance</html>")
            return
        if isinstance(fault, bytes):
            self.give(200, fault.decode())
            return
        content = fault if isinstance(fault, str) else GOOD
        answer = {
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}]
        }
        answer |= {"id": "1", "created": 1, "model": body["model"], "system_fingerprint": ""}
        answer["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        answer |= fault if isinstance(fault, dict) else {}
        if server.upstream:
            request = urllib.request.Request(f"{server.upstream}/chat/completions", json.dumps(body).encode())
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request) as response:
                answer = json.loads(response.read())
        with server.lock:
            server.paid.append(body["messages"][-1]["content"])
        self.give(200, answer)

    def give(self, status, content, headers=()):
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(*arguments, **options):
    server = Endpoint(*arguments, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the endpoints are on this machine


def asking(server, **options) -> Paraphraser:
    return Paraphraser(server.url, "some-model", **{"backoff": 0.01, "timeout": 5.0} | options)
