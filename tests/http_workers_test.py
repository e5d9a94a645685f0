# SPDX-License-Identifier: Apache-2.0
"""Several processes behind one port.

Over real sockets, with a model that is none (`fake_server`).
"""

import signal
import subprocess
import time

import pytest


pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

# pylint: disable=g-import-not-at-top
import fake_server
from raw_http import in_thread
from raw_http import label_request
from raw_http import wait_until


def pids_of(running):
  """Process ids of the workers, by Linux' own list."""
  listed = subprocess.check_output(
      ["ps", "-o", "pid=", "--ppid", str(running.process.pid)])
  return sorted(int(line) for line in listed.split())


def is_alive(pid):
  state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)],
                         stdout=subprocess.PIPE, check=False).stdout
  return bool(state.strip()) and not state.startswith(b"Z")


def test_workers_share_a_port_and_their_counts():
  with fake_server.start(workers=2) as several:
    assert len(pids_of(several)) == 2
    # While one is busy with all that it accepted, the other answers.
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
    several.process.send_signal(signal.SIGHUP)
    wait_until(lambda: several.call(
        "GET", "/v1/models/multilabel/versions/8")[0] == 200)
    pids = pids_of(several)
    several.process.send_signal(signal.SIGTERM)
    assert several.process.wait(20) == 0
    assert not any(map(is_alive, pids))


def test_workers_finish_what_is_in_flight():
  with fake_server.start(workers=2) as several:
    slow = [in_thread(several.call, "POST", "/v1/label",
                      {"texts": ["sleep 1"]}) for _ in range(2)]
    time.sleep(0.4)
    several.process.send_signal(signal.SIGTERM)
    assert [result()[0] for result in slow] == [200, 200]
    assert several.process.wait(20) == 0


def test_a_worker_that_dies_is_replaced():
  with fake_server.start(workers=2) as several:
    for _ in range(10):
      several.call("GET", "/v1/models/multilabel")
    time.sleep(1.2)  # counts are written once a second
    before = pids_of(several)
    subprocess.check_call(["kill", "-9", str(before[0])])
    wait_until(lambda: len(pids_of(several)) == 2 and
               pids_of(several) != before)
    wait_until(lambda: several.metric("workers") == 2)
    # What it had counted is not lost.
    assert several.metric("http_requests_total", path="/v1/models/{model}",
                          code="200") == 10


def test_workers_end_with_what_started_them():
  with fake_server.start(workers=2) as several:
    pids = pids_of(several)
    several.process.kill()
    several.process.wait(10)
    wait_until(lambda: not any(map(is_alive, pids)))


def test_a_second_signal_ends_workers_at_once():
  with fake_server.start(workers=2, grace_seconds=60) as several:
    pids = pids_of(several)
    with several.connect() as busy:
      busy.sendall(label_request("sleep 8"))
      time.sleep(0.5)
      several.process.send_signal(signal.SIGTERM)
      time.sleep(0.5)
      assert several.process.poll() is None
      several.process.send_signal(signal.SIGTERM)
      assert several.process.wait(20) == 128 + signal.SIGTERM
    assert not any(map(is_alive, pids))


def test_workers_that_cannot_serve_end_the_server():
  with pytest.raises(RuntimeError):
    with fake_server.start(workers=2, broken=True):
      pass
