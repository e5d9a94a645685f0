# SPDX-License-Identifier: Apache-2.0
"""The session loop: one graph, one session, nothing called back.

`Run` holds a graph with two towers that share their variables: the training
step, fed by a `tf.data` iterator, and the inference tower, fed by
placeholders. `train`, `evaluate` and `predict` are loops over `session.run`.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import collections
import os
import re
import shutil
import signal
import sys
import time

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

import best_checkpoint
import command_line
import input_pipeline
import model_dir
import modeling

CHECKPOINT_PREFIX = "model.ckpt"

TRAIN = "train"
EVAL = "eval"

# What a model_fn returns; fields that a mode has no use for are None.
ModelSpec = collections.namedtuple(
    "ModelSpec", ["mode", "loss", "train_op", "learning_rate", "grad_norm",
                  "inference"])


class Run(object):
  """A model in a graph and a session of its own.

  Attributes:
    checkpoint_step: int, the step that the weights are of.
  """

  def __init__(self, model_fn, output_dir, train_input_fn=None,
               train_batch_size=None, random_seed=0, keep_checkpoint_max=5):
    """Builds the graph and restores a checkpoint, if there is one.

    To train it is the newest; else the best on dev, if one was chosen.

    Args:
      model_fn: function `(features, mode, params)` to `ModelSpec`; `features`
        is a batch of tensors in `TRAIN`, None in `EVAL`.
      output_dir: str, directory of the checkpoints.
      train_input_fn: function of params to a dataset; None: no training.
      train_batch_size: int.
      random_seed: int, seed of the initial weights.
      keep_checkpoint_max: int, newest checkpoints to keep; 0 keeps all.

    Raises:
      ValueError: there is nothing to train and no checkpoint either.
    """
    self._output_dir = output_dir
    self._keep_checkpoint_max = keep_checkpoint_max
    self.checkpoint = (
        model_dir.prediction_checkpoint(output_dir) if train_input_fn is None
        else model_dir.latest_checkpoint(output_dir))
    first_step = checkpoint_step(self.checkpoint)
    if self.checkpoint is None and train_input_fn is None:
      raise ValueError("output_dir %s has no checkpoint; train first "
                       "(--do_train)." % output_dir)
    if train_input_fn is not None:
      _remove_unfinished_checkpoints(output_dir)
    self.graph = tf.Graph()
    with self.graph.as_default():
      tf.set_random_seed(random_seed)
      self.global_step = tf.train.get_or_create_global_step()
      self.train_spec = None
      if train_input_fn is not None:
        dataset = train_input_fn(
            {"batch_size": train_batch_size, "first_step": first_step})
        iterator = tf.data.make_initializable_iterator(dataset)
        features = iterator.get_next()
        self._batch_shape = tf.shape(features["input_ids"])
        self._num_tokens = tf.reduce_sum(features["input_mask"])
        self.train_spec = model_fn(features, TRAIN, {})
      with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
        self.inference = model_fn(None, EVAL, {}).inference
      # What is removed is decided here, by what the directory holds.
      self._saver = tf.train.Saver(max_to_keep=0, save_relative_paths=True)
      self.session = tf.Session(graph=self.graph, config=session_config())
      if self.checkpoint is None:
        self.session.run(tf.global_variables_initializer())
      else:
        self._restore(self.checkpoint)
      if self.train_spec is not None:
        self.session.run(iterator.initializer)
      self.graph.finalize()
    self.checkpoint_step = first_step

  def _restore(self, checkpoint):
    """Restores every variable of the graph; the step comes with them."""
    modeling.restore_checkpoint(
        self.session, self._saver, self.graph.get_collection(
            tf.GraphKeys.GLOBAL_VARIABLES), checkpoint)

  def use_best_checkpoint(self):
    """Restores the checkpoint that did best on dev, to evaluate and predict."""
    checkpoint = model_dir.prediction_checkpoint(self._output_dir)
    if checkpoint is not None and (
        checkpoint_step(checkpoint) != self.checkpoint_step):
      self._restore(checkpoint)
      self.checkpoint, self.checkpoint_step = (checkpoint,
                                               checkpoint_step(checkpoint))

  def save(self, step):
    """Writes a checkpoint; TensorFlow renames it into place when complete."""
    if step == self.checkpoint_step and self.checkpoint is not None:
      return
    with self.graph.as_default():
      self.checkpoint = self._saver.save(
          self.session, os.path.join(self._output_dir, CHECKPOINT_PREFIX),
          global_step=step, write_meta_graph=False)
    self.checkpoint_step = step

  def remove_old_checkpoints(self, best_step=None):
    """Removes all but the newest checkpoints and the best one."""
    # What the directory holds: a kill may come between saving and removing.
    prefixes = [prefix for prefix in model_dir.list_checkpoints(
        self._output_dir) if checkpoint_step(prefix) <= self.checkpoint_step]
    if self._keep_checkpoint_max:
      for prefix in prefixes[:-self._keep_checkpoint_max]:
        if checkpoint_step(prefix) != best_step:
          tf.train.remove_checkpoint(prefix)

  def close(self):
    self.session.close()

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    self.close()


def _remove_unfinished_checkpoints(output_dir):
  """Removes what a kill left of checkpoints; each may be as big as a whole."""
  for name in os.listdir(output_dir):
    path = os.path.join(output_dir, name)
    if re.match(r"model\.ckpt-\d+\.\S+\.tempstate\d+$", name):
      os.remove(path)
    elif re.match(r"model\.ckpt-\d+_temp(_\w+)?$", name):
      shutil.rmtree(path)


def checkpoint_step(checkpoint):
  """The step in a checkpoint's name, `model.ckpt-<step>`; 0 for None."""
  if checkpoint is None:
    return 0
  step = checkpoint.rpartition("-")[2]
  if not step.isdigit():
    raise ValueError("checkpoint %s is not named %s-<step>." % (
        checkpoint, CHECKPOINT_PREFIX))
  return int(step)


