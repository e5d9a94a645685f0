# SPDX-License-Identifier: Apache-2.0
"""The session loop: one graph, one session, no hooks.

`Run` holds a graph with two towers that share their variables: the training
step, fed by a `tf.data` iterator, and the inference tower, fed by placeholders.
`train`, `evaluate` and `predict` are loops over `session.run`. On several
devices there is a tower per device, see `mirrored`.
"""

import collections
import contextlib
import os
import re
import time

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.common import command_line
from multilabel.common import forked_process
from multilabel.common import session_profile
from multilabel.common import sessions
from multilabel.common import waiting
from multilabel.common import write_errors
from multilabel.features import batch_parts
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.storage import checkpoint_restore
from multilabel.storage import checkpoint_slim
from multilabel.storage import event_files
from multilabel.storage import trained_model
from multilabel.storage.checkpoint_files import checkpoint_step
from multilabel.training import dev_evaluation
from multilabel.training import mirrored
from multilabel.training import mixed_precision
from multilabel.training import train_op
from multilabel.training.progress import Observer


_OBSERVED = ("loss", "learning_rate", "grad_norm")

TRAIN = "train"
EVAL = "eval"

# The result of a model_fn; fields that a mode does not use are None.
ModelSpec = collections.namedtuple(
    "ModelSpec", ["mode", "loss", "train_op", "learning_rate", "grad_norm",
                  "inference", "accumulate_op", "loss_scale", "average"],
    defaults=[None, None, None])


