# SPDX-License-Identifier: Apache-2.0
"""A trained model's graph, and sessions that hold a checkpoint's weights.

`InferenceModel` is the graph, built once; `InferenceModel.load` gives
`SessionWeights`, a session with the weights of one checkpoint, in which rows of
ids become probabilities. `SessionEngine` is both for a `Predictor`. Needs no
training code.
"""

import os
import re

import tensorflow.compat.v1 as tf

from multilabel import head
from multilabel.common import forked_process
from multilabel.common import session_profile
from multilabel.common import sessions
from multilabel.inference import predictor
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_restore
from multilabel.storage import half_weights
from multilabel.storage import trained_model


_LONGEST_TIMEOUT_MS = 2**31 - 1


class InferenceModel(object):
  """The graph of a trained model.

  Attributes:
    graph: `tf.Graph`, finalized.
    inference: `head.InferenceGraph`.
    num_labels: int.
    max_length: int, maximum number of ids of a row.
  """

  def __init__(self, trained, device=None, inter_op_threads=None,
               intra_op_threads=None, profile_dir=None):
    """Builds the graph.

    Args:
      trained: `trained_model.TrainedModel`.
      device: str, "/cpu:0", "/gpu:0", ...; None: TensorFlow chooses.
      inter_op_threads: int, operations that a session runs in parallel, in its
        own threads; None: TensorFlow's choice, in threads shared by all
        sessions of the process.
      intra_op_threads: int, threads that work on one operation. TensorFlow
        creates them once per process, so the first user sets their number.
      profile_dir: str, where `session_profile` writes its traces, or None.

    Raises:
      ValueError: an argument is invalid.
    """
    self._profile_dir = profile_dir
    self._config = sessions.serving_config(device, inter_op_threads,
                                           intra_op_threads)
    self._device = device
    self.num_labels = len(trained.labels)
    self.max_length = trained.bert_config.max_position_embeddings
    self.graph = tf.Graph()
    with self.graph.as_default(), tf.device(device):
      self.inference = head.create_inference_graph(
          trained.bert_config, self.num_labels, trained.settings["pooling"],
          calibration=trained.calibration)
      self._variables = tf.global_variables()
      self._saver = (
          half_weights.saver(self._variables)
          if trained.settings["weights_dtype"] == "float16" else
          tf.train.Saver(self._variables))
      self._check_weights = tf.group(*[
          tf.debugging.check_numerics(variable, variable.op.name)
          for variable in self._variables])
    self.graph.finalize()

  def load(self, checkpoint, check_weights=True):
    """Restores a checkpoint into its own session.

    Args:
      checkpoint: str, prefix.
      check_weights: bool, whether every weight is checked for NaN and infinity;
        TensorFlow's checksums are checked in any case.

    Returns:
      `SessionWeights`.

    Raises:
      ValueError: it cannot be read, does not fit, or has a weight that is NaN
        or infinite; or the machine has no such device.
    """
    # Before reading: if it is rewritten meanwhile, that shows later.
    identity = file_identity(checkpoint)
    forked_process.begin_tensorflow()
    session = tf.Session(graph=self.graph, config=self._config)
    try:
      sessions.check_device(session, self._device)
      self._restore(session, checkpoint, check_weights)
    except BaseException:
      session.close()
      raise
    if self._profile_dir is not None:
      session = session_profile.RunProfile(session, self._profile_dir,
                                           "predict")
    return SessionWeights(self, session, checkpoint, identity)

  def _restore(self, session, checkpoint, check_weights):
    """Fills the variables of a session, and checks every number."""
    checkpoint_restore.restore_checkpoint(
        session, self._saver, self._variables, checkpoint,
        checkpoint_restore.OWN_FILES)
    if not check_weights:
      return
    try:
      session.run(self._check_weights)
    except tf.errors.InvalidArgumentError as error:
      name = error.op.get_attr("message").decode("utf-8")
      raise ValueError(
          "checkpoint %s has NaN or infinite weights, in %s; its training "
          "diverged, so use another one." % (checkpoint, name))

  def save(self, session, prefix):
    """Writes the weights of a session as a checkpoint."""
    with self.graph.as_default():
      self._saver.save(session, prefix, write_meta_graph=False,
                       write_state=False)


