# SPDX-License-Identifier: Apache-2.0
"""Sections of the report on the run: training, lengths, settings."""

import datetime
import json
import math
import shlex

import numpy as np

from multilabel import decisions
from multilabel.reporting import charts
from multilabel.reporting import page


_MAX_POINTS = 600
_MAX_BINS = 48

# Keys of an evaluation during training, with their displayed names.
_DEV_METRICS = (("micro_f1", "micro-F1"), ("macro_f1", "macro-F1"),
                ("map", "mAP"), ("macro_average_precision", "mAP"))


def subtitle(run):
  """One line under the title: what was trained, on what, when."""
  settings, facts = run.files.settings, []
  flags = settings.get("flags", {})
  if flags.get("task_name") or flags.get("processor"):
    facts.append("data: %s" % (flags.get("task_name") or flags["processor"]))
  if run.labels:
    facts.append(page.plural(len(run.labels), "label"))
  if "train" in run.files.lengths:
    facts.append(page.plural(_num_texts(run.files.lengths["train"]),
                             "training text"))
  steps = [result["global_step"] for result in run.files.results.values()
           if "global_step" in result]
  if steps:
    facts.append("checkpoint of step %s" % steps[0])
  if run.files.scalars.first_time:
    started = datetime.datetime.fromtimestamp(
        run.files.scalars.first_time, datetime.timezone.utc)
    facts.append("trained on %d %s" % (started.day, started.strftime("%B %Y")))
  return u" \u00b7 ".join(facts)


def training(run):
  """Curves of the loss, the learning rate and the scores on dev."""
  evaluations = _evaluations(run.files.best)
  figures = [_loss_figure(run, evaluations), _dev_figure(run, evaluations)]
  parts = []
  if any(figures):
    parts.append('<div class="figures">%s</div>' % "\n".join(
        filter(None, figures)))
  if not figures[0]:
    parts.append(page.paragraph(
        "No events.out.tfevents.* with the training loss found, so its curve "
        "is not shown."))
  if not figures[1]:
    parts.append(page.paragraph(
        "No best_checkpoint.json with dev scores during training found, so "
        "their curves are not shown."))
  return page.section("training", "Training", *parts)


def _evaluations(best):
  """Returns {key: (steps, values)} of the evaluations during training."""
  found = {}
  for evaluation in (best or {}).get("evaluations") or []:
    step = _number(evaluation.get("step"))
    for key in sorted(evaluation):
      value = _number(evaluation[key])
      if step is not None and value is not None and key != "step":
        steps, values = found.setdefault(key, ([], []))
        steps.append(step)
        values.append(value)
  return found


def _number(value):
  """Returns a finite float, or None."""
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  return float(value) if is_number and math.isfinite(value) else None


def _best_marks(best):
  step = _number((best or {}).get("step"))
  return [] if step is None else [charts.Mark(step, "c4", "-")]


def _loss_figure(run, evaluations):
  """Loss of training and dev over the learning rate; "" without points."""
  scalars = run.files.scalars.values
  if "loss" not in scalars:
    return ""
  steps, losses = _finite(scalars["loss"]).T
  if not len(steps):
    return ""
  # Smoothed before thinning, so that every point contributes to both.
  smoothed = np.stack([steps, _smooth(losses)], axis=1)
  lines = [charts.line(_thin(np.stack([steps, losses], axis=1)).T, "muted", "-",
                       0.7),
           charts.line(_thin(smoothed).T, "c1", "-", 2)]
  legend = [("training", "muted", "solid"),
            ("training, smoothed", "c1", "solid")]
  for key, name, color in (("train_loss", "sample of train", "c3"),
                           ("loss", "dev", "c2")):
    if key in evaluations:
      lines.append(charts.line(evaluations[key], color, "o-"))
      legend.append((name, color, "solid"))
  marks = _best_marks(run.files.best)
  if marks:
    legend.append(("best step", "c4", "solid"))
  panels = [charts.panel(lines, marks=marks, y_label="loss", x_label="step",
                         y_range=(0, _loss_top(losses, evaluations)), height=3)]
  if "learning_rate" in scalars:
    rates = _thin(_finite(scalars["learning_rate"]))
    panels.append(charts.panel([charts.line(rates.T, "c1")], x_label="step",
                               y_label="rate"))
  return page.figure(
      "Loss", charts.draw(panels, "loss", "Loss against the training step",
                          height=310),
      "Below: the learning rate." if len(panels) > 1 else "", legend)


