# SPDX-License-Identifier: Apache-2.0
"""Broken HTTP, keys, other sites, TLS, the log, and how the server ends.

Over real sockets, with a model that is none (`fake_server`).
"""

import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server
from raw_http import LABEL_HEAD
from raw_http import in_thread
from raw_http import label_request
from raw_http import read_all
from raw_http import read_answer
from raw_http import status_of
from raw_http import wait_until

from multilabel.serving import granian_server


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
    b"GET / HTTP/1.1\r\n\r\n",  # no Host
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200000 + b"\r\n\r\n",
    LABEL_HEAD + b"Content-Length: -1\r\n\r\n",
    LABEL_HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    LABEL_HEAD + b"Content-Length: " + b"9" * 1000 + b"\r\n\r\n",
    LABEL_HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    LABEL_HEAD + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])  # TLS at a plain port
def test_what_is_not_http(server, sent):
  with server.connect() as sock:
    try:
      sock.sendall(sent)
    except EnvironmentError:
      pass  # It has been closed.
    answer = read_all(sock)
  assert b"Traceback" not in answer
  assert not answer or 400 <= status_of(answer) < 500
  assert is_served(server)


def test_requests_in_one_piece_are_answered_in_their_order(server):
  with server.connect() as sock:
    sock.sendall(label_request("abc") + label_request("fail")
                 + b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
                 b"Connection: close\r\n\r\n")
    answers = read_all(sock)
  assert re.findall(br"HTTP/1.1 (\d+)", answers) == [b"200", b"500", b"200"]
  assert answers.endswith(b'{"status":"alive"}')


