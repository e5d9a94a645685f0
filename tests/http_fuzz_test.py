# SPDX-License-Identifier: Apache-2.0
"""The fuzzer's short form: a few hundred requests nobody would think of."""

import pytest


pytest.importorskip("granian")
pytest.importorskip("hypothesis")

# pylint: disable=g-import-not-at-top
import fake_server

from robustness import http_fuzz


def test_a_few_hundred_requests():
  with fake_server.start(head_timeout=0.2, body_timeout=0.2) as server:
    statuses = http_fuzz.run(server.port, 400)
    assert server.call("GET", "/healthz")[0] == 200
  # All ways of ending are there, so the requests were of all kinds.
  assert statuses[200] > 20
  assert statuses[400] > 100
  assert statuses[404] + statuses[405] > 5


def test_what_the_fuzzer_takes_for_a_failure():
  request = http_fuzz.Request("POST", "/", [], b"", "0", 1)
  good = b'HTTP/1.1 400 x\r\n\r\n{"error": "so."}'
  assert http_fuzz.check(request, good, 1) == 400
  for answer, seconds in (
      (good, 15), (good.replace(b"400", b"500"), 1),
      (good.replace(b"so.", b"so"), 1),
      (good.replace(b"so.", b"Traceback"), 1)):
    with pytest.raises(AssertionError):
      http_fuzz.check(request, answer, seconds)
