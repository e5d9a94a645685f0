# SPDX-License-Identifier: Apache-2.0
"""Findings of a target, and files for its cases."""

import atexit
import os
import shutil
import tempfile


_FOLDER = []


class Finding(AssertionError):
  """A case that the code should have handled differently."""


def expect(condition, what, *values):
  """Raises `Finding` with the values unless the condition holds."""
  if not condition:
    raise Finding("%s: %s" % (what, ", ".join(ascii(v)[:300] for v in values)))


def check_sentence(error, path=None):
  """Checks an error for the user.

  Args:
    error: the exception.
    path: str, the file that it must name, or None.
  """
  kind = type(error)
  expect(kind is ValueError or kind.__module__.startswith(
      ("processors.", "multilabel.")),
         "an error of Python's own", kind.__name__, str(error))
  message = str(error)
  expect(message and len(message.splitlines()) == 1, "no sentence", message)
  expect(len(message) < 3000, "a long sentence", len(message))
  if path is not None:
    expect(path in message, "the file is not named", message)


def folder():
  """Returns a folder for the files of this process, removed at its end."""
  if not _FOLDER:
    _FOLDER.append(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, _FOLDER[0], True)
  return _FOLDER[0]


def write(name, data):
  """Writes bytes to a file of that name; returns its path."""
  path = os.path.join(folder(), name)
  with open(path, "wb") as writer:
    writer.write(data)
  return path
