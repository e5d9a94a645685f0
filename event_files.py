# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's event files; of a run that goes on, each point counts once.

A file begins with a session start at the first step that will be written:
TensorBoard drops what older files have from that step on.

TensorFlow's own writer hands events to a thread, which neither says when they
are on disk nor survives a full one. These are written when they come.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import glob
import os
import platform
import re
import time

import tensorflow.compat.v1 as tf

import atomic_files
import storage_errors

_NAME = "events.out.tfevents.%010d.%s"


class EventWriter(object):
  """Appends to an event file of its own."""

  def __init__(self, folder, first_step):
    """Opens a file that sorts behind those that are there.

    Args:
      folder: str.
      first_step: int; TensorBoard drops what older files have from it on.
    """
    self._step_before = first_step - 1
    self._tags_before = _tags_at(folder, first_step - 1)
    number = int(time.time())
    for path in event_paths(folder):
      number = max(number, int(re.search(r"\.tfevents\.(\d+)\.", path).group(
          1)) + 1)
    self._path = os.path.join(folder, _NAME % (
        number, platform.node() or "localhost"))
    with storage_errors.naming(self._path):
      self._writer = tf.io.TFRecordWriter(self._path)
    self._add(tf.Event(wall_time=time.time(), file_version="brain.Event:2"))
    self._add(tf.Event(wall_time=time.time(), step=first_step,
                       session_log=tf.SessionLog(status=tf.SessionLog.START)))

  def add_summary(self, summary, step):
    """Adds a summary, unless older files have it and it still counts."""
    # An evaluation is repeated after a kill between its points and its file.
    if step == self._step_before and all(
        value.tag in self._tags_before for value in summary.value):
      return
    self._add(tf.Event(wall_time=time.time(), step=step, summary=summary))

  def _add(self, event):
    with storage_errors.naming(self._path):
      self._writer.write(event.SerializeToString())

  def sync(self):
    """Makes what was added last through a loss of power."""
    with storage_errors.naming(self._path):
      self._writer.flush()
      atomic_files.sync_file(self._path)

  def close(self):
    self.sync()
    with storage_errors.naming(self._path):
      self._writer.close()


def event_paths(folder):
  """The event files of a folder in the order of their writing."""
  return sorted(path for path in glob.glob(
      os.path.join(glob.escape(folder), "events.out.tfevents.*"))
                if re.search(r"\.tfevents\.\d+\.", path))


def _tags_at(folder, step):
  """The tags that the event files have at a step, session starts honoured."""
  tags = set()
  for path in event_paths(folder):
    try:
      for event in tf.train.summary_iterator(path):
        if (event.session_log.status == tf.SessionLog.START and
            event.step <= step):
          tags.clear()
        if event.step == step:
          tags.update(value.tag for value in event.summary.value)
    except tf.errors.DataLossError:
      pass  # where a kill cut the file off
  return tags
