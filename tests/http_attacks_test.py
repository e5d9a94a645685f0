# SPDX-License-Identifier: Apache-2.0
"""The attacks of robustness.http_attacks, on a small scale."""

import contextlib
import shutil

import pytest


pytest.importorskip("granian")

# pylint: disable=g-import-not-at-top
import fake_server

from robustness import http_attacks


@contextlib.contextmanager
def start(workers=1, certificate=None):
  tls = {"tls_certificate": certificate[0],
         "tls_key": certificate[1]} if certificate else {}
  with fake_server.start(
      workers=workers, max_connections=400, max_unfinished=200,
      max_body_bytes=4 << 20, body_timeout=30, **tls) as server:
    yield server.port, server.process


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_all_rows_are_held():
  rows = list(http_attacks.rows(start, scale=0.1))
  for row in rows:
    assert row.held, http_attacks.format_row(row)
  assert len(rows) == 17
  assert sum(row.served for row in rows) == 15 * 10 + 2


def test_unfinished_bodies_beyond_the_connections():
  """Those that are too many give way, so that others come in at once."""
  row = http_attacks.under(
      "1000 unfinished bodies", start,
      http_attacks.crowd(1000, http_attacks.UNFINISHED), 10)
  assert row.held, http_attacks.format_row(row)


def test_a_server_that_answers_nobody_is_not_held():
  """The measure sees a failure: all connections are taken."""
  row = http_attacks.under(
      "400 idle connections", start, http_attacks.crowd(400), 8)
  assert not row.held or row.slowest > 1, http_attacks.format_row(row)
