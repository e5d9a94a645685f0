# SPDX-License-Identifier: Apache-2.0
"""A trained model's graph, and sessions that hold a checkpoint's weights.

`InferenceModel` is the graph, built once; `InferenceModel.load` gives a
`LoadedWeights`, a session with the weights of one checkpoint, in which rows of
ids become probabilities. Needs no training code.
"""

import collections
import contextlib
import os
import re
import threading

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel import head
from multilabel.common import session_profile
from multilabel.common import sessions
from multilabel.features import encoding
from multilabel.features import feature_rows
from multilabel.storage import checkpoint_restore
from multilabel.storage import trained_model


_LONGEST_TIMEOUT_MS = 2**31 - 1


class InferenceModel(object):
  """The graph of a trained model.

  Attributes:
    graph: `tf.Graph`, finalized.
    inference: `head.InferenceGraph`.
    num_labels: int.
    max_length: int, most ids of a row.
  """

  def __init__(self, trained, device=None, inter_op_threads=None,
               intra_op_threads=None, profile_dir=None):
    """Builds the graph.

    Args:
      trained: `trained_model.TrainedModel`.
      device: str, "/cpu:0", "/gpu:0", ...; None: TensorFlow chooses.
      inter_op_threads: int, operations that a session runs side by side, in
        threads of its own; None: TensorFlow's number, in threads that all
        sessions of the process share.
      intra_op_threads: int, threads that work on one operation. TensorFlow
        makes them once a process: what ran first in it has set their number.
      profile_dir: str, where `session_profile` writes what it traces, or None.

    Raises:
      ValueError: an argument cannot be.
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
      self._saver = tf.train.Saver(self._variables)
      self._check_weights = tf.group(*[
          tf.debugging.check_numerics(variable, variable.op.name)
          for variable in self._variables])
    self.graph.finalize()

  def load(self, checkpoint, check_weights=True):
    """Restores a checkpoint into a session of its own.

    Args:
      checkpoint: str, prefix.
      check_weights: bool, whether each weight is looked at; TensorFlow's
        checksums are checked in any case.

    Returns:
      `LoadedWeights`.

    Raises:
      ValueError: it cannot be read, does not fit, or has a weight that is NaN
        or infinite; or the machine has no such device.
    """
    # Before it is read: if it is written anew meanwhile, that shows later.
    identity = file_identity(checkpoint)
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
    return LoadedWeights(self, session, checkpoint, identity)

  def _restore(self, session, checkpoint, check_weights):
    """Fills the variables of a session, and looks at every number."""
    checkpoint_restore.restore_checkpoint(
        session, self._saver, self._variables, checkpoint, "%s and %s of the "
        "directory must be those that it was trained with" % (
            trained_model.BERT_CONFIG_FILE, trained_model.LABELS_FILE))
    if not check_weights:
      return
    try:
      session.run(self._check_weights)
    except tf.errors.InvalidArgumentError as error:
      name = error.op.get_attr("message").decode("utf-8")
      raise ValueError(
          "checkpoint %s has weights that are not finite, in %s; its training "
          "diverged, take another one." % (checkpoint, name))

  def save(self, session, prefix):
    """Writes the weights of a session as a checkpoint."""
    with self.graph.as_default():
      self._saver.save(session, prefix, write_meta_graph=False,
                       write_state=False)


class LoadedWeights(object):
  """The weights of one checkpoint in a session; safe to use from threads.

  Attributes:
    checkpoint: str, what they were restored from.
    step: int, the step in its name; 0 if there is none.
    identity: what `file_identity` said when it was restored.
  """

  def __init__(self, model, session, checkpoint, identity):
    self._model = model
    self._session = session
    self.checkpoint = checkpoint
    self.identity = identity
    step = re.search(r"-(\d+)$", checkpoint)
    self.step = int(step.group(1)) if step else 0

  def predict(self, encoded, batch_size, pooling, deadline):
    """Returns the probabilities of texts.

    Args:
      encoded: list, one a text, of lists of `InputFeatures`, its windows.
      batch_size: int, rows a `session.run`.
      pooling: str, how the windows of a text become one, see `pool_windows`.
      deadline: `call_deadline.Deadline`, looked at before and during each run.

    Returns:
      float32 `[len(encoded), num_labels]`.

    Raises:
      TimeoutError: the deadline has passed.
      FloatingPointError: a probability is NaN.
      ValueError: `close` was called.
    """
    inference = self._model.inference
    rows = [row for windows in encoded for row in windows]
    has_windows = len(rows) > len(encoded)
    fetches = [inference.probabilities] + [inference.logits] * has_windows
    outputs = [np.zeros([len(rows), self._model.num_labels], np.float32)
               for _ in fetches]
    for numbers in feature_rows.cut_batches(
        [len(row.input_ids) for row in rows], batch_size,
        self._model.max_length):
      batch = feature_rows.pad_batch([rows[i] for i in numbers],
                                     self._model.max_length)
      values = self._run(fetches, {
          getattr(inference, key): batch[key] for key in batch}, deadline)
      for output, value in zip(outputs, values):
        output[numbers] = value
    if not has_windows:
      return outputs[0]
    return self._pool(encoded, outputs[0], outputs[1], pooling, deadline)

  def _pool(self, encoded, probabilities, logits, pooling, deadline):
    """From rows to texts; those of one window keep their probabilities."""
    counts = np.array([len(windows) for windows in encoded])
    first_windows = np.cumsum(counts) - counts
    result = probabilities[first_windows]
    several = counts > 1
    pooled = encoding.pool_windows(
        logits, first_windows, pooling)[several]
    inference = self._model.inference
    # Fed with logits, the graph gives its own sigmoid of them.
    result[several], = self._run(
        [inference.probabilities], {inference.logits: pooled}, deadline)
    return result

  def _run(self, fetches, feed_dict, deadline):
    """One `session.run`; the first of `fetches` are probabilities."""
    session = self._open_session()
    seconds = deadline.remaining()
    options = None if seconds is None else tf.RunOptions(
        timeout_in_ms=int(min(seconds * 1000 + 1, _LONGEST_TIMEOUT_MS)))
    try:
      values = session.run(fetches, feed_dict=feed_dict, options=options)
    except tf.errors.DeadlineExceededError:
      raise deadline.error() from None
    except (RuntimeError, tf.errors.CancelledError):
      self._open_session()  # Another thread's close() is no other failure.
      raise
    if not np.isfinite(values[0]).all():
      raise FloatingPointError("checkpoint %s gives probabilities that are not "
                               "finite; take another one." % self.checkpoint)
    return values

  def _open_session(self):
    """The session; ValueError if there is none any more."""
    session = self._session
    if session is None:
      raise ValueError("this predictor is closed.")
    return session

  def save(self, prefix):
    """Writes the weights as a checkpoint, without an identity file."""
    self._model.save(self._open_session(), prefix)

  def close(self):
    """Frees the session; calling it twice does no harm."""
    session, self._session = self._session, None
    if session is not None:
      session.close()


class ServedWeights(object):
  """The weights that calls run on; others may take their place meanwhile."""

  def __init__(self):
    self._lock = threading.Lock()
    self._loaded = None
    self._users = collections.Counter()  # weights: calls that run on them
    self._is_closed = False

  @contextlib.contextmanager
  def borrow(self):
    """Gives the `LoadedWeights` of the moment, which stay open inside."""
    with self._lock:
      loaded = self._loaded
      if loaded is None:
        raise ValueError("this predictor is closed.")
      self._users[loaded] += 1
    try:
      yield loaded
    finally:
      with self._lock:
        self._users[loaded] -= 1
        is_unused = not self._users[loaded]
        if is_unused:
          del self._users[loaded]
        is_unused = is_unused and loaded is not self._loaded
      if is_unused:
        loaded.close()

  def replace(self, loaded):
    """Serves other weights; the old ones close after their last call."""
    with self._lock:
      if self._is_closed:
        unused = loaded
      else:
        unused, self._loaded = self._loaded, loaded
        if unused in self._users:
          unused = None
    if unused is not None:
      unused.close()
    if unused is loaded:
      raise ValueError("this predictor is closed.")

  def close(self):
    """Frees all, under the calls that run, which fail."""
    with self._lock:
      self._is_closed = True
      every = set(self._users) | ({self._loaded} if self._loaded else set())
      self._loaded = None
    for loaded in every:
      loaded.close()


def file_identity(checkpoint):
  """What is another when a checkpoint of the same name is written anew."""
  found = []
  for suffix in (".index", ".data-00000-of-00001"):
    if os.path.exists(checkpoint + suffix):
      stat = os.stat(checkpoint + suffix)
      found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
  return found
