# SPDX-License-Identifier: Apache-2.0
"""The nginx configuration of docs/serving.md, with nginx itself."""

import contextlib
import io
import os
import re
import shutil
import socket
import ssl
import subprocess
import time

import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server
from raw_http import LABEL_HEAD
from raw_http import label_request
from raw_http import read_all
from raw_http import read_answer
from raw_http import status_of
from raw_http import wait_until

from robustness import http_attacks


NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NGINX or not shutil.which("openssl"),
                       reason="needs nginx and openssl")]


def configuration(certificate, port, server_port):
  """The document's, for other ports and files."""
  with io.open(os.path.join(fake_server.ROOT, "docs", "serving.md"),
               encoding="utf-8") as reader:
    block, = re.findall(r"```nginx\n(.*?)```", reader.read(), re.S)
  for old, new in (("listen 443", "listen 127.0.0.1:%d" % port),
                   ("127.0.0.1:8501", "127.0.0.1:%d" % server_port),
                   ("/etc/ssl/multilabel/cert.pem", certificate[0]),
                   ("/etc/ssl/multilabel/key.pem", certificate[1]),
                   ("send_timeout 10s", "send_timeout 2s"),
                   ("client_body_timeout 10s", "client_body_timeout 2s"),
                   ("client_header_timeout 10s", "client_header_timeout 2s")):
    assert block.count(old) == 1, old
    block = block.replace(old, new)
  return block


@contextlib.contextmanager
def proxy(folder, server_port):
  """Runs nginx; yields a `fake_server.Running` of it."""
  with socket.socket() as sock:
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
  with http_attacks.certificate() as certificate:
    path = os.path.join(folder, "nginx.conf")
    with open(path, "w") as writer:
      writer.write(
          "daemon off; pid %s/pid; error_log stderr warn;\n%s"
          "events { }\nhttp { access_log off;\n%s\n%s }\n" % (
              # As another user it could not write into the test's folder.
              folder, "user root;\n" if os.getuid() == 0 else "",
              "".join("%s_temp_path %s/%s;\n" % (name, folder, name)
                              for name in ("client_body", "proxy", "fastcgi",
                                           "uwsgi", "scgi")),
              configuration(certificate, port, server_port)))
    subprocess.check_call([NGINX, "-t", "-q", "-c", path])
    process = subprocess.Popen([NGINX, "-c", path])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
      running = fake_server.Running(process, port, context)

      def listens():
        try:
          running.connect().close()
          return True
        except OSError:
          return False
      wait_until(listens)
      yield running
    finally:
      process.terminate()
      process.wait(20)


def test_nginx(tmp_path):
  with fake_server.start(
      max_body_bytes=4 << 20, max_characters=10 ** 6) as server, (
          proxy(str(tmp_path), server.port)) as outside:
    # What the server says comes through, errors too.
    for method, path, body in (
        ("GET", "/v1/labels", None), ("POST", "/v1/label", {"text": "a b"}),
        ("POST", "/v1/label", {"texts": []}), ("GET", "/nothing", None),
        ("POST", "/v1/label", {"text": "x" * 500000})):
      for _ in range(3):
        given = outside.call(method, path, body)
        wanted = server.call(method, path, body)
        assert (given[0], given[2]) == (wanted[0], wanted[2])
    assert outside.call("GET", "/metrics")[0] == 403
    assert outside.call("POST", "/v1/label", b" " * (5 << 20))[0] == 413
    # Slow clients are ended there, and do not reach the server.
    context = outside._tls
    asked = server.metric("http_requests_total", path="/v1/label", code="200")
    slow = []
    for sent in (LABEL_HEAD + b"Content-Length: 18\r\n\r\n{", LABEL_HEAD,
                 b"GET /" + b"a" * 1000):
      slow.append(context.wrap_socket(outside.connect()))
      slow[-1].sendall(sent)
    slow.append(outside.connect())  # never shakes hands
    with context.wrap_socket(outside.connect()) as good:
      good.sendall(label_request("abc"))
      assert status_of(read_answer(good)) == 200
    for sock in slow:
      started = time.time()
      answer = read_all(sock)
      assert not answer or status_of(answer) == 408
      assert time.time() - started < 20
      sock.close()
    assert server.metric("http_requests_total", path="/v1/label",
                         code="200") == asked + 1
    assert server.metric("http_errors_total", path="/v1/label",
                         kind="client_gone") == 0


def test_who_does_not_read_is_ended(tmp_path):
  with fake_server.start() as server, (
      proxy(str(tmp_path), server.port)) as outside:
    with outside._tls.wrap_socket(outside.connect()) as sock:
      sock.settimeout(0.2)
      request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100
      started = time.time()
      with pytest.raises(OSError):
        while time.time() - started < 60:
          try:
            sock.sendall(request)
          except socket.timeout:
            pass
      assert time.time() - started < 60
    assert outside.call("POST", "/v1/label", {"text": "a"})[0] == 200
