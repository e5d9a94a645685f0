# SPDX-License-Identifier: Apache-2.0
"""A worker process: the loaded model behind the application.

SIGHUP reloads the API keys and the folder while the old model serves; if the
new one is broken, the old model stays.
"""

import asyncio
import collections
import gc
import os
import signal
import sys
import threading
import time

from absl import logging

from multilabel.inference import micro_batching
from multilabel.serving import http_app
from multilabel.serving import http_metrics
from multilabel.serving import http_requests
from multilabel.serving import word_importance


# How often a worker checks whether it is an orphan, and writes its gauges;
# seconds.
_POLL = 1.0

# `model`: function without arguments that opens a predictor, ValueError where
# the folder is broken; `keys`: function without arguments to a list of bytes;
# version: str, or None for the predictor's step; the others as in `http_app`,
# `http_requests` and `micro_batching`.
Options = collections.namedtuple("Options", [
    "model", "keys", "version", "max_texts", "max_characters",
    "max_batch_size", "max_delay_ms", "max_queue", "grace_seconds", "workers",
    "application"])


def load(options, reports):
  """Loads the model and returns the ASGI application; called by granian.

  Args:
    options: `Options`.
    reports: `granian_server.Reports`.
  """
  # The signal handlers of the parent process do not apply here.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGHUP, signal.SIG_IGN)
  threading.Thread(
      target=_end_with_parent, args=(reports.parent, options.grace_seconds),
      name="orphan", daemon=True).start()
  try:
    return Worker(options, reports).asgi
  except Exception as error:  # pylint: disable=broad-except
    if not isinstance(error, ValueError):
      logging.exception("The model could not be loaded.")
    reports.failed(error)
    sys.exit(1)


class Worker(object):
  """The application and its signal handling."""

  def __init__(self, options, reports):
    self._options = options
    self._reports = reports
    self._metrics = http_metrics.Metrics()
    self._reloading = threading.Lock()
    self._application = http_app.Application(
        self._make_served(), micro_batching.QueueFull, word_importance.explain,
        options.application, options.keys(), self._metrics)

  def _make_served(self):
    options = self._options
    predictor = options.model()
    predictor.warm_up()
    batcher = micro_batching.MicroBatcher(
        _Counted(predictor, self._metrics),
        max_batch_size=options.max_batch_size,
        max_delay_ms=options.max_delay_ms, max_queue=options.max_queue)
    limits = http_requests.Limits(
        predictor.vocab_size, predictor.type_vocab_size,
        predictor.max_position_embeddings,
        predictor.encode([""])[0][0].input_ids[0], options.max_texts,
        options.max_characters)
    return http_app.Served(
        predictor, batcher, http_requests.Requests(limits),
        str(options.version or predictor.step))

  async def asgi(self, scope, receive, send):
    """The ASGI application."""
    if scope["type"] == "lifespan":
      await self._live(receive, send)
    else:
      await self._application.asgi(scope, receive, send)

  async def _live(self, receive, send):
    """For the lifetime of the process."""
    loop = asyncio.get_running_loop()
    await receive()
    # Ctrl-C goes to all processes of a terminal; the parent notifies this one.
    loop.remove_signal_handler(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop.add_signal_handler(
        signal.SIGHUP, lambda: loop.run_in_executor(None, self._reload))
    if self._options.workers > 1:
      writing = loop.create_task(self._write_gauges())
    # Loaded objects stay: excluding them from garbage collection avoids pauses
    # of all requests.
    gc.collect()
    gc.freeze()
    await send({"type": "lifespan.startup.complete"})
    self._reports.ready()
    await receive()
    if self._options.workers > 1:
      writing.cancel()
    self._application.close()
    _close(self._application.served)
    await send({"type": "lifespan.shutdown.complete"})

  async def _write_gauges(self):
    while True:
      self._application.refresh_metrics()
      await asyncio.sleep(_POLL)

  def _reload(self):
    """Rereads the keys, and loads the current content of the folder."""
    with self._reloading:
      try:
        self._application.keys = self._options.keys()
      except ValueError as error:
        logging.error("Keeping the old API keys: %s", error)
      try:
        served = self._make_served()
      except Exception as error:  # pylint: disable=broad-except
        logging.error("Keeping the old model: %s",
                      " ".join(str(error).split()))
        return
      old, self._application.served = self._application.served, served
      logging.info("Now serving version %s.", served.version)
      settings = self._options.application
      end = time.monotonic() + 2 * settings.request_timeout
      while old.users and time.monotonic() < end:
        time.sleep(0.05)
      _close(old)


def _close(served):
  served.batcher.close(0)
  served.predictor.close()


class _Counted(object):
  """A predictor that counts its runs."""

  def __init__(self, predictor, metrics):
    self._predictor = predictor
    self._metrics = metrics

  def predict_encoded(self, encoded, timeout=None):
    self._metrics.batch_texts.observe(len(encoded))
    return self._predictor.predict_encoded(encoded, timeout=timeout)


def _end_with_parent(parent, grace_seconds):
  """Ends this process, after its requests, once its parent has died."""
  while os.getppid() == parent:
    time.sleep(_POLL)
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(grace_seconds)
  os._exit(1)  # pylint: disable=protected-access


def share_of_cores(workers):
  """Returns the number of threads per operation for each worker."""
  try:
    cores = len(os.sched_getaffinity(0))
  except AttributeError:  # not on macOS
    cores = os.cpu_count() or 1
  return max(1, cores // workers)