def _loss_top(losses, evaluations):
  """Upper end of the loss axis: a few initial steps may be beyond it."""
  top = np.percentile(losses, 98)
  for key in ("loss", "train_loss"):
    top = max([top] + list(evaluations.get(key, ((), ()))[1]))
  return 1.1 * float(top) or 1.0


def _finite(points):
  points = np.asarray(points, np.float64).reshape(-1, 2)
  return points[np.isfinite(points).all(axis=1)]


def _thin(points):
  """Keeps at most `_MAX_POINTS` rows, the mean of each group of neighbors."""
  if len(points) <= _MAX_POINTS:
    return points
  return np.stack([part.mean(axis=0)
                   for part in np.array_split(points, _MAX_POINTS)])


def _smooth(values):
  """Exponential moving average, without a bias towards 0 at the start."""
  decay = 1 - 2 / (max(5, len(values) / 20) + 1)
  smoothed, total, weight = np.zeros(len(values)), 0., 0.
  for i, value in enumerate(values):
    total = decay * total + (1 - decay) * value
    weight = decay * weight + (1 - decay)
    smoothed[i] = total / weight
  return smoothed


def _rule_of_evaluations(best):
  """How evaluations while training gave labels: a sentence."""
  threshold = (best.get("rule") or {}).get("threshold", 0.5)
  if threshold in decisions.TUNED_THRESHOLDS:
    return "Thresholds: tuned on dev at each evaluation (%s)." % threshold
  return "Labels are chosen by %s." % (
      decisions.DecisionRule(threshold).describe())


def _dev_figure(run, evaluations):
  """Scores on dev during training, with the best step; "" if there are none."""
  best = run.files.best or {}
  shown = list(_DEV_METRICS)
  if best.get("metric") not in [key for key, _ in shown] + ["loss", None]:
    shown.append((best["metric"], str(best["metric"])))
  lines, legend, names = [], [], []
  for key, name in shown:
    if key not in evaluations or name in names:
      continue
    color = ("c1", "c2", "c3", "ink")[len(names)]
    names.append(name)
    lines.append(charts.line(evaluations[key], color, "o-"))
    legend.append((name, color, "solid"))
    if "train_" + key in evaluations:
      lines.append(charts.line(evaluations["train_" + key], color, "--", 1.2))
      legend.append((name + ", sample of train", color, "dashed"))
  if not lines:
    return ""
  caption = _rule_of_evaluations(best)
  if _number(best.get("step")) is not None:
    legend.append(("best step", "c4", "solid"))
    caption += " Best on dev by %s: %s at step %d, %s." % (
        best.get("metric", "its metric"),
        page.number(_number(best.get("value")), 4), best["step"],
        best.get("checkpoint", "its checkpoint"))
  return page.figure(
      "Dev scores during training",
      charts.draw([charts.panel(lines, marks=_best_marks(best), x_label="step",
                                y_range=(0, 1.02))],
                  "dev", "Scores on dev against the training step",
                  height=310), caption, legend)