class SessionWeights(predictor.LoadedWeights):
  """A checkpoint's weights in a session; see `predictor.LoadedWeights`."""

  def __init__(self, model, session, checkpoint, identity):
    super(SessionWeights, self).__init__(model.num_labels, model.max_length)
    self._model, self._inference = model, model.inference
    self._session = session
    self.checkpoint = checkpoint
    self.identity = identity
    step = re.search(r"-(\d+)$", checkpoint)
    self.step = int(step.group(1)) if step else 0

  def run(self, batch, with_logits, deadline):
    inference = self._inference
    fetches = [inference.probabilities] + [inference.logits] * bool(
        with_logits)
    return self._run(fetches, {
        getattr(inference, key): batch[key] for key in batch}, deadline)

  def sigmoid(self, logits, deadline):
    # Fed with logits, the graph gives its own sigmoid of them.
    return self._run([self._inference.probabilities],
                     {self._inference.logits: logits}, deadline)[0]

  def _run(self, fetches, feed_dict, deadline):
    """One `session.run`."""
    session = self._open_session()
    seconds = deadline.remaining()
    options = None if seconds is None else tf.RunOptions(
        timeout_in_ms=int(min(seconds * 1000 + 1, _LONGEST_TIMEOUT_MS)))
    try:
      return session.run(fetches, feed_dict=feed_dict, options=options)
    except tf.errors.DeadlineExceededError:
      raise deadline.error() from None
    except (RuntimeError, tf.errors.CancelledError):
      self._open_session()  # close() in another thread is not a failure.
      raise

  def _open_session(self):
    """The session; ValueError if it is closed."""
    session = self._session
    if session is None:
      raise ValueError("this predictor is closed.")
    return session

  def save(self, prefix):
    """Writes the weights as a checkpoint, without an identity file."""
    self._model.save(self._open_session(), prefix)

  def close(self):
    session, self._session = self._session, None
    if session is not None:
      session.close()


class SessionEngine(predictor.Engine):
  """A trained directory in a TensorFlow session; see `predictor.Engine`."""

  folder_name = "model_dir"

  def __init__(self, model_dir, device=None, inter_op_threads=None,
               intra_op_threads=None, checkpoint=None,
               allow_older_checkpoint=False, verify_checkpoint=True,
               profile_dir=None):
    """Takes what `predict_session.SessionPredictor` takes."""
    self.folder = model_dir
    self._graph_arguments = (device, inter_op_threads, intra_op_threads,
                             profile_dir)
    self._wanted_checkpoint = checkpoint
    self._allow_older_checkpoint = allow_older_checkpoint
    self._verify_checkpoint = verify_checkpoint
    self.model = None

  def read(self):
    return trained_model.read(self.folder)

  def prepare(self, trained):
    checkpoint_restore.check_sizes(
        self.find(), trained.bert_config, len(trained.labels),
        checkpoint_restore.OWN_FILES)
    self.model = InferenceModel(trained, *self._graph_arguments)

  def find(self):
    checkpoint = self._wanted_checkpoint
    if checkpoint is None:
      checkpoint = checkpoint_choice.prediction_checkpoint(
          self.folder, self._allow_older_checkpoint, self._verify_checkpoint)
    else:
      if not os.path.dirname(checkpoint):
        checkpoint = os.path.join(self.folder, checkpoint)
      if self._verify_checkpoint and os.path.exists(checkpoint + ".index"):
        checkpoint_choice.check_checkpoint_identity(self.folder, checkpoint)
    if checkpoint is None:
      raise ValueError("model_dir %s has no checkpoint: training has not saved "
                       "its first one yet." % self.folder)
    return checkpoint

  def identity(self, found):
    return file_identity(found)

  def load(self, found):
    return self.model.load(found, self._verify_checkpoint)


def file_identity(checkpoint):
  """What changes when a checkpoint of the same name is rewritten."""
  found = []
  for suffix in (".index", ".data-00000-of-00001"):
    if os.path.exists(checkpoint + suffix):
      stat = os.stat(checkpoint + suffix)
      found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
  return found