def test_fields_after_a_body_have_an_end(server):
  with server.connect() as sock:
    sock.sendall(LABEL_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
    try:
      for number in range(10000):
        sock.sendall(b"A%d: " % number + b"a" * 100 + b"\r\n")
    except EnvironmentError:
      pass  # It has been closed.
    read_all(sock)
  assert number < 9999
  assert is_served(server)


def test_an_offer_of_another_protocol_is_passed_over(server):
  request = label_request("abc").replace(
      b"Host: x\r\n", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n")
  with server.connect() as sock:
    for _ in range(2):
      sock.sendall(request)
      assert status_of(read_answer(sock)) == 200


# Keys, and who may ask without one.


def test_keys(tmp_path):
  key, other = "k" * 20, u"other-key-0123456789"
  path = tmp_path / "keys"
  path.write_text(key + "\n" + other + "\n")
  with fake_server.start(key_file=str(path), loopback=True) as closed:
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
    # Who has a key may come from anywhere.
    assert status(X_API_Key=key, Host="example.com",
                  Origin="https://example.org") == 200
    assert status(X_API_Key=key[:-1]) == 401
    assert status(X_API_Key=key + "k") == 401
    assert status(X_API_Key="") == 401
    assert status(X_API_Key=u"\xff" * 20) == 401
    assert status(Authorization="Basic " + key) == 401
    assert status(Authorization=key) == 401
    # They are read again on SIGHUP; a file that cannot be read changes nothing.
    path.write_text(other)
    closed.process.send_signal(signal.SIGHUP)
    wait_until(lambda: status(X_API_Key=key) == 401)
    path.unlink()
    closed.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert status(X_API_Key=other) == 200


@pytest.mark.parametrize("host,status", [
    ("localhost", 200), ("LOCALHOST:8501", 200), ("a.localhost", 200),
    ("127.0.0.1:1", 200), ("127.9.9.9", 200), ("[::1]:8501", 200),
    ("example.com", 403), ("localhost.example.com", 403), ("10.0.0.1", 403),
    ("127.0.0.1.nip.io", 403), ("[::2]", 403)])
def test_without_keys_only_names_of_this_machine_are_served(
    local, host, status):
  given, _, answer = local.call("POST", "/v1/label", {"texts": ["a"]},
                                {"Host": host})
  assert given == status
  assert ("error" in answer) == (status == 403)
  assert local.call("GET", "/", None, {"Host": host})[0] == status


@pytest.mark.parametrize("headers,status", [
    ({"Origin": "http://localhost:8501"}, 200),
    ({"Origin": "HTTP://LOCALHOST:8501"}, 200),
    ({"Sec-Fetch-Site": "same-origin"}, 200),
    ({"Sec-Fetch-Site": "none"}, 200),
    ({"Origin": "http://localhost:9999"}, 403),
    ({"Origin": "https://example.com"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403)])
def test_without_keys_pages_of_other_sites_are_refused(local, headers, status):
  headers = dict(headers, Host="localhost:8501")
  assert local.call("POST", "/v1/label", {"texts": ["a"]},
                    headers)[0] == status
  # The page itself may be linked to.
  assert local.call("GET", "/", None, headers)[0] == 200


@pytest.fixture(scope="module")
def local():
  with fake_server.start(loopback=True) as running:
    yield running


# The port and TLS.


def test_a_port_is_not_shared(server):
  with pytest.raises(ValueError) as caught:
    granian_server.Port("127.0.0.1", server.port)
  assert str(caught.value) == (
      "port %d of 127.0.0.1 is not available: Address already in use." %
      server.port)


def test_a_port_that_is_held_is_shared_with_its_own_alone():
  port = granian_server.Port("127.0.0.1", 0)
  with pytest.raises(ValueError):
    granian_server.Port("127.0.0.1", port.port)
  assert not port.is_listening()
  with socket.socket() as listening:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((port.host, port.port))
    listening.listen(1)
    assert port.is_listening()
    with pytest.raises(ValueError):
      granian_server.Port("127.0.0.1", port.port)
  port.close()


@pytest.mark.parametrize("hard,wanted,allowed", [
    (20000, 4096, 4096), (2000, 4096, 1488), (513, 4096, 1)])
def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(
    hard, wanted, allowed):
  code = ("import resource\n"
          "from multilabel.serving import granian_server\n"
          "resource.setrlimit(resource.RLIMIT_NOFILE, (300, %d))\n"
          "print(granian_server.allowed_connections(%d),\n"
          "      resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n" % (
              hard, wanted))
  printed = subprocess.check_output([sys.executable, "-c", code],
                                    cwd=fake_server.ROOT)
  assert list(map(int, printed.split())) == [allowed, allowed + 512]


def test_too_few_open_files():
  code = ("import resource\n"
          "from multilabel.serving import granian_server\n"
          "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 512))\n"
          "granian_server.allowed_connections(10)\n")
  done = subprocess.run([sys.executable, "-c", code], cwd=fake_server.ROOT,
                        stderr=subprocess.PIPE)
  assert b"ValueError: the system allows 512 open files per process" in (
      done.stderr)


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
    with secure.connect():  # one that never shakes hands
      assert secure.call("POST", "/v1/label", {"texts": ["abc"]})[0] == 200
    with secure.connect() as plain:
      plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      assert b"200" not in read_all(plain)
    for version, works in ((ssl.TLSVersion.TLSv1_2, True),
                           (ssl.TLSVersion.TLSv1_1, False)):
      old = ssl.create_default_context(cafile=certificate)
      old.minimum_version = old.maximum_version = version
      with secure.connect() as sock:
        try:
          old.wrap_socket(sock, server_hostname="127.0.0.1").close()
          assert works
        except (ssl.SSLError, OSError):
          assert not works


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


def test_broken_connections_are_not_logged():
  with fake_server.start() as quiet:
    for sent in (b"nonsense\r\n\r\n", LABEL_HEAD, label_request("sleep 0.2")):
      for _ in range(3):
        with quiet.connect() as sock:
          sock.sendall(sent)
          sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                          b"\1\0\0\0\0\0\0\0")
          time.sleep(0.05)
    assert is_served(quiet)
    time.sleep(0.5)
    quiet.process.send_signal(signal.SIGTERM)
    quiet.process.wait(10)
    assert quiet.process.stderr.read() == b""


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
      assert read_all(busy) == b""
      assert 0.3 < time.time() - started < 4.5
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


# Another model.


def test_hang_up_signal_loads_a_newer_model(tmp_path):
  (tmp_path / "step").write_text("7")
  with fake_server.start(folder=str(tmp_path)) as running:
    def version():
      return running.call("POST", "/v1/label", {"texts": ["a"]})[2]["version"]
    slow = in_thread(running.call, "POST", "/v1/label", {"texts": ["sleep 2"]})
    time.sleep(0.3)
    (tmp_path / "step").write_text("8")
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: running.call(
        "GET", "/v1/models/multilabel/versions/8")[0] == 200)
    assert not slow.is_done()
    assert version() == "8"
    # An answer names the version that computed it.
    assert slow()[2]["version"] == "7"
    assert running.metric("model_info", name="multilabel", version="8") == 1
    assert running.metric("model_info", name="multilabel", version="7") == 0
    (tmp_path / "step").write_text("broken")
    running.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert version() == "8"
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(10)
    log = running.process.stderr.read().decode("utf-8")
  assert "Now serving version 8." in log
  assert "Keeping the old model: invalid literal" in log
