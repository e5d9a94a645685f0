# SPDX-License-Identifier: Apache-2.0
"""One training step on several devices of a machine: `MirroredStrategy`.

Each device has all weights and processes its rows of the batch; a row's loss
has weight 1 / (rows of the whole batch), so the sum of the gradients equals
that on a single device. It is clipped once, by its global norm, and every
device applies the same update.
"""

import contextlib
import copy
import functools

import tensorflow.compat.v1 as tf

from multilabel.features import batch_parts
from multilabel.training import train_op
import optimization


NONE = "none"
MIRRORED = "mirrored"
CLUSTER = "cluster"

# A replica's dropout masks are those of a step that no run reaches. Below it is
# room for 2^31 steps with 2^21 parts each; see `train_op`.
_REPLICA_STEPS = 1 << 52


def count_devices(settings):
  """How many devices a run has: int; 1 is the plain session loop.

  Raises:
    ValueError: there are fewer GPUs, or the number of parts of the CPU is not
      given.
  """
  if settings.distribution != MIRRORED:
    return 1
  num_devices, num_gpus = settings.num_devices, _num_gpus()
  if num_devices is None and not num_gpus:
    raise ValueError(
        "--distribution=mirrored found no GPU; leave it out, or try it on the "
        "CPU, split by --num_devices.")
  if num_gpus and (num_devices or 0) > num_gpus:
    raise ValueError("--num_devices is %d, but this machine has %d GPU%s." % (
        num_devices, num_gpus, "" if num_gpus == 1 else "s"))
  return num_devices or num_gpus


def _num_gpus():
  """GPUs that TensorFlow sees; CUDA_VISIBLE_DEVICES can hide them."""
  return len(tf.config.experimental.list_physical_devices("GPU"))


def make_strategy(num_devices):
  """`tf.distribute.MirroredStrategy`, or None for one device."""
  if num_devices == 1:
    return None
  kind, reduction = (
      ("gpu", tf.distribute.NcclAllReduce()) if _num_gpus() else
      ("cpu", tf.distribute.ReductionToOneDevice()))
  return tf.distribute.MirroredStrategy(
      ["/%s:%d" % (kind, number) for number in range(num_devices)], reduction)


def configure_session(config, strategy):
  """Adds what a session needs to have the strategy's devices."""
  if strategy is not None:
    # Without GPUs, the CPU is split into logical devices.
    config.device_count["CPU"] = strategy.num_replicas_in_sync
    # Operations without a kernel for a device run on the CPU.
    config.allow_soft_placement = True
  return config


@contextlib.contextmanager
def scope(strategy):
  """Variables created inside are on every device; None: no effect."""
  if strategy is None:
    yield
  else:
    with strategy.scope():
      yield


def model_params(strategy):
  """The params of a model_fn that describe the devices."""
  return {} if strategy is None else {
      "make_towers": functools.partial(MirroredTowers, strategy)}


def on_each_device(strategy, function):
  """Calls a function once per device, with that device's variables: list."""
  if strategy is None:
    return [function()]
  results = []
  strategy.extended.call_for_each_replica(
      lambda: results.append(function()))
  return results


def one_device_seeds(tower, features, dropout_seed):
  """Seeds of the initial weights as on a single device: {variable: int}.

  TensorFlow 1 and early 2 seed an op with the number of ops in the graph, which
  is larger with several devices. So a single device's graph is built and
  discarded.

  Args:
    tower: function of (features, dropout_seed), which makes the variables.
    features: dict of tensors of the current graph, the last that were added.
    dropout_seed: see `modeling.dropout`.
  """
  num_ops = getattr(tf.get_default_graph(), "_last_id", None)
  if num_ops is None:  # counts only the seeds
    return {}
  random_seed = tf.get_default_graph().seed
  with tf.Graph().as_default() as graph:
    tf.set_random_seed(random_seed)
    step = tf.train.get_or_create_global_step()
    copies = {key: tf.placeholder(value.dtype, value.shape)
              for key, value in features.items()}
    while graph._last_id < num_ops:  # pylint: disable=protected-access
      tf.no_op()
    tower(copies, dropout_seed and (dropout_seed[0], step))
    return {op.name.partition("/Initializer/")[0]: op.get_attr("seed2")
            for op in graph.get_operations()
            if "/Initializer/" in op.name and "seed2" in op.node_def.attr}