class Run(object):
  """A model in its own graph and session.

  Attributes:
    checkpoint_step: int, the step of the weights.
    state: dict, the state of the run that is not in variables; see `save`.
    stepper: the object whose `run` `train` calls: the session.
  """

  def __init__(self, model_fn, output_dir, train_input_fn=None,
               train_batch_size=None, random_seed=0, keep_checkpoint_max=2,
               allow_older_checkpoint=False, num_parts=1, num_devices=1,
               precision=None, use_xla=False, identity=None):
    """Builds the graph and restores a checkpoint, if there is one.

    For training, that is the newest; otherwise the best on dev, if there is
    one.

    Args:
      model_fn: function `(features, mode, params)` to `ModelSpec`; `features`
        is a batch of tensors in `TRAIN`, None in `EVAL`.
      output_dir: str, directory of the checkpoints.
      train_input_fn: function of params to a dataset; None: no training.
      train_batch_size: int.
      random_seed: int, seed of the initial weights.
      keep_checkpoint_max: int, newest checkpoints to keep; 0 keeps all.
      allow_older_checkpoint: bool, see
        `checkpoint_choice.prediction_checkpoint`.
      num_parts: int, parts of a batch in training; with more than one, the
        training tower's loss is that of a part, see `train_op`.
      num_devices: int, see `mirrored`.
      precision: str or None, see `mixed_precision.configure_session`.
      use_xla: bool, whether XLA compiles the training step.
      identity: `checkpoint_files.RunIdentity` of the directory; None: read from
        the directory.

    Raises:
      ValueError: there is neither training nor a checkpoint, or the checkpoint
        is broken.
    """
    self._output_dir = output_dir
    self._keep_checkpoint_max = keep_checkpoint_max
    self._identity = identity or checkpoint_choice.run_identity(output_dir)
    self.checkpoint = (
        checkpoint_choice.prediction_checkpoint(
            output_dir, allow_older_checkpoint, run=self._identity)
        if train_input_fn is None else
        checkpoint_choice.latest_checkpoint(output_dir, self._identity))
    self.checkpoint_step = checkpoint_step(self.checkpoint)
    self.state = checkpoint_files.read_run_state(self.checkpoint)
    if self.checkpoint is None and train_input_fn is None:
      raise ValueError("output_dir %s has no checkpoint; train first "
                       "(--do_train)." % output_dir)
    self.graph = tf.Graph()
    with self.graph.as_default():
      strategy = mirrored.make_strategy(num_devices)
      tf.set_random_seed(random_seed)
      self.global_step = tf.train.get_or_create_global_step()
    with self.graph.as_default(), mirrored.scope(strategy):
      local_initializers = []
      self.train_spec = None
      if train_input_fn is not None:
        dataset = train_input_fn(
            {"batch_size": train_batch_size,
             "first_step": self.checkpoint_step, "num_parts": num_parts})
        local_initializers.append(self._build_training(
            model_fn, dataset, strategy, use_xla))
      self._build_inference(model_fn, strategy)
      # The graph must not change after the session is created.
      initializer = tf.global_variables_initializer()
      local_initializers.append(tf.local_variables_initializer())
      forked_process.begin_tensorflow()
      self.session = tf.Session(
          graph=self.graph,
          config=mixed_precision.configure_session(
              mirrored.configure_session(sessions.session_config(), strategy),
              precision))
      self.stepper = self.session
      if self.checkpoint is None:
        self.session.run(initializer)
        if self._average is not None:
          self.session.run(self._average.start_op)
      else:
        self._restore(self.checkpoint)
      if self.train_spec is not None:
        self.session.run(local_initializers)
      self.graph.finalize()

  def _build_training(self, model_fn, dataset, strategy, use_xla):
    """Builds the training tower; returns what initializes its iterator."""
    iterator = tf.data.make_initializable_iterator(dataset)
    features = iterator.get_next()
    with mixed_precision.compiled(use_xla):
      self.train_spec = model_fn(
          features, TRAIN, mirrored.model_params(strategy))
    # Fetches for a batch, or for each part of one.
    self.batch_fetches = {
        "shape": tf.shape(features["input_ids"]),
        "num_tokens": tf.reduce_sum(features["input_mask"])}
    if self.train_spec.accumulate_op is not None:
      self.batch_fetches.update(
          accumulate_op=self.train_spec.accumulate_op,
          is_last_part=features[batch_parts.IS_LAST])
    return iterator.initializer

  def _build_inference(self, model_fn, strategy):
    """Builds the inference towers, which share the variables, and the saver."""
    self._average = self.train_spec.average if self.train_spec else None
    with tf.variable_scope(
        tf.get_variable_scope(), reuse=tf.AUTO_REUSE,
        custom_getter=self._average and self._average.getter):
      self.towers = mirrored.on_each_device(
          strategy, lambda: model_fn(None, EVAL, {}).inference)
    self.inference = self.towers[0]
    # Files to remove are determined here, from the directory.
    self._saved = tf.global_variables()
    if self._average is not None:
      self._saved = self._average.saved_names(self._saved)
    self._saver = tf.train.Saver(self._saved, max_to_keep=0,
                                 save_relative_paths=True)
    # The best checkpoint may have nothing else.
    self._weights = _only_weights(self._saved)
    self._weights_saver = tf.train.Saver(self._weights, max_to_keep=0)
    self._check_weights = tf.group(*[
        tf.debugging.check_numerics(variable, variable.op.name)
        for variable in tf.global_variables()
        if variable.dtype.base_dtype.is_floating])

  def _restore(self, checkpoint):
    """Restores every variable of the graph, including the step."""
    logging.info("Restoring %s", checkpoint)
    checkpoint_restore.restore_checkpoint(
        self.session, self._saver, self._saved, checkpoint)

  def use_best_checkpoint(self):
    """Restores the best checkpoint on dev, to evaluate and predict."""
    checkpoint = checkpoint_choice.prediction_checkpoint(
        self._output_dir, run=self._identity)
    if checkpoint is not None and (
        checkpoint_step(checkpoint) != self.checkpoint_step):
      logging.info("Restoring %s", checkpoint)
      checkpoint_restore.restore_checkpoint(
          self.session, self._weights_saver, self._weights, checkpoint)
      self.checkpoint, self.checkpoint_step = (checkpoint,
                                               checkpoint_step(checkpoint))

  def save(self, step):
    """Writes a checkpoint, and `state` beside it; it counts when complete.

    Raises:
      FloatingPointError: a weight is NaN or infinite.
      storage_errors.StorageError: it cannot be written; the last one is kept.
    """
    if step == self.checkpoint_step and self.checkpoint is not None:
      return
    try:
      self.session.run(self._check_weights)
    except tf.errors.InvalidArgumentError as error:
      raise FloatingPointError(
          "training diverged at step %d: NaN or infinite weights, in %s; %s; "
          "try a lower --learning_rate." % (
              step, error.op.get_attr("message").decode("utf-8"),
              self.describe_checkpoint()))
    prefix = os.path.join(self._output_dir, "%s-%d" % (
        checkpoint_files.PREFIX, step))
    try:
      with write_errors.naming(
          "checkpoint " + prefix, "%s, and the same command goes on from there "
          "when it can be written" % self.describe_checkpoint()):
        with self.graph.as_default():
          self._saver.save(self.session, prefix, write_meta_graph=False,
                           write_state=False)
        checkpoint_files.finish(prefix, self._identity.fingerprint,
                                self.state)
    except write_errors.StorageError:
      self._remove_unfinished()
      raise
    self.checkpoint, self.checkpoint_step = prefix, step

  def note_evaluation(self, step):
    """Records in the run that best_checkpoint.json covers that step.

    An earlier checkpoint of the same step is updated, too.
    """
    if step == self.state.get(checkpoint_files.LAST_EVALUATION, 0):
      return
    self.state[checkpoint_files.LAST_EVALUATION] = step
    if self.checkpoint is not None and self.checkpoint_step == step:
      with write_errors.naming(self.checkpoint + checkpoint_files.IDENTITY):
        checkpoint_files.write_identity(
            self.checkpoint, self._identity.fingerprint, self.state)

  def _remove_unfinished(self):
    """Frees the space of a checkpoint that could not be written."""
    try:
      checkpoint_files.remove_others(
          self._output_dir,
          checkpoint_files.finished_checkpoints(self._output_dir,
                                                self._identity))
    except EnvironmentError:
      pass  # The next start tries again.

  def describe_checkpoint(self):
    """Says which checkpoint there is."""
    return ("no checkpoint is saved" if self.checkpoint is None else
            "the last checkpoint is of step %d" % self.checkpoint_step)

  def remove_old_checkpoints(self, best_step=None):
    """Removes all but the newest checkpoints and the best one's weights."""
    # Read from the directory: a kill may come between saving and removing.
    prefixes = [prefix for prefix in trained_model.list_checkpoints(
        self._output_dir) if checkpoint_step(prefix) <= self.checkpoint_step]
    checkpoint_slim.remove_old(prefixes, best_step, self._keep_checkpoint_max)

  def close(self):
    self.session.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()


