# SPDX-License-Identifier: Apache-2.0
"""Broken HTTP, keys, TLS, the log, and how the server ends.

Over real sockets, with a model that is none (`fake_server`).
"""

import re
import shutil
import signal
import ssl
import subprocess
import time

import pytest


pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

# pylint: disable=g-import-not-at-top
import fake_server
from raw_http import LABEL_HEAD
from raw_http import error_of
from raw_http import label_request
from raw_http import read_all
from raw_http import read_answer
from raw_http import status_of


@pytest.fixture(scope="module")
def server():
  with fake_server.start(head_timeout=1, body_timeout=1) as running:
    yield running


def is_served(server):
  """Whether another client is served."""
  return server.call("POST", "/v1/label", {"texts": ["abc"]})[0] == 200


# Broken HTTP.


@pytest.mark.parametrize("sent", [
    b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / FTP/1.1\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",  # no Host
    b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40000,
    LABEL_HEAD + b"Content-Length: -1\r\n\r\n",
    LABEL_HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    LABEL_HEAD + b"Content-Length: " + b"9" * 1000 + b"\r\n\r\n",
    LABEL_HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    LABEL_HEAD + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])  # TLS at a plain port
def test_what_is_no_http(server, sent):
  with server.connect() as sock:
    sock.sendall(sent)
    answer = read_all(sock)
  assert b"Traceback" not in answer
  assert status_of(answer) in (400, 408, 413, 501)
  assert error_of(answer)
  assert is_served(server)


def test_requests_in_one_piece_are_answered_in_their_order(server):
  with server.connect() as sock:
    sock.sendall(label_request("abc") + label_request("fail")
                 + b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
                 b"Connection: close\r\n\r\n")
    answers = read_all(sock)
  assert re.findall(br"HTTP/1.1 (\d+)", answers) == [b"200", b"500", b"200"]
  assert answers.endswith(b'{"status":"alive"}')


def test_what_is_broken_behind_a_request_does_not_change_its_answer(server):
  with server.connect() as sock:
    sock.sendall(label_request("sleep 0.3") + b"nonsense\r\n\r\n")
    answers = read_all(sock)
  assert re.findall(br"HTTP/1.1 (\d+)", answers) == [b"200"]
  assert b"connection: close" in answers


def test_a_head_behind_a_request_has_an_end(server):
  with server.connect() as sock:
    sock.sendall(label_request("sleep 0.5") + b"GET / HTTP/1.1\r\nA: ")
    for _ in range(12):
      sock.sendall(b"a" * 4096)
    assert re.findall(br"HTTP/1.1 (\d+)", read_all(sock)) == [b"200"]
  assert is_served(server)