def lengths(run):
  """How long the texts are, and how many are truncated."""
  found = run.files.lengths
  if not found:
    return page.section("lengths", "Text lengths", page.paragraph(
        "No *.tf_record.index.npy with manifests found, so the lengths are not "
        "shown."))
  most = run.files.settings.get("max_seq_length") or max(
      int(one.tokens.max()) for one in found.values())
  top = max([most] + [int(one.tokens.max()) for one in found.values()])
  width = -(-(top + 1) // _MAX_BINS)
  edges = np.arange(0, top + 1 + width, width)
  steps, legend = [], []
  for (name, one), color in zip(found.items(), ("c1", "c2", "c3")):
    counts = np.histogram(one.tokens, edges)[0]
    steps.append(charts.Steps(edges, 100 * counts / counts.sum(), color,
                              not steps))
    legend.append((name, color, "solid"))
  legend.append(("max_seq_length", "c4", "dashed"))
  in_windows = run.files.settings.get("long_text") == "windows"
  what = "windows" if in_windows else "texts"
  svg = charts.draw(
      [charts.panel(steps=steps, marks=[charts.Mark(most, "c4", "--")],
                    x_label="tokens, including [CLS] and [SEP]",
                    y_label="%% of %s" % what, x_range=(0, 1.03 * top),
                    y_range=(0, None))],
      "lengths", "Fraction of %s by number of tokens" % what, height=250)
  return page.section(
      "lengths", "Text lengths",
      '<div class="figures">%s\n<div>%s</div></div>' % (
          page.figure("Tokens per window" if in_windows else "Tokens per text",
                      svg, _cut_caption(run.files.settings, most), legend),
          _length_table(found, in_windows)))


def _cut_caption(settings, most):
  """Describes how long texts are treated."""
  form = settings.get("long_text", "truncate_head")
  if form == "windows":
    return ("A text of more than %d tokens is split into overlapping windows; "
            "the logits of each label are pooled by their %s." % (
                most, settings.get("window_pooling", "max")))
  kept = {"truncate_head": "their beginning is kept",
          "truncate_tail": "their end is kept",
          "head_tail": "their beginning and their end are kept"}.get(form, form)
  return ("Texts of more than %d tokens are truncated to that length (%s); the "
          "fraction at the line includes them." % (most, kept))


def _num_texts(one):
  return one.manifest.get("num_examples", len(one.tokens))


def _length_table(found, in_windows):
  """Counts and quantiles of each part."""
  rows = []
  for name, one in found.items():
    cells = [page.count(_num_texts(one))]
    if in_windows:
      cells.append(page.count(len(one.tokens)))
    cells.extend(page.count(np.ceil(np.percentile(one.tokens, share)))
                 for share in (50, 95, 100))
    for key in ("num_truncated", "num_empty"):
      counted = one.manifest.get(key)
      cells.append(u"\u2013" if counted is None else "%s (%.1f%%)" % (
          page.count(counted), 100 * counted / max(1, _num_texts(one))))
    rows.append(page.row(name, cells))
  head = ["", "texts"] + (["windows"] if in_windows else []) + [
      "median", "95%", "longest", "cut", "empty"]
  return page.table(head, rows, "short")


def settings(run, command):
  """Settings, versions, the command to repeat the run, all results."""
  stored = run.files.settings
  if not stored:
    return page.section("settings", "Settings", page.paragraph(
        "No model_settings.json found, so settings, versions and command are "
        "not shown."), *_all_results(run))
  parts = []
  written = _command_text(command, stored.get("flags"))
  if written:
    parts.append("<h3>Command to repeat the run</h3>\n"
                 "<pre>%s</pre>" %
                 page.escape(written))
  tables = [("Model", {key: value for key, value in stored.items()
                       if not isinstance(value, dict)}),
            ("Training", stored.get("run")), ("Versions",
                                              stored.get("versions"))]
  for title, values in tables:
    if isinstance(values, dict) and values:
      parts.append(page.details(page.escape(title), _value_table(values)))
  flags = stored.get("flags")
  if isinstance(flags, dict) and flags:
    parts.append(page.details("All flags", _value_table(flags)))
  return page.section("settings", "Settings", *(parts + _all_results(run)))


def _all_results(run):
  return [page.details(
      "All results on %s (%s)" % (part, page.plural(len(values), "value")),
      _value_table(values)) for part, values in run.files.results.items()]


def _value_table(values):
  """A table of names and values, sorted by name; values as JSON."""
  rows = []
  for key in sorted(values):
    value = values[key]
    shown = value if isinstance(value, str) else json.dumps(
        value, ensure_ascii=False)
    # A list of 500 thresholds is already in the table of labels.
    rows.append(page.row(key, [shown if len(shown) <= 100 else
                               shown[:99] + u"\u2026"]))
  return page.table(["name", "value"], rows)


def _command_text(command, flags):
  """The command as text: the given one, or one composed from the flags."""
  if isinstance(command, (list, tuple)):
    words = [shlex.quote(str(word)) for word in command]
    return _wrapped(words)
  if command:
    return str(command)
  if not isinstance(flags, dict) or not flags:
    return None
  words = ["python", "run_multilabel_classifier.py"]
  for name in sorted(flags):
    value = flags[name]
    if isinstance(value, bool):
      words.append("--%s%s" % ("" if value else "no", name))
    elif value is not None:
      if isinstance(value, list):
        value = ",".join(str(item) for item in value)
      words.append(shlex.quote("--%s=%s" % (name, value)))
  return _wrapped(words)


def _wrapped(words):
  """Joins words to lines of at most 78 characters, with shell continuations."""
  lines = [words[0]]
  for word in words[1:]:
    if len(lines[-1]) + len(word) + 3 > 78:
      lines.append("  " + word)
    else:
      lines[-1] += " " + word
  return " \\\n".join(lines)
