# SPDX-License-Identifier: Apache-2.0
"""Precision-recall curves for TensorBoard, written with core TensorFlow.

TensorBoard's `pr_curves` plugin shows float32 tensors [6, T] (true positives,
false positives, true negatives, false negatives, precision, recall, each at T
thresholds i / (T - 1)) of summaries whose metadata name the plugin. TensorBoard
itself is not needed to write them.
"""

import numpy as np
import tensorflow.compat.v1 as tf


PLUGIN_NAME = "pr_curves"

# The plugin's denominator if nothing was predicted or nothing is positive.
_MINIMUM_COUNT = 1e-7

# Cells counted at once.
_BLOCK = 1 << 20


def pr_curve_summary(tag, labels, probabilities, num_thresholds=201,
                     display_name=None):
  """Makes the summary of one label's precision-recall curve.

  A prediction counts at threshold i / (T - 1) when probability * (T - 1),
  computed in the type of the probabilities and rounded down, is at least i.

  Args:
    tag: str, name of the curve in TensorBoard.
    labels: bool [N], or 0 and 1.
    probabilities: float [N] in 0..1.
    num_thresholds: int, T, 2 or more.
    display_name: str, what TensorBoard shows instead of the tag.

  Returns:
    `tf.Summary` with one value, for `tf.summary.FileWriter.add_summary`.

  Raises:
    ValueError: shapes that differ, probabilities that are not in 0..1, or
      less than 2 thresholds.
  """
  labels = np.asarray(labels)
  probabilities = np.asarray(probabilities)
  if labels.ndim != 1 or labels.shape != probabilities.shape:
    raise ValueError("labels have shape %s and probabilities %s; give one of "
                     "each for every example." % (
                         labels.shape, probabilities.shape))
  if not np.all((probabilities >= 0) & (probabilities <= 1)):
    raise ValueError("probabilities of %s are not all in 0..1; give "
                     "probabilities, not logits." % tag)
  if num_thresholds < 2:
    raise ValueError("num_thresholds is %s; give 2 or more." % num_thresholds)
  curve = _count(labels, probabilities, num_thresholds)
  metadata = tf.SummaryMetadata(
      display_name=tag if display_name is None else display_name,
      plugin_data=tf.SummaryMetadata.PluginData(
          plugin_name=PLUGIN_NAME, content=_plugin_data(num_thresholds)))
  return tf.Summary(value=[tf.Summary.Value(
      tag=tag, metadata=metadata,
      tensor=tf.make_tensor_proto(curve, dtype=tf.float32))])


def _count(labels, probabilities, num_thresholds):
  """Returns float32 [6, T], the rows as in the module's docstring."""
  counts = np.zeros([2, num_thresholds])  # of negatives, of positives
  for start in range(0, len(labels), _BLOCK):
    block = slice(start, start + _BLOCK)
    places = np.floor(probabilities[block] * (num_thresholds - 1)).astype(
        np.int64)
    is_positive = labels[block].astype(bool)
    for row, chosen in zip(counts, (places[~is_positive],
                                    places[is_positive])):
      row += np.bincount(chosen, minlength=num_thresholds)
  fp, tp = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
  tn, fn = fp[0] - fp, tp[0] - tp
  precision = tp / np.maximum(_MINIMUM_COUNT, tp + fp)
  recall = tp / np.maximum(_MINIMUM_COUNT, tp + fn)
  return np.stack([tp, fp, tn, fn, precision, recall]).astype(np.float32)


def _plugin_data(num_thresholds):
  """Serializes `PrCurvePluginData {int32 version = 1; uint32 num_... = 2;}`.

  Version 0 is proto3's default and takes no byte.
  """
  encoded = bytearray([2 << 3])  # field 2, a varint
  while num_thresholds > 0x7f:
    encoded.append(num_thresholds & 0x7f | 0x80)
    num_thresholds >>= 7
  encoded.append(num_thresholds)
  return bytes(encoded)
