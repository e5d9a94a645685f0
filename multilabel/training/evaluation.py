# SPDX-License-Identifier: Apache-2.0
"""Results: thresholds found on dev, scores, predictions, and their files.

`eval_results.txt` and `test_eval_results.txt` hold `key = value` lines, as the
original's; `*_predictions.jsonl` a JSON object per text; `test_results.tsv` a
row of probabilities per text, as the original's; `test_predictions.csv` a row
per text for spreadsheets and pandas.
"""

import collections
import contextlib
import json
import os

from absl import logging
import numpy as np

from multilabel import bootstrap
from multilabel import calibration as calibrations
from multilabel import decisions
from multilabel import metrics as multilabel_metrics
from multilabel import score_curves
from multilabel.common import atomic_files
from multilabel.inference import prediction_writers
from multilabel.storage import checkpoint_restore
from multilabel.storage import event_files
from multilabel.training import dev_evaluation
from multilabel.training import pr_curves
from multilabel.training import scoring
from processors import base


RESULT_FILES = {"dev": "eval_results.txt", "test": "test_eval_results.txt"}
PREDICTION_FILES = {"dev": "eval_predictions.jsonl",
                    "test": "test_predictions.jsonl"}
TEST_RESULTS_FILE = "test_results.tsv"
TEST_TABLE_FILE = "test_predictions.csv"
# Characters of a text with --shorten_texts.
SHORT_TEXT = 200

# Above this many cells, only report.html and compare_runs compute intervals.
MAX_BOOTSTRAP_CELLS = 200000

# Metrics that TensorBoard shows first.
HEADLINE_METRICS = ("loss", "micro_f1", "macro_f1", "macro_average_precision")

# PR curves in TensorBoard: the overall one, and those of this many labels.
MAX_PR_CURVES = 50

# Maximum labels in the log; files have all.
MAX_LOGGED_LABELS = 50

# The lines of the table in the log; the files have all scores.
_TABLE_KEYS = ("micro_f1", "macro_f1", "macro_average_precision",
               "micro_precision", "micro_recall", "subset_accuracy",
               "hamming_loss", "loss", "threshold")

# Outputs of a model on a split: float; bool and float32 [num_texts,
# num_labels]. The last two only with a calibration: logits, and the
# uncalibrated probabilities.
Outputs = collections.namedtuple(
    "Outputs", ["loss", "labels", "probabilities", "logits", "uncalibrated"],
    defaults=[None, None])

# Scores that are reported with and without calibration.
_CALIBRATION_SCORES = ("ece_equal_width", "ece_equal_mass", "brier_score",
                       "log_loss")


def measure(outputs, decision, label_list):
  """All scores of a split.

  Args:
    outputs: `Outputs`.
    decision: `decisions.DecisionRule`.
    label_list: list of str.

  Returns:
    OrderedDict: what `metrics.evaluate` returns, the other scalar
    metrics of that module, and `loss`.
  """
  labels, probabilities = outputs.labels, outputs.probabilities
  scores = multilabel_metrics.evaluate(
      labels, probabilities, label_names=label_list,
      decided=decision.apply(probabilities))
  scores["loss"] = outputs.loss
  for metrics in (
      multilabel_metrics.example_ranking_metrics(labels, probabilities),
      multilabel_metrics.calibration_metrics(labels, probabilities)):
    scores.update((key, value) for key, value in metrics.items()
                  if np.ndim(value) == 0)
  return scores


def metric_names():
  """Names of the scores that can select the best checkpoint: list of str."""
  outputs = Outputs(0.0, np.eye(2, dtype=bool), np.eye(2, dtype=np.float32))
  scores = measure(outputs, decisions.ORIGINAL_RULE, ["a", "b"])
  return sorted(key for key in scores
                if "/" not in key and not key.startswith("num_"))


def full_metric_name(name):
  """A metric's name in `eval_results.txt`; ValueError lists all."""
  name = dev_evaluation.METRIC_ALIASES.get(name, name)
  if name not in metric_names():
    raise ValueError(
        "there is no metric %s; choose from %s, or the short names %s." %
                     (name, ", ".join(metric_names()),
                      ", ".join(sorted(dev_evaluation.METRIC_ALIASES))))
  return name


