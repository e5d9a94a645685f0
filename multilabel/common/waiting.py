# SPDX-License-Identifier: Apache-2.0
"""Says what a program is doing where it takes longer than a person waits."""

import contextlib
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

  def tell():
    while not is_over.wait(INTERVAL):
      logging.info("  %s: %.0f s so far", what, time.monotonic() - start)

  thread = threading.Thread(target=tell, daemon=True)
  thread.start()
  try:
    yield
  finally:
    is_over.set()
    thread.join()


def counted(items, what, unit="texts"):
  """Passes items on, and logs how many it were while there are more.

  Args:
    items: iterable.
    what: str, such as `Reading train`.
    unit: str, what the items are.

  Yields:
    the items.
  """
  logging.info("%s ...", what)
  start = last = time.monotonic()
  for number, item in enumerate(items, 1):
    yield item
    # One call in 16: the clock costs as much as a short text's scan.
    if not number & 15:
      now = time.monotonic()
      if now - last >= INTERVAL:
        last = now
        logging.info("  %s: %s %s so far, %.0f s", what,
                     "{:,}".format(number), unit, now - start)
