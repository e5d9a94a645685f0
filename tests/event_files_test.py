# SPDX-License-Identifier: Apache-2.0
"""Tests of the event files of a run that is killed and goes on."""

import os

import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

from multilabel.storage import event_files


def add(writer, step, **values):
  for name, value in values.items():
    writer.add_summary(tf.Summary(value=[tf.Summary.Value(
        tag=name, simple_value=value)]), step)


@pytest.fixture
def resumed(tmp_path):
  """Killed after step 5, gone on from 2, killed, gone on from 4."""
  writer = event_files.EventWriter(str(tmp_path), 1)
  for step in range(1, 6):
    add(writer, step, loss=step)
  add(writer, 2, dev=0.2)  # made again, as its file was not written
  add(writer, 4, dev=0.4)  # of weights that are lost
  writer.sync()
  second = event_files.EventWriter(str(tmp_path), 3)
  add(second, 2, dev=0.2)
  for step in (3, 4):
    add(second, step, loss=10 * step)
  second.close()
  third = event_files.EventWriter(str(tmp_path), 5)
  add(third, 4, dev=40)
  add(third, 5, loss=50)
  third.close()
  return str(tmp_path)


WANTED = {"loss": [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)],
          "dev": [(2, pytest.approx(0.2)), (4, 40)]}


def test_each_point_counts_once(resumed):
  assert tiny_bert.event_points(resumed) == WANTED
  assert event_files.read_scalars(resumed, ("loss", "dev")).values == WANTED


def test_tensorboard_purges_what_is_made_again(resumed):
  accumulator = pytest.importorskip(
      "tensorboard.backend.event_processing.event_accumulator")
  reader = accumulator.EventAccumulator(resumed)
  reader.Reload()
  for tag in WANTED:
    assert [(point.step, point.value)
            for point in reader.Scalars(tag)] == WANTED[tag]


def test_no_file_is_changed_by_going_on(tmp_path):
  writer = event_files.EventWriter(str(tmp_path), 1)
  add(writer, 1, loss=1)
  add(writer, 2, loss=2)
  writer.close()
  path, = event_files.event_paths(str(tmp_path))
  with open(path, "rb+") as cut:
    cut.truncate(os.path.getsize(path) - 3)  # killed while writing
  with open(path, "rb") as reader:
    before = reader.read()
  second = event_files.EventWriter(str(tmp_path), 2)
  add(second, 1, loss=9)
  add(second, 2, loss=20)
  second.close()
  with open(path, "rb") as reader:
    assert reader.read() == before
  assert event_files.event_paths(str(tmp_path))[0] == path
  assert tiny_bert.event_points(tmp_path) == {"loss": [(1, 1), (2, 20)]}
