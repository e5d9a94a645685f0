# SPDX-License-Identifier: Apache-2.0
"""Batches the calls of many clients.

  batcher = MicroBatcher(predictor)
  future = batcher.submit(predictor.encode(["a sentence"]))
  probabilities = future.result()                     # in a thread
  probabilities = await batcher.submit_async(...)     # in an event loop

A run of 16 short texts takes far less time than 16 runs of one, so calls that
arrive while the model is busy wait and share the next run. A single call is
never delayed.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import asyncio
import collections
import concurrent.futures
import functools
import os
import threading
import time

from multilabel.common import forked_process
from multilabel.inference import call_deadline


class QueueFull(Exception):
  """The queue is full; try again later."""


class _Call(object):
  """Texts of one caller, and the future that answers."""

  def __init__(self, encoded, timeout):
    self.encoded = list(encoded)
    self.num_rows = sum(len(windows) for windows in self.encoded)
    self.deadline = call_deadline.Deadline(timeout)
    self.future = concurrent.futures.Future()


class _Queue(object):
  """Calls that wait for a thread, and the condition that wakes it."""

  def __init__(self, lock):
    self.calls = collections.deque()
    self.num_rows = 0
    self.arrival = threading.Condition(lock)
    self.wanted = 1  # calls that the thread waits for

  def append(self, call):
    self.calls.append(call)
    self.num_rows += call.num_rows

  def popleft(self):
    call = self.calls.popleft()
    self.num_rows -= call.num_rows
    return call

  def remove(self, call):
    self.calls.remove(call)
    self.num_rows -= call.num_rows


class MicroBatcher(object):
  """Collects calls from any thread and runs them together, in their order.

  One thread runs the calls that fit in a batch, another one those that do not,
  such as a text of hundreds of windows, so that the others do not have to wait
  for them.
  """

  def __init__(self, predictor, max_batch_size=32, max_delay_ms=2.0,
               max_queue=1024):
    """Starts the threads.

    Args:
      predictor: `predict_session.SessionPredictor`; it stays the caller's.
      max_batch_size: int, rows (windows of texts) per run.
      max_delay_ms: float, milliseconds to wait for as many calls as the
        previous run had; 0: never.
      max_queue: int, rows that may wait. A larger call is accepted if none do.

    Raises:
      ValueError: an argument is invalid.
    """
    for name, value in (("max_batch_size", max_batch_size),
                        ("max_queue", max_queue)):
      if value < 1:
        raise ValueError("%s is %d; it must be 1 or more." % (name, value))
    if not 0 <= max_delay_ms < float("inf"):
      raise ValueError("max_delay_ms is %s; it must be 0 or more." %
                       max_delay_ms)
    self._predictor = predictor
    self._max_batch_size = max_batch_size
    self._max_delay = max_delay_ms / 1000.0
    self._max_queue = max_queue
    self._lock = threading.Lock()  # of all that follows
    self._short, self._long = _Queue(self._lock), _Queue(self._lock)
    self._process = os.getpid()
    self._num_running = 0  # threads that are at work
    self._idle = threading.Condition(self._lock)
    self._expected = 1  # calls that the next shared run may hope for
    self._is_closing = False
    self._counts = collections.Counter()
    self._batch_sizes = collections.Counter()
    self._threads = [
        threading.Thread(target=self._work, args=arguments, name=name)
        for name, arguments in (
            ("micro-batcher", (self._short, self._take_short)),
            ("micro-batcher-long", (self._long, self._take_one)))]
    for thread in self._threads:
      thread.daemon = True
      thread.start()

  def submit(self, encoded, timeout=None):
    """Submits texts for prediction.

    Args:
      encoded: what `SessionPredictor.encode` or `check_features` returned.
      timeout: float, seconds; None: no limit. It is checked when the call's
        turn comes and when its run ends, not in between.

    Returns:
      `concurrent.futures.Future` of float32 `[len(encoded), num_labels]`, or of
      what `predict_encoded` raises. `cancel()` cancels the call if it has not
      started.

    Raises:
      QueueFull: too many rows wait.
      RuntimeError: this process was forked from the batcher's.
      ValueError: the batcher is closed.
    """
    forked_process.check_process(self._process)
    call = _Call(encoded, timeout)
    with self._lock:
      if self._is_closing:
        raise ValueError("this batcher is closed.")
      self._counts["calls"] += 1
      waiting = self._short.num_rows + self._long.num_rows
      if waiting and waiting + call.num_rows > self._max_queue:
        self._counts["rejected"] += 1
        raise QueueFull(
            "%d texts or windows are already waiting; try again later." %
                        waiting)
      is_short = call.num_rows <= self._max_batch_size
      queue = self._short if is_short else self._long
      queue.append(call)
      if (len(queue.calls) >= queue.wanted or
          queue.num_rows >= self._max_batch_size):
        queue.arrival.notify()
    call.future.add_done_callback(functools.partial(
        self._forget_cancelled, queue, call))
    return call.future

  async def submit_async(self, encoded, timeout=None):
    """`submit`, and its result; cancelling it cancels the call."""
    return await asyncio.wrap_future(self.submit(encoded, timeout))

  def stats(self):
    """Returns statistics of past and waiting calls.

    Returns:
      dict: of int since the start, `calls`, and of these `rejected` (queue
      full), `cancelled`, `timed_out` and `failed`; `queue_calls`, `queue_texts`
      and `queue_rows` that wait now; `batch_sizes`, a dict from texts per run
      to the number of such runs.
    """
    with self._lock:
      waiting = list(self._short.calls) + list(self._long.calls)
      found = {name: self._counts[name] for name in (
          "calls", "rejected", "cancelled", "timed_out", "failed")}
      found.update(queue_calls=len(waiting),
                   queue_texts=sum(len(call.encoded) for call in waiting),
                   queue_rows=sum(call.num_rows for call in waiting),
                   batch_sizes=dict(self._batch_sizes))
      return found

  def close(self, grace_seconds=None):
    """Accepts no more calls and ends the threads.

    Args:
      grace_seconds: float, how long waiting calls may still run; the rest is
        cancelled, and a run in progress is not waited for. None: until all are
        done.
    """
    with self._lock:
      self._is_closing = True
      for queue in (self._short, self._long):
        queue.arrival.notify()
      is_done = self._idle.wait_for(
          lambda: not (self._short.calls or self._long.calls or
                       self._num_running), grace_seconds)
      left = list(self._short.calls) + list(self._long.calls)
    for call in left:
      call.future.cancel()
    if is_done:
      for thread in self._threads:
        thread.join()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()

  def _forget_cancelled(self, queue, call, future):
    """Makes room in the queue; called when a future is done."""
    if future.cancelled():
      with self._lock:
        self._counts["cancelled"] += 1
        if call in queue.calls:
          queue.remove(call)
          self._idle.notify_all()

  def _work(self, queue, take):
    """Runs the calls of a queue until the batcher is closed and it is empty."""
    while True:
      with self._lock:
        queue.arrival.wait_for(lambda: queue.calls or self._is_closing)
        calls = take(queue)
        if not calls:
          if self._is_closing:
            return
          continue  # All were cancelled meanwhile.
        self._num_running += 1
      outcomes = self._run(calls)
      with self._lock:
        if queue is self._short:
          # Callers that get a result are likely to call again, in addition to
          # those waiting.
          self._expected = len(calls) + len(queue.calls)
      for future, value, error in outcomes:
        if error is None:
          future.set_result(value)
        else:
          future.set_exception(error)
      with self._lock:
        self._num_running -= 1
        self._idle.notify_all()

  def _take_short(self, queue):
    """Waits for more calls, then takes as many as fit; under the lock."""
    end = time.monotonic() + self._max_delay
    queue.wanted = self._expected
    while queue.calls and not self._is_closing and (
        len(queue.calls) < queue.wanted and
        queue.num_rows < self._max_batch_size):
      seconds = end - time.monotonic()
      if seconds <= 0:
        break
      queue.arrival.wait(seconds)
    queue.wanted = 1
    calls, num_rows = [], 0
    while queue.calls and (
        num_rows + queue.calls[0].num_rows <= self._max_batch_size):
      num_rows += queue.calls[0].num_rows
      calls.append(queue.popleft())
    return calls

  def _take_one(self, queue):
    return [queue.popleft()] if queue.calls else []

  def _run(self, calls):
    """Runs calls together: list of (future, result, error)."""
    outcomes, running = [], []
    for call in calls:
      if call.future.set_running_or_notify_cancel():
        running.append(call)
    ready = [call for call in running if self._check(call, outcomes)]
    if not ready:
      return outcomes
    encoded = [windows for call in ready for windows in call.encoded]
    try:
      rows = self._predict(encoded, [call.deadline for call in ready])
    except Exception as error:  # pylint: disable=broad-except
      if len(ready) == 1:
        return outcomes + [(ready[0].future, None, self._count(error))]
      # One of them may be at fault; the others must not be affected.
      return outcomes + [outcome for call in ready
                         for outcome in self._run_alone(call)]
    start = 0
    for call in ready:
      end = start + len(call.encoded)
      if self._check(call, outcomes):
        outcomes.append((call.future, rows[start:end].copy(), None))
      start = end
    return outcomes

  def _run_alone(self, call):
    """`_run` of a call that has begun."""
    outcomes = []
    if self._check(call, outcomes):
      try:
        outcomes.append((call.future, self._predict(
            call.encoded, [call.deadline]), None))
      except Exception as error:  # pylint: disable=broad-except
        outcomes.append((call.future, None, self._count(error)))
    return outcomes

  def _predict(self, encoded, deadlines):
    """Probabilities, before the latest deadline of the callers."""
    seconds = [deadline.remaining() for deadline in deadlines]
    with self._lock:
      self._batch_sizes[len(encoded)] += 1
    return self._predictor.predict_encoded(
        encoded, timeout=None if None in seconds else max(seconds))

  def _check(self, call, outcomes):
    """Whether there is time left; otherwise adds a timeout as the outcome."""
    try:
      call.deadline.remaining()
      return True
    except TimeoutError as error:
      outcomes.append((call.future, None, self._count(error)))
      return False

  def _count(self, error):
    with self._lock:
      self._counts["timed_out" if isinstance(error, TimeoutError)
                   else "failed"] += 1
    return error
