# SPDX-License-Identifier: Apache-2.0
"""Tests of reporting.pr_curves: counts by hand, the file, TensorBoard's own."""

import glob
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from multilabel.training import pr_curves


def _tensor(summary):
  return tf.make_ndarray(summary.value[0].tensor)


def _random(seed, size=500, dtype=np.float32):
  rng = np.random.RandomState(seed)
  labels = rng.rand(size) < 0.3
  return labels, (0.6 * rng.rand(size) + 0.4 * labels).astype(dtype)


def test_counts_by_hand():
  summary = pr_curves.pr_curve_summary(
      "dev/a", np.array([True, False, True, False]),
      np.array([1.0, 0.75, 0.5, 0.0]), num_thresholds=5)
  # At thresholds 0, 0.25, 0.5, 0.75, 1.
  np.testing.assert_array_equal(_tensor(summary)[:4], [
      [2, 2, 2, 1, 1],
      [2, 1, 1, 1, 0],
      [0, 1, 1, 1, 2],
      [0, 0, 0, 1, 1]])
  np.testing.assert_allclose(_tensor(summary)[4], [0.5, 2 / 3, 2 / 3, 0.5, 1],
                             rtol=1e-6)
  np.testing.assert_allclose(_tensor(summary)[5], [1, 1, 1, 0.5, 0.5],
                             rtol=1e-6)


def test_counts_equal_brute_force():
  labels, probabilities = _random(0, dtype=np.float64)
  # In between the thresholds, where no rounding decides.
  probabilities = (np.floor(probabilities * 200) + 0.5) / 201
  tensor = _tensor(pr_curves.pr_curve_summary("a", labels, probabilities))
  assert tensor.shape == (6, 201)
  assert tensor.dtype == np.float32
  for i in range(201):
    decided = probabilities >= i / 200
    expected = [np.sum(decided & labels), np.sum(decided & ~labels),
                np.sum(~decided & ~labels), np.sum(~decided & labels)]
    np.testing.assert_array_equal(tensor[:4, i], expected)


@pytest.mark.parametrize("labels", [[False, False], [True, True]])
def test_one_sided_labels_give_no_nan(labels):
  tensor = _tensor(pr_curves.pr_curve_summary("a", labels, [0.2, 0.9]))
  assert np.all(np.isfinite(tensor))


@pytest.mark.parametrize("num_thresholds, content", [
    (2, b"\x10\x02"), (127, b"\x10\x7f"), (128, b"\x10\x80\x01"),
    (201, b"\x10\xc9\x01"), (16384, b"\x10\x80\x80\x01")])
def test_metadata_name_the_plugin(num_thresholds, content):
  summary = pr_curves.pr_curve_summary(
      "dev/a", [True], [0.5], num_thresholds, display_name="a label")
  value, = summary.value
  assert value.tag == "dev/a"
  assert value.metadata.display_name == "a label"
  assert value.metadata.plugin_data.plugin_name == "pr_curves"
  assert value.metadata.plugin_data.content == content


def test_tag_is_shown_without_a_display_name():
  summary = pr_curves.pr_curve_summary("dev/a", [True], [0.5])
  assert summary.value[0].metadata.display_name == "dev/a"


def test_event_file_parses_back(tmp_path):
  labels, probabilities = _random(1)
  summary = pr_curves.pr_curve_summary(u"dev/标签", labels, probabilities)
  with tf.Graph().as_default():
    writer = tf.summary.FileWriter(str(tmp_path))
  writer.add_summary(summary, 7)
  writer.close()
  path, = glob.glob(os.path.join(str(tmp_path), "events.out.tfevents.*"))
  events = [event for event in tf.train.summary_iterator(path)
            if event.summary.value]
  assert [event.step for event in events] == [7]
  assert events[0].summary == summary


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_thresholds", [2, 127, 201, 1000])
def test_equals_tensorboards_own(dtype, num_thresholds):
  plugin = pytest.importorskip("tensorboard.plugins.pr_curve.summary")
  labels, probabilities = _random(2, dtype=dtype)
  probabilities[:4] = [0, 1, 0.5, 0.005]
  theirs = plugin.pb("dev/a", labels, probabilities, num_thresholds,
                     display_name="a")
  ours = pr_curves.pr_curve_summary("dev/a/pr_curves", labels, probabilities,
                                    num_thresholds, "a")
  assert ours.SerializeToString(deterministic=True) == (
      theirs.SerializeToString(deterministic=True))


@pytest.mark.parametrize("labels, probabilities, num_thresholds, message", [
    ([[True]], [[0.5]], 201, r"labels have shape \(1, 1\)"),
    ([True], [0.5, 0.5], 201, r"probabilities \(2,\)"),
    ([True], [1.5], 201, "not all in 0..1"),
    ([True], [float("nan")], 201, "not all in 0..1"),
    ([True], [0.5], 1, "num_thresholds is 1")])
def test_refuses(labels, probabilities, num_thresholds, message):
  with pytest.raises(ValueError, match=message) as error:
    pr_curves.pr_curve_summary("a", labels, probabilities, num_thresholds)
  assert "\n" not in str(error.value)
