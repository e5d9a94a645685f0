# SPDX-License-Identifier: Apache-2.0
"""Reads the scalars of a run from TensorBoard's event files."""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import collections
import os
import re

from absl import logging
import tensorflow.compat.v1 as tf

# values: {tag: [(step, value), ...]}, steps ascending, each step once.
# first_time: float, seconds since 1970 of the earliest point; None without.
Scalars = collections.namedtuple("Scalars", ["values", "first_time"])

_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")


def list_event_files(folder):
  """Returns the paths of the event files in a folder, oldest first."""
  found = [(int(match.group(1)), name) for name, match in
           ((name, _EVENT_FILE.match(name)) for name in os.listdir(folder))
           if match]
  return [os.path.join(folder, name) for _, name in sorted(found)]


def read_scalars(folder, tags):
  """Reads scalars; of a run that was resumed, those of the weights that count.

  A run that goes on writes a session start at the first step that it makes
  anew. What had been written from there on was of weights that are lost, and
  is dropped, as TensorBoard does. A file that a kill cut off counts as far as
  it goes.

  Args:
    folder: str.
    tags: collection of str, the tags to read.

  Returns:
    `Scalars`; tags without a point are not in its `values`.
  """
  points = {tag: {} for tag in tags}
  first_time = None
  for path in list_event_files(folder):
    for event in _read_events(path):
      if event.session_log.status == tf.SessionLog.START:
        for tag in points:
          points[tag] = {step: value for step, value in points[tag].items()
                         if step < event.step}
      for value in event.summary.value:
        if value.tag in points and value.HasField("simple_value"):
          points[value.tag][event.step] = value.simple_value
          if first_time is None or event.wall_time < first_time:
            first_time = event.wall_time
  return Scalars({tag: sorted(values.items())
                  for tag, values in points.items() if values}, first_time)


def _read_events(path):
  """Yields the events of a file up to its end, or to where it is broken."""
  try:
    for event in tf.train.summary_iterator(path):
      yield event
  except tf.errors.DataLossError:
    logging.info("%s is cut off; what stands before is used.", path)