def test_fields_after_a_body_have_an_end(server):
  with server.connect() as sock:
    sock.sendall(LABEL_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
    try:
      for number in range(1000):
        sock.sendall(b"A%d: " % number + b"a" * 100 + b"\r\n")
    except EnvironmentError:
      pass  # It has been closed.
    assert status_of(read_all(sock)) == 400
  assert is_served(server)


def test_an_offer_of_another_protocol_is_passed_over(server):
  request = label_request("abc").replace(
      b"Host: x\r\n", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n")
  with server.connect() as sock:
    for _ in range(2):
      sock.sendall(request)
      assert status_of(read_answer(sock)) == 200


# Keys and TLS.


def test_keys():
  key, other = "k" * 20, u"other-key-0123456789"
  with fake_server.start(keys=[key, other], head_timeout=1) as closed:
    def status(path="/v1/models/multilabel", **headers):
      return closed.call("GET", path, headers={
          name.replace("_", "-"): value for name, value in headers.items()})[0]
    given, headers, answer = closed.call("POST", "/v1/label", {"texts": ["a"]})
    assert given == 401
    assert headers["www-authenticate"] == "Bearer"
    assert answer["error"].startswith("an API key is needed")
    assert status() == 401
    assert status("/metrics") == 401
    assert status("/nothing") == 401
    assert [status("/healthz"), status("/readyz"), status("/")] == [200] * 3
    assert status(Authorization="Bearer " + key) == 200
    assert status(Authorization="bearer  " + other) == 200
    assert status(X_API_Key=key) == 200
    assert status(X_API_Key=key[:-1]) == 401
    assert status(X_API_Key=key + "k") == 401
    assert status(X_API_Key="") == 401
    assert status(X_API_Key=u"\xff" * 20) == 401
    assert status(Authorization="Basic " + key) == 401
    assert status(Authorization=key) == 401


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_tls(tmp_path):
  certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
  subprocess.check_call(
      ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
       "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
       "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
       "-out", certificate, "-keyout", key], stderr=subprocess.DEVNULL)
  context = ssl.create_default_context(cafile=certificate)
  with fake_server.start(tls=context, tls_certificate=certificate, tls_key=key,
                         head_timeout=1) as secure:
    # One that never shakes hands is cut, and others are served.
    with secure.connect() as silent:
      assert secure.call("POST", "/v1/label", {"texts": ["abc"]})[0] == 200
      started = time.time()
      assert read_all(silent) == b""
      assert time.time() - started < 15
    with secure.connect() as plain:
      plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      assert b"200" not in read_all(plain)
    with context.wrap_socket(secure.connect(),
                             server_hostname="127.0.0.1") as slow:
      slow.sendall(b"GET / HT")
      assert status_of(read_all(slow)) == 408


# The log.


def test_the_log_has_no_texts_and_answers_no_traceback():
  with fake_server.start(log_requests=True) as quiet:
    quiet.call("POST", "/v1/label", {"texts": ["fail", "secret text"]})
    quiet.call("GET", "/secret-path?secret-query")
    quiet.process.send_signal(signal.SIGTERM)
    quiet.process.wait(10)
    log = quiet.process.stderr.read().decode("utf-8")
  assert "secret text" not in log
  assert "secret-" not in log
  assert "secret of the inside" in log  # the traceback is here alone
  assert re.search(r"127\.0\.0\.1 POST /v1/label 500 [\d.]+ ms", log)
  assert re.search(r"127\.0\.0\.1 GET other 404 [\d.]+ ms", log)


def test_texts_are_logged_when_asked_for():
  with fake_server.start(log_texts=True) as chatty:
    chatty.call("POST", "/v1/label", {"texts": [u"a\nb\u4f60"]})
    chatty.process.send_signal(signal.SIGTERM)
    chatty.process.wait(10)
    log = chatty.process.stderr.read().decode("utf-8")
  assert r'text: "a\nb\u4f60"' in log


# The end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_finish(number):
  with fake_server.start() as ending:
    with ending.connect() as idle, ending.connect() as busy:
      idle.sendall(label_request("abc"))
      assert status_of(read_answer(idle)) == 200
      busy.sendall(label_request("sleep 1"))
      time.sleep(0.3)
      ending.process.send_signal(number)
      time.sleep(0.3)
      with pytest.raises(OSError):
        ending.connect()
      assert read_all(idle) == b""
      answer = read_all(busy)
    assert status_of(answer) == 200
    assert ending.process.wait(20) == 0


def test_after_the_grace_requests_are_cut():
  with fake_server.start(grace_seconds=0.5) as ending:
    with ending.connect() as busy:
      busy.sendall(label_request("sleep 5"))
      time.sleep(0.3)
      started = time.time()
      ending.process.send_signal(signal.SIGTERM)
      answer = read_all(busy)
      assert 0.3 < time.time() - started < 4.5
    assert status_of(answer) == 503
    assert error_of(answer) == "the server is stopping."
    assert ending.process.wait(20) == 0


def test_a_second_signal_ends_at_once():
  with fake_server.start(grace_seconds=30) as ending:
    with ending.connect() as busy:
      busy.sendall(label_request("sleep 8"))
      time.sleep(0.3)
      ending.process.send_signal(signal.SIGTERM)
      time.sleep(0.3)
      assert ending.process.poll() is None
      started = time.time()
      ending.process.send_signal(signal.SIGTERM)
      assert ending.process.wait(20) == 128 + signal.SIGTERM
      assert time.time() - started < 7


def test_hang_up_signal_loads_a_newer_checkpoint():
  with fake_server.start() as running:
    assert running.call("GET", "/v1/models/multilabel/versions/7")[0] == 200
    running.process.send_signal(signal.SIGHUP)
    end = time.time() + 5
    while running.call("GET", "/v1/models/multilabel/versions/8")[0] != 200:
      assert time.time() < end
      time.sleep(0.05)
