# SPDX-License-Identifier: Apache-2.0
"""One update from several parts of its batch, one part in memory at a time.

The update equals that of the whole batch: gradients are summed, weighted by the
number of examples per part, then clipped, then applied. The sums are local
variables, not in checkpoints: a run killed between two parts repeats the whole
update.
"""

import collections
import functools

import tensorflow.compat.v1 as tf

from multilabel.features import batch_parts
import optimization


class GradientSums(object):
  """The sums over an update's parts.

  Attributes:
    accumulate_op: op that adds a part; it is run once for each.
    loss: float32 scalar tensor, the mean loss of the examples added so far.
    norm: float32 scalar tensor, the gradients' norm as `tf.global_norm` gives
      it for the whole batch.
  """

  def __init__(self, loss, share, gradients, variables):
    """Makes the variables of the sums, and the ops that add to them.

    Args:
      loss: float32 scalar tensor, a part's mean loss times `share`.
      share: float32 scalar tensor, the part's fraction of the examples.
      gradients: list of the gradients of `loss`; None, tensors, or
        `tf.IndexedSlices`, whose rows count in the norm before they are
        summed up.
      variables: list of the variables they are of.
    """
    self._pairs = []
    self._loss = local_sum("loss_sum", [2], tf.float32)  # losses and fractions
    adding = [tf.assign_add(self._loss, tf.stack([loss, share])).op]
    self._row_squares, squares = [], []
    for gradient, var in zip(gradients, variables):
      if gradient is None:
        continue
      name = "gradient_sum/" + var.op.name
      total = local_sum(name, var.shape, var.dtype.base_dtype,
                     hasattr(var, "handle"))
      self._pairs.append((total, var))
      adding.append(tf.assign_add(
          total, tf.convert_to_tensor(gradient), use_locking=False).op)
      if isinstance(gradient, tf.IndexedSlices):
        rows = local_sum(name + "/row_squares", [], tf.float32)
        self._row_squares.append(rows)
        squares.append(rows)
        adding.append(tf.assign_add(
            rows, 2.0 * tf.nn.l2_loss(gradient.values)).op)
      else:
        squares.append(2.0 * tf.nn.l2_loss(total))
    self.accumulate_op = tf.group(*adding)
    # Recomputed, not read: a reference may show the later value.
    self.loss = self._loss[0] / self._loss[1]
    self.norm = tf.sqrt(tf.add_n([tf.identity(one) for one in squares]))

  def apply(self, optimizer, clip_norm, condition=None):
    """Makes the op that updates the variables and resets the sums.

    Variables are updated one after the other, so that one clipped gradient is
    in memory at a time.

    Args:
      optimizer: `optimization.AdamWeightDecayOptimizer`.
      clip_norm: float, maximum global norm of the gradients.
      condition: bool scalar tensor or None; where it is false the gradients
        are zeros.

    Returns:
      The op.
    """
    zero = runtime_zero()
    # Read before the first of them is reset.
    last = tf.group(self.loss, self.norm, *(
        [] if condition is None else [condition]))
    for total, var in self._pairs:
      with tf.control_dependencies([last]):
        (gradient,), _ = tf.clip_by_global_norm([total], clip_norm, self.norm)
      if condition is not None:
        gradient = tf.where_v2(condition, gradient, tf.zeros_like(gradient))
      update = optimizer.apply_gradients([(gradient, var)])
      with tf.control_dependencies([update]):
        last = clear(total, zero)
    with tf.control_dependencies([last]):
      return tf.group(*[clear(var, zero) for var in
                        [self._loss] + self._row_squares])


def run_update(session, accumulate_fetches, update_fetches):
  """Runs the parts of an update, then the update.

  Args:
    session: `tf.Session`.
    accumulate_fetches: dict, what to fetch for each part: the op that adds it,
      `IS_LAST`, `num_tokens` (int), `shape` (int [2], of the part's ids).
    update_fetches: dict, what to fetch once, after the last part.

  Returns:
    dict: the values of `update_fetches`, and `num_tokens` and `shape` of all
    parts together.
  """
  num_tokens, num_rows, longest, is_last = 0, 0, 0, False
  while not is_last:
    part = session.run(accumulate_fetches)
    num_tokens += int(part["num_tokens"])
    num_rows += int(part["shape"][0])
    longest = max(longest, int(part["shape"][1]))
    is_last = part[batch_parts.IS_LAST]
  return dict(session.run(update_fetches), num_tokens=num_tokens,
              shape=[num_rows, longest])


