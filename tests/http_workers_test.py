# SPDX-License-Identifier: Apache-2.0
"""Several processes behind one port.

Over real sockets, with a model that is none (`fake_server`).
"""

import os
import signal
import time

import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server
from raw_http import in_thread
from raw_http import label_request
from raw_http import wait_until

from robustness import http_client


def test_workers_share_a_port_and_their_counts(tmp_path):
  (tmp_path / "step").write_text("7")
  with fake_server.start(workers=2, folder=str(tmp_path)) as several:
    assert len(http_client.children(several.process)) == 2
    slow = [in_thread(several.call, "POST", "/v1/label",
                      {"texts": ["sleep 1"]}) for _ in range(4)]
    for _ in range(20):
      assert several.call("GET", "/v1/models/multilabel")[0] == 200
    assert [result()[0] for result in slow] == [200] * 4
    wait_until(lambda: (
        several.metric("http_requests_total", path="/v1/models/{model}",
                       code="200"),
        several.metric("texts_total"), several.metric("workers")) == (
            20, 4, 2))
    (tmp_path / "step").write_text("8")
    several.process.send_signal(signal.SIGHUP)
    wait_until(lambda: [several.call(
        "GET", "/v1/models/multilabel/versions/8")[0]
                        for _ in range(8)] == [200] * 8)
    pids = http_client.children(several.process)
    several.process.send_signal(signal.SIGTERM)
    assert several.process.wait(20) == 0
    assert not any(map(http_client.is_alive, pids))


def test_workers_finish_what_is_in_flight():
  with fake_server.start(workers=2) as several:
    slow = [in_thread(several.call, "POST", "/v1/label",
                      {"texts": ["sleep 1"]}) for _ in range(2)]
    time.sleep(0.4)
    several.process.send_signal(signal.SIGTERM)
    assert [result()[0] for result in slow] == [200, 200]
    assert several.process.wait(20) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_is_replaced(workers):
  with fake_server.start(workers=workers) as several:
    before = http_client.children(several.process)
    assert len(before) == workers
    for _ in range(10):
      assert several.call("GET", "/healthz")[0] == 200
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: len(http_client.children(several.process)) == workers and
               http_client.children(several.process) != before)

    def is_served():
      try:
        return several.call("POST", "/v1/label", {"texts": ["a"]})[0] == 200
      except OSError:
        return False
    wait_until(is_served)
    wait_until(lambda: several.metric("workers") == workers)
    if workers > 1:  # what the other one had counted is not lost
      assert several.metric("http_requests_total", path="/healthz",
                            code="200") == 10
    several.process.send_signal(signal.SIGTERM)
    assert several.process.wait(20) == 0


def test_a_replacement_that_dies_at_once_ends_the_server():
  with fake_server.start() as one:
    before = http_client.children(one.process)
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: http_client.children(one.process) not in ([], before))
    os.kill(http_client.children(one.process)[0], signal.SIGKILL)
    assert one.process.wait(30) == 1
    assert b"RuntimeError: the worker processes exit as soon as" in (
        one.process.stderr.read())


def test_workers_end_with_what_started_them():
  with fake_server.start(workers=2) as several:
    pids = http_client.children(several.process)
    several.process.kill()
    several.process.wait(10)
    wait_until(lambda: not any(map(http_client.is_alive, pids)))


def test_a_second_signal_ends_workers_at_once():
  with fake_server.start(workers=2, grace_seconds=60) as several:
    pids = http_client.children(several.process)
    with several.connect() as busy:
      busy.sendall(label_request("sleep 8"))
      time.sleep(0.5)
      several.process.send_signal(signal.SIGTERM)
      time.sleep(0.5)
      assert several.process.poll() is None
      several.process.send_signal(signal.SIGTERM)
      assert several.process.wait(20) == 128 + signal.SIGTERM
    assert not any(map(http_client.is_alive, pids))


def test_workers_that_cannot_serve_end_the_server(tmp_path):
  (tmp_path / "step").write_text("not a number")
  with pytest.raises(RuntimeError) as caught:
    with fake_server.start(workers=2, folder=str(tmp_path)):
      pass
  assert "ValueError: invalid literal for int()" in str(caught.value)