def _only_weights(saved):
  """The variables needed for prediction, from `Saver`'s list or dict."""
  if isinstance(saved, dict):
    return {name: variable for name, variable in saved.items()
            if checkpoint_slim.is_weight(name)}
  return [variable for variable in saved
          if checkpoint_slim.is_weight(variable.op.name)]


def train(run, num_train_steps, save_checkpoints_steps, log_steps, batch_size,
          dev=None, skip_nonfinite=0, is_time_over=None, describe_batch=None,
          profile_dir=None, observer=None):
  """Trains from the step of the run's checkpoint to `num_train_steps`.

  Args:
    run: `Run`; without a training tower, this does nothing.
    num_train_steps: int.
    save_checkpoints_steps: int, steps between checkpoints.
    log_steps: int, steps between log lines and TensorBoard points.
    batch_size: int, examples per step, for the displayed rates.
    dev: `dev_evaluation.DevEvaluation`, or None: no evaluation during training.
    skip_nonfinite: int, steps of the entire run that may have a NaN or infinite
      loss or gradient; the graph must leave the weights unchanged then.
    is_time_over: function that says whether to stop, or None.
    describe_batch: function of a step, from 0, that returns the names of its
      examples.
    profile_dir: str, where `session_profile` writes its traces, or None.
    observer: `progress.Observer`; None: that of a script.

  Raises:
    FloatingPointError: the loss or the gradient is NaN or infinite; no
      checkpoint is written after that.
    command_line.Interrupted: SIGINT or SIGTERM came, or the time is over; a
      checkpoint is written.
    storage_errors.StorageError: the disk is full.
  """
  if run.train_spec is None:  # the run was already finished
    run.remove_old_checkpoints(dev.best_step if dev else None)
    return
  observer = observer or Observer()
  first_step = step = run.checkpoint_step
  progress = observer.make_progress(
      first_step, num_train_steps, log_steps, batch_size,
      run.state.get("smoothed_loss"))
  # The points of first_step belong to weights that still exist.
  writer = event_files.EventWriter(run._output_dir, first_step + 1)
  loop = _Loop(run, num_train_steps, dev, writer, progress, skip_nonfinite,
               describe_batch, profile_dir, observer)
  with observer.stop_requests(is_time_over) as stop, progress:
    # A kill or timeout may have come between the checkpoint and its evaluation.
    # No timeout here: each start must make progress.
    is_evaluated = loop.end_step(step, False, stop.by_signal)
    if stop.by_signal() or (is_evaluated and stop()):
      loop.stop(step, stop)
    while step < num_train_steps and not (dev and dev.is_over):
      # TensorFlow optimizes the graph at the first run.
      with (waiting.saying("Starting with step %d" % (step + 1))
            if step == first_step else contextlib.nullcontext()):
        values = loop.make_step(step)
      step += 1
      progress.update(step, values)
      observer.on_step(step, {name: float(values[name]) for name in _OBSERVED})
      run.state["smoothed_loss"] = progress.state
      if step % log_steps == 0 or step == num_train_steps:
        writer.add_summary(event_files.scalar_summary(progress.scalars()), step)
      loop.end_step(step, step % save_checkpoints_steps == 0 or
                    step == num_train_steps, stop)
      if stop():
        loop.stop(step, stop)
  if step < num_train_steps:
    logging.info("Stopped early at step %d of %d: %s.", step, num_train_steps,
                 dev.describe_stop())
  writer.close()


