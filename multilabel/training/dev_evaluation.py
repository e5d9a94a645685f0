# SPDX-License-Identifier: Apache-2.0
"""Evaluation on dev during training: the best checkpoint, and early stopping.

The state is the list of evaluations in best_checkpoint.json up to the step of
the checkpoint that training resumes from; everything else follows from it, so a
resumed run stops and chooses like an uninterrupted one.
"""

import collections
import math
import os

from absl import logging

from multilabel.common import atomic_files
from multilabel.storage import checkpoint_choice


# Short names of keys in eval_results.txt.
METRIC_ALIASES = {"map": "macro_average_precision",
                  "lrap": "label_ranking_average_precision"}

_LOWER_IS_BETTER = frozenset([
    "loss", "hamming_loss", "coverage_error", "ranking_loss", "brier_score",
    "log_loss", "ece_equal_width", "ece_equal_mass"])

# For runs from before the rule was recorded.
_RULE_OF_BEFORE = {"threshold": 0.5, "top_k": None, "always_one_label": False,
                   "min_precision": None}

# The result of an evaluation: {metric: float}, and list of tf.Summary.
Evaluation = collections.namedtuple("Evaluation", ["values", "summaries"])

# Two of the evaluations, or None: the best, and the last one with progress; and
# how many followed the latter, for the patience.
Choice = collections.namedtuple("Choice", ["best", "since_better", "better"])

# Breaks ties between evaluations with the same metric: it needs no threshold,
# and rises while F1 is still 0.
TIE_BREAK = "macro_average_precision"


def is_better(metric, value, other):
  """Whether one value of a metric is strictly better; nan is never."""
  if math.isnan(value):
    return False
  if math.isnan(other):
    return True
  return value < other if metric in _LOWER_IS_BETTER else value > other


def _says_nothing(metric, value):
  """Whether a score is one that an untrained model has."""
  return math.isnan(value) or (not value and metric not in _LOWER_IS_BETTER)


def choose(evaluations, metric):
  """Finds the best of some evaluations.

  Macro average precision breaks ties, including between nan and nan; if it is
  equal or unknown, the latest is the best.

  An evaluation is progress, and the patience starts again, if its metric is
  strictly better than all before. One whose metric is 0 or nan uses no patience
  if its macro average precision is higher than all before, and is progress as
  long as no other metric was better than that.

  Args:
    evaluations: list of {metric: float}, in the order of their steps.
    metric: str, a key of them.

  Returns:
    `Choice`.
  """
  best, better, since_better, most_precise = None, None, 0, float("nan")
  for values in evaluations:
    value, precision = values[metric], values.get(TIE_BREAK, float("nan"))
    is_learning = is_better(TIE_BREAK, precision, most_precise)
    if is_learning:
      most_precise = precision
    if best is None or is_better(metric, value, best[metric]):
      best, better, since_better = values, values, 0
      continue
    is_equal = not is_better(metric, best[metric], value)
    if is_equal and not is_better(
        TIE_BREAK, best.get(TIE_BREAK, float("nan")), precision):
      best = values
    if not (is_learning and _says_nothing(metric, value)):
      since_better += 1
    elif is_equal:
      better, since_better = values, 0
  return Choice(best, since_better, better)


class DevEvaluation(object):
  """The evaluations of a run, and what they decide.

  Attributes:
    steps: int, steps between evaluations; there is also one after the last
      step.
    metric: str, key of the evaluations that chooses the best.
    rule: dict, how probabilities become labels in all evaluations of the run;
      see `run_setup.evaluation_rule`. None: unknown.
  """

  def __init__(self, output_dir, evaluate, steps, num_train_steps, metric,
               patience, first_step, run=None, rule=None):
    """Reads what earlier processes of the run evaluated.

    Args:
      output_dir: str.
      evaluate: function of a function `should_stop` to `Evaluation`; it may
        raise `EvaluationStopped` once that returns True.
      steps: int, at least 1.
      num_train_steps: int.
      metric: str.
      patience: int, evaluations without improvement before training stops; 0:
        it never stops early.
      first_step: int, the step that training resumes from; later evaluations
        will be repeated.
      run: `checkpoint_files.RunIdentity` of the directory; None: read from the
        directory.
      rule: dict or None; earlier evaluations fix the rule, since scores at
        another threshold would not be comparable.
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
    self.rule = rule
    if self._evaluations and rule is not None:
      self.rule = dict(_RULE_OF_BEFORE, **known.get("rule", {}))
      if self.rule != rule:
        logging.warning(
            "Evaluations on dev continue with their initial decision rule "
            "(threshold %s), which selects the best checkpoint.",
            self.rule["threshold"])

  def is_due(self, step):
    """Whether an evaluation at this step is still to be done."""
    if not step or any(v["step"] == step for v in self._evaluations):
      return False
    return step % self.steps == 0 or step == self._num_train_steps

  def evaluate(self, step, should_stop):
    """Evaluates; returns (`Evaluation`, whether the step is now the best)."""
    evaluation = self._evaluate(should_stop)
    values = collections.OrderedDict(
        [("step", step)] + sorted(evaluation.values.items()))
    self._evaluations.append(values)
    return evaluation, self.best_step == step

  def describe_best(self, step):
    """The log line for the evaluation of a step, which is the last."""
    choice = choose(self._evaluations, self.metric)
    if choice.best["step"] != step:
      return ""
    if not _says_nothing(self.metric, choice.best[self.metric]):
      return ("  (best so far)" if choice.better is choice.best else
              "  (as good as the best so far)")
    if choice.better is not choice.best or math.isnan(
        choice.best.get(TIE_BREAK, float("nan"))):
      return ""
    return "  (best so far by %s)" % TIE_BREAK

  def describe_stop(self):
    """Why training stops early, as a clause."""
    choice = choose(self._evaluations, self.metric)
    step, words = choice.better["step"], "has not been better"
    if _says_nothing(self.metric, choice.better[self.metric]):
      words = "has stayed at %s, and %s has not been better" % (
          choice.better[self.metric], TIE_BREAK)
    return "%s %s since step %d%s" % (
        self.metric, words, step, "" if choice.best is choice.better else
        "; the best checkpoint is that of step %d" % choice.best["step"])

  @property
  def best_step(self):
    """The best step; None before the first evaluation."""
    best = choose(self._evaluations, self.metric).best
    return None if best is None else best["step"]

  @property
  def is_over(self):
    """Whether training has to stop early."""
    since_better = choose(self._evaluations, self.metric).since_better
    return bool(self._patience) and since_better >= self._patience

  def commit(self):
    """Writes best_checkpoint.json; its checkpoint must exist."""
    best = choose(self._evaluations, self.metric).best
    content = {
        "fingerprint": self._fingerprint,
        "checkpoint": "model.ckpt-%d" % best["step"], "step": best["step"],
        "metric": self.metric, "value": _for_json(best[self.metric]),
        "evaluations": [
            {key: _for_json(value) for key, value in values.items()}
            for values in self._evaluations]}
    if self.rule is not None:
      content["rule"] = self.rule
    atomic_files.write_sealed(
        os.path.join(self._output_dir, checkpoint_choice.BEST_CHECKPOINT_FILE),
        content)


def _for_json(value):
  """JSON has no nan; an undefined metric is null there."""
  return None if math.isnan(value) else value


class EvaluationStopped(Exception):
  """A signal came; the evaluation is done when the run resumes."""
