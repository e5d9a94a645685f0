# SPDX-License-Identifier: Apache-2.0
"""Clients that are slow, greedy or gone.

Over real sockets, with a model that is none (`fake_server`).
"""

import json
import socket
import time

import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server
from raw_http import LABEL_HEAD
from raw_http import error_of
from raw_http import in_thread
from raw_http import label_request
from raw_http import read_all
from raw_http import read_answer
from raw_http import status_of
from raw_http import wait_until


@pytest.fixture(scope="module")
def server():
  """Short time-outs, and a queue of few."""
  with fake_server.start(
      head_timeout=1, body_timeout=1, request_timeout=3,
      max_queue=8) as running:
    yield running


def is_served(server):
  """Whether another client is served."""
  return server.call("POST", "/v1/label", {"texts": ["abc"]})[0] == 200



# Slow clients.


def test_a_head_that_stops_is_cut(server):
  with server.connect() as sock:
    sock.sendall(b"POST /v1/label HTTP/1.1\r\nHos")
    assert is_served(server)
    started = time.time()
    assert read_all(sock) == b""
    assert 0.3 < time.time() - started < 15


def test_a_head_that_trickles_is_cut(server):
  with server.connect() as sock:
    started = time.time()
    with pytest.raises(OSError):
      while time.time() - started < 30:
        sock.sendall(b"X-A: b\r\n" if time.time() - started > 0.2
                     else b"GET / HTTP/1.1\r\n")
        time.sleep(0.1)
    assert time.time() - started < 20
  assert is_served(server)


def test_a_head_that_trickles_after_a_good_request_is_cut(server):
  with server.connect() as sock:
    sock.sendall(label_request("abc"))
    assert status_of(read_answer(sock)) == 200
    started = time.time()
    with pytest.raises(OSError):
      while time.time() - started < 30:
        sock.sendall(b"G" if time.time() - started < 0.05 else b"E")
        time.sleep(0.1)
    assert time.time() - started < 20


def test_a_client_that_says_nothing_is_cut(server):
  with server.connect() as sock:
    started = time.time()
    assert read_all(sock) == b""
    assert time.time() - started < 20


def test_an_idle_connection_is_closed(server):
  with server.connect() as sock:
    sock.sendall(label_request("abc"))
    assert status_of(read_answer(sock)) == 200
    started = time.time()
    assert read_all(sock) == b""
    assert 0.5 < time.time() - started < 20


@pytest.mark.parametrize("head", [
    b"Content-Length: 1000\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"])
def test_a_body_that_trickles_is_cut(server, head):
  with server.connect() as sock:
    sock.sendall(LABEL_HEAD + head)
    sock.settimeout(0.1)
    started = time.time()
    answer = b""
    while not answer and time.time() - started < 30:
      sock.sendall(b" ")
      try:
        answer = sock.recv(65536)
      except socket.timeout:
        pass
    assert time.time() - started < 20
    assert is_served(server)
    sock.settimeout(5)
    answer += read_all(sock)  # the connection is closed
  assert status_of(answer) == 408
  assert error_of(answer) == "the body did not arrive within 1 seconds."


def test_a_body_that_goes_on_after_the_answer_is_cut(server):
  with server.connect() as sock:
    sock.sendall(b"POST /nothing HTTP/1.1\r\nHost: x\r\n"
                 b"Content-Length: 1000000000\r\n\r\n")
    started = time.time()
    with pytest.raises(OSError):
      while time.time() - started < 30:
        sock.sendall(b" " * 1000)
        time.sleep(0.02)
    assert time.time() - started < 20


def test_the_oldest_unfinished_body_gives_way():
  with fake_server.start(max_unfinished=5, body_timeout=20) as few:
    waiting = []
    for _ in range(8):
      waiting.append(few.connect())
      waiting[-1].sendall(LABEL_HEAD + b"Content-Length: 18\r\n\r\n{")
      time.sleep(0.02)
    for sock in waiting[:3]:
      answer = read_all(sock)  # the connection is closed
      assert status_of(answer) == 503
      assert error_of(answer) == (
          "too many unfinished requests; try again later.")
    assert is_served(few)
    for sock in waiting[4:]:
      sock.sendall(b'"texts": ["abc"]}')
      assert status_of(read_answer(sock)) == 200
    for sock in waiting:
      sock.close()


