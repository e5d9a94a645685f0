# SPDX-License-Identifier: Apache-2.0
"""Says what a program is doing when it takes long.

In a log, a line from time to time; on a terminal, one line that is redrawn.
"""

import contextlib
import threading
import time

from absl import logging

from multilabel.common import terminal


# Maximum seconds without a message.
INTERVAL = 1.5


@contextlib.contextmanager
def saying(what):
  """Logs `what`, and while the block runs, the elapsed time.

  For work that cannot report progress: building a graph, restoring variables.
  Must not enclose a fork of this process.

  Args:
    what: str, such as `Building the graph`.
  """
  logging.info("%s ...", what)
  start, is_over = time.monotonic(), threading.Event()
  with terminal.Line() as line:
    def tell():
      while not is_over.wait(INTERVAL):
        _show(line, "  %s: %.0f s so far" % (
            what, time.monotonic() - start))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
      yield
    finally:
      is_over.set()
      thread.join()


def counted(items, what, unit="texts"):
  """Yields items, and reports their number meanwhile.

  Args:
    items: iterable.
    what: str, such as `Reading train`.
    unit: str, what the items are.

  Yields:
    the items.
  """
  logging.info("%s ...", what)
  start = last = time.monotonic()
  with terminal.Line() as line:
    for number, item in enumerate(items, 1):
      yield item
      # One call in 16: reading the clock costs as much as scanning a short
      # text.
      if not number & 15:
        now = time.monotonic()
        if now - last >= INTERVAL:
          last = now
          _show(line, "  %s: %s %s so far, %.0f s" % (
              what, "{:,}".format(number), unit, now - start))


def _show(line, text):
  """Shows a text; where there is no terminal, as a record of the log."""
  if line.is_terminal:
    line.show(text)
  else:
    logging.info("%s", text)