def run_part(run, records, batch_size, num_labels, window_pooling,
             should_stop=None, with_logits=False):
  """`Outputs` of labelled records; see `scoring.evaluate`."""
  return Outputs(*scoring.evaluate(
      run, records, batch_size, num_labels, window_pooling, should_stop,
      with_logits))


def calibrate(outputs, kind):
  """Finds a calibration on dev.

  Args:
    outputs: `Outputs` of dev, with logits.
    kind: str, one of `calibration.KINDS`.

  Returns:
    `calibration.Calibration`.
  """
  found = calibrations.fit(kind, outputs.labels, outputs.logits)
  logging.info("Calibration on dev: %s, logits multiplied by %s", kind,
               "%.4g" % found.scale if np.ndim(found.scale) == 0 else
               "%.4g to %.4g" % (min(found.scale), max(found.scale)))
  return found


def calibrated(run, outputs, calibration):
  """`Outputs` with calibrated probabilities; None: unchanged."""
  if calibration is None:
    return outputs
  probabilities = np.empty_like(outputs.probabilities)
  for block in score_curves.row_blocks(*probabilities.shape):
    probabilities[block] = scoring.calibrated_probabilities(
        run, outputs.logits[block], calibration)
  return outputs._replace(probabilities=probabilities,
                          uncalibrated=outputs.probabilities)


def dev_scores(outputs, label_list, prefix="",
               decision=decisions.ORIGINAL_RULE):
  """`dev_evaluation.Evaluation` of an evaluation during training.

  Args:
    outputs: `Outputs`.
    label_list: list of str.
    prefix: str, before each name: "train_" for a sample of train.
    decision: `decisions.DecisionRule`.
  """
  scores = measure(outputs, decision, label_list)
  values = {prefix + key: float(value) for key, value in scores.items()
            if "/" not in key and not key.startswith("num_")}
  summaries = [event_files.scalar_summary(
      {scalar_tag(key[len(prefix):], bool(prefix)): value
       for key, value in values.items() if np.isfinite(value)})]
  if not prefix:
    summaries.extend(_pr_curves(outputs, label_list))
  return dev_evaluation.Evaluation(values, summaries)


def scalar_tag(name, of_train=False):
  """The tag of a metric in TensorBoard, which shows tags in their order.

  The headline metrics of dev come first, beside `loss`; the rest below.
  """
  if of_train:
    return "train/" + name
  return ("dev/" if name in HEADLINE_METRICS else "more_dev/") + name


def _pr_curves(outputs, label_list):
  """Summaries of TensorBoard's PR-curve page: all cells, then each label.

  A label's curve has its name, so curves of two runs are comparable.
  """
  yield pr_curves.pr_curve_summary(
      "pr_curves/all", outputs.labels.ravel(), outputs.probabilities.ravel(),
      display_name="all labels")
  for number, label in enumerate(label_list[:MAX_PR_CURVES]):
    yield pr_curves.pr_curve_summary(
        "pr_curves/label/%s" % label, outputs.labels[:, number],
        outputs.probabilities[:, number], display_name=label)


def decide(outputs, rule, label_list):
  """`DecisionRule` of an evaluation during training.

  Args:
    outputs: `Outputs` of dev.
    rule: dict of `run_setup.evaluation_rule`; with a kind of tuning, the
      thresholds are tuned on these outputs.
    label_list: list of str.
  """
  decision = decisions.DecisionRule(
      0.5, rule["top_k"], rule["always_one_label"])
  if rule["threshold"] in decisions.TUNED_THRESHOLDS:
    return tune(outputs, decision, rule["threshold"], label_list,
                rule["min_precision"], is_quiet=True)
  return decision._replace(thresholds=rule["threshold"])


def is_silent(outputs, decision):
  """Whether no label is given, as no probability is high enough."""
  if decision.always_one_label:
    return False
  if decision.is_by_text:
    return not decision.apply(outputs.probabilities).any()
  return bool(np.all(
      outputs.probabilities.max(axis=0) <
      np.asarray(decision.thresholds, outputs.probabilities.dtype)))


def warn_if_silent(part, outputs, decision):
  """Says that F1 is 0 for want of a probability that is high enough.

  Returns:
    bool, whether that is the case.
  """
  silent = is_silent(outputs, decision)
  if silent:
    logging.warning(
        "No probability on %s is high enough for a label (%s; the highest "
        "probability is %.4g), so no label is predicted and F1 is 0; "
        "--threshold=tune finds a threshold on dev.", part,
        decision.describe(), outputs.probabilities.max())
  return silent