def test_connections_that_give_way_make_room():
  """More than there may be are opened; they do not keep good ones out."""
  with fake_server.start(max_connections=40, max_unfinished=20,
                         body_timeout=60, head_timeout=60) as few:
    waiting = []
    for _ in range(100):
      waiting.append(few.connect())
      waiting[-1].sendall(LABEL_HEAD + b"Content-Length: 18\r\n\r\n{")
    assert is_served(few)
    for sock in waiting:
      sock.close()


# Large requests.


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long(server, chunked):
  """10 MB are read to their end, so that the client sees the answer."""
  body = b'{"texts": ["' + b"a" * (3 << 20) + b'"]}'
  with server.connect() as sock:
    if chunked:
      sock.sendall(LABEL_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
      for start in range(0, len(body), 50000):
        part = body[start:start + 50000]
        sock.sendall(b"%x\r\n%s\r\n" % (len(part), part))
      sock.sendall(b"0\r\n\r\n")
    else:
      sock.sendall(LABEL_HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
      sock.sendall(body)
    answer = read_all(sock)
  assert status_of(answer) == 413
  assert b"connection: close" in answer.lower()
  assert error_of(answer) == (
      "the body is too long; the maximum is 100000 bytes.")


def test_a_body_without_end_is_cut(server):
  with server.connect() as sock:
    sock.sendall(LABEL_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    sent = 0
    with pytest.raises(OSError):
      while sent < 1 << 26:
        sock.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
        sent += 65536
  assert sent < 1 << 25
  assert is_served(server)


def test_the_largest_unfinished_body_gives_way():
  """32 bodies of full length may be there at a time, not one more."""
  head = LABEL_HEAD + b"Content-Length: 100000\r\n\r\n"
  with fake_server.start(body_timeout=20, max_unfinished=60) as held:
    waiting = [held.connect() for _ in range(33)]
    for sock in waiting:
      sock.sendall(head + b" " * (99999 if sock is waiting[7] else 98000))
    wait_until(lambda: held.metric(
        "http_requests_total", path="/v1/label", code="503") == 1)
    assert status_of(read_all(waiting[7])) == 503
    assert is_served(held)
    for sock in waiting:
      sock.close()
    wait_until(lambda: held.metric(
        "http_errors_total", path="/v1/label", kind="client_gone") == 32)


def test_an_exact_limit(server):
  body = json.dumps({"texts": ["abc"]}).encode("ascii")
  assert server.call("POST", "/v1/label",
                     body + b" " * (100000 - len(body)))[0] == 200
  assert server.call("POST", "/v1/label",
                     body + b" " * (100001 - len(body)))[0] == 413


@pytest.mark.parametrize("head,status", [
    (b"POST /nothing HTTP/1.1\r\nHost: x\r\n", 404),
    (b"PUT /v1/label HTTP/1.1\r\nHost: x\r\n", 405),
    (LABEL_HEAD + b"Content-Type: text/xml\r\n", 415),
    (LABEL_HEAD + b"Content-Type: text/xml\r\nContent-Encoding: gzip\r\n", 415),
    (b"POST /v1/label HTTP/1.1\r\nHost: x\r\nOrigin: http://y\r\n", 403)])
def test_who_is_refused_sees_it_though_the_body_is_not_read(
    server, head, status):
  """As many clients, this one reads only when it has sent all."""
  for _ in range(5):
    with server.connect() as sock:
      sock.sendall(head + b"Content-Length: 60000\r\n\r\n" + b" " * 100)
      for _ in range(6):
        time.sleep(0.02)
        sock.sendall(b" " * 9980)
      sock.sendall(b" " * 20)
      assert status_of(read_answer(sock)) == status
  # Nor is it waited for without end.
  with server.connect() as sock:
    sock.sendall(head + b"Content-Length: 60000\r\n\r\n")
    started = time.time()
    assert status_of(read_all(sock)) == status
    assert time.time() - started < 12


def test_expect_100_continue(server):
  with server.connect() as sock:
    sock.sendall(LABEL_HEAD + b"Content-Length: 18\r\n"
                 b"Expect: 100-continue\r\n\r\n")
    assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")
    sock.sendall(b'{"texts": ["abc"]}')
    assert status_of(read_answer(sock)) == 200
  with server.connect() as sock:
    sock.sendall(LABEL_HEAD + b"Content-Length: 100001\r\n"
                 b"Expect: 100-continue\r\n\r\n")
    assert status_of(read_all(sock)) == 413


def test_a_body_in_chunks(server):
  with server.connect() as sock:
    sock.sendall(LABEL_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
                 b'c\r\n{"texts": ["\r\n6\r\nabc"]}\r\n0\r\n\r\n')
    assert status_of(read_answer(sock)) == 200


# More than can be done.


def test_a_full_queue_refuses_at_once(server):
  slow = in_thread(server.call, "POST", "/v1/label", {"texts": ["sleep 2"]})
  time.sleep(0.2)
  waiting = in_thread(server.call, "POST", "/v1/label", {"texts": ["a"] * 8})
  time.sleep(0.1)
  status, headers, answer = server.call("POST", "/v1/label", {"texts": ["b"]})
  assert not slow.is_done()  # it was told at once
  assert status == 503
  assert headers["retry-after"] == "1"
  assert answer == {
      "error": "the server is overloaded; try again later."}
  assert server.call("GET", "/healthz")[0] == 200
  assert server.metric("queue_texts") == 8
  assert slow()[0] == 200
  assert waiting()[0] == 200
  assert is_served(server)


def test_an_answer_that_takes_too_long(server):
  status, _, answer = server.call("POST", "/v1/label", {"texts": ["sleep 4"]})
  assert status == 504
  assert answer == {"error": "the response was not ready within 3 seconds."}
  time.sleep(1.5)


def test_who_hangs_up_costs_nothing_more(server):
  slow = in_thread(server.call, "POST", "/v1/label", {"texts": ["sleep 2"]})
  time.sleep(0.2)
  gone = server.metric("http_errors_total", path="/v1/label",
                       kind="client_gone")
  runs = server.metric("batch_texts_sum")
  for _ in range(3):
    with server.connect() as sock:
      sock.sendall(label_request("sleep 1", "sleep 1"))
      time.sleep(0.05)
  assert slow()[0] == 200
  # The model was not run for those that had gone.
  assert is_served(server)
  assert server.metric("http_errors_total", path="/v1/label",
                       kind="client_gone") == gone + 3
  assert server.metric("batch_texts_sum") == runs + 1


def test_who_hangs_up_ends_an_explanation(server):
  text = "sleep 0.2 " + " ".join("abcdefghijklmnop")
  body = json.dumps({"text": text}).encode()
  with server.connect() as sock:
    sock.sendall(b"POST /v1/explain HTTP/1.1\r\nHost: x\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    time.sleep(0.2)
  # All of its runs would take longer than a request may.
  assert server.call("POST", "/v1/explain", {"text": "a b"})[0] == 200


def test_explanations_do_not_keep_labels_waiting():
  text = " ".join("sleep 0.05" for _ in range(10))
  with fake_server.start(max_queue=8) as busy:
    explaining = [in_thread(busy.call, "POST", "/v1/explain", {"text": text})
                  for _ in range(8)]
    time.sleep(0.2)
    for _ in range(5):
      assert is_served(busy)
    assert not all(one.is_done() for one in explaining)
    statuses = sorted(one()[0] for one in explaining)
    assert statuses == [200] * 5 + [503] * 3


def test_a_half_sent_body_is_forgotten(server):
  gone = server.metric("http_errors_total", path="/v1/label",
                       kind="client_gone")
  with server.connect() as sock:
    sock.sendall(LABEL_HEAD + b"Content-Length: 50000\r\n\r\n{")
    time.sleep(0.1)
  time.sleep(0.1)
  assert server.metric("http_errors_total", path="/v1/label",
                       kind="client_gone") == gone + 1
