# SPDX-License-Identifier: Apache-2.0
"""Errors of a user's own processor, as a sentence that names their line."""

import inspect
import os
import traceback

from processors.text_lines import one_line


_OWN_FOLDER = os.path.dirname(os.path.abspath(__file__))


def is_own(processor):
  """Whether a processor's class is one of this package."""
  return type(processor).__module__.split(".")[0] == "processors"


def call(processor, name, *arguments):
  """Calls a method of a processor, and guards what it returns.

  Args:
    processor: object, of this package or the user's own.
    name: str, the method.
    *arguments: its arguments.

  Returns:
    what the method returns; what is neither list nor tuple becomes an iterator,
    so that an error on the way is reported in the same way.

  Raises:
    ValueError: the method raised something; one sentence with the user's file
      and line, and their own message.
  """
  method = getattr(processor, name)
  if is_own(processor):
    return method(*arguments)
  path = file_of(type(processor))
  try:
    result = method(*arguments)
  # User code may raise anything, and even exit.
  except (Exception, SystemExit) as error:  # pylint: disable=broad-except
    raise explain(error, path, name + " failed") from error
  if isinstance(result, (list, tuple, str)) or not hasattr(result, "__iter__"):
    return result
  return _guarded(result, path, name + " failed")


def _guarded(items, path, what):
  """Yields items; reports where their generator failed."""
  iterator = None
  while True:
    try:
      iterator = iter(items) if iterator is None else iterator
      item = next(iterator)
    except StopIteration:
      return
    except (Exception, SystemExit) as error:  # pylint: disable=broad-except
      raise explain(error, path, what) from error
    yield item


def explain(error, path, what):
  """Makes the `ValueError` that says what went wrong in the user's code.

  Args:
    error: the exception, with its traceback.
    path: str, the user's file, or None.
    what: str, such as `get_labels failed`.

  Returns:
    `ValueError` of one sentence. Our own sentence, raised for an argument of
    the user's, stays as it is, with their line behind.
  """
  frames = traceback.extract_tb(error.__traceback__)
  place = _user_line(frames, path)
  is_ours = (isinstance(error, ValueError) and frames and
             not isinstance(error, UnicodeError) and
             os.path.dirname(os.path.abspath(frames[-1].filename)) ==
             _OWN_FOLDER)
  message = one_line(error)
  if is_ours:
    return ValueError(message if place is None else "%s (called in %s)." % (
        message.rstrip("."), place))
  return ValueError("%s%s (%s: %s)." % (
      "" if place is None else place + ": ", what, type(error).__name__,
      message.rstrip(".")))


def at_line(error, path):
  """Returns ` at file:line`, the place in the user's file, or nothing: str."""
  place = _user_line(traceback.extract_tb(error.__traceback__), path)
  return "" if place is None else " at " + place


def _user_line(frames, path):
  """`file:line` of the innermost frame in the user's file or folder, or None.
  """
  if path is None:
    return None
  path = os.path.abspath(path)
  for is_theirs in (
      lambda name: name == path,
      lambda name: os.path.dirname(name) == os.path.dirname(path)):
    for frame in reversed(frames):
      if is_theirs(os.path.abspath(frame.filename)):
        return "%s:%d" % (frame.filename, frame.lineno)
  return None


def file_of(processor_class):
  """The file that a class is written in, or None."""
  try:
    return inspect.getsourcefile(processor_class)
  except (TypeError, OSError):
    return None
