# SPDX-License-Identifier: Apache-2.0
"""Says what a program is doing where it takes longer than a person waits.

In a log a line every so often; on a terminal one line, drawn over and over.
"""

import contextlib
import shutil
import sys
import threading
import time

from absl import logging


# Seconds without a word, at most.
INTERVAL = 1.5


@contextlib.contextmanager
def saying(what):
  """Logs `what`, and while the block runs, how long it has been at it.

  For work that cannot say itself how far it is: building a graph, restoring
  variables. Not around a fork of this process.

  Args:
    what: str, such as `Building the graph`.
  """
  logging.info("%s ...", what)
  start, is_over = time.monotonic(), threading.Event()
  with _Line() as line:
    def tell():
      while not is_over.wait(INTERVAL):
        line.show("  %s: %.0f s so far" % (what, time.monotonic() - start))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
      yield
    finally:
      is_over.set()
      thread.join()


def counted(items, what, unit="texts"):
  """Passes items on, and says how many they were while there are more.

  Args:
    items: iterable.
    what: str, such as `Reading train`.
    unit: str, what the items are.

  Yields:
    the items.
  """
  logging.info("%s ...", what)
  start = last = time.monotonic()
  with _Line() as line:
    for number, item in enumerate(items, 1):
      yield item
      # One call in 16: the clock costs as much as a short text's scan.
      if not number & 15:
        now = time.monotonic()
        if now - last >= INTERVAL:
          last = now
          line.show("  %s: %s %s so far, %.0f s" % (
              what, "{:,}".format(number), unit, now - start))


class _Line(object):
  """A line that a terminal shows until the next record of the log.

  Elsewhere each is a record.
  """

  def __init__(self):
    self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
    self._is_drawn = False

  def show(self, text):
    """Shows a text (str) in place of the one before."""
    if not self._is_terminal:
      logging.info("%s", text)
      return
    width = shutil.get_terminal_size().columns - 1
    self._is_drawn = True
    sys.stderr.write("\r" + text[:width] + "\033[K")
    sys.stderr.flush()

  def _clear(self, unused_record=None):
    """Takes the line off; as a filter of the log, it lets all records pass."""
    if self._is_drawn:
      self._is_drawn = False
      sys.stderr.write("\r\033[K")
      sys.stderr.flush()
    return True

  def __enter__(self):
    if self._is_terminal:
      logging.get_absl_handler().addFilter(self._clear)
    return self

  def __exit__(self, *unused_error):
    if self._is_terminal:
      logging.get_absl_handler().removeFilter(self._clear)
      self._clear()