def tune(outputs, decision, kind, label_list, min_precision=None,
         is_quiet=False):
  """Finds thresholds on dev.

  Args:
    outputs: `Outputs` of dev.
    decision: `DecisionRule`, whose other parts are kept.
    kind: one of `decisions.TUNED_THRESHOLDS`. "tune": one threshold that
      maximizes micro-F1; "tune_macro": macro-F1; "tune_samples": the mean F1
      per text; "tune_per_label": one per label that maximizes its F1, shrunk
      towards the global one if the label has few positives.
    label_list: list of str.
    min_precision: float or None, minimum precision on dev: micro, or a label's.
    is_quiet: bool, whether to log nothing.

  Returns:
    `DecisionRule`.
  """
  warn = (lambda *unused_args: None) if is_quiet else logging.warning
  if kind == "tune":
    found = decisions.find_global_threshold(
        outputs.labels, outputs.probabilities, min_precision)
    threshold = float(found["threshold"])
    if not outputs.labels.any():
      warn("dev has no labels at all: the threshold stays %.4g",
                      threshold)
    if not found["precision_reached"]:
      warn("no threshold reaches --min_precision=%s on dev; %.4g comes "
           "closest", min_precision, threshold)
    return decision._replace(thresholds=threshold)
  if kind in ("tune_macro", "tune_samples"):
    find = (decisions.find_macro_threshold if kind == "tune_macro" else
            decisions.find_samples_threshold)
    found = find(outputs.labels, outputs.probabilities)
    if found["fell_back"]:
      warn("dev has no labels at all: the threshold stays %.4g",
                      found["threshold"])
    return decision._replace(thresholds=found["threshold"])
  found = decisions.find_label_thresholds(
      outputs.labels, outputs.probabilities, min_precision=min_precision,
      label_names=label_list)
  for names, words in (
      (found["fallback_labels"], "no positive on dev; their threshold is the "
       "global one, %.4g" % found["global_threshold"]),
      (found["precision_not_reached"], "no threshold with --min_precision=%s; "
       "theirs comes nearest" % min_precision)):
    if names:
      warn("Labels with %s: %s", words,
                      checkpoint_restore.some_names(names, MAX_LOGGED_LABELS))
  return decision._replace(
      thresholds=[float(value) for value in found["thresholds"]])


def results(outputs, decision, label_list, calibration=None):
  """The lines of a results file, as OrderedDict of key to value."""
  result = measure(outputs, decision, label_list)
  if calibration is not None:
    result["calibration"] = calibration.kind
    before = multilabel_metrics.calibration_metrics(outputs.labels,
                                                    outputs.uncalibrated)
    result.update((key + "_uncalibrated", before[key])
                  for key in _CALIBRATION_SCORES)
  if np.ndim(decision.thresholds):
    result["threshold"] = "one per label"
    result.update(("threshold/" + label, value) for label, value in zip(
        label_list, decision.thresholds))
  else:
    result["threshold"] = decision.thresholds
  if decision.top_k is not None:
    result["top_k"] = decision.top_k
  if decision.always_one_label:
    result["always_one_label"] = True
  if decision != decisions.ORIGINAL_RULE:
    plain = multilabel_metrics.evaluate(outputs.labels, outputs.probabilities,
                                        0.5, label_list)
    for key in list(plain):
      # A label may be named like a score.
      if "/" not in key and "average" not in key and (
          key.endswith(("_f1", "_precision", "_recall")) or
          key in ("subset_accuracy", "hamming_loss")):
        result[key + "_at_0.5"] = plain[key]
  if outputs.labels.size <= MAX_BOOTSTRAP_CELLS:
    result.update(_intervals(outputs, decision))
  for name, names in multilabel_metrics.undefined_labels(
      outputs.labels, label_list).items():
    if names and name != "macro_f1":
      result["left_out_of_" + name] = ", ".join(names)
  return result


