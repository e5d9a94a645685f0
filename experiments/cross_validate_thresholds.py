# SPDX-License-Identifier: Apache-2.0
"""Do tuned thresholds hold on texts they were not tuned on?

  python -m experiments.cross_validate_thresholds \\
      --predictions=OUT/eval_predictions.jsonl

Repeated cross-validation over the texts of a file of predictions with true
labels: thresholds are tuned on all folds but one and decide the texts of that
one; the decisions of all folds together are scored. Compared are

  0.5                   the fixed threshold
  tune                  one threshold, that of the best micro-F1
  per label, unshrunk   one per label, that of the label's best F1
  tune_per_label        the same, drawn to the one of `tune` by --shrinkage

The deviation is that over the repeats, which differ in how the texts are dealt
into folds; how far another sample of texts would be off is not in it. `+-` of a
difference is the deviation of the differences within a repeat.
"""

import collections
import json
import os

from absl import flags
from absl import logging
import numpy as np

from experiments import prediction_files
from multilabel import decisions
from multilabel import metrics
from multilabel import score_curves
from multilabel.common import atomic_files
from multilabel.common import command_line
from processors import text_lines


FLAGS = flags.FLAGS

REFERENCE = "tune"
STRATEGIES = ("0.5", REFERENCE, "per label, unshrunk", "tune_per_label")
MEASURES = ("micro_f1", "macro_f1")


def define_flags():
  with command_line.flag_group("Files"):
    flags.DEFINE_string("predictions", None, "File of predictions with true "
                        "labels, such as eval_predictions.jsonl.")
    flags.DEFINE_string("output", None,
                        "JSON file for the scores of every repeat.")
  with command_line.flag_group("Cross-validation"):
    flags.DEFINE_integer("folds", 10, "Number of folds.")
    flags.DEFINE_integer("repeats", 5,
        "Number of repeats, each with new random folds.")
    flags.DEFINE_integer("seed", 0, "Seed of the random folds.")
    flags.DEFINE_float("shrinkage", 10.0,
        "tune_per_label: weight of the global threshold, as a number of "
        "positives of a label.")


def deal_folds(num_examples, folds, repeats, seed):
  """Deals examples into folds whose sizes differ by at most one.

  Args:
    num_examples: int, at least `folds`.
    folds: int, at least 2.
    repeats: int, at least 1.
    seed: int.

  Returns:
    List of `repeats` lists of `folds` int arrays of example numbers.

  Raises:
    ValueError: a number out of its range.
  """
  if not 2 <= folds <= num_examples:
    raise ValueError("--folds is %d; for %d texts it must be from 2 to %d." % (
        folds, num_examples, num_examples))
  if repeats < 1:
    raise ValueError("--repeats is %d; it must be at least 1." % repeats)
  if not 0 <= seed < 1 << 32:
    raise ValueError("--seed is %d; it must be from 0 to 4294967295." % seed)
  rng = np.random.RandomState(seed)
  return [np.array_split(rng.permutation(num_examples), folds)
          for _ in range(repeats)]


def cross_validate(labels, probabilities, folds=10, repeats=5, seed=0,
                   shrinkage=10.0):
  """Scores the ways to choose thresholds on texts that did not choose them.

  Args:
    labels: [N, L] of 0 and 1.
    probabilities: [N, L] in 0..1.
    folds: int, at least 2 and at most N.
    repeats: int.
    seed: int.
    shrinkage: float, see `decisions.find_label_thresholds`.

  Returns:
    OrderedDict: name of `STRATEGIES` -> OrderedDict of `micro_f1` and
    `macro_f1`, a list of one float a repeat each.

  Raises:
    ValueError: a number out of its range, or invalid arrays.
  """
  labels, probabilities = score_curves.check_arrays(labels,
                                                             probabilities)
  scores = collections.OrderedDict(
      (name, collections.OrderedDict((key, []) for key in MEASURES))
      for name in STRATEGIES)
  for parts in deal_folds(len(labels), folds, repeats, seed):
    decided = {name: np.empty(labels.shape, bool) for name in STRATEGIES}
    for held_out in parts:
      is_tuned_on = np.ones(len(labels), bool)
      is_tuned_on[held_out] = False
      found = decisions.find_label_thresholds(
          labels[is_tuned_on], probabilities[is_tuned_on], shrinkage)
      for name, thresholds in zip(STRATEGIES, (
          0.5, found["global_threshold"], found["own_thresholds"],
          found["thresholds"])):
        decided[name][held_out] = decisions.apply_thresholds(
            probabilities[held_out], thresholds)
    for name in STRATEGIES:
      measured = metrics.threshold_metrics(
          labels, decided[name].astype(np.float32), 0.5)
      for key in MEASURES:
        scores[name][key].append(float(measured[key]))
  return scores


