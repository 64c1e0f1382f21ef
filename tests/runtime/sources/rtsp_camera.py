"""An RTSP camera with a microphone: `python rtsp_camera.py SOUND.raw PORT CHANNELS SPEED`.

Plays 16-bit PCM of 16 kHz to every client that asks, from its first sample on, over and over, `SPEED` times as fast
as it was heard. RTP over the RTSP connection itself (RFC 2326, section 10.12), samples as L16 (RFC 3551).
"""

from __future__ import annotations

import socketserver
import struct
import sys
import time
from pathlib import Path

import numpy as np

RATE, FRAMES = 16_000, 320
SOUND, PORT, CHANNELS, SPEED = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\n"
    f"m=audio 0 RTP/AVP 97\r\na=rtpmap:97 L16/{RATE}/{CHANNELS}\r\na=control:track1\r\n"
)
ANSWERS = {
    "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""),
    "DESCRIBE": ("Content-Type: application/sdp\r\n", SDP),
    "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""),
    "PLAY": ("Session: 1\r\n", ""),
}


class Client(socketserver.StreamRequestHandler):
    """One conversation."""

    def handle(self) -> None:
        while line := self.rfile.readline().decode():
            method, headers = line.split()[0], {}
            while header := self.rfile.readline().decode().strip():
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            if method not in ANSWERS:
                return
            more, body = ANSWERS[method]
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\n{more}{length}\r\n{body}".encode())
            if method == "PLAY":
                self.play()

    def play(self) -> None:
        sound = np.fromfile(SOUND, "<i2").astype(">i2").tobytes()
        size, began, at = FRAMES * CHANNELS * 2, time.monotonic(), 0
        for number in range(1 << 30):
            payload = sound[at : at + size]
            header = struct.pack(">BBHII", 0x80, 97, number & 0xFFFF, number * FRAMES & 0xFFFFFFFF, 7)
            self.wfile.write(struct.pack(">cBH", b"$", 0, len(header) + len(payload)) + header + payload)
            at = at + size if at + 2 * size <= len(sound) else 0
            time.sleep(max(0.0, began + (number + 1) * FRAMES / RATE / SPEED - time.monotonic()))


class Camera(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is nothing to speak of."""


Camera(("127.0.0.1", PORT), Client).serve_forever()