class _Loop(object):
  """The parts of `train`'s loop."""

  def __init__(self, run, num_train_steps, dev, writer, progress,
               skip_nonfinite, describe_batch, profile_dir, observer):
    self._run = run
    self._observer = observer
    self._session = run.stepper if profile_dir is None else (
        session_profile.RunProfile(run.stepper, profile_dir, TRAIN))
    self._num_train_steps = num_train_steps
    self._dev = dev
    self._writer = writer
    self._progress = progress
    self._skip_nonfinite = skip_nonfinite
    self._describe_batch = describe_batch
    spec = run.train_spec
    self._fetches = {
        "train_op": spec.train_op, "loss": spec.loss,
        "learning_rate": spec.learning_rate, "grad_norm": spec.grad_norm}
    if spec.loss_scale is not None:
      self._fetches["loss_scale"] = spec.loss_scale

  def _run_update(self):
    """Runs the step's batch, in one or in parts; returns what it fetched."""
    run = self._run
    if run.train_spec.accumulate_op is None:
      return self._session.run(dict(self._fetches, **run.batch_fetches))
    return train_op.run_update(self._session, run.batch_fetches,
                                            self._fetches)

  def make_step(self, step):
    """Trains on the batch of a step; returns what it fetched."""
    try:
      values = self._run_update()
    except tf.errors.OpError as error:
      # Errors of the input pipeline arrive as text, including the traceback.
      reason = re.search(r"ValueError: ([^\n]+)", error.message or "")
      if reason:
        raise ValueError(reason.group(1))
      raise
    if np.isfinite(values["loss"]) and np.isfinite(values["grad_norm"]):
      return values
    if np.isfinite(values["loss"]) and values.get("loss_scale", 1) > 1:
      logging.info("step %d: gradients overflow in float16; the step is "
                   "skipped, and the loss scale of %g is halved.", step,
                   values["loss_scale"])
      return values
    run, skipped = self._run, self._run.state.get("skipped_steps", 0)
    where = "step %d: loss %s, gradient norm %s%s" % (
        step, values["loss"], values["grad_norm"],
        ", on " + self._describe_batch(step) if self._describe_batch else "")
    if skipped >= self._skip_nonfinite:
      raise FloatingPointError(
          "training diverged at %s; %s; try a lower --learning_rate%s." % (
              where, run.describe_checkpoint(),
              ", %d steps were already skipped" % skipped if skipped else ""))
    run.state["skipped_steps"] = skipped + 1
    logging.warning("Skipped (%d of at most %d) %s", skipped + 1,
                    self._skip_nonfinite, where)
    return values

  def end_step(self, step, save, stop):
    """Evaluates and saves if due.

    Returns:
      bool, whether there was an evaluation.
    """
    run, dev, writer = self._run, self._dev, self._writer
    evaluation, is_best = None, False
    if dev is not None and dev.is_due(step) and not stop():
      start = time.time()
      try:
        evaluation, is_best = dev.evaluate(step, stop)
      except dev_evaluation.EvaluationStopped:
        pass
      else:
        log_evaluation(step, evaluation.values, dev.metric,
                       dev.describe_best(step))
        self._progress.leave_out(time.time() - start)
    if save or is_best or stop() or (evaluation and dev.is_over):
      writer.sync()
      run.save(step)
    if evaluation:
      # After the checkpoint: a run resumed from it would add the points again.
      for summary in evaluation.summaries:
        writer.add_summary(summary, step)
      writer.sync()
      dev.commit()
      run.note_evaluation(step)
      self._observer.on_evaluation(step, dict(evaluation.values))
    run.remove_old_checkpoints(dev.best_step if dev else None)
    return evaluation is not None

  def stop(self, step, stop):
    """Saves and raises `Interrupted`."""
    self._writer.close()
    self._run.save(step)
    message = ("the checkpoint of step %d of %d is saved, the same command "
               "resumes." % (step, self._num_train_steps))
    if stop.signal_number:
      raise command_line.Interrupted(
          stop.signal_number, "stopped by signal %d; %s" % (
              stop.signal_number, message))
    raise command_line.OutOfTime("--max_runtime expired; " + message)


def log_evaluation(step, values, metric, remark):
  """One line for an evaluation during training, with a remark at the end."""
  keys = ["loss", "micro_f1", "macro_f1", "macro_average_precision"]
  keys += [] if metric in keys else [metric]
  logging.info(
      "dev at step %d: %s%s", step,
      "  ".join("%s %.4f" % (key, values[key]) for key in keys),
      remark)
