"""A receiver of webhooks as a process: python hook_server.py PORT KEY FILE. Standard library only.

It verifies each signature and appends what it takes to FILE before it answers. A word
on standard input says how it behaves from then on: take, fail (500), hang (no answer) or close (without one).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import sys
import threading
import time

PORT, KEY, FILE = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3]
behaviour = ["take"]
writing = threading.Lock()


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a message, or behave as told."""
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        how = behaviour[0]
        if len(body) < length or how == "close":
            self.close_connection = True
            return
        while how == "hang" and behaviour[0] == "hang":
            time.sleep(0.05)
        if how == "hang":
            self.close_connection = True
            return
        self.answer(500 if how == "fail" else self.take(body))

    def take(self, body: bytes) -> int:
        """Verify and keep; the status to answer."""
        id, stamp = self.headers.get("webhook-id", ""), self.headers.get("webhook-timestamp", "")
        content = f"{id}.{stamp}.".encode() + body
        wanted = "v1," + base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
        given = self.headers.get("webhook-signature", "")
        valid = stamp.isdigit() and abs(time.time() - int(stamp)) < 60 and hmac.compare_digest(wanted, given)
        with writing, open(FILE, "ab") as file:
            line = {"valid": valid, "body": body.decode(), "key": id}
            file.write(json.dumps(line).encode() + b"\n")
        return 204 if valid else 401

    def answer(self, status: int) -> None:
        """Without a body."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Receiver)
server.daemon_threads = True
server.handle_error = lambda *_: None  # type: ignore[method-assign]
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
for word in sys.stdin:
    behaviour[0] = word.strip()
    print("heard", flush=True)