def session_config():
  """A session takes GPU memory as it needs it, not all there is."""
  config = tf.ConfigProto()
  config.gpu_options.allow_growth = True
  return config


def train(run, num_train_steps, save_checkpoints_steps, log_steps, batch_size,
          dev=None):
  """Trains from the step of the run's checkpoint to `num_train_steps`.

  Args:
    run: `Run`; without a training tower there is nothing to do.
    num_train_steps: int.
    save_checkpoints_steps: int, steps between checkpoints.
    log_steps: int, steps between log lines and TensorBoard points.
    batch_size: int, examples a step, for the rates that are shown.
    dev: `best_checkpoint.DevEvaluation`, or None: no evaluation on the way.

  Raises:
    FloatingPointError: the loss or the gradient is not finite; no checkpoint
      is written after that.
    command_line.Interrupted: SIGINT or SIGTERM came; a checkpoint is written.
  """
  spec = run.train_spec
  if spec is None:  # the run had been finished before
    return
  fetches = {"train_op": spec.train_op, "loss": spec.loss,
             "learning_rate": spec.learning_rate, "grad_norm": spec.grad_norm,
             "num_tokens": run._num_tokens, "shape": run._batch_shape}
  first_step = step = run.checkpoint_step
  progress = Progress(first_step, num_train_steps, log_steps, batch_size)
  with run.graph.as_default():
    writer = tf.summary.FileWriter(run._output_dir)
  # TensorBoard drops what a killed run had written from this step on; the
  # points of first_step are of weights that are still there.
  writer.add_session_log(
      tf.SessionLog(status=tf.SessionLog.START), first_step + 1)
  with _StopRequests() as stop, progress:
    # A kill may have come between the checkpoint and its evaluation.
    _end_step(run, step, dev, False, writer, stop, progress)
    _raise_if_stopped(run, step, num_train_steps, writer, stop)
    while step < num_train_steps and not (dev and dev.is_over):
      values = run.session.run(fetches)
      _check_step(run, step, values)
      step += 1
      progress.update(step, values)
      if step % log_steps == 0 or step == num_train_steps:
        writer.add_summary(scalar_summary(progress.scalars()), step)
      _end_step(run, step, dev, step % save_checkpoints_steps == 0 or
                step == num_train_steps, writer, stop, progress)
      _raise_if_stopped(run, step, num_train_steps, writer, stop)
  if step < num_train_steps:
    logging.info("Stopped early at step %d of %d: %s has not been better since "
                 "step %d.", step, num_train_steps, dev.metric, dev.best_step)
  writer.close()


def _raise_if_stopped(run, step, num_train_steps, writer, stop):
  """Saves, and raises `Interrupted`, if a signal came."""
  if stop.signal_number:
    writer.flush()
    run.save(step)
    raise command_line.Interrupted(
        stop.signal_number,
        "stopped by signal %d; the checkpoint of step %d of %d is saved, the "
        "same command goes on from there." % (
            stop.signal_number, step, num_train_steps))


