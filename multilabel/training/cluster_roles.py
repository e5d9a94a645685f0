# SPDX-License-Identifier: Apache-2.0
"""What chief, worker and parameter server do."""

import os
import threading
import time

from absl import logging
import tensorflow.compat.v1 as tf

from multilabel.common import sessions as tf_sessions
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.training import cluster_members
from multilabel.training import loop


# Errors of a call whose other end died or no longer knows us.
_LOST = (tf.errors.AbortedError, tf.errors.UnavailableError,
         tf.errors.CancelledError, tf.errors.FailedPreconditionError,
         tf.errors.NotFoundError, tf.errors.InternalError)


class SessionLost(Exception):
  """A ps died; its weights are in the last checkpoint."""


def start_server(cluster, spec=None):
  """`tf.train.Server` of this process; ClusterError if the port is taken."""
  config = tf_sessions.session_config()
  if cluster.job == "ps":
    config.device_count["GPU"] = 0
  spec = spec or tf.train.ClusterSpec(
      {job: found for job, found in cluster.members.items() if found})
  try:
    return tf.train.Server(spec, cluster.job, cluster.task, config=config)
  except tf.errors.OpError as error:
    raise cluster_members.ClusterError(
        "%s cannot be started on its address: %s" %
        (cluster.describe_self(), (error.message or "").split("\n")[0]))


class ClusterRun(loop.Run):
  """The chief's `loop.Run`: the session is one of the cluster."""

  def __init__(self, member, server, output_dir, keep_checkpoint_max):
    """Restores the newest checkpoint into the ps; there must be one.

    Raises:
      SessionLost: a ps died meanwhile.
    """
    # pylint: disable=super-init-not-called
    self._member = member
    self._output_dir = output_dir
    self._keep_checkpoint_max = keep_checkpoint_max
    self._identity = checkpoint_choice.run_identity(output_dir)
    self.checkpoint = checkpoint_choice.recover(output_dir)
    self.checkpoint_step = checkpoint_files.checkpoint_step(self.checkpoint)
    self.state = checkpoint_files.read_run_state(self.checkpoint)
    self.graph, self._saver = member.graph, member.saver
    self._check_weights = member.check_weights
    self.train_spec, self.batch_fetches = member.train_spec, {}
    self._step = self.checkpoint_step
    cluster_members.wait_for(member.cluster, "ps", cluster_members.Wait(
        member.timeout, member.cluster))
    self.session = tf.Session(server.target, graph=self.graph,
                              config=member.session_config())
    self.stepper = self
    with _losing_session():
      self.session.run(member.init_local)
      member.saver.restore(self.session, self.checkpoint)
      member.begin_generation(self.session, self._step)

  def run(self, *unused_args):
    """`session.run` of a training step."""
    with _losing_session():
      values = self._member.make_step(self.session, self._step)
    self._step += 1
    return values

  def save(self, step):
    with _losing_session():
      super(ClusterRun, self).save(step)

  def close(self):
    try:
      self.session.close()
    except tf.errors.OpError:
      pass  # Its ps is gone.


class _losing_session(object):  # pylint: disable=invalid-name
  """A context in which the death of a ps raises `SessionLost`."""

  def __enter__(self):
    return self

  def __exit__(self, kind, error, unused_traceback):
    if kind is not None and issubclass(kind, _LOST):
      raise SessionLost(str(error).split("\n")[0][:200])
    if kind is not None and issubclass(kind, tf.errors.DeadlineExceededError):
      raise cluster_members.ClusterError(
          "the ps did not respond within --cluster_timeout.")


def lead(member, identity, output_dir, keep_checkpoint_max, train):
  """The chief's training, from the newest checkpoint to the last step.

  Args:
    member: `Member`.
    identity: see `cluster_members.identity`.
    output_dir: str; has a checkpoint.
    keep_checkpoint_max: int.
    train: function of a `loop.Run` that trains it.
  """
  output_dir = os.path.abspath(output_dir)  # the ps restore from it
  newest = checkpoint_choice.recover(output_dir)
  if checkpoint_files.checkpoint_step(newest) >= member.num_steps:
    cluster_members.publish(output_dir, identity, cluster_members.FINISHED,
                            member.num_steps)
    return
  cluster_members.publish(output_dir, identity, cluster_members.RUNNING,
                          member.num_steps)
  server = start_server(member.cluster, member.spec)
  try:
    while True:
      try:
        with ClusterRun(member, server, output_dir,
                        keep_checkpoint_max) as run:
          train(run)
        break
      except SessionLost as lost:
        logging.warning("Lost a ps (%s); resuming from the last checkpoint "
                        "when it is back", lost)
        time.sleep(0.5)
  except (ValueError, RuntimeError, FloatingPointError) as error:
    cluster_members.publish(output_dir, identity, cluster_members.FAILED,
                            member.num_steps, str(error))
    raise
  cluster_members.publish(output_dir, identity, cluster_members.FINISHED,
                          member.num_steps)


