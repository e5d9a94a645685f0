# SPDX-License-Identifier: Apache-2.0
"""The weights in use, while others replace them."""

import collections
import contextlib
import os
import threading

from multilabel.common import forked_process


class ServedWeights(object):
  """The weights in use; others may replace them meanwhile."""

  def __init__(self):
    self._process = os.getpid()
    self._lock = threading.Lock()
    self._loaded = None
    self._users = collections.Counter()  # weights: calls that use them
    self._is_closed = False

  @contextlib.contextmanager
  def borrow(self):
    """Yields the current weights, which stay open inside.

    Raises:
      RuntimeError: this process was forked from the one that loaded them.
      ValueError: they are closed.
    """
    # Before the lock, which another thread may have held at the fork.
    forked_process.check_process(self._process)
    with self._lock:
      loaded = self._loaded
      if loaded is None:
        raise ValueError("this predictor is closed.")
      self._users[loaded] += 1
    try:
      yield loaded
    finally:
      with self._lock:
        self._users[loaded] -= 1
        is_unused = not self._users[loaded]
        if is_unused:
          del self._users[loaded]
        is_unused = is_unused and loaded is not self._loaded
      if is_unused:
        loaded.close()

  def replace(self, loaded):
    """Switches to other weights; closes the old ones after their last call."""
    with self._lock:
      if self._is_closed:
        unused = loaded
      else:
        unused, self._loaded = self._loaded, loaded
        if unused in self._users:
          unused = None
    if unused is not None:
      unused.close()
    if unused is loaded:
      raise ValueError("this predictor is closed.")

  def close(self):
    """Frees everything; running calls fail."""
    if os.getpid() != self._process:
      return  # the other process must free what it loaded
    with self._lock:
      self._is_closed = True
      every = set(self._users) | ({self._loaded} if self._loaded else set())
      self._loaded = None
    for loaded in every:
      loaded.close()