def _check_step(run, step, values):
  """Raises FloatingPointError if the step's loss or gradient is no number."""
  if not np.isfinite(values["loss"]) or not np.isfinite(values["grad_norm"]):
    raise FloatingPointError(
        "training diverged at step %d: loss %s, gradient norm %s; %s; try "
        "a lower --learning_rate." % (
            step, values["loss"], values["grad_norm"],
            "no checkpoint is saved" if run.checkpoint is None else
            "the last checkpoint is of step %d" % run.checkpoint_step))


def _end_step(run, step, dev, save, writer, stop, progress):
  """Evaluates if it is time, saves if there is a reason to."""
  evaluation, is_best = None, False
  if dev is not None and dev.is_due(step) and not stop.signal_number:
    start = time.time()
    try:
      evaluation, is_best = dev.evaluate(step, lambda: stop.signal_number)
    except best_checkpoint.EvaluationStopped:
      pass
    else:
      log_evaluation(step, evaluation.values, dev.metric, is_best)
      progress.leave_out(time.time() - start)
  if save or is_best or stop.signal_number or (evaluation and dev.is_over):
    writer.flush()
    run.save(step)
  if evaluation:
    # After the checkpoint: what goes on from it would add the points again.
    for summary in evaluation.summaries:
      writer.add_summary(summary, step)
    writer.flush()
    dev.commit()
  run.remove_old_checkpoints(dev.best_step if dev else None)


def log_evaluation(step, values, metric, is_best):
  """One line for an evaluation while training."""
  keys = ["loss", "micro_f1", "macro_f1", "macro_average_precision"]
  keys += [] if metric in keys else [metric]
  logging.info(
      "dev at step %d: %s%s", step,
      "  ".join("%s %.4f" % (key, values[key]) for key in keys),
      "  (best so far)" if is_best else "")


def scalar_summary(scalars):
  """`tf.Summary` of {tag: number}."""
  return tf.Summary(value=[
      tf.Summary.Value(tag=tag, simple_value=float(value))
      for tag, value in sorted(scalars.items())])


class _StopRequests(object):
  """Notes SIGINT and SIGTERM for the next step boundary; a second one kills."""

  def __init__(self):
    self.signal_number = None
    self._before = {}

  def __enter__(self):
    for number in (signal.SIGINT, signal.SIGTERM):
      try:
        self._before[number] = signal.signal(number, self._note)
      except ValueError:  # not the main thread: the program decides
        pass
    return self

  def __exit__(self, *unused_args):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number, unused_frame):
    self.signal_number = number
    for other in self._before:
      signal.signal(other, signal.SIG_DFL)


class Progress(object):
  """One line on a terminal, log lines elsewhere: where training stands."""

  SMOOTHING = 0.98

  def __init__(self, first_step, num_steps, log_steps, batch_size):
    self._first_step = first_step
    self._num_steps = num_steps
    self._log_steps = log_steps
    self._terminal = sys.stderr.isatty()
    self._batch_size = batch_size
    self._start = self._window_start = self._drawn = time.time()
    self._window_examples = self._window_tokens = 0
    self._loss, self._weight = 0.0, 0.0
    self._rates = (0.0, 0.0)
    self._last = {}

  def __enter__(self):
    return self

  def __exit__(self, *unused_args):
    if self._terminal:
      sys.stderr.write("\n")

  def update(self, step, values):
    """Takes the values of a step, 1 being the first."""
    self._last = values
    self._loss = self.SMOOTHING * self._loss + (
        1 - self.SMOOTHING) * float(values["loss"])
    self._weight = self.SMOOTHING * self._weight + (1 - self.SMOOTHING)
    self._window_examples += int(values["shape"][0])
    self._window_tokens += int(values["num_tokens"])
    now = time.time()
    due = step % self._log_steps == 0 or step == self._num_steps
    if due:
      seconds = max(now - self._window_start, 1e-9)
      self._rates = (self._window_examples / seconds,
                     self._window_tokens / seconds)
      self._window_start = now
      self._window_examples = self._window_tokens = 0
    if self._terminal and (now - self._drawn > 0.2 or step == self._num_steps):
      self._drawn = now
      # A line wider than the terminal could not be drawn over again.
      width = shutil.get_terminal_size().columns - 1
      sys.stderr.write("\r" + self._line(step, now)[:width] + "\033[K")
      sys.stderr.flush()
    elif due and not self._terminal:
      logging.info("%s", self._line(step, now))

  def leave_out(self, seconds):
    """Keeps time that was no training out of the rates."""
    self._window_start += seconds

  def scalars(self):
    """The values for TensorBoard, by tag."""
    return {"loss": self._last["loss"],
            "learning_rate": self._last["learning_rate"],
            "grad_norm": self._last["grad_norm"],
            "examples_per_second": self._rates[0]}

  def _line(self, step, now):
    elapsed = now - self._start
    done = max(step - self._first_step, 1)
    rates = self._rates
    if not rates[0]:
      seconds = max(now - self._window_start, 1e-9)
      rates = (self._window_examples / seconds, self._window_tokens / seconds)
    left = elapsed / done * (self._num_steps - step)
    return ("step %d/%d  %s, %s left  loss %.4f  lr %.1e  %.0f examples/s  "
            "%.0f tokens/s" % (
                step, self._num_steps, _clock(elapsed), _clock(left),
                self._loss / self._weight, self._last["learning_rate"],
                rates[0], rates[1]))