class _Over(Exception):
  """The chief has ended the run."""


class _WorkerSessions(tf.train.SessionCreator):
  """Makes a worker's session when the chief has restored the weights."""

  def __init__(self, member, server, output_dir):
    self._member, self._server = member, server
    self._output_dir = output_dir
    self.session = None

  def create_session(self):
    member = self._member
    wait = cluster_members.Wait(member.timeout, member.cluster)
    while True:
      if cluster_members.is_over(self._output_dir):
        raise _Over()
      cluster_members.wait_for(member.cluster, "ps", wait)
      session = tf.Session(self._server.target, graph=member.graph,
                           config=member.session_config())
      try:
        session.run(member.init_own)
        if not len(session.run(member.missing)):
          self.session = session
          return session
      except _LOST:
        pass
      session.close()
      wait.pause(member.cluster.describe("chief", 0) +
                 " to initialize the ps", 1.0)


def work(member, output_dir):
  """A worker's training: pushes gradients until the chief ends the run."""
  server = start_server(member.cluster, member.spec)
  # A call to a ps that has ended may block for --cluster_timeout.
  threading.Thread(target=_end_with_chief, args=(output_dir,),
                   daemon=True).start()
  sessions = _WorkerSessions(member, server, output_dir)
  worker = _Worker(member, sessions, output_dir)
  try:
    with tf.train.MonitoredSession(sessions) as session:
      while True:
        session.run_step_fn(worker.step)
  except _Over:
    logging.info("The chief has ended the run.")
  except tf.errors.DeadlineExceededError:
    raise cluster_members.ClusterError(
        "the ps did not respond within --cluster_timeout.")


def _end_with_chief(output_dir, seconds=5):
  """Ends this process some seconds after the run, if it is still alive."""
  while True:
    time.sleep(1)
    status = 0
    try:
      if not cluster_members.is_over(output_dir):
        continue
    except cluster_members.ClusterError:
      status = 1
    except ValueError:
      continue
    time.sleep(seconds)
    os._exit(status)  # pylint: disable=protected-access


class _Worker(object):
  """The state of a worker between its steps."""

  def __init__(self, member, sessions, output_dir):
    self._member, self._output_dir = member, output_dir
    self._sessions = sessions
    self._number = (int(time.time() * 1000) << 16) | (os.getpid() & 0xffff)
    self._pushed = None
    self._looked = time.monotonic()
    self._wait = cluster_members.Wait(member.timeout, member.cluster)

  def step(self, step_context):
    """Checks the state of the cluster and does what is needed."""
    # After a loss, the context still has the lost session.
    del step_context
    try:
      self._step(self._sessions.session)
    except _LOST as error:
      # Errors for which MonitoredSession creates another session.
      raise tf.errors.AbortedError(None, None, str(error))

  def _step(self, session):
    member = self._member
    if time.monotonic() - self._looked > 1:
      self._looked = time.monotonic()
      if cluster_members.is_over(self._output_dir):
        raise _Over()
    place = member.read_place(session)
    if place.greeted[member.cluster.replica] != self._number:
      member.say_hello(session, self._number)
      self._wait.pause(member.cluster.describe("chief", 0) + " to answer", 0.2)
    elif place[:2] == self._pushed or place.step >= member.num_steps:
      self._wait.pause("step %d, which %s completes when all have pushed" % (
          place.step + 1, member.cluster.describe("chief", 0)))
    else:
      member.push(session, place.generation, place.step)
      self._pushed = place[:2]
      self._wait.restart()


def serve(cluster, output_dir, timeout):
  """A ps: holds weights until the chief ends the run."""
  server = start_server(cluster)
  logging.info("%s holds weights: %s", cluster.describe_self(), server.target)
  wait = cluster_members.Wait(timeout, cluster)
  while not cluster_members.is_over(output_dir):
    if cluster_members.is_listening(cluster.members["chief"][0]):
      wait.restart()
    wait.pause(cluster.describe("chief", 0) + " to come back", 1.0)
    time.sleep(0.5)
  time.sleep(2)  # The workers end first.
