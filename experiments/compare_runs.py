# SPDX-License-Identifier: Apache-2.0
"""Compares two models on the texts that both have labelled.

  python -m experiments.compare_runs A B

A and B are files of predictions with true labels (test_predictions.jsonl,
eval_predictions.jsonl) or the directories of two runs that hold them; test is
taken where its labels are known, else dev. It prints the difference B - A of
each metric, the labels won and lost, and the texts whose labels changed.

Intervals are of the paired bootstrap: both are scored on the same resamples of
the texts. F1 is that of the labels in the files, decided at whatever
thresholds each run had.
"""

import collections
import os

from absl import flags
import numpy as np

from experiments import prediction_files
from experiments import result_table
from multilabel import bootstrap
from multilabel import metrics as multilabel_metrics
from multilabel.common import command_line
from processors.text_lines import shown


FLAGS = flags.FLAGS

FILES = ("test_predictions.jsonl", "eval_predictions.jsonl")

# Scores of the decisions, beside those that have an interval.
_DECISION_METRICS = ("micro_precision", "micro_recall", "macro_precision",
                     "macro_recall", "subset_accuracy", "hamming_loss")
_RANKING_METRICS = ("micro_average_precision", "micro_roc_auc", "macro_roc_auc")

# f1_a, f1_b: floats; low, high: interval of f1_b - f1_a; support: int.
LabelChange = collections.namedtuple(
    "LabelChange", ["label", "support", "f1_a", "f1_b", "low", "high"])

# kind: "better", "worse" or "other"; labels_a, labels_b, true: names, joined;
# distance: how many decisions differ.
TextChange = collections.namedtuple(
    "TextChange", ["kind", "id", "text", "labels_a", "labels_b", "true",
                   "distance"])


def define_flags():
  """Defines this program's flags; called where the script starts."""
  with command_line.flag_group("Comparison"):
    flags.DEFINE_integer("show_texts", 20,
                         "Number of changed texts to show, largest changes "
                         "first.")
    flags.DEFINE_integer("num_resamples", 1000,
        "Number of bootstrap resamples.")
    flags.DEFINE_integer("bootstrap_seed", 0, "Seed of the bootstrap.")


# --- Reading ----------------------------------------------------------------


def read_predictions(path):
  """Reads predictions with true labels.

  Args:
    path: str, a file, or a directory with one of `FILES`.

  Returns:
    `(path of the file, prediction_files.PredictionFile)`.

  Raises:
    ValueError: there is no such file, or it has no true labels.
  """
  if not os.path.isdir(path):
    found = prediction_files.read(path)
    if found.true is None:
      raise ValueError(
          "%s: it has no true labels, so nothing can be scored; use a labelled "
          "test file and --do_test, or name the directory of a run with "
          "--do_eval." % path)
    return path, found
  unlabelled = []
  for name in FILES:
    candidate = os.path.join(path, name)
    if os.path.exists(candidate):
      found = prediction_files.read(candidate)
      if found.true is not None:
        return candidate, found
      unlabelled.append(name)
  raise ValueError(
      "%s: no file of predictions with true labels found (%s); run "
      "run_multilabel_classifier.py there with --do_eval or --do_test." % (
          path, "%s has none" % ", ".join(unlabelled) if unlabelled else
          "looked for %s" % " and ".join(FILES)))


def _is_same_text(text_a, text_b):
  """Whether texts are the same; one may have been cut when it was written."""
  for cut, whole in ((text_a, text_b), (text_b, text_a)):
    if cut.endswith(u"\u2026") and whole.startswith(cut[:-1]):
      return True
  return text_a == text_b


