# SPDX-License-Identifier: Apache-2.0
"""The deadline of a call."""

import concurrent.futures
import math
import time


class Deadline(object):
  """The deadline of a call, and whether its caller still waits."""

  def __init__(self, timeout=None):
    """Starts the clock.

    Args:
      timeout: float, seconds from now; None: no limit.

    Raises:
      ValueError: `timeout` is not a number.
    """
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or
        math.isnan(timeout)):
      raise ValueError("timeout is %r; it must be a number of seconds, or None "
                       "for no limit." % (timeout,))
    self._timeout = timeout
    self._end = None if timeout is None else time.monotonic() + timeout
    self._is_cancelled = False

  def cancel(self):
    """Ends the call at its next `remaining`."""
    self._is_cancelled = True

  def remaining(self):
    """Returns the remaining seconds, above 0; None: no limit.

    Raises:
      TimeoutError: none are left.
      concurrent.futures.CancelledError: `cancel` was called.
    """
    if self._is_cancelled:
      raise concurrent.futures.CancelledError()
    if self._end is None:
      return None
    seconds = self._end - time.monotonic()
    if seconds <= 0:
      raise self.error()
    return seconds

  def error(self):
    """The TimeoutError for an expired deadline."""
    return TimeoutError("the prediction did not finish within its timeout of "
                        "%g seconds." % self._timeout)
