# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's event files; in a resumed run, each point counts once.

A file starts with a session start at the first step to be written: TensorBoard
drops points of older files from that step on.

TensorFlow's own writer passes events to a thread, which neither reports when
they are on disk nor survives a full disk. These are written immediately.
"""

import collections
import os
import platform
import re
import time

from absl import logging
import tensorflow.compat.v1 as tf

from multilabel.common import atomic_files
from multilabel.common import write_errors


_NAME = "events.out.tfevents.%010d.%s"
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\..*")


class EventWriter(object):
  """Appends to an event file of its own."""

  def __init__(self, folder, first_step):
    """Opens a file that sorts after the existing ones.

    Args:
      folder: str.
      first_step: int; TensorBoard drops points of older files from it on.
    """
    self._step_before = first_step - 1
    self._tags_before = _tags_at(folder, first_step - 1)
    number = int(time.time())
    for path in event_paths(folder)[-1:]:
      number = max(number, 1 + int(
          _EVENT_FILE.match(os.path.basename(path)).group(1)))
    self._path = os.path.join(folder, _NAME % (
        number, platform.node() or "localhost"))
    with write_errors.naming(self._path):
      self._writer = tf.io.TFRecordWriter(self._path)
    self._add(tf.Event(wall_time=time.time(), file_version="brain.Event:2"))
    self._add(tf.Event(wall_time=time.time(), step=first_step,
                       session_log=tf.SessionLog(status=tf.SessionLog.START)))

  def add_summary(self, summary, step):
    """Adds a summary, unless older files have it and it still counts."""
    # After a kill between its points and its file, an evaluation is repeated.
    if step == self._step_before and all(
        value.tag in self._tags_before for value in summary.value):
      return
    self._add(tf.Event(wall_time=time.time(), step=step, summary=summary))

  def _add(self, event):
    with write_errors.naming(self._path):
      self._writer.write(event.SerializeToString())

  def sync(self):
    """Makes the added events durable."""
    with write_errors.naming(self._path):
      self._writer.flush()
      atomic_files.sync_file(self._path)

  def close(self):
    self.sync()
    with write_errors.naming(self._path):
      self._writer.close()


def event_paths(folder):
  """The event files of a folder in the order of their writing."""
  found = [(int(match.group(1)), match.group()) for match in
           map(_EVENT_FILE.match, os.listdir(folder)) if match
           and os.path.isfile(os.path.join(folder, match.group()))]
  return [os.path.join(folder, name) for _, name in sorted(found)]


def _read_events(path):
  """Yields the events of a file up to its end, or to where it was truncated."""
  try:
    for event in tf.train.summary_iterator(path):
      yield event
  except tf.errors.DataLossError:
    logging.info("%s is truncated; the part before the end is used.", path)
  except Exception as error:  # DecodeError, whose module varies
    logging.warning("%s is broken (%s); what stands before is used.", path,
                    " ".join(str(error).split())[:200])


def _tags_at(folder, step):
  """The tags of the event files at a step, respecting session starts."""
  tags = set()
  for path in event_paths(folder):
    for event in _read_events(path):
      if (event.session_log.status == tf.SessionLog.START and
          event.step <= step):
        tags.clear()
      if event.step == step:
        tags.update(value.tag for value in event.summary.value)
  return tags


# values: {tag: [(step, value), ...]}, steps ascending, each step once.
# first_time: float, seconds since 1970 of the earliest point; None without.
Scalars = collections.namedtuple("Scalars", ["values", "first_time"])


def read_scalars(folder, tags):
  """Reads scalars; in a resumed run, those of the final sequence of weights.

  A resumed run writes a session start at the first step that it repeats.
  Earlier points from there on belong to lost weights and are dropped, as in
  TensorBoard. A truncated file counts as far as it goes.

  Args:
    folder: str.
    tags: collection of str, the tags to read.

  Returns:
    `Scalars`; tags without a point are not in its `values`.
  """
  points = {tag: {} for tag in tags}
  first_time = None
  for path in event_paths(folder):
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


def scalar_summary(scalars):
  """`tf.Summary` of {tag: number}."""
  return tf.Summary(value=[
      tf.Summary.Value(tag=tag, simple_value=float(value))
      for tag, value in sorted(scalars.items())])