def check_same_texts(path_a, a, path_b, b):
  """Makes sure that both files can be compared.

  Args:
    path_a: str, for messages.
    a: `PredictionFile`.
    path_b: str.
    b: `PredictionFile`.

  Returns:
    `PredictionFile`, b with its labels in the order of a.

  Raises:
    ValueError: the texts, the labels or the true labels differ.
  """
  for there, here, path, other in ((a.labels, b.labels, path_a, path_b),
                                   (b.labels, a.labels, path_b, path_a)):
    known = set(here)
    lacking = [label for label in there if label not in known]
    if lacking:
      raise ValueError(
          "the labels differ: %s has the label %s, but %s does not; compare "
          "runs with the same labels." % (path, shown(lacking[0]), other))
  for i, (id_a, id_b, text_a, text_b) in enumerate(
      zip(a.ids, b.ids, a.texts, b.texts), 1):
    if id_a != id_b or not _is_same_text(text_a, text_b):
      raise ValueError(
          "the texts differ, first at number %d: %s %s in %s, %s %s in %s; "
          "compare predictions for the same file." % (
              i, shown(id_a), shown(text_a), path_a, shown(id_b),
              shown(text_b), path_b))
  if len(a.ids) != len(b.ids):
    longer, path = (a, path_a) if len(a.ids) > len(b.ids) else (b, path_b)
    first = min(len(a.ids), len(b.ids))
    raise ValueError(
        "the texts differ: %s has %d, %s has %d; the first one only in %s is "
        "%s." % (path_a, len(a.ids), path_b, len(b.ids), path,
                 shown(longer.ids[first])))
  index = {label: column for column, label in enumerate(b.labels)}
  columns = [index[label] for label in a.labels]
  b = b._replace(
      labels=a.labels, predicted=b.predicted[:, columns],
      true=b.true[:, columns], probabilities=b.probabilities[:, columns])
  rows = np.flatnonzero((a.true != b.true).any(axis=1))
  if rows.size:
    raise ValueError(
        "the true labels of text %s differ: %s in %s, %s in %s; compare "
        "predictions for the same file." % (
            shown(a.ids[rows[0]]), _named(a.labels, a.true[rows[0]]) or "none",
            path_a, _named(a.labels, b.true[rows[0]]) or "none", path_b))
  return b


def _named(labels, row):
  return ", ".join(label for label, is_on in zip(labels, row) if is_on)


# --- Comparing --------------------------------------------------------------


def compare_metrics(a, b, num_resamples=1000, seed=0):
  """Differences of the metrics.

  Args:
    a: `PredictionFile` with true labels.
    b: `PredictionFile` of the same texts and labels.
    num_resamples: int.
    seed: int.

  Returns:
    `OrderedDict`, metric -> `OrderedDict` of floats `a`, `b`, `difference`
    and, for micro-F1, macro-F1 and mAP, `low`, `high`, `p_value`.
  """
  decisions = [x.predicted.astype(np.float32) for x in (a, b)]
  out = collections.OrderedDict()
  # Of the decisions themselves, whatever thresholds have made them.
  by_decision = bootstrap.paired_bootstrap(
      a.true, decisions[0], decisions[1], num_resamples=num_resamples,
      seed=seed)
  by_score = bootstrap.paired_bootstrap(
      a.true, a.probabilities, b.probabilities, num_resamples=num_resamples,
      seed=seed)
  out["micro_f1"] = by_decision["micro_f1"]
  out["macro_f1"] = by_decision["macro_f1"]
  out["macro_average_precision"] = by_score["macro_average_precision"]
  for names, scores in (
      (_DECISION_METRICS, [multilabel_metrics.threshold_metrics(
          a.true, x) for x in decisions]),
      (_RANKING_METRICS, [multilabel_metrics.ranking_metrics(
          a.true, x.probabilities) for x in (a, b)])):
    for name in names:
      out[name] = collections.OrderedDict([
          ("a", scores[0][name]), ("b", scores[1][name]),
          ("difference", scores[1][name] - scores[0][name])])
  return out


def compare_labels(a, b, num_resamples=1000, seed=0):
  """F1 of each label in both: list of `LabelChange`, the most won first."""
  changes = []
  for i, label in enumerate(a.labels):
    # Micro-F1 of one column is the F1 of its label.
    f1 = bootstrap.paired_bootstrap(
        a.true[:, [i]], a.predicted[:, [i]].astype(np.float32),
        b.predicted[:, [i]].astype(np.float32), num_resamples=num_resamples,
        seed=seed)["micro_f1"]
    changes.append(LabelChange(label, int(a.true[:, i].sum()), f1["a"],
                               f1["b"], f1["low"], f1["high"]))
  return sorted(changes, key=lambda change: change.f1_a - change.f1_b)


def compare_texts(a, b):
  """The texts whose labels changed: list of `TextChange`, largest first.

  Better has fewer wrong decisions (labels missed or too many) than before,
  worse has more, other has as many.
  """
  wrong_a = (a.predicted != a.true).sum(axis=1)
  wrong_b = (b.predicted != b.true).sum(axis=1)
  distance = (a.predicted != b.predicted).sum(axis=1)
  changes = []
  for i in np.flatnonzero(distance):
    gain = int(wrong_a[i]) - int(wrong_b[i])
    kind = "better" if gain > 0 else "worse" if gain < 0 else "other"
    changes.append(TextChange(
        kind, a.ids[i], a.texts[i], _named(a.labels, a.predicted[i]),
        _named(a.labels, b.predicted[i]), _named(a.labels, a.true[i]),
        int(distance[i])))
  return sorted(changes, key=lambda change: -change.distance)


