# SPDX-License-Identifier: Apache-2.0
"""How the label head of a new run is initialized: --init_head.

A checkpoint of this program has a head, `output_weights` and `output_bias`,
with one row per label, and a `labels.txt` beside it that names them in order. A
run with other labels, or another order, finds each row by the label's name.
"""

import collections
import os

import tensorflow.compat.v1 as tf

from multilabel.storage import model_settings

WEIGHTS = "output_weights"
BIAS = "output_bias"
NAMES = (WEIGHTS, BIAS)

KEEP, NEW = "keep", "new"
INIT_HEADS = (KEEP, NEW)



class HeadPlan(collections.namedtuple(
    "HeadPlan", ["checkpoint", "rows", "lines"])):
  """How each row of the head is initialized.

  Fields:
    checkpoint: str, prefix of the checkpoint that has the head.
    rows: list of int, for each label the row in the checkpoint; -1: it is new.
    lines: list of str, for the log.
  """

  __slots__ = ()

  @property
  def kept(self):
    """Number of labels whose row comes from the checkpoint: int."""
    return sum(row >= 0 for row in self.rows)



def plan(init_checkpoint, shapes, labels, init_head=None):
  """Decides how each label's row is initialized.

  Args:
    init_checkpoint: str, checkpoint prefix.
    shapes: dict from tensor name to shape, of the checkpoint.
    labels: list of str, the labels of the new run.
    init_head: "keep", "new" or None (by the names in `labels.txt`).

  Returns:
    `HeadPlan`; None if the checkpoint has no head.

  Raises:
    ValueError: the labels of the checkpoint's head are unknown, or the head
      does not fit.
  """
  if WEIGHTS not in shapes or BIAS not in shapes:
    if init_head == KEEP:
      raise ValueError("--init_head=keep, but init_checkpoint %s has no label "
                       "head (%s, %s)." % (init_checkpoint, WEIGHTS, BIAS))
    return None
  if init_head == NEW:
    return HeadPlan(init_checkpoint, [-1] * len(labels), [
        "Label head: newly initialized (--init_head=new)"])
  if os.path.isdir(init_checkpoint):
    init_checkpoint = tf.train.latest_checkpoint(init_checkpoint)
  num_rows = (list(shapes[WEIGHTS]) + [0])[0]
  if len(shapes[WEIGHTS]) != 2 or list(shapes[BIAS]) != [num_rows]:
    raise ValueError(
        "init_checkpoint %s has %s of shape %s and %s of shape %s, which do "
        "not form a label head; use --init_head=new to ignore them." % (
            init_checkpoint, WEIGHTS, list(shapes[WEIGHTS]), BIAS,
            list(shapes[BIAS])))
  labels_file = os.path.join(os.path.dirname(init_checkpoint),
                             model_settings.LABELS_FILE)
  there = (model_settings.read_labels(labels_file)
           if os.path.isfile(labels_file) else None)
  if init_head == KEEP:
    return _keep(init_checkpoint, num_rows, labels, there)
  if there is None:
    raise ValueError(
        "init_checkpoint %s has a label head with %d rows, but no %s beside it "
        "to name the labels: use --init_head=new for a new head%s."
        % (init_checkpoint, num_rows, model_settings.LABELS_FILE,
           ", or --init_head=keep if they are the labels of this run in this "
           "order"
           if num_rows == len(labels) else ""))
  if len(there) != num_rows:
    raise ValueError(
        "%s has %d labels, but the label head of the checkpoint beside it has "
        "%d rows; they do not belong to the same model, so use --init_head=new "
        "or another --init_checkpoint." % (labels_file, len(there), num_rows))
  return _by_name(init_checkpoint, labels, there, labels_file)


def _keep(init_checkpoint, num_rows, labels, there):
  """The rows as they are."""
  if num_rows != len(labels):
    raise ValueError(
        "--init_head=keep, but the label head of init_checkpoint %s has %d "
        "rows and this run has %d labels." % (
            init_checkpoint, num_rows, len(labels)))
  lines = ["Label head: all %d rows from the checkpoint, in their order "
           "(--init_head=keep)" % num_rows]
  if there is not None and there != labels:
    index = [a == b for a, b in zip(there, labels)].index(False) if (
        len(there) == len(labels)) else 0
    lines.append("  %s beside it has different labels: row %d is %s there and "
                 "%s here" % (model_settings.LABELS_FILE, index,
                                 ascii(there[index]), ascii(labels[index])))
  return HeadPlan(init_checkpoint, list(range(num_rows)), lines)


def _by_name(init_checkpoint, labels, there, labels_file):
  """Each label's row, if the checkpoint has it."""
  places = {label: row for row, label in enumerate(there)}
  rows = [places.get(label, -1) for label in labels]
  new = [label for label in labels if label not in places]
  lost = sorted(set(there) - set(labels), key=there.index)
  lines = ["Label head: %d of %d labels from the checkpoint, matched by name "
           "in %s" % (len(labels) - len(new), len(labels), labels_file)]
  if new:
    lines.append("  newly initialized: %s" % _some(new))
  if lost:
    lines.append("  not used: %s" % _some(lost))
  return HeadPlan(init_checkpoint, rows, lines)


def _some(labels, most=20):
  more = len(labels) - most
  return ", ".join(labels[:most]) + (
      ", and {:,} more".format(more) if more > 0 else "")


def initializer(head_plan, name, fresh):
  """An initializer that takes a variable's rows from the checkpoint.

  Args:
    head_plan: `HeadPlan`, or None.
    name: str, `WEIGHTS` or `BIAS`.
    fresh: initializer of new rows, and of all without a plan.

  Returns:
    Function for `tf.get_variable`. New rows are drawn as `fresh` draws them.
  """
  if head_plan is None or not head_plan.kept:
    return fresh

  def initialize(shape, dtype=tf.float32, partition_info=None):
    del partition_info
    restored = tf.raw_ops.RestoreV2(
        prefix=head_plan.checkpoint, tensor_names=[name],
        shape_and_slices=[""], dtypes=[tf.float32])[0]
    is_new = tf.constant([row < 0 for row in head_plan.rows])
    rows = tf.gather(restored, [max(row, 0) for row in head_plan.rows])
    # `where` of 1.15 and 2 agree for conditions with the full shape.
    condition = tf.broadcast_to(
        tf.reshape(is_new, [-1] + [1] * (len(shape) - 1)), shape)
    value = tf.where(condition, fresh(shape, dtype=dtype),
                     tf.cast(tf.ensure_shape(rows, shape), dtype))
    return tf.ensure_shape(value, shape)

  return initialize


def add_to_report(report, head_plan):
  """Counts the head as restored if any of its rows is.

  Args:
    report: `checkpoint_restore.CheckpointReport`, without the head.
    head_plan: `HeadPlan`.

  Returns:
    A report like it.
  """
  if not head_plan.kept:
    return report
  return report._replace(
      restored=sorted(set(report.restored) | set(NAMES)),
      initialized=[name for name in report.initialized if name not in NAMES],
      unused=[name for name in report.unused if name not in NAMES])
