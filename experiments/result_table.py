# SPDX-License-Identifier: Apache-2.0
"""Mean and deviation over seeds of many runs, as CSV and as text."""

import collections
import csv
import io
import math
import os

from multilabel.common import atomic_files


# Shown in the text beside the metric that sorts; the CSV has all.
_SHOWN = ("micro_f1", "macro_f1", "macro_average_precision", "test_micro_f1",
          "test_macro_f1", "test_macro_average_precision")
_LOWER_IS_BETTER = ("loss", "error", "ece", "brier")

# settings: {flag: text or None}; runs: list of `run_queue.Run` that finished;
# scores: {metric: (mean, deviation)}, deviation None for one run.
Row = collections.namedtuple("Row", ["settings", "runs", "scores"])


def is_lower_better(metric):
  """Whether a lower value is better; a label's own score is an F1."""
  return "/" not in metric and any(word in metric for word in _LOWER_IS_BETTER)


def check_metric(metric, scores):
  """Raises ValueError, with those there are, if `scores` lacks the metric."""
  if metric not in scores:
    raise ValueError(
        "--metric=%s is not a metric of these runs; choose from: %s. Finished "
        "runs are kept: give another --metric, and the same command "
        "resumes." % (metric, ", ".join(sorted(scores))))


def make_rows(outcomes, metric):
  """Puts the seeds of each variation together.

  Args:
    outcomes: list of `run_queue.Outcome`; failed ones are passed over.
    metric: str, what sorts the rows, the best first, undefined ones last.

  Returns:
    list of `Row`.
  """
  groups = collections.OrderedDict()
  for outcome in outcomes:
    if outcome.failure is None:
      groups.setdefault(tuple(outcome.run.settings.items()), []).append(outcome)
  rows = []
  for group in groups.values():
    group.sort(key=lambda outcome: outcome.run.seed)
    scores = collections.OrderedDict(
        (name, mean_and_deviation([outcome.scores[name] for outcome in group]))
        for name in group[0].scores
        if all(name in outcome.scores for outcome in group))
    rows.append(Row(group[0].run.settings, [outcome.run for outcome in group],
                    scores))
  sign = 1 if is_lower_better(metric) else -1

  def rank(row):
    mean = row.scores.get(metric, (float("nan"),))[0]
    return (1, 0) if math.isnan(mean) else (0, sign * mean)

  return sorted(rows, key=rank)


def mean_and_deviation(values):
  """Mean and sample standard deviation (n - 1), None for a single value."""
  mean = sum(values) / len(values)
  if len(values) < 2:
    return mean, None
  return mean, math.sqrt(sum((value - mean) ** 2 for value in values) /
                         (len(values) - 1))


def format_score(score):
  """`0.812 +- 0.004`, or `0.812` for a single run."""
  mean, deviation = score
  return "%.4f" % mean if deviation is None else "%.4f +- %.4f" % (
      mean, deviation)


def to_csv(rows):
  """The rows as CSV text: settings, n, seeds, `_mean` and `_std` a metric."""
  names = list(rows[0].settings) if rows else []
  for row in rows:
    names += [name for name in row.settings if name not in names]
  metrics = sorted({metric for row in rows for metric in row.scores})
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(names + ["n", "seeds"] + [
      metric + suffix for metric in metrics for suffix in ("_mean", "_std")])
  for row in rows:
    cells = [_cell(row, name) for name in names]
    cells += [len(row.runs), " ".join(str(run.seed) for run in row.runs)]
    for metric in metrics:
      mean, deviation = row.scores.get(metric, (None, None))
      cells += ["" if value is None else "%.6g" % value
                for value in (mean, deviation)]
    writer.writerow(cells)
  return out.getvalue()


def _cell(row, name):
  if name not in row.settings:
    return ""
  value = row.settings[name]
  return "default" if value is None else value


def to_text(rows, metric):
  """The rows as a readable table: list of lines."""
  if not rows:
    return ["No run has finished."]
  names = []
  for row in rows:
    names += [name for name in row.settings if name not in names]
  metrics = [metric] + [name for name in _SHOWN if name != metric and any(
      name in row.scores for row in rows)]
  table = [names + ["n"] + metrics]
  for row in rows:
    table.append([_cell(row, name) for name in names] + [str(len(row.runs))] + [
        format_score(row.scores[name]) if name in row.scores else "-"
        for name in metrics])
  return align(table)


def align(table):
  """Pads the columns of a list of rows of str: list of lines."""
  widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
  return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths))
          .rstrip() for row in table]


def origin(outcomes):
  """Says with what the runs were made: list of lines."""
  done = [outcome for outcome in outcomes if outcome.failure is None]
  lines = []
  for title, values in (
      ("commit", {outcome.commit for outcome in done}),
      ("versions", {", ".join("%s %s" % pair for pair in sorted(
          (outcome.versions or {}).items())) for outcome in done})):
    found = sorted(value for value in values if value)
    if found:
      lines.append("%s: %s" % (title, "; and ".join(found)))
  return lines


def failures(outcomes):
  """Says which runs failed, and how: list of lines."""
  lines = []
  for outcome in outcomes:
    if outcome.failure is not None:
      lines.append("%s %s" % (outcome.run.name, outcome.failure[0]))
      lines += ["    " + line for line in outcome.failure[1:]]
  return lines


def write(output_dir, rows, lines):
  """Writes `results.csv` and `results.txt`, each whole or not at all."""
  atomic_files.write_text(os.path.join(output_dir, "results.csv"),
                          to_csv(rows))
  atomic_files.write_text(os.path.join(output_dir, "results.txt"),
                          "".join(line + "\n" for line in lines))