# --- Printing ---------------------------------------------------------------


def format_metrics(metrics):
  """The table of metrics: list of lines."""
  table = [["", "A", "B", "B - A", "95% interval", "p"]]
  for name, score in metrics.items():
    row = [name, "%.4f" % score["a"], "%.4f" % score["b"],
           "%+.4f" % score["difference"]]
    if "low" in score:
      row += ["%+.4f to %+.4f" % (score["low"], score["high"]),
              "%.3f" % score["p_value"]]
    table.append(row + [""] * (6 - len(row)))
  return result_table.align(table)


def format_labels(changes):
  """The labels: list of lines."""
  won = sum(change.low > 0 for change in changes)
  lost = sum(change.high < 0 for change in changes)
  lines = ["Labels: %d of %d won, %d lost (the 95%% interval of the difference "
           "excludes 0)" % (won, len(changes), lost), ""]
  table = [["label", "texts", "F1 A", "F1 B", "B - A", "95% interval", ""]]
  for change in changes:
    table.append([
        change.label, str(change.support), "%.3f" % change.f1_a,
        "%.3f" % change.f1_b, "%+.3f" % (change.f1_b - change.f1_a),
        "%+.3f to %+.3f" % (change.low, change.high),
        "won" if change.low > 0 else "lost" if change.high < 0 else ""])
  return lines + result_table.align(table)


def format_texts(changes, num_texts, most):
  """The changed texts: list of lines.

  Args:
    changes: list of `TextChange`.
    num_texts: int, of all that were compared.
    most: int, how many to show.
  """
  counts = collections.Counter(change.kind for change in changes)
  lines = ["Texts: labels of %d of %d changed: %d better, %d worse, %d other" %
           (len(changes), num_texts, counts["better"], counts["worse"],
            counts["other"])]
  for change in changes[:most]:
    lines += ["", "%s  %s: %s" % (change.kind, change.id,
                                  " ".join(change.text.split())),
              "    true %s" % (change.true or "none"),
              "    A    %s" % (change.labels_a or "none"),
              "    B    %s" % (change.labels_b or "none")]
  if len(changes) > most:
    lines += ["", "(%d more: --show_texts=%d shows all)" % (
        len(changes) - most, len(changes))]
  return lines


def compare(path_a, path_b, show_texts=20, num_resamples=1000, seed=0):
  """Compares two runs; the arguments are those of the program.

  Returns:
    list of str, the lines of the report.

  Raises:
    ValueError: a file cannot be read, or they cannot be compared.
  """
  path_a, a = read_predictions(path_a)
  path_b, b = read_predictions(path_b)
  b = check_same_texts(path_a, a, path_b, b)
  changes = compare_texts(a, b)
  lines = ["A  %s" % path_a, "B  %s" % path_b,
           "%d texts, %d labels, %d resamples" % (
               len(a.ids), len(a.labels), num_resamples), ""]
  lines += format_metrics(compare_metrics(a, b, num_resamples, seed)) + [""]
  lines += format_labels(compare_labels(a, b, num_resamples, seed)) + [""]
  return lines + format_texts(changes, len(a.ids), show_texts)


def main(argv):
  if len(argv) != 3:
    raise ValueError("give two runs or prediction files, A and B (got %d)."
                     % (len(argv) - 1))
  if FLAGS.show_texts < 0:
    raise ValueError("--show_texts is %d; it must be 0 or more." %
                     FLAGS.show_texts)
  if FLAGS.num_resamples < 1:
    raise ValueError("--num_resamples is %d; it must be 1 or more." %
                     FLAGS.num_resamples)
  if not 0 <= FLAGS.bootstrap_seed < 2 ** 32:
    raise ValueError("--bootstrap_seed is %d; it must be from 0 to 2^32 - 1." %
                     FLAGS.bootstrap_seed)
  print("\n".join(compare(argv[1], argv[2], FLAGS.show_texts,
                          FLAGS.num_resamples, FLAGS.bootstrap_seed)))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