def local_sum(name, shape, dtype, use_resource=None):
  """A variable of zeros that is not part of a checkpoint."""
  return tf.get_variable(
      name, shape, dtype, tf.zeros_initializer(), trainable=False,
      collections=[tf.GraphKeys.LOCAL_VARIABLES], use_resource=use_resource)


def runtime_zero():
  """A 0 that TensorFlow cannot fold into a constant, which would need an array
  for each variable that is reset."""
  return tf.cast(tf.less(tf.train.get_or_create_global_step(), 0), tf.float32)


def clear(var, zero):
  """The op that resets a sum."""
  return tf.assign(var, tf.fill(
      var.shape.as_list(), tf.cast(zero, var.dtype.base_dtype))).op


# The same of an update of several parts.
PartsTrainOp = collections.namedtuple(
    "PartsTrainOp", optimization.TrainOp._fields + ("loss", "accumulate_op"))


def create_train_op(loss, init_lr, num_train_steps, num_warmup_steps,
                    learning_rate_scale=None, bias_correction=False,
                    skip_nonfinite=False, share=None, variables=None,
                    gradients=tf.gradients, loss_scale=None,
                    after_update=None):
  """As `create_optimizer`, but also returns values for the log.

  Args:
    loss: see `create_optimizer`.
    init_lr: see `create_optimizer`.
    num_train_steps: see `create_optimizer`.
    num_warmup_steps: see `create_optimizer`.
    learning_rate_scale: see `AdamWeightDecayOptimizer`.
    bias_correction: bool, see `AdamWeightDecayOptimizer`.
    skip_nonfinite: bool, whether a step with a NaN or infinite loss or gradient
      changes only the global step.
    share: float scalar tensor, the loss's part of an update of several parts;
      None: it is the update's.
    variables: list of variables to update; default: the trainable ones.
    gradients: function of a loss and a list of variables to their gradients.
    loss_scale: `mixed_precision.LossScale`, whose overflowing steps change
      nothing either, or None.
    after_update: function from the op that updates the variables to one that
      runs more after it, before the global step changes; None: nothing more.

  Returns:
    `TrainOp(train_op, learning_rate, grad_norm)`; the last two are float
    scalar tensors: the rate of this step, the gradients' norm before clipping.
    With `share` a `PartsTrainOp`: `accumulate_op` is to be run for each part,
    then `train_op`; `loss` is the update's.
  """
  global_step = tf.train.get_or_create_global_step()
  optimizer = optimization.create_adam(init_lr, num_train_steps,
                                       num_warmup_steps, learning_rate_scale,
                                       bias_correction)
  learning_rate = optimizer.learning_rate

  tvars = tf.trainable_variables() if variables is None else variables
  sums = None
  if loss_scale is not None:
    gradients = functools.partial(loss_scale.gradients, gradients=gradients)
  if share is None:
    grads = gradients(loss, tvars)
    # Pre-training clipped at 1.0, so fine-tuning does. The gradient of a gather
    # counts its rows before they are summed, as in the original.
    (grads,
     grad_norm) = tf.clip_by_global_norm(grads,
                                         clip_norm=optimization.CLIP_NORM)
  else:
    loss *= share
    sums = GradientSums(
        loss, share, gradients(loss, tvars), tvars)
    loss, grad_norm, grads = sums.loss, sums.norm, []
  is_finite = None
  if skip_nonfinite or loss_scale is not None:
    is_finite = tf.logical_and(tf.is_finite(loss), tf.is_finite(grad_norm))
    grads = optimizer.stand_still_unless(is_finite, grads)
  update = (
      sums.apply(optimizer, optimization.CLIP_NORM, is_finite) if sums else
      optimizer.apply_gradients(zip(grads, tvars), global_step=global_step))
  if loss_scale is not None:
    update = tf.group(update, loss_scale.adjust(is_finite))
  if after_update is not None:
    update = after_update(update)
  step = optimization.finish_step(update, learning_rate, grad_norm)
  return step if sums is None else PartsTrainOp(
      *(step + (loss, sums.accumulate_op)))
