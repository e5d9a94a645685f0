# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's event files, each step in them once.

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
      first_step: int; TensorBoard forgets what older files have from it on.
    """
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
                if re.search(r"\.tfevents\.\d+\.", path) and
                not path.endswith(".tmp"))


def forget(folder, last_step, is_unwanted):
  """Takes out of the event files what a run that goes on will write again.

  Args:
    folder: str.
    last_step: int; events beyond it go.
    is_unwanted: function of a tag: whether its values at `last_step` go, too.
  """
  def goes(event):
    return event.step > last_step or (event.step == last_step and any(
        is_unwanted(value.tag) for value in event.summary.value))

  for path in event_paths(folder):
    if any(goes(event) for _, event in _read(path)):
      temporary = path + ".tmp"
      with storage_errors.naming(path):
        with tf.io.TFRecordWriter(temporary) as writer:
          for record, event in _read(path):
            if not goes(event):
              writer.write(record)
        atomic_files.sync_file(temporary)
        atomic_files.replace_file(temporary, path)


def _read(path):
  """Yields (record, event) up to where a kill cut the file off."""
  try:
    for record in tf.io.tf_record_iterator(path):
      yield record, tf.Event.FromString(record)
  except tf.errors.DataLossError:
    pass
