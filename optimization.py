# SPDX-License-Identifier: Apache-2.0
"""Adam with decoupled weight decay, warmup and linear decay, as BERT trains.

Names, arguments, defaults and variable names are those of
google-research/bert.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import collections
import re

import tensorflow.compat.v1 as tf


# The original's settings for fine-tuning.
CLIP_NORM = 1.0
WEIGHT_DECAY_RATE = 0.01
EXCLUDE_FROM_WEIGHT_DECAY = ("LayerNorm", "layer_norm", "bias")

TrainOp = collections.namedtuple(
    "TrainOp", ["train_op", "learning_rate", "grad_norm"])


def create_optimizer(loss, init_lr, num_train_steps, num_warmup_steps, use_tpu,
                     learning_rate_scale=None):
  """Makes the op that does one training step.

  Args:
    loss: float scalar tensor.
    init_lr: float, the peak learning rate.
    num_train_steps: int, the step at which the learning rate reaches 0.
    num_warmup_steps: int or None, steps of linear warmup.
    use_tpu: bool; must be False.
    learning_rate_scale: see `AdamWeightDecayOptimizer`.

  Returns:
    An op that updates every trainable variable and adds 1 to the global step.

  Raises:
    ValueError: `use_tpu` is set.
  """
  if use_tpu:
    raise ValueError("TPUs are not supported; use_tpu must be False.")
  optimizer = create_adam(init_lr, num_train_steps, num_warmup_steps,
                          learning_rate_scale)
  tvars = tf.trainable_variables()
  # Pre-training clipped at 1.0, so fine-tuning does.
  grads, grad_norm = tf.clip_by_global_norm(
      tf.gradients(loss, tvars), clip_norm=CLIP_NORM)
  update = optimizer.apply_gradients(
      zip(grads, tvars), global_step=tf.train.get_or_create_global_step())
  return finish_step(update, optimizer.learning_rate, grad_norm).train_op


def create_adam(init_lr, num_train_steps, num_warmup_steps,
                learning_rate_scale=None, bias_correction=False):
  """`AdamWeightDecayOptimizer` with the settings of fine-tuning.

  The arguments are those of `create_train_op`.
  """
  global_step = tf.train.get_or_create_global_step()
  return AdamWeightDecayOptimizer(
      learning_rate=create_learning_rate(
          init_lr, num_train_steps, num_warmup_steps, global_step),
      weight_decay_rate=WEIGHT_DECAY_RATE,
      beta_1=0.9,
      beta_2=0.999,
      epsilon=1e-6,
      exclude_from_weight_decay=list(EXCLUDE_FROM_WEIGHT_DECAY),
      learning_rate_scale=learning_rate_scale,
      bias_correction_step=global_step + 1 if bias_correction else None)


def finish_step(update, learning_rate, grad_norm):
  """`TrainOp` of an op that updates every variable."""
  global_step = tf.train.get_or_create_global_step()
  # apply_gradients leaves the step alone, as the original's does; it moves
  # last, since the learning rate and the dropout masks of this step read it.
  with tf.control_dependencies([update]):
    train_op = tf.assign_add(
        global_step, tf.ones([], global_step.dtype.base_dtype)).op
  return TrainOp(train_op, learning_rate, grad_norm)


def create_learning_rate(init_lr, num_train_steps, num_warmup_steps,
                         global_step):
  """Linear warmup from 0 (Devlin et al. 2018, A.2), then linear decay to 0.

  The decay is that of the whole run, so that the rate after warmup is
  `init_lr * (1 - step / num_train_steps)`.

  Args:
    init_lr: float, the peak learning rate.
    num_train_steps: int.
    num_warmup_steps: int or None.
    global_step: int scalar tensor or variable, updates done before this one.

  Returns:
    float32 scalar tensor.
  """
  peak = tf.constant(init_lr, shape=[], dtype=tf.float32)
  step = tf.cast(global_step, tf.float32)
  total = tf.constant(num_train_steps, tf.float32)
  learning_rate = peak * (1.0 - tf.minimum(step, total) / total)
  if num_warmup_steps:
    warmup = tf.constant(num_warmup_steps, tf.float32)
    learning_rate = tf.where(
        step < warmup, peak * (step / warmup), learning_rate)
  return learning_rate


class AdamWeightDecayOptimizer(tf.train.Optimizer):
  """Adam (Kingma and Ba 2014, alg. 1) without bias correction, with decoupled
  weight decay (Loshchilov and Hutter 2017, alg. 2).

      m = beta_1 * m + (1 - beta_1) * g
      v = beta_2 * v + (1 - beta_2) * g^2
      w = w - learning_rate * (m / (sqrt(v) + epsilon) + weight_decay * w)

  Slots are variables named `<variable>/adam_m` and `<variable>/adam_v`. Without
  bias correction, the first few hundred updates are up to six times too large
  (Mosbach et al. 2020, arXiv:2006.04884, section 6); `bias_correction_step`
  switches it on.
  """

  def __init__(self,
               learning_rate,
               weight_decay_rate=0.0,
               beta_1=0.9,
               beta_2=0.999,
               epsilon=1e-6,
               exclude_from_weight_decay=None,
               name="AdamWeightDecayOptimizer",
               learning_rate_scale=None,
               bias_correction_step=None):
    """Makes the optimizer.

    Args:
      learning_rate: float or float scalar tensor.
      weight_decay_rate: float; each step reduces the weights by `learning_rate`
        times it.
      beta_1: float, decay of the first moment.
      beta_2: float, decay of the second moment.
      epsilon: float, added to the root of the second moment.
      exclude_from_weight_decay: list of regular expressions; variables whose
        name matches one are not decayed.
      name: str, name of the optimizer.
      learning_rate_scale: function from a variable's name to a float that its
        learning rate is multiplied by; None: 1 for all.
      bias_correction_step: int scalar tensor, the number of this update, 1
        being the first: the learning rate is multiplied by
        `sqrt(1 - beta_2^step) / (1 - beta_1^step)` (Kingma and Ba 2014, end of
        section 2); None: no correction, as in the original.
    """
    super(AdamWeightDecayOptimizer, self).__init__(False, name)
    self.learning_rate = learning_rate
    self.weight_decay_rate = weight_decay_rate
    self.beta_1 = beta_1
    self.beta_2 = beta_2
    self.epsilon = epsilon
    self.exclude_from_weight_decay = exclude_from_weight_decay
    self.learning_rate_scale = learning_rate_scale
    self.beta_powers = (0.0, 0.0)
    if bias_correction_step is not None:
      step = tf.cast(bias_correction_step, tf.float32)
      self.beta_powers = (tf.pow(beta_1, step), tf.pow(beta_2, step))

  def stand_still_unless(self, condition, grads):
    """Makes an update leave weights and moments unchanged if it is false.

    The kernels run anyway, with rates of 0 and moments that do not decay:
    a branch would need a different form for each kind of variable.

    Args:
      condition: bool scalar tensor.
      grads: list of gradients; None stays None.

    Returns:
      The gradients to apply, zeros if it is false.
    """
    def unless(value, other):
      return tf.where_v2(condition, value, other)

    self.learning_rate = unless(self.learning_rate, 0.0)
    self.beta_1 = unless(tf.constant(self.beta_1), 1.0)
    self.beta_2 = unless(tf.constant(self.beta_2), 1.0)
    dense = [None if grad is None else tf.convert_to_tensor(grad)
             for grad in grads]
    return [None if grad is None else unless(grad, tf.zeros_like(grad))
            for grad in dense]

  def apply_gradients(self, grads_and_vars, global_step=None, name=None):
    """Makes the op that updates the variables.

    Args:
      grads_and_vars: list of (gradient, variable); pairs with a None are
        skipped. A gradient may be `tf.IndexedSlices`; the update is dense
        anyway, since every row's moments and weights decay.
      global_step: accepted and left alone, as in the original.
      name: str, name of the op.

    Returns:
      The op.
    """
    del global_step
    pairs = [(tf.convert_to_tensor(grad), var) for grad, var in grads_and_vars
             if grad is not None and var is not None]
    updates = []
    # All gradients are computed before any weight changes: with reference
    # variables, a gradient could otherwise read an updated weight.
    with tf.control_dependencies([grad for grad, _ in pairs]):
      for grad, var in pairs:
        updates.append(self._update(grad, var))
    return tf.group(*updates, name=name)

  def _update(self, grad, var):
    """Makes a variable's slots and its update."""
    name = self._get_variable_name(var.name)
    # In a cluster, variables have a device, otherwise this is "".
    with tf.device(var.device):
      # The kernel needs all variables to be of one kind.
      m, v = self.make_slots(var, name, hasattr(var, "handle"))
      return self.update_variable(grad, var, m, v, name)

  def make_slots(self, var, param_name, use_resource):
    """The moments of a variable: (m, v)."""
    return [
        tf.get_variable(
            name=param_name + slot, shape=var.shape.as_list(),
            dtype=var.dtype.base_dtype, trainable=False,
            initializer=tf.zeros_initializer(), use_resource=use_resource)
        for slot in ("/adam_m", "/adam_v")]

  def update_variable(self, grad, var, m, v, param_name):
    """The update of one variable: a pass for the decay, a pass for Adam."""
    learning_rate = tf.cast(self.learning_rate, var.dtype.base_dtype)
    if self.learning_rate_scale is not None:
      learning_rate *= self.learning_rate_scale(param_name)
    before = []
    if self._do_use_weight_decay(param_name):
      # The decay uses the weight before Adam's update, so it comes first.
      before = [self._subtract(
          var, learning_rate * self.weight_decay_rate, var)]
    with tf.control_dependencies(before):
      return self._apply_adam(grad, var, m, v, learning_rate)

  def _subtract(self, var, alpha, delta):
    """`var -= alpha * delta` in one kernel, without an intermediate tensor."""
    if hasattr(var, "handle"):
      return tf.raw_ops.ResourceApplyGradientDescent(
          var=var.handle, alpha=alpha, delta=delta, use_locking=False)
    return tf.raw_ops.ApplyGradientDescent(
        var=_reference(var), alpha=alpha, delta=delta, use_locking=False).op

  def _apply_adam(self, grad, var, m, v, learning_rate):
    """One fused kernel; with beta powers of 0, it does not correct the bias."""
    arguments = dict(
        beta1_power=self.beta_powers[0], beta2_power=self.beta_powers[1],
        lr=learning_rate, beta1=self.beta_1, beta2=self.beta_2,
        epsilon=self.epsilon, grad=grad, use_locking=False)
    arguments = {
        key: value if key in ("grad", "use_locking") else tf.cast(
            value, var.dtype.base_dtype) for key, value in arguments.items()}
    if hasattr(var, "handle"):
      return tf.raw_ops.ResourceApplyAdam(
          var=var.handle, m=m.handle, v=v.handle, **arguments)
    return tf.raw_ops.ApplyAdam(
        var=_reference(var), m=_reference(m), v=_reference(v), **arguments).op

  def _do_use_weight_decay(self, param_name):
    """Whether the variable of that name decays."""
    if not self.weight_decay_rate:
      return False
    return not any(re.search(pattern, param_name)
                   for pattern in self.exclude_from_weight_decay or [])

  def _get_variable_name(self, param_name):
    """The name without the output index: "w:0" -> "w"."""
    match = re.match(r"^(.*):\d+$", param_name)
    return match.group(1) if match else param_name


def _reference(var):
  """The reference tensor of a variable that is not a resource."""
  return var._ref()  # pylint: disable=protected-access
