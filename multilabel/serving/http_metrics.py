# SPDX-License-Identifier: Apache-2.0
"""Counts of a server for Prometheus, by prometheus_client.

The processes of a server keep their counts in files of one folder, named by the
environment; the process that is asked sums them.
"""

import os


FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
            5.0, 10.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics(object):
  """The counts of one process; thread-safe.

  Attributes:
    content_type: str, of `exposition`.
    requests, errors, seconds: by path and status code, by path and kind, and
      by path; `labels(...)` gives one of them.
    texts: counter of texts that were labelled.
    batch_texts: histogram of texts per run of the model.
  """

  def __init__(self):
    # Imported in each process, since it reads the environment then.
    import prometheus_client
    self.content_type = prometheus_client.CONTENT_TYPE_LATEST
    prometheus_client.disable_created_metrics()
    self._version = None
    self._registry = prometheus_client.CollectorRegistry()
    kept = {"namespace": "multilabel", "registry": self._registry}
    self.requests = prometheus_client.Counter(
        "http_requests", "Requests, by path and status.", ["path", "code"],
        **kept)
    self.errors = prometheus_client.Counter(
        "http_errors", "Failed requests, by path and "
                       "kind.", ["path", "kind"], **kept)
    self.seconds = prometheus_client.Histogram(
        "http_request_seconds",
        "Time from the end of the request head to the end of the "
        "response.", ["path"], buckets=_SECONDS, **kept)
    self.texts = prometheus_client.Counter(
        "texts", "Labelled texts.", **kept)
    self.batch_texts = prometheus_client.Histogram(
        "batch_texts", "Texts per batch.", buckets=_TEXTS, **kept)
    self._queue = prometheus_client.Gauge(
        "queue_texts", "Texts waiting for a batch.",
        multiprocess_mode="livesum", **kept)
    self._memory = prometheus_client.Gauge(
        "resident_memory_bytes", "Memory of the server processes.",
        multiprocess_mode="livesum", **kept)
    self._workers = prometheus_client.Gauge(
        "workers", "Worker processes.", multiprocess_mode="livesum", **kept)
    self._info = prometheus_client.Gauge(
        "model_info", "1 for the model being served.",
        ["name", "version"], multiprocess_mode="livemax", **kept)

  def refresh(self, queue_texts, name, version):
    """Sets the gauges; several processes do so once per second.

    Args:
      queue_texts: int.
      name: str, the model's.
      version: str.
    """
    self._queue.set(queue_texts)
    self._memory.set(resident_memory())
    self._workers.set(1)
    if self._version not in (None, version):
      self._info.labels(name, self._version).set(0)
    self._version = version
    self._info.labels(name, version).set(1)

  def exposition(self):
    """Returns all metrics in Prometheus' text format, as bytes."""
    import prometheus_client
    from prometheus_client import multiprocess
    if os.environ.get(FOLDER_VARIABLE) is None:
      return prometheus_client.generate_latest(self._registry)
    for pid in _gone(os.environ[FOLDER_VARIABLE]):
      multiprocess.mark_process_dead(pid)  # drops its gauges
    every = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(every)
    return prometheus_client.generate_latest(every)


def _gone(folder):
  """The ids of ended processes that left gauges in a folder."""
  pids = {int(name.rpartition("_")[2][:-3]) for name in os.listdir(folder)
          if name.startswith("gauge_live") and name.endswith(".db")}
  for pid in pids:
    try:
      os.kill(pid, 0)
    except ProcessLookupError:
      yield pid


def resident_memory():
  """Returns this process' resident memory in bytes; 0 where it is unknown."""
  try:
    with open("/proc/self/statm") as reader:
      pages = int(reader.read().split()[1])
  except (OSError, IndexError, ValueError):
    return 0
  return pages * os.sysconf("SC_PAGE_SIZE")
