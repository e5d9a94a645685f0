# SPDX-License-Identifier: Apache-2.0
"""Where the time of a `session.run` goes: a timeline, and a table.

`--profile=DIR` of training and prediction writes, for a few of the runs,
`DIR/<name>-<run>.json`, which chrome://tracing and https://ui.perfetto.dev
show, and `DIR/<name>-<run>.txt`, the share of each kind of operation.
"""

import collections
import os

from absl import logging
import tensorflow.compat.v1 as tf
from tensorflow.python.client import timeline

from multilabel.common import atomic_files


# Runs to trace: not the first one, in which memory is laid out and the graph is
# optimized, and not all of them, since tracing slows down a run.
TRACED_RUNS = (2, 5, 20)


class RunProfile(object):
  """Wraps a session and traces some of its runs."""

  def __init__(self, session, folder, name):
    """Makes the folder, if it is not there.

    Args:
      session: `tf.Session`.
      folder: str, where the files go.
      name: str, what their names begin with.
    """
    self._session, self._folder, self._name = session, folder, name
    self._runs = 0
    if not os.path.isdir(folder):
      os.makedirs(folder)

  def run(self, fetches, feed_dict=None, options=None):
    """As `session.run`."""
    self._runs += 1
    number = self._runs
    if number not in TRACED_RUNS:
      return self._session.run(fetches, feed_dict, options)
    traced = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
    if options is not None:
      traced.MergeFrom(options)
      traced.trace_level = tf.RunOptions.FULL_TRACE
    metadata = tf.RunMetadata()
    values = self._session.run(fetches, feed_dict, traced, metadata)
    self._write(number, metadata.step_stats)
    return values

  def close(self):
    self._session.close()

  def _write(self, number, step_stats):
    path = os.path.join(self._folder, "%s-%d" % (self._name, number))
    atomic_files.write_text(
        path + ".json",
        timeline.Timeline(step_stats).generate_chrome_trace_format())
    atomic_files.write_text(path + ".txt", format_shares(step_stats))
    logging.info("Profile of run %d: %s.json (open in chrome://tracing), "
                 "%s.txt", number, path, path)


def format_shares(step_stats):
  """One line per kind of operation: fraction, milliseconds, calls, kind."""
  times, calls = collections.Counter(), collections.Counter()
  for device in step_stats.dev_stats:
    for node in device.node_stats:
      # "name = Kind(inputs)"; what is not an operation is named by itself.
      label = node.timeline_label.split(" = ")[-1].split("(")[0]
      kind = label or node.node_name
      times[kind] += node.op_end_rel_micros - node.op_start_rel_micros
      calls[kind] += 1
  total = max(sum(times.values()), 1)
  lines = ["%5.1f%% %9.3f ms %6d x  %s" % (
      100.0 * micros / total, micros / 1e3, calls[kind], kind)
           for kind, micros in times.most_common()]
  return "\n".join(["share, time in all threads, calls, operation"] + lines +
                   [""])