def _clock(seconds):
  minutes, seconds = divmod(int(seconds + 0.5), 60)
  hours, minutes = divmod(minutes, 60)
  return ("%d:%02d:%02d" % (hours, minutes, seconds) if hours
          else "%d:%02d" % (minutes, seconds))


def evaluate(run, records, batch_size, num_labels, window_pooling="max",
             should_stop=None):
  """Runs the inference tower over labelled records.

  Args:
    run: `Run`.
    records: `input_pipeline.RecordFile`.
    batch_size: int; the result does not depend on it.
    num_labels: int.
    window_pooling: str, see `input_pipeline.pool_windows`.
    should_stop: function without arguments, asked before each batch, or None.

  Returns:
    (loss, labels, probabilities): float, the mean over all texts; bool and
    float32 `[num_texts, num_labels]` in the order of the records.

  Raises:
    best_checkpoint.EvaluationStopped: `should_stop` returned True.
  """
  labels = np.zeros([records.num_texts, num_labels], np.bool_)
  probabilities = np.zeros([records.num_texts, num_labels], np.float32)
  total_loss = 0.0
  for window in input_pipeline.predict_windows(
      records, batch_size, num_labels):
    logits = np.zeros([window.num_rows, num_labels], np.float32)
    row_labels = np.zeros([window.num_rows, num_labels], np.float32)
    for numbers, batch in window.batches:
      if should_stop is not None and should_stop():
        raise best_checkpoint.EvaluationStopped()
      logits[numbers] = run.session.run(
          run.inference.logits, feed_dict(run.inference, batch))
      row_labels[numbers] = batch["label_ids"]
    texts = slice(window.start, window.start + window.size)
    text_labels = row_labels[window.first_rows]
    losses, probabilities[texts] = run.session.run(
        [run.inference.per_example_loss, run.inference.probabilities],
        {run.inference.logits: input_pipeline.pool_windows(
            _check_finite(run, logits), window.first_rows, window_pooling),
         run.inference.labels: text_labels})
    labels[texts] = text_labels > 0.5
    total_loss += float(np.sum(losses, dtype=np.float64))
  return total_loss / records.num_texts, labels, probabilities


def predict(run, records, batch_size, num_labels, window_pooling="max"):
  """Yields float32 `[texts, num_labels]` probabilities, window by window.

  The windows come in the order of the records and together hold all texts.
  """
  for window in input_pipeline.predict_windows(records, batch_size):
    logits = np.zeros([window.num_rows, num_labels], np.float32)
    for numbers, batch in window.batches:
      logits[numbers] = run.session.run(
          run.inference.logits, feed_dict(run.inference, batch))
    yield run.session.run(
        run.inference.probabilities,
        {run.inference.logits: input_pipeline.pool_windows(
            _check_finite(run, logits), window.first_rows, window_pooling)})


def _check_finite(run, logits):
  """Returns the logits; FloatingPointError if one is no number."""
  if not np.all(np.isfinite(logits)):
    raise FloatingPointError(
        "the model of step %d gives probabilities that are not finite; its "
        "training diverged, try a lower --learning_rate." %
        run.checkpoint_step)
  return logits


def feed_dict(inference, batch):
  """Pairs the placeholders of an inference graph with a batch's arrays."""
  feed = {getattr(inference, key): batch[key]
          for key in ("input_ids", "input_mask", "segment_ids")}
  if "label_ids" in batch:
    feed[inference.labels] = batch["label_ids"]
  return feed


def log_checkpoint(report, init_checkpoint):
  """Logs what became of each variable; see `modeling`."""
  for line in modeling.format_checkpoint_report(
      report, init_checkpoint).split("\n"):
    logging.info("%s", line)
