# SPDX-License-Identifier: Apache-2.0
"""Evaluation on dev while training: the best checkpoint, and when to stop.

The state is the list of evaluations in best_checkpoint.json up to the step of
the checkpoint that training goes on from; all else follows from it, so a run
that was killed stops, and chooses, as one that was not.
"""

import collections
import math
import os

from multilabel.common import atomic_files
from multilabel.storage import checkpoint_choice


# Names people use for what has a longer one in eval_results.txt.
METRIC_ALIASES = {"map": "macro_average_precision",
                  "lrap": "label_ranking_average_precision"}

_LOWER_IS_BETTER = frozenset([
    "loss", "hamming_loss", "coverage_error", "ranking_loss", "brier_score",
    "log_loss", "ece_equal_width", "ece_equal_mass"])

# What an evaluation gives: {metric: float}, and list of tf.Summary.
Evaluation = collections.namedtuple("Evaluation", ["values", "summaries"])

Choice = collections.namedtuple("Choice", ["best", "since_better"])


def is_better(metric, value, other):
  """Whether one value of a metric is strictly better; nan is never."""
  if math.isnan(value):
    return False
  if math.isnan(other):
    return True
  return value < other if metric in _LOWER_IS_BETTER else value > other


def choose(evaluations, metric):
  """Finds the best of some evaluations.

  Of equally good ones the latest is the best (a metric that stays at 0 for
  long must not name the first), but only a strictly better one counts against
  `--early_stopping_patience`.

  Args:
    evaluations: list of {metric: float}, in the order of their steps.
    metric: str, a key of them.

  Returns:
    `Choice`: the best of them, or None if there are none; and how many came
    since the last that was strictly better than all before.
  """
  best, since_better = None, 0
  for values in evaluations:
    if best is None or is_better(metric, values[metric], best[metric]):
      best, since_better = values, 0
    else:
      since_better += 1
      if not is_better(metric, best[metric], values[metric]):
        best = values
  return Choice(best, since_better)


class DevEvaluation(object):
  """The evaluations of a run, and what they decide.

  Attributes:
    steps: int, an evaluation every so many steps, and one after the last.
    metric: str, key of the evaluations that chooses the best.
  """

  def __init__(self, output_dir, evaluate, steps, num_train_steps, metric,
               patience, first_step, run=None):
    """Reads what earlier processes of the run evaluated.

    Args:
      output_dir: str.
      evaluate: function of a function `should_stop` to `Evaluation`; it may
        raise `EvaluationStopped` once that returns True.
      steps: int, at least 1.
      num_train_steps: int.
      metric: str.
      patience: int, evaluations that are not better before training stops;
        0: it never stops early.
      first_step: int, the step that training goes on from; what was evaluated
        after it will be evaluated again.
      run: `checkpoint_files.RunIdentity` of the directory; None: it is read.
    """
    self.steps = steps
    self.metric = metric
    self._output_dir = output_dir
    self._evaluate = evaluate
    self._num_train_steps = num_train_steps
    self._patience = patience
    run = run or checkpoint_choice.run_identity(output_dir)
    self._fingerprint = run.fingerprint
    known = checkpoint_choice.read_best(output_dir, run)
    self._evaluations = [
        collections.OrderedDict(
            (key, float("nan") if value is None else value)
            for key, value in values.items())
        for values in (known["evaluations"] if known else [])
        if values["step"] <= first_step]

  def is_due(self, step):
    """Whether there is an evaluation at this step that was not made yet."""
    if not step or any(v["step"] == step for v in self._evaluations):
      return False
    return step % self.steps == 0 or step == self._num_train_steps

  def evaluate(self, step, should_stop):
    """Evaluates; returns (`Evaluation`, whether the step is the best now)."""
    evaluation = self._evaluate(should_stop)
    values = collections.OrderedDict(
        [("step", step)] + sorted(evaluation.values.items()))
    self._evaluations.append(values)
    return evaluation, self.best_step == step

  @property
  def best_step(self):
    """The step that did best; None before the first evaluation."""
    best = choose(self._evaluations, self.metric).best
    return None if best is None else best["step"]

  @property
  def is_over(self):
    """Whether training has to stop early."""
    since_better = choose(self._evaluations, self.metric).since_better
    return bool(self._patience) and since_better >= self._patience

  def commit(self):
    """Writes best_checkpoint.json; the checkpoint it names must be there."""
    best = choose(self._evaluations, self.metric).best
    atomic_files.write_sealed(
        os.path.join(self._output_dir, checkpoint_choice.BEST_CHECKPOINT_FILE),
        {"fingerprint": self._fingerprint,
         "checkpoint": "model.ckpt-%d" % best["step"], "step": best["step"],
         "metric": self.metric, "value": _for_json(best[self.metric]),
         "evaluations": [
             {key: _for_json(value) for key, value in values.items()}
             for values in self._evaluations]})


def _for_json(value):
  """JSON has no nan; an undefined metric is null there."""
  return None if math.isnan(value) else value


class EvaluationStopped(Exception):
  """A signal came; the evaluation will be made when the run goes on."""
