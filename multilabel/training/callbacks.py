# SPDX-License-Identifier: Apache-2.0
"""Callbacks of a run: its steps, its evaluations, its end.

A callback is any object with some of these methods:

  on_begin(settings)           once, before training: what was set, a dict
  on_step(step, values)        after each step: loss, learning_rate, grad_norm
  on_evaluation(step, values)  after each evaluation on dev: all its metrics
  on_end(result)               once, in the end: the metrics on dev, or {}

`"mlflow"` and `"wandb"` are built-in callbacks that log to MLflow and to
Weights & Biases, if those packages are installed.
"""

import importlib
import math
import re
import signal
import sys

from multilabel.training import progress


METHODS = ("on_begin", "on_step", "on_evaluation", "on_end")


class FitObserver(progress.Observer):
  """Passes events on to callbacks, and shows the progress of training."""

  def __init__(self, callbacks=(), shows_progress=True):
    """Makes an observer.

    Args:
      callbacks: list of callbacks, or of names in `READY`.
      shows_progress: bool, whether to show a progress bar, on a terminal or in
        a notebook.

    Raises:
      ValueError: one is not a callback, or its package is not installed.
    """
    self._callbacks = [_make(callback) for callback in callbacks or ()]
    self._shows_progress = shows_progress

  def stop_requests(self, is_time_over):
    # SIGTERM belongs to the program; so does a second Ctrl-C.
    return progress.StopRequests(is_time_over, (signal.SIGINT,), False)

  def make_progress(self, *arguments):
    if not self._shows_progress:
      return SilentProgress(*arguments)
    return (NotebookProgress if in_notebook() else progress.Progress)(
        *arguments)

  def begin(self, settings):
    """Passes on the given settings: dict."""
    self._call("on_begin", settings)

  def on_step(self, step, values):
    self._call("on_step", step, values)

  def on_evaluation(self, step, values):
    self._call("on_evaluation", step, values)

  def on_end(self, result):
    self._call("on_end", result)

  def close(self):
    """Lets built-in callbacks finish, however fit ended."""
    for callback in self._callbacks:
      if type(callback) in READY.values():
        callback.close()

  def _call(self, method, *arguments):
    for callback in self._callbacks:
      function = getattr(callback, method, None)
      if function is not None:
        function(*arguments)


def _make(callback):
  """A callback, given as one or by its name."""
  if isinstance(callback, str):
    if callback not in READY:
      raise ValueError("there is no callback %s; use one of %s, or an object "
                       "with on_step, on_evaluation or on_end." % (
                           callback, ", ".join(sorted(READY))))
    return READY[callback]()
  if isinstance(callback, type) or not any(
      callable(getattr(callback, method, None)) for method in METHODS):
    raise ValueError("callback %r has none of the methods %s." % (
        callback, ", ".join(METHODS)))
  return callback


class SilentProgress(progress.Progress):
  """Shows nothing; the log has a line every --log_steps."""

  def __init__(self, *arguments):
    super(SilentProgress, self).__init__(*arguments)
    self._terminal = False


class NotebookProgress(progress.Progress):
  """A bar in a notebook: tqdm's if installed, otherwise a line of text."""

  def __init__(self, first_step, num_steps, *arguments):
    super(NotebookProgress, self).__init__(first_step, num_steps, *arguments)
    self._terminal = True
    self._bar = None
    try:
      from tqdm import auto  # pylint: disable=g-import-not-at-top
    except ImportError:
      return
    self._bar = auto.tqdm(total=num_steps, initial=first_step, unit="step")

  def __exit__(self, *error):
    if self._bar is not None:
      self._bar.close()
    super(NotebookProgress, self).__exit__(*error)

  def _draw(self, step, line):
    if self._bar is None:
      super(NotebookProgress, self)._draw(step, line)
      return
    self._bar.set_postfix_str(line.partition("  ")[2], refresh=False)
    self._bar.update(step - self._bar.n)


def in_notebook():
  """Whether the code runs in a Jupyter kernel."""
  ipython = sys.modules.get("IPython")
  shell = ipython and ipython.get_ipython()
  return type(shell).__name__ == "ZMQInteractiveShell"


def _import(name, package):
  try:
    return importlib.import_module(name)
  except ImportError:
    raise ValueError("callbacks=[%r] needs the package %s: pip install %s." % (
        name, package, package))


def _finite(values):
  """The values that a chart can show."""
  return {key: float(value) for key, value in values.items()
          if isinstance(value, (int, float)) and math.isfinite(value)}


class MLflow(object):
  """Logs settings and metrics to MLflow's active run, or to one of its own."""

  STEPS = 10  # seconds between points of the loss: each is written to a file

  def __init__(self):
    self._mlflow = _import("mlflow", "mlflow")
    self._own_run = None

  def on_begin(self, settings):
    if self._mlflow.active_run() is None:
      self._own_run = self._mlflow.start_run()
    self._mlflow.log_params({name: str(value)[:500]
                             for name, value in settings.items()})

  def on_step(self, step, values):
    if step % self.STEPS == 0 or step == 1:
      self._mlflow.log_metrics(_finite(values), step=step)

  def on_evaluation(self, step, values):
    self._mlflow.log_metrics(_named("dev/", values), step=step)

  def on_end(self, result):
    self._mlflow.log_metrics(_named("final/", result))
    self.close()

  def close(self):
    """Ends the run, if it is this callback's."""
    if self._own_run is not None:
      self._mlflow.end_run()
      self._own_run = None


class WandB(object):
  """Logs settings and metrics to the active run of Weights & Biases, or a new
  one."""

  def __init__(self):
    self._wandb = _import("wandb", "wandb")
    self._own_run = None

  def on_begin(self, settings):
    if self._wandb.run is None:
      self._own_run = self._wandb.init()
    self._wandb.config.update(settings, allow_val_change=True)

  def on_step(self, step, values):
    self._wandb.log(_finite(values), step=step)

  def on_evaluation(self, step, values):
    self._wandb.log(_named("dev/", values), step=step)

  def on_end(self, result):
    self._wandb.run.summary.update(_named("final/", result))
    self.close()

  def close(self):
    """Ends the run, if it is this callback's."""
    if self._own_run is not None:
      self._own_run.finish()
      self._own_run = None


def _named(prefix, values):
  """Finite values by names that both services take."""
  return {prefix + re.sub(r"[^\w\-. /]", "_", key): value
          for key, value in _finite(values).items()}


READY = {"mlflow": MLflow, "wandb": WandB}