def _mean_and_deviation(values):
  """Mean and sample deviation; None for that of a single value."""
  return collections.OrderedDict([
      ("mean", float(np.mean(values))),
      ("deviation", float(np.std(values, ddof=1)) if len(values) > 1 else None),
  ])


def summarize(scores):
  """Means and deviations of what `cross_validate` returns.

  Args:
    scores: its result.

  Returns:
    OrderedDict: name -> OrderedDict: for each measure an OrderedDict of `mean`,
    `deviation` (None for one repeat), `repeats` (the list), and the OrderedDict
    `minus_tune` (`mean`, `deviation`, `won`: repeats above, `lost`: below).
  """
  summary = collections.OrderedDict()
  for name, measures in scores.items():
    summary[name] = collections.OrderedDict()
    for key, values in measures.items():
      change = np.subtract(values, scores[REFERENCE][key])
      against = _mean_and_deviation(change)
      against["won"] = int(np.count_nonzero(change > 0))
      against["lost"] = int(np.count_nonzero(change < 0))
      summary[name][key] = _mean_and_deviation(values)
      summary[name][key]["repeats"] = values
      summary[name][key]["minus_tune"] = against
  return summary


def format_table(summary):
  """Returns the summary as text, one line a strategy, each ended."""
  def cell(values, form):
    deviation = values["deviation"]
    return form % values["mean"] + (
        "" if deviation is None else " +- %.4f" % deviation)

  rows = [["thresholds", "micro-F1", "macro-F1", "micro-F1 minus tune",
           "macro-F1 minus tune"]]
  for name, measures in summary.items():
    rows.append([name] + [cell(measures[key], "%.4f") for key in MEASURES] + [
        "" if name == REFERENCE else cell(measures[key]["minus_tune"], "%+.4f")
        for key in MEASURES])
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return "".join("  ".join(
      text.ljust(width) for text, width in zip(row, widths)).rstrip() + "\n"
                 for row in rows)


def check_flags(flag_values):
  """Raises ValueError for invalid flags."""
  if not flag_values.predictions:
    raise ValueError("--predictions must be given.")
  if flag_values.output:
    folder = atomic_files.unwritable_folder(
        os.path.dirname(os.path.abspath(flag_values.output)))
    if folder:
      raise ValueError("--output %s cannot be written: %s is not a writable "
                       "folder." % (flag_values.output, folder))
    if os.path.isdir(flag_values.output):
      raise ValueError("--output %s is a directory; name a file." %
                       flag_values.output)


def read_predictions(path):
  """Reads a `PredictionFile` that thresholds can be tuned on."""
  predictions = prediction_files.read(path)
  if predictions.true is None:
    raise ValueError(
        "%s has no \"true_labels\", which tuning and scoring need." % path)
  if not predictions.true.any():
    raise ValueError("%s has no text with a true label, so no threshold can be "
                     "tuned." % path)
  if predictions.duplicate_ids:
    logging.warning(
        "%d ids occur more than once in %s (%s); every line counts as a "
        "separate text.", len(predictions.duplicate_ids), path,
        text_lines.list_names(predictions.duplicate_ids, 3))
  never = [name for name, is_on in zip(predictions.labels,
                                       predictions.true.any(axis=0))
           if not is_on]
  if never:
    logging.warning(
        "%d of %d labels are true for no text and count as F1 0 in macro-F1: "
        "%s.", len(never), len(predictions.labels),
        text_lines.list_names(never))
  return predictions


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; flags begin with --." %
                     argv[1])
  check_flags(FLAGS)
  predictions = read_predictions(FLAGS.predictions)
  settings = collections.OrderedDict(
      (name, FLAGS[name].value)
      for name in ("folds", "repeats", "seed", "shrinkage"))
  summary = summarize(cross_validate(predictions.true,
                                     predictions.probabilities, **settings))
  if FLAGS.output:
    os.makedirs(os.path.dirname(os.path.abspath(FLAGS.output)), exist_ok=True)
    atomic_files.write_text(FLAGS.output, json.dumps(collections.OrderedDict([
        ("predictions", FLAGS.predictions),
        ("num_examples", len(predictions.ids)),
        ("labels", predictions.labels),
        ("settings", settings),
        ("scores", summary),
    ]), indent=2, ensure_ascii=False) + "\n")
  print("%s: %d texts, %d labels; %d folds, %d repeats, seed %d, shrinkage "
        "%g" % (FLAGS.predictions, len(predictions.ids),
                          len(predictions.labels), FLAGS.folds, FLAGS.repeats,
                          FLAGS.seed, FLAGS.shrinkage))
  print(format_table(summary), end="")


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
