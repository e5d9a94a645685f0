# SPDX-License-Identifier: Apache-2.0
"""Shared by the report's sections: each split, scored once."""

import collections

import numpy as np

from multilabel import decisions
from multilabel import metrics
from multilabel import score_curves
from multilabel.reporting import analysis


# Labels in a figure: this many from the top, and from the bottom.
FIGURE_LABELS = 25

ScoredPart = collections.namedtuple("ScoredPart", [
    "name",              # "test" or "dev"
    "predictions",       # run_files.Predictions
    "stored",            # threshold_metrics of the decisions that the run made
    "stored_intervals",  # {measure: (low, high)}
    "half",              # threshold_metrics at 0.5
    "half_intervals",
    "ranking",           # ranking_metrics
    "calibration"])      # calibration_metrics


class ScoredRun(object):
  """A run's files with the scores of its parts.

  Attributes:
    files: `run_files.RunFiles`.
    labels: list of L str, or None if they are unknown.
    parts: OrderedDict of `ScoredPart`, test before dev; those with true labels.
    main: `ScoredPart` that the sections on labels show, or None.
    rule: `decisions.DecisionRule` of the run.
    is_known: bool, whether settings define the rule.
    is_plain: bool, the rule is the threshold 0.5 and nothing else.
  """

  def __init__(self, files):
    self.files = files
    self.labels = files.labels
    threshold = files.settings.get("threshold", 0.5)
    self.rule = decisions.DecisionRule(
        threshold, files.settings.get("top_k"),
        files.settings.get("always_one_label", False))
    self.is_known = "threshold" in files.settings
    self.is_plain = (self.is_known and
                     self.rule == decisions.ORIGINAL_RULE)
    self.parts = collections.OrderedDict(
        (name, self._score(name, predictions))
        for name, predictions in files.predictions.items() if predictions.ids)
    self.main = next(iter(self.parts.values()), None)

  def describe_rule(self):
    """The rule in words."""
    return self.rule.describe() if self.is_known else "as the run decided"

  def thresholds(self):
    """The rule's thresholds, float64 [L]; nan if unknown."""
    if not self.is_known:
      return np.full(len(self.labels), np.nan)
    return self.rule.threshold_of_each(len(self.labels))

  def _score(self, name, predictions):
    if not self.rule.is_by_text:
      score_curves.check_thresholds(
          self.rule.thresholds, len(predictions.labels), np.float32)
    true, probabilities = predictions.true, predictions.probabilities
    # Decisions as probabilities, so that any rule can be scored.
    decided = predictions.decided.astype(np.float32)
    half_intervals = analysis.intervals(true, probabilities)
    stored_intervals = half_intervals
    if not self.is_plain:
      stored_intervals = dict(half_intervals, **{
          key: value for key, value in analysis.intervals(true, decided).items()
          if key != "macro_average_precision"})
    return ScoredPart(
        name, predictions, metrics.threshold_metrics(true, decided),
        stored_intervals,
        metrics.threshold_metrics(true, probabilities, 0.5),
        half_intervals, metrics.ranking_metrics(true, probabilities),
        metrics.calibration_metrics(true, probabilities,
                                               analysis.NUM_BINS))


def label_order(part):
  """Columns from the best F1 to the worst, those without a positive last."""
  support = part.stored["support"]
  rank = np.where(support > 0, part.stored["f1"], -1)
  # Among ties, the label with more texts is more certain.
  return np.lexsort((-support, -rank)).tolist()


def top_and_bottom(order):
  """Selects the columns that a figure shows: (all, []) or (top, bottom)."""
  if len(order) <= 2 * FIGURE_LABELS:
    return order, []
  return order[:FIGURE_LABELS], order[-FIGURE_LABELS:]


def unscored_reason(files, part):
  """Says in one sentence why a split has no scores."""
  written_by = {"dev": ("eval_predictions.jsonl", "--do_eval writes it"),
                "test": ("test_predictions.jsonl",
                         "--do_test or --do_predict writes it")}
  name, how = written_by[part]
  if part not in files.predictions:
    return "No %s found (%s), so nothing is shown for %s." % (name, how, part)
  return ("No text in %s has true labels (use a labelled test file and "
          "--do_test), so nothing is shown for %s." % (name, part))