def _intervals(outputs, decision):
  """Keys `<score>_low` and `<score>_high`: 95% bootstrap intervals."""
  is_cut = not (decision.is_by_text or decision.top_k is not None or
                decision.always_one_label)
  found = bootstrap.bootstrap_intervals(
      outputs.labels, outputs.probabilities,
      decision.thresholds if is_cut else 0.5)
  if not is_cut:
    # Labels given as probabilities 1: so any rule's F1 has an interval.
    found.update((key, interval) for key, interval in
                 bootstrap.bootstrap_intervals(
                     outputs.labels, decision.apply(outputs.probabilities)
                     .astype(np.float32)).items()
                 if key != "macro_average_precision")
  for name, interval in found.items():
    yield name + "_low", interval["low"]
    yield name + "_high", interval["high"]


def write_results(part, result, global_step, output_dir):
  """Writes eval_results.txt and .json, or test_eval_results.txt and .json.

  The JSON has the same keys; an undefined score is null there.

  Args:
    part: "dev" or "test".
    result: what `results` returned.
    global_step: int, the step of the weights.
    output_dir: str.
  """
  result = dict(result, global_step=global_step)
  path = os.path.join(output_dir, RESULT_FILES[part])
  atomic_files.write_text(
      os.path.splitext(path)[0] + ".json", atomic_files.to_json(
          {key: _json_value(value) for key, value in result.items()}))
  atomic_files.write_text(path, "".join(
      "%s = %s\n" % (key, result[key]) for key in sorted(result)))
  logging.info("***** Evaluation on %s: %s *****", part, path)


def written_files(settings):
  """Names of the files that a run with these settings writes: list of str."""
  names = []
  for part, is_wanted in (("dev", settings.do_eval),
                          ("test", settings.do_test)):
    if is_wanted:
      text = RESULT_FILES[part]
      names += [text, os.path.splitext(text)[0] + ".json"]
  if settings.do_eval:
    names.append(PREDICTION_FILES["dev"])
  if settings.do_predict:
    names += [PREDICTION_FILES["test"], TEST_RESULTS_FILE, TEST_TABLE_FILE]
  return names


def _json_value(value):
  """A score as JSON can hold it."""
  if isinstance(value, (str, bool)):
    return value
  value = value.item() if isinstance(value, np.generic) else value
  return None if value != value else value


