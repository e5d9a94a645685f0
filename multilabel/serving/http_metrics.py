# SPDX-License-Identifier: Apache-2.0
"""Counts of a server, in Prometheus' text format.

Several processes of one server keep one set of counts: each writes its own as
a file of a folder that they share, and whichever is asked adds them up. What a
process counted stays when it ends.
"""

import bisect
import collections
import json
import os


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "multilabel_"

# Upper bounds of the buckets, seconds and texts.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
            5.0, 10.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)

# name: (type, help)
_FAMILIES = collections.OrderedDict([
    ("http_requests_total", ("counter", "Requests, by path and status.")),
    ("http_errors_total", ("counter",
                           "Requests that were not answered with what they "
                           "asked for, by path and kind.")),
    ("http_request_seconds", ("histogram",
                              "From the request's head to the end of its "
                              "answer.")),
    ("texts_total", ("counter", "Texts that were labelled.")),
    ("connections_closed_total", ("counter",
                                  "Connections that the server ended, by "
                                  "reason.")),
    ("batch_texts", ("histogram", "Texts a run of the model.")),
    ("queue_texts", ("gauge", "Texts that wait for a run of the model.")),
    ("connections", ("gauge", "Connections that are open.")),
    ("resident_memory_bytes", ("gauge", "Memory of the server's processes.")),
    ("workers", ("gauge", "Processes that serve.")),
    ("model_info", ("gauge", "The model that is served; always 1.")),
])


class Metrics(object):
  """The counts of one process; used by its event loop alone."""

  def __init__(self):
    self._values = collections.Counter()  # (name, labels) -> number
    self._buckets = {}  # (name, labels) -> counts, one more than bounds

  def count(self, name, labels=(), by=1):
    """Adds to a counter.

    Args:
      name: str, of a family.
      labels: tuple of (str, str).
      by: number.
    """
    self._values[name, labels] += by

  def observe(self, name, seconds, labels=()):
    """Adds an observation to the histogram `name`."""
    key = (name, labels)
    counts = self._buckets.get(key)
    if counts is None:
      counts = self._buckets[key] = [0] * (len(_SECONDS) + 1)
    counts[bisect.bisect_left(_SECONDS, seconds)] += 1
    self._values[name + "_sum", labels] += seconds

  def snapshot(self, gauges, batch_sizes):
    """Returns all as what JSON can hold.

    Args:
      gauges: dict of name to number, or to (labels, number).
      batch_sizes: dict of texts a run to how many runs there were.
    """
    counts = [0] * (len(_TEXTS) + 1)
    for size, times in batch_sizes.items():
      counts[bisect.bisect_left(_TEXTS, int(size))] += times
    total = sum(int(size) * times for size, times in batch_sizes.items())
    return {
        "pid": os.getpid(),
        "values": [[name, labels, value] for (name, labels), value in
                   self._values.items()] + [["batch_texts_sum", [], total]],
        "buckets": [[name, labels, value] for (name, labels), value in
                    self._buckets.items()] + [["batch_texts", [], counts]],
        "gauges": [[name] + (list(value) if isinstance(value, tuple)
                             else [[], value])
                   for name, value in sorted(gauges.items())]}


class SharedFolder(object):
  """Where the processes of a server leave their snapshots."""

  def __init__(self, path):
    """Takes the folder; None where there is one process."""
    self._path = path

  def write(self, snapshot):
    """Puts this process' snapshot where the others find it."""
    if self._path is not None:
      path = os.path.join(self._path, "%d.json" % snapshot["pid"])
      # Not atomic_files: these need not outlive a loss of power, and a sync
      # would hold the server up.
      with open(path + ".tmp", "w") as writer:
        json.dump(snapshot, writer)
      os.replace(path + ".tmp", path)

  def others(self):
    """Returns the snapshots of the other processes, ended ones among them."""
    found = []
    for name in sorted(os.listdir(self._path)) if self._path else []:
      if name.endswith(".json") and name != "%d.json" % os.getpid():
        with open(os.path.join(self._path, name)) as reader:
          snapshot = json.load(reader)
        if not _is_alive(snapshot["pid"]):
          snapshot["gauges"] = []
        found.append(snapshot)
    return found


def _is_alive(pid):
  try:
    os.kill(pid, 0)
  except OSError:
    return False
  return True


def exposition(snapshots):
  """Adds snapshots up and writes them in Prometheus' text format.

  Args:
    snapshots: list of what `Metrics.snapshot` returned.

  Returns:
    bytes.
  """
  values = collections.Counter()
  buckets = {}
  for snapshot in snapshots:
    for kind in ("values", "gauges"):
      for name, labels, value in snapshot[kind]:
        values[name, _label_key(labels)] += value
    for name, labels, counts in snapshot["buckets"]:
      key = (name, _label_key(labels))
      buckets[key] = [a + b for a, b in zip(
          counts, buckets.get(key, [0] * len(counts)))]
  # What is served is one, however many processes serve it.
  for key in values:
    if key[0] == "model_info":
      values[key] = 1
  lines = []
  for name, (kind, text) in _FAMILIES.items():
    lines.append("# HELP %s%s %s" % (_PREFIX, name, text))
    lines.append("# TYPE %s%s %s" % (_PREFIX, name, kind))
    if kind == "histogram":
      bounds = _TEXTS if name == "batch_texts" else _SECONDS
      for (_, labels), counts in sorted(
          item for item in buckets.items() if item[0][0] == name):
        lines.extend(_histogram_lines(
            name, labels, bounds, counts, values[name + "_sum", labels]))
    else:
      lines.extend(_line(name, labels, value) for (family, labels), value
                   in sorted(values.items()) if family == name)
  return ("\n".join(lines) + "\n").encode("utf-8")


def _label_key(labels):
  return tuple(tuple(label) for label in labels)


def _histogram_lines(name, labels, bounds, counts, total):
  below = 0
  for bound, count in zip(list(bounds) + ["+Inf"], counts):
    below += count
    yield _line(name + "_bucket", labels + (("le", str(bound)),), below)
  yield _line(name + "_sum", labels, total)
  yield _line(name + "_count", labels, below)


def _line(name, labels, value):
  described = ",".join('%s="%s"' % (key, _escaped(text))
                       for key, text in labels)
  return "%s%s%s %s" % (_PREFIX, name,
                        "{%s}" % described if described else "",
                        repr(value))


def _escaped(text):
  return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def resident_memory():
  """Returns this process' resident memory in bytes; 0 where it is unknown."""
  try:
    with open("/proc/self/statm") as reader:
      pages = int(reader.read().split()[1])
  except (OSError, IndexError, ValueError):
    return 0
  return pages * os.sysconf("SC_PAGE_SIZE")
