# SPDX-License-Identifier: Apache-2.0
"""Training over several machines: chief, workers and parameter servers.

The ps hold the weights (`replica_device_setter`), chief and workers compute the
gradients of their rows of each batch, `SyncReplicasOptimizer` sums them.

Each step happens once, with every row of its batch exactly once, whichever
process dies: gradients carry a stamp, which is the step and a generation. Chief
and workers wait for their step instead of taking a token, so none pushes twice.
When a member restarts, the chief starts another generation: gradients pushed
before are discarded or rejected because of their stamp, and the step is
repeated. The chief applies an update only after all members report that they
pushed, so no call blocks forever.
"""

import collections
import time

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.common import sessions as tf_sessions
from multilabel.features import input_pipeline
from multilabel.features import record_shards
from multilabel.training import cluster_members
from multilabel.training import loop
from multilabel.training import mirrored
from multilabel.training.cluster_members import ClusterError
import optimization


# Above these bits of a step is the generation in a stamp.
_STEP_BITS = 31

_PS0 = "/job:ps/task:0"


class Shards(object):
  """The rows of each step's batch, split among the replicas."""

  def __init__(self, record_file, batch_size, seed, num_labels, num_replicas):
    self._records = record_shards.open_records(record_file)
    self._batch_size, self._seed = batch_size, seed
    self._num_labels, self._num_replicas = num_labels, num_replicas
    self._epoch = self._batches = None

  def batch(self, step):
    """int array, numbers of the rows of a step's batch."""
    epoch, place = divmod(step, -(-len(self._records) // self._batch_size))
    if epoch != self._epoch:
      self._epoch, self._batches = epoch, input_pipeline.epoch_batches(
          self._records.lengths, self._batch_size, self._seed, epoch)
    return self._batches[place]

  def lengths(self, step):
    """int array, tokens of the rows of a step's batch."""
    return self._records.lengths[self.batch(step)]

  def rows(self, step, replica):
    """int array, those of a replica; may be empty."""
    batch = self.batch(step)
    return batch[len(batch) * replica // self._num_replicas:
                 len(batch) * (replica + 1) // self._num_replicas]

  def features(self, step, replica):
    """`feature_rows.make_batch` of a replica's rows."""
    rows = self.rows(step, replica)
    if not len(rows):
      batch = {key: np.zeros([0, 1], np.int32)
               for key in ("input_ids", "input_mask", "segment_ids")}
      return dict(batch, label_ids=np.zeros([0, self._num_labels], np.float32))
    batch = input_pipeline.read_batch(self._records, rows, self._num_labels)
    del batch["is_real_example"]
    return batch


class _PlaceBySize(object):
  """Puts each variable, with its slots, on the ps with the fewest bytes."""

  def __init__(self, num_ps):
    self._sizes = [0] * num_ps
    self._places = {}

  def __call__(self, op):
    name = op.name
    for slot in ("/adam_m", "/adam_v"):
      if name.endswith(slot):
        name = name[:-len(slot)]
    if name not in self._places:
      self._places[name] = int(np.argmin(self._sizes))
    shape = [dim.size for dim in op.get_attr("shape").dim]
    self._sizes[self._places[name]] += int(np.prod(shape, dtype=np.int64))
    return self._places[name]


class _ClusterTowers(object):
  """This replica's part of a step; see `mirrored.MirroredTowers`."""

  def __init__(self, cluster, batch_size, tower, features, dropout_seed,
               variables):
    self._num_replicas = len(cluster.replicas)
    per_example_loss, self._gradients = tower(
        features, mirrored.replica_dropout_seed(dropout_seed,
                                                    cluster.replica))
    self._variables = variables()
    # The accumulators average over the replicas; we need the sum.
    self._loss = (self._num_replicas * tf.reduce_sum(per_example_loss) /
                  batch_size)
    self._num_rows = tf.cast(tf.shape(per_example_loss)[0], tf.float32)
    self.loss = None

  def create_train_op(self, *settings):
    """`TrainOp` whose op pushes this replica's gradients."""
    *adam_settings, skip_nonfinite = settings
    pairs, squares = [], [tf.zeros([])]
    for grad, var in zip(self._gradients(self._loss, self._variables),
                         self._variables):
      if grad is None:
        continue
      is_sparse = isinstance(grad, tf.IndexedSlices)
      if is_sparse:
        # The norm on a single device includes rows of a gather before they are
        # summed.
        squares.append(tf.reduce_sum(tf.square(grad.values)))
      pairs.append((tf.convert_to_tensor(grad), var, is_sparse))
    with tf.device(_PS0):
      stats = tf.get_variable(
          "cluster/stats", [3], initializer=tf.zeros_initializer(),
          trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])
    values = tf.stack([self._loss, self._num_replicas * self._num_rows,
                       tf.add_n(squares) / self._num_replicas])
    self.update = _Update(optimization.create_adam(*adam_settings), stats,
                          [var for _, var, is_sparse in pairs if is_sparse],
                          skip_nonfinite)
    self.sync = tf.train.SyncReplicasOptimizer(
        self.update, self._num_replicas, self._num_replicas)
    push = self.sync.apply_gradients(
        [(grad, var) for grad, var, _ in pairs] + [(values, stats)],
        tf.train.get_or_create_global_step())
    self.update_op, = self.sync.get_chief_queue_runner().enqueue_ops
    return optimization.TrainOp(push, self.update.values["learning_rate"],
                                self.update.values["grad_norm"])


class _Update(object):
  """Called by `SyncReplicasOptimizer` with the sums of all replicas."""

  def __init__(self, adam, stats, sparse, skip_nonfinite):
    self._adam, self._stats, self._sparse = adam, stats, sparse
    self._skip_nonfinite = skip_nonfinite
    self.values = None

  def apply_gradients(self, grads_and_vars, global_step=None):
    """Clips, updates, counts the step: an op."""
    del global_step
    grads_and_vars = list(grads_and_vars)
    (stats, _), = [pair for pair in grads_and_vars if pair[1] is self._stats]
    pairs = [pair for pair in grads_and_vars if pair[1] is not self._stats]
    loss, num_rows, squares = tf.unstack(stats)
    dense = [grad for grad, var in pairs
             if not any(var is other for other in self._sparse)]
    grad_norm = tf.sqrt(tf.square(tf.global_norm(dense)) + squares)
    grads, _ = tf.clip_by_global_norm(
        [grad for grad, _ in pairs], optimization.CLIP_NORM,
        use_norm=grad_norm)
    learning_rate = self._adam.learning_rate
    if self._skip_nonfinite:
      grads = self._adam.stand_still_unless(tf.logical_and(
          tf.is_finite(loss), tf.is_finite(grad_norm)), grads)
    update = self._adam.apply_gradients(
        zip(grads, [var for _, var in pairs]))
    step = optimization.finish_step(update, learning_rate, grad_norm)
    self.values = {"loss": loss, "num_rows": num_rows,
                   "learning_rate": learning_rate, "grad_norm": grad_norm}
    return step.train_op


# What a worker sees of the state of the cluster.
_Place = collections.namedtuple("_Place", ["generation", "step", "greeted"])


class Member(object):
  """The graph of the chief or a worker, and its operations in a session."""

  def __init__(self, cluster, model_fn, shards, random_seed, num_steps,
               timeout):
    """Builds the graph.

    Args:
      cluster: `cluster_members.Cluster`.
      model_fn: see `loop.Run`; its initial weights are not used.
      shards: `Shards`.
      random_seed: int.
      num_steps: int, the last step.
      timeout: float, seconds that a wait may take.
    """
    self.cluster, self.num_steps, self.timeout = cluster, num_steps, timeout
    self.shards = shards
    self.graph = tf.Graph()
    members = {job: found for job, found in cluster.members.items() if found}
    self.spec = tf.train.ClusterSpec(members)
    with self.graph.as_default(), tf.device(tf.train.replica_device_setter(
        worker_device="/job:%s/task:%d" % (cluster.job, cluster.task),
        cluster=self.spec,
        ps_strategy=_PlaceBySize(len(cluster.members["ps"])))):
      tf.set_random_seed(random_seed)
      global_step = tf.train.get_or_create_global_step()
      self._features = {
          key: tf.placeholder(tf.int32, [None, None], key)
          for key in ("input_ids", "input_mask", "segment_ids")}
      self._features["label_ids"] = tf.placeholder(
          tf.float32, [None, shards._num_labels], "label_ids")
      self._batch_size = tf.placeholder(tf.float32, [], "batch_size")
      towers = []

      def make_towers(*args):
        towers.append(_ClusterTowers(cluster, self._batch_size, *args))
        return towers[0]

      self.train_spec = model_fn(self._features, loop.TRAIN,
                                 {"make_towers": make_towers})
      self._towers = towers[0]
      state = self._build_state(global_step)
    with self.graph.as_default():
      self.missing = tf.report_uninitialized_variables(
          tf.global_variables() + state)
      self.saver = tf.train.Saver(max_to_keep=0, save_relative_paths=True)
      self.check_weights = tf.group(*[
          tf.debugging.check_numerics(variable, variable.op.name)
          for variable in tf.global_variables()
          if variable.dtype.base_dtype.is_floating])
    self.graph.finalize()
    self.generation = 0

  def _build_state(self, global_step):
    """The variables for communication between members, and their ops."""
    num_replicas, replica = (len(self.cluster.replicas), self.cluster.replica)
    sync = self._towers.sync
    self._stamp = tf.placeholder(tf.int64, [], "stamp")
    self._vector = tf.placeholder(tf.int64, [num_replicas], "vector")

    def variable(name, shape):
      return tf.get_variable(
          "cluster/" + name, shape, tf.int64, tf.zeros_initializer(),
          trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])

    # pylint: disable=protected-access
    local_step = sync._local_step
    with tf.device(local_step.device):
      self._set_local_step = tf.assign(local_step, self._stamp).op
      self.init_own = local_step.initializer
    with tf.device(_PS0):
      generation = variable("generation", [])
      pushed, hello, greeted = [
          variable(name, [num_replicas])
          for name in ("pushed", "hello", "greeted")]
      self._pushed, self._hello = pushed.read_value(), hello.read_value()
      self._say_hello = tf.scatter_update(hello, replica, self._stamp)
      with tf.control_dependencies([self.train_spec.train_op]):
        # Read when it is pushed, as confirmation.
        self._push = tf.scatter_update(pushed, replica, self._stamp)
      self._greet = tf.group(tf.assign(greeted, self._vector),
                             tf.assign(pushed, tf.zeros_like(pushed)))
      self._set_generation = tf.assign(generation, self._stamp).op
      # The generation first: whoever sees a new one sees its step.
      place = [generation.read_value()]
      with tf.control_dependencies(place):
        place += [global_step.read_value(), greeted.read_value()]
    self._place = _Place(*place)
    self._set_stamps, self._counts, self._drains = [], [], []
    for accumulator, device in sync._accumulator_list:
      with tf.device(device):
        self._set_stamps.append(accumulator.set_global_step(self._stamp))
        self._counts.append(accumulator.num_accumulated())
        self._drains.append(accumulator.take_grad(1))
    # pylint: enable=protected-access
    self._tokens = sync.get_init_tokens_op(num_replicas)
    self.init_local = tf.local_variables_initializer()
    return [generation, pushed, hello, greeted]

  def session_config(self):
    config = tf_sessions.session_config()
    config.allow_soft_placement = True
    # A missing worker must not keep others from starting.
    config.device_filters.extend(["/job:ps", "/job:%s/task:%d" % (
        self.cluster.job, self.cluster.task)])
    config.operation_timeout_in_ms = int(self.timeout * 1000)
    return config

  def read_place(self, session):
    return _Place(*session.run(list(self._place)))

  def say_hello(self, session, number):
    session.run(self._say_hello, {self._stamp: number})

  def push(self, session, generation, step):
    """Adds this replica's gradients of a step."""
    stamp = {self._stamp: _stamp(generation, step)}
    feed = {self._features[key]: value for key, value in
            self.shards.features(step, self.cluster.replica).items()}
    feed[self._batch_size] = len(self.shards.batch(step))
    session.run(self._set_local_step, stamp)
    feed.update(stamp)
    session.run(self._push, feed)

  def begin_generation(self, session, step):
    """The chief invalidates everything pushed so far."""
    hello = session.run(self._hello)
    self.generation = max(self.generation + 1, int(time.time()))
    stamp = {self._stamp: _stamp(self.generation, step)}
    session.run(self._set_stamps, stamp)
    filled = [drain for drain, count in zip(
        self._drains, session.run(self._counts)) if count]
    if filled:
      session.run([drain.op for drain in filled])
    session.run([self._set_stamps, self._tokens], stamp)
    session.run(self._greet, {self._vector: hello})
    session.run(self._set_generation, {self._stamp: self.generation})
    self._greeted = hello

  def make_step(self, session, step):
    """The chief's step: pushes, waits for all, updates; dict of values."""
    wait = cluster_members.Wait(self.timeout, self.cluster)
    self.push(session, self.generation, step)
    while True:
      pushed, hello = session.run([self._pushed, self._hello])
      if not np.array_equal(hello, self._greeted):
        self.begin_generation(session, step)
        self.push(session, self.generation, step)
        continue
      late = [self.cluster.describe(job, task) for number, (job, task) in
              enumerate(self.cluster.replicas)
              if pushed[number] != _stamp(self.generation, step)]
      if not late:
        break
      wait.pause("%s to compute step %d" % (" and ".join(late), step + 1))
    values, _ = session.run([self._towers.update.values,
                             self._towers.update_op])
    lengths = self.shards.lengths(step)
    if int(round(float(values["num_rows"]))) != len(lengths):
      raise ClusterError(
          "step %d used %g examples instead of %d; this is a bug." % (
              step + 1, values["num_rows"], len(lengths)))
    return dict(values, num_tokens=int(lengths.sum()),
                shape=np.array([len(lengths), lengths.max()]))


def make_member(cluster, model_fn, record_file, num_labels, num_steps,
                settings):
  """`Member` of the run described by flags."""
  return Member(
      cluster, model_fn,
      Shards(record_file, settings.train_batch_size,
             settings.random_seed, num_labels, len(cluster.replicas)),
      settings.random_seed, num_steps, settings.cluster_timeout)


def _stamp(generation, step):
  return (int(generation) << _STEP_BITS) | int(step)