def log_table(results_of_parts):
  """Logs the headline scores, with the splits side by side.

  Args:
    results_of_parts: {"dev", "test": what `results` returned}, those there are.
  """
  parts = [part for part in ("dev", "test") if part in results_of_parts]
  rows = [[""] + parts] + [
      [key] + [_cell(results_of_parts[part], key) for part in parts]
      for key in _TABLE_KEYS]
  widths = [max(map(len, column)) for column in zip(*rows)]
  for row in rows:
    logging.info("  %s", "  ".join(
        cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _cell(result, key):
  """A score with four digits, and its interval if there is one."""
  value = result[key]
  if isinstance(value, str):
    return value
  if key + "_low" not in result:
    return "%.4f" % value
  return "%.4f (%.4f to %.4f)" % (
      value, result[key + "_low"], result[key + "_high"])


class PredictionWriter(object):
  """Writes predictions beside their texts; the files appear when complete."""

  def __init__(self, part, decision, label_list, output_dir, table=False,
               probabilities=decisions.ALL, shorten_texts=False):
    """Opens the files; a context manager.

    Args:
      part: "dev" or "test".
      decision: `DecisionRule`.
      label_list: list of str.
      output_dir: str.
      table: bool, also write test_results.tsv and test_predictions.csv.
      probabilities: see `decisions`; the tables need all of them, so otherwise
        they are not written, and earlier ones are removed.
      shorten_texts: bool, whether texts are truncated to `SHORT_TEXT`
        characters.
    """
    self._probabilities = probabilities
    self._shorten_texts = shorten_texts
    self._stale = []
    if table and probabilities != decisions.ALL:
      table, self._stale = False, [
          os.path.join(output_dir, name)
          for name in (TEST_RESULTS_FILE, TEST_TABLE_FILE)]
    self._decision = decision
    self._label_list = label_list
    names = [PREDICTION_FILES[part]] + (
        [TEST_RESULTS_FILE, TEST_TABLE_FILE] if table else [])
    self.paths = [os.path.join(output_dir, name) for name in names]
    self._files = []
    self._table = None
    self._stack = None

  def write(self, examples, probabilities):
    """Writes some texts: an iterator of examples, float32 `[n, num_labels]`."""
    above = self._decision.apply(probabilities)
    # The array comes first: it ends the loop before another example is
    # consumed.
    for row, chosen, example in zip(probabilities, above, examples):
      self._files[0].write(
          prediction_line(example, row, chosen, self._label_list,
                          self._probabilities, self._shorten_texts))
      if len(self._files) > 1:
        self._files[1].write(
            u"\t".join("%.8g" % value for value in row) + u"\n")
        self._write_cells(example, row, chosen)

  def _write_cells(self, example, probabilities, chosen):
    """Writes a row of test_predictions.csv, and the header before the first."""
    text_b = getattr(example, "text_b", None)
    true_labels = base.example_labels(example)
    if self._table is None:
      self._table = _Table(self._files[2], self._label_list,
                           text_b is not None, true_labels is not None)
    texts = [_shortened(text, self._shorten_texts)
             for text in (example.text_a, text_b or "")]
    self._table.write(
        str(example.guid), texts,
        [label for label, is_on in zip(self._label_list, chosen) if is_on],
        true_labels, probabilities)

  def __enter__(self):
    with contextlib.ExitStack() as stack:
      for path in self.paths:
        self._files.append(stack.enter_context(atomic_files.replacing(
            path, text=not path.endswith(".csv"))))
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error):
    for path in self._stale if error[0] is None else ():
      logging.info(
          "%s is not written, since it would contain all probabilities", path)
      if os.path.exists(path):
        os.remove(path)
    return self._stack.__exit__(*error)


class _Table(object):
  """The rows of test_predictions.csv; unknown cells are empty.
  """

  def __init__(self, stream, label_list, is_pair, has_truth):
    self._write_cells = prediction_writers.cell_writer(stream, ",")
    self._join = prediction_writers.labels_joiner(label_list)
    self._label_list = label_list
    self._is_pair, self._has_truth = is_pair, has_truth
    self._write_cells(prediction_writers.column_names(
        label_list, is_pair, has_truth))

  def write(self, name, texts, labels, true_labels, probabilities):
    """Writes a row; the texts are two."""
    if not self._is_pair and texts[1]:
      texts = [u" ||| ".join(texts)]  # as in the JSON lines
    cells = [name] + texts[:1 + self._is_pair] + [self._join(labels)]
    if self._has_truth:
      true_labels = frozenset(true_labels or ())
      cells.append(self._join([label for label in self._label_list
                               if label in true_labels]))
    self._write_cells(cells, probabilities)


def write_predictions(part, examples, outputs, decision, label_list,
                      output_dir, probabilities=decisions.ALL,
                      shorten_texts=False):
  """Writes the prediction file of a part that has been evaluated."""
  with PredictionWriter(part, decision, label_list, output_dir,
                        probabilities=probabilities,
                        shorten_texts=shorten_texts) as writer:
    writer.write(iter(examples), outputs.probabilities)


def _shortened(text, is_wanted=True):
  """A text, truncated if requested."""
  return (text if not is_wanted or len(text) <= SHORT_TEXT else
          text[:SHORT_TEXT - 1] + u"\u2026")


def prediction_line(example, probabilities, chosen, label_list,
                    which=decisions.ALL, shorten_texts=False):
  """One line of a prediction file; `which` as in `decisions`."""
  text = example.text_a
  if getattr(example, "text_b", None) is not None:
    text += " ||| " + example.text_b
  record = collections.OrderedDict([
      ("id", example.guid),
      ("text", _shortened(text, shorten_texts)),
      ("labels", [label for label, is_on in zip(label_list, chosen) if is_on]),
  ])
  true_labels = base.example_labels(example)
  if true_labels is not None:
    true_labels = set(true_labels)
    record["true_labels"] = [label for label in label_list
                             if label in true_labels]
  record["probabilities"] = collections.OrderedDict(
      (label_list[i], round(float(probabilities[i]), 6))
      for i in decisions.columns(probabilities, chosen, which))
  # Ids of a program's own examples may have any type.
  line = json.dumps(record, ensure_ascii=False, default=str)
  # A lone surrogate, which a program's own examples may hold, is not UTF-8.
  return line.encode("utf-8", "replace").decode("utf-8") + u"\n"
