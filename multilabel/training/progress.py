# SPDX-License-Identifier: Apache-2.0
"""Shows the progress of training, and takes requests to stop."""

import signal
import time

from absl import logging
import numpy as np

from multilabel.common import terminal


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests(object):
  """Records SIGINT and SIGTERM for the next step boundary; a second one kills.

  Attributes:
    signal_number: int or None.
  """

  def __init__(self, is_time_over=None, signals=SIGNALS, second_kills=True):
    """Makes a context manager that catches the signals.

    Args:
      is_time_over: function that returns whether the run is out of time; None:
        no limit.
      signals: the signal numbers to catch.
      second_kills: bool, whether a second one ends the process; otherwise the
        program's previous handler runs.
    """
    self.signal_number = None
    self._is_time_over = is_time_over
    self._signals = signals
    self._second_kills = second_kills
    self._before = {}

  def __call__(self):
    """Whether to stop."""
    return self.by_signal() or (
        self._is_time_over is not None and self._is_time_over())

  def by_signal(self):
    """Whether a signal requested it."""
    return bool(self.signal_number)

  def __enter__(self):
    for number in self._signals:
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
    for other, handler in self._before.items():
      signal.signal(other, signal.SIG_DFL if self._second_kills else handler)


class Observer(object):
  """A program's hooks into training; this class is for scripts."""

  def stop_requests(self, is_time_over):
    """`StopRequests` of the run."""
    return StopRequests(is_time_over)

  def make_progress(self, *arguments):
    """`Progress` of the same arguments."""
    return Progress(*arguments)

  def on_step(self, step, values):
    """Called after each step, 1 being the first.

    Args:
      step: int.
      values: {"loss", "learning_rate", "grad_norm": float}.
    """

  def on_evaluation(self, step, values):
    """Called after each evaluation on dev.

    Args:
      step: int.
      values: {metric: float}; those of a sample of train have the prefix
        `train_`.
    """


class Progress(object):
  """Progress: one line on a terminal, log lines elsewhere."""

  SMOOTHING = 0.98

  def __init__(self, first_step, num_steps, log_steps, batch_size, state=()):
    """Starts at a step.

    Args:
      first_step: int.
      num_steps: int, the last step.
      log_steps: int, steps between lines in a log.
      batch_size: int.
      state: `self.state` of the process that trained up to `first_step`.
    """
    self._first_step = first_step
    self._num_steps = num_steps
    self._log_steps = log_steps
    self._screen = terminal.Line()
    self._terminal = self._screen.is_terminal
    self._batch_size = batch_size
    self._start = self._window_start = self._drawn = time.time()
    self._window_examples = self._window_tokens = 0
    self._loss, self._weight = state or (0.0, 0.0)
    self._rates = (0.0, 0.0)
    self._last = {}

  def __enter__(self):
    self._screen.__enter__()
    return self

  def __exit__(self, *error):
    self._screen.keep()
    self._screen.__exit__(*error)

  def update(self, step, values):
    """Takes the values of a step, 1 being the first."""
    self._last = values
    if np.isfinite(values["loss"]):  # else the step was skipped
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
      self._draw(step, self._line(step, now))
    elif due and not self._terminal:
      logging.info("%s", self._line(step, now))

  def _draw(self, step, line):
    """Shows the line instead of the previous one."""
    del step
    self._screen.show(line, "  ")

  def leave_out(self, seconds):
    """Excludes time that was not training from the rates."""
    self._window_start += seconds

  @property
  def state(self):
    """The state of the displayed loss: list of two floats."""
    return [self._loss, self._weight]

  def scalars(self):
    """The values for TensorBoard, by tag."""
    return {"loss": self._last["loss"],
            "step/learning_rate": self._last["learning_rate"],
            "step/grad_norm": self._last["grad_norm"],
            "step/examples_per_second": self._rates[0]}

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
                self._loss / max(self._weight, 1e-9),
                self._last["learning_rate"],
                rates[0], rates[1]))


def _clock(seconds):
  minutes, seconds = divmod(int(seconds + 0.5), 60)
  hours, minutes = divmod(minutes, 60)
  return ("%d:%02d:%02d" % (hours, minutes, seconds) if hours
          else "%d:%02d" % (minutes, seconds))