@contextlib.contextmanager
def initial_seeds(seeds):
  """Variables made inside start from the seeds of `one_device_seeds`."""
  def get_variable(getter, name, initializer=None, **kwargs):
    if name in seeds and hasattr(initializer, "seed"):
      initializer = copy.copy(initializer)
      initializer.seed = seeds[name]
    return getter(name, initializer=initializer, **kwargs)

  with tf.variable_scope(tf.get_variable_scope(), custom_getter=get_variable):
    yield


def rows_of_replica(features, replica, num_replicas):
  """A replica's rows of a batch: dict; may be empty."""
  parts = {}
  for key, value in features.items():
    if not value.shape.ndims:  # it refers to the whole batch
      parts[key] = value
      continue
    size = tf.shape(value)[0]
    parts[key] = value[size * replica // num_replicas:
                       size * (replica + 1) // num_replicas]
  return parts


def replica_dropout_seed(dropout_seed, replica):
  """(seed, step) of the replica's masks; unchanged for replica 0."""
  if dropout_seed is None:
    return None
  seed, step = dropout_seed
  return seed, tf.cast(step, tf.int64) + replica * _REPLICA_STEPS


class MirroredTowers(object):
  """The losses and gradients of all replicas, in the current graph.

  Attributes:
    loss: float scalar tensor, mean over the rows of the whole batch.
  """

  def __init__(self, strategy, tower, features, dropout_seed, variables):
    """Builds a tower per device.

    Args:
      strategy: `tf.distribute.MirroredStrategy`, whose scope this is in.
      tower: function of (features, dropout_seed) to the loss of each row,
        float `[rows]`, and a function of a loss and variables to gradients.
      features: dict of tensors, one row per example.
      dropout_seed: see `modeling.dropout`.
      variables: function without arguments to the list of trained variables.
    """
    self._strategy = strategy
    self._share = features.get(batch_parts.SHARE)
    num_replicas = strategy.num_replicas_in_sync

    def replica_step():
      """(loss, gradients) of a replica: its share of those of the batch."""
      replica = int(tf.get_static_value(
          tf.distribute.get_replica_context().replica_id_in_sync_group))
      # An empty sum is 0, whereas an empty mean would be NaN.
      losses, gradients = tower(
          rows_of_replica(features, replica, num_replicas),
          replica_dropout_seed(dropout_seed, replica))
      loss = tf.reduce_sum(losses)
      loss /= tf.cast(tf.shape(features["input_ids"])[0], tf.float32)
      if self._share is not None:
        loss *= self._share
      return loss, gradients(loss, variables())

    with initial_seeds(one_device_seeds(tower, features, dropout_seed)):
      losses, grads = strategy.extended.call_for_each_replica(replica_step)
    self.loss = tf.add_n(strategy.experimental_local_results(losses))
    self._pairs = [pair for pair in zip(grads, variables())
                   if pair[0] is not None]

  def create_train_op(self, init_lr, num_train_steps, num_warmup_steps,
                      learning_rate_scale=None, bias_correction=False,
                      skip_nonfinite=False):
    """`optimization.create_train_op` of the towers' summed gradients.

    Returns:
      `optimization.TrainOp`, or `PartsTrainOp` if a batch comes in parts.
    """
    strategy = self._strategy
    optimizer = optimization.create_adam(
        init_lr, num_train_steps, num_warmup_steps, learning_rate_scale,
        bias_correction)
    learning_rate = optimizer.learning_rate
    tvars = [var for _, var in self._pairs]
    grads = strategy.extended.batch_reduce_to(
        tf.distribute.ReduceOp.SUM, self._pairs)
    copies = [strategy.experimental_local_results(grad) for grad in grads]
    loss, sums = self.loss, None
    if self._share is None:
      # One norm for all: a device that rounds differently would diverge.
      grad_norm = tf.global_norm([copy[0] for copy in copies])
    else:
      sums = _MirroredSums(strategy, loss, self._share, grads, copies, tvars)
      loss, grad_norm, grads = sums.loss, sums.norm, sums.totals
    is_finite = tf.logical_and(tf.is_finite(loss), tf.is_finite(grad_norm))
    if skip_nonfinite:
      optimizer.stand_still_unless(is_finite, [])

    def move(var, grad, m, v, name):
      """The update of one variable on one device."""
      (grad,), _ = tf.clip_by_global_norm(
          [grad], optimization.CLIP_NORM, use_norm=grad_norm)
      grad = tf.convert_to_tensor(grad)
      if skip_nonfinite:
        grad = tf.where_v2(is_finite, grad, tf.zeros_like(grad))
      return optimizer.update_variable(grad, var, m, v, name)

    updates = []
    # No weight changes before every gradient of every device is computed.
    with tf.control_dependencies(
        [loss, grad_norm] if sums else
        [tensor for copy in copies for tensor in _tensors(copy)]):
      for grad, var in zip(grads, tvars):
        name = var.name.partition(":")[0]
        m, v = optimizer.make_slots(var, name, None)
        updates.append(strategy.extended.update(
            var, move, args=(grad, m, v, name)))
    update = tf.group(*updates)
    if sums:
      with tf.control_dependencies([update]):
        update = sums.clear()
    step = optimization.finish_step(update, learning_rate, grad_norm)
    return step if sums is None else train_op.PartsTrainOp(
        *(step + (loss, sums.accumulate_op)))


class _MirroredSums(object):
  """`train_op.GradientSums` with a copy on each device.

  Attributes:
    totals: list of variables, the sums of the gradients.
    accumulate_op, loss, norm: as of `GradientSums`.
  """

  def __init__(self, strategy, loss, share, grads, copies, tvars):
    """Makes the sums of `grads`, which every device has (`copies`)."""
    local_sum = train_op.local_sum
    self._loss = local_sum("loss_sum", [2], tf.float32)
    self._rows, self.totals, squares = [], [], []
    adding = [self._loss.assign_add(tf.stack([loss, share]))]
    for grad, on_devices, var in zip(grads, copies, tvars):
      name = "gradient_sum/" + var.name.partition(":")[0]
      total = local_sum(name, var.shape, var.dtype.base_dtype)
      self.totals.append(total)
      adding.append(strategy.extended.update(
          total, lambda total, grad: total.assign_add(
              tf.convert_to_tensor(grad)).op, args=(grad,)))
      if isinstance(on_devices[0], tf.IndexedSlices):
        # As in a batch without parts, rows count before they are summed.
        rows = local_sum(name + "/row_squares", [], tf.float32)
        self._rows.append(rows)
        squares.append(_first(strategy, rows))
        adding.append(rows.assign_add(2.0 * tf.nn.l2_loss(
            on_devices[0].values)))
      else:
        squares.append(2.0 * tf.nn.l2_loss(_first(strategy, total)))
    self.accumulate_op = tf.group(*adding)
    sums = _first(strategy, self._loss)
    self.loss = sums[0] / sums[1]
    self.norm = tf.sqrt(tf.add_n(squares))
    self._strategy = strategy

  def clear(self):
    """The op that resets the sums."""
    zero = train_op.runtime_zero()
    return tf.group(*[
        self._strategy.extended.update(var, train_op.clear,
                                       args=(zero,))
        for var in [self._loss] + self._rows + self.totals])


def _first(strategy, variable):
  """The value of the first device's copy."""
  return tf.convert_to_tensor(strategy.experimental_local_results(variable)[0])


def _tensors(grads):
  """The tensors that gradients are made of."""
  return [grad.values if isinstance(grad, tf.IndexedSlices) else grad
          for grad in grads]
