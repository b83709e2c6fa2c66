"""Servers of a folder, for the length of a test: plain HTTP, and as much of S3 as reading needs."""

import hashlib
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Server(ThreadingHTTPServer):
    """Lets many connections wait, as readers of volumes open many: one too many is tried again after a second."""

    request_queue_size = 128


class Served:
    """What a server saw: the requests, in order, and which of them asked for a part of a file."""

    def __init__(self, address):
        self.address, self.paths, self.ranges, self.gone = address, [], [], False


@contextmanager
def serving(folder, *, bucket="", delay_s=0.0, fail_every=0):
    """Serve a folder's files, with ranges.

    With a bucket, as S3 does; a delay before each answer; every so many requests refused as by a busy server.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self._answer(with_content=False)

        def do_GET(self):
            self._answer(with_content=True)

        def _answer(self, with_content):
            if served.gone:  # a connection that is kept alive has its own thread
                self.close_connection = True
                return
            time.sleep(delay_s)
            path = unquote(urlsplit(self.path).path).lstrip("/")
            served.paths.append(path)
            if fail_every and len(served.paths) % fail_every == 0:
                self._send(503, b"", with_content)
                return
            if bucket:
                found, _, path = path.partition("/")
                if found != bucket:
                    self._send(404, _error("NoSuchBucket"), with_content)
                    return
                if not path:
                    self._send(200, b"", with_content, {"x-amz-bucket-region": "us-east-1"})
                    return
            file = folder / path
            if not file.is_file():
                self._send(404, _error("NoSuchKey"), with_content)
                return
            content = file.read_bytes()
            about = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
                "Accept-Ranges": "bytes",
                "Last-Modified": formatdate(file.stat().st_mtime, usegmt=True),
            }
            wanted = self.headers.get("Range", "")
            if not wanted:
                self._send(200, content, with_content, about)
                return
            served.ranges.append(wanted)
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            size = len(content)
            start = int(first) if first else size - int(last)
            stop = size if not (first and last) else min(size, int(last) + 1)
            about["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
            self._send(206, content[start:stop], with_content, about)

        def _send(self, status, content, with_content, headers=()):
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_content:
                self.wfile.write(content)

    with Server(("127.0.0.1", 0), Handler) as server:
        served = Served(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            served.gone = True
            server.shutdown()
            thread.join()


def _error(code):
    return f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code></Error>'.encode()
