# SPDX-License-Identifier: Apache-2.0
"""Leaves global state unchanged when this is used as a library."""

import contextlib
import logging as python_logging
import threading


_lock = threading.Lock()
_num_users = 0
_before = None


@contextlib.contextmanager
def undisturbed_logging():
  """Inside, log messages neither set up logging nor mix with noise.

  absl gives the root logger a handler when it has none and something is logged.
  Here it gets a temporary one, which shows warnings and is removed at the end;
  and TensorFlow's own logger shows only errors.
  """
  global _num_users, _before
  with _lock:
    _num_users += 1
    if _num_users == 1:
      _before = _set_up()
  try:
    yield
  finally:
    with _lock:
      _num_users -= 1
      if not _num_users:
        _put_back(*_before)
        _before = None


def _set_up():
  """Returns the arguments of `_put_back`."""
  tensorflow = python_logging.getLogger("tensorflow")
  level = tensorflow.level
  tensorflow.setLevel(python_logging.ERROR)
  if python_logging.root.handlers:
    return None, level
  handler = python_logging.StreamHandler()
  handler.setLevel(python_logging.WARNING)
  handler.setFormatter(python_logging.Formatter("%(message)s"))
  python_logging.root.addHandler(handler)
  return handler, level


def _put_back(handler, level):
  python_logging.getLogger("tensorflow").setLevel(level)
  if handler is not None:
    python_logging.root.removeHandler(handler)
