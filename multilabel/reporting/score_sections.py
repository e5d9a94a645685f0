# SPDX-License-Identifier: Apache-2.0
"""Sections of the report on the model: scores, threshold, calibration."""

import numpy as np

from multilabel import decisions as decision_rules
from multilabel import metrics
from multilabel.reporting import analysis
from multilabel.reporting import charts
from multilabel.reporting import page
from multilabel.reporting import scored


_HEADLINES = (
    ("micro_f1", "micro-F1", "all decisions counted together"),
    ("macro_f1", "macro-F1", "mean over labels; rare labels count the same"),
    ("macro_average_precision", "mAP",
     "how well labels rank texts, without a threshold"))

_DECISION_ROWS = (
    ("micro_f1", "micro-F1"), ("micro_precision", "micro precision"),
    ("micro_recall", "micro recall"), ("macro_f1", "macro-F1"),
    ("macro_precision", "macro precision"), ("macro_recall", "macro recall"),
    ("samples_f1", "F1 per text, mean (without labels: 0)"),
    ("samples_f1_present", "F1 per text with a true or predicted label, mean"),
    ("subset_accuracy", "texts with all labels right"),
    ("hamming_loss", "Hamming loss"))

_RANKING_ROWS = (
    ("macro_average_precision", "mAP (macro average precision)"),
    ("micro_average_precision", "micro average precision"),
    ("macro_roc_auc", "macro ROC AUC"), ("micro_roc_auc", "micro ROC AUC"))

_CALIBRATION_ROWS = (
    ("ece_equal_width", "calibration error, bins of equal width"),
    ("ece_equal_mass", "calibration error, bins of equal mass"),
    ("brier_score", "Brier score"), ("log_loss", "log loss per decision"))

# CSS names of matplotlib's line styles.
_CSS_FORMS = {"-": "solid", "--": "dashed", ":": "dotted"}


def summary(run):
  """Headline scores with intervals, and a summary in words."""
  if run.main is None:
    return page.section("summary", "Summary", *[
        page.paragraph(scored.unscored_reason(run.files, part))
        for part in ("test", "dev")])
  parts = [page.paragraph(_in_words(run), "lead"),
           _weak_labels_html(run.main),
           '<div class="cards">%s</div>' % "".join(
               _card(run, *headline) for headline in _HEADLINES)]
  if run.main.stored_intervals:
    parts.append(page.note(
        "Ranges are 95%% bootstrap intervals (%s resamples of the texts): how "
        "much the score would vary with other texts of the same kind." %
        page.count(analysis.num_resamples(run.main.predictions.true.size))))
  else:
    parts.append(page.note(
        "With this many texts and labels, the scores hardly depend on chance, "
        "so no intervals are computed."))
  parts.extend(_cautions(run))
  parts.append(_score_table(run))
  return page.section("summary", "Summary", *parts)


def _in_words(run):
  part, scores = run.main, run.main.stored
  return (
      "On %s%s, %.1f%% of the predicted labels are correct (precision), and "
      "the model finds %.1f%% of the true labels (recall). %.1f%% of the texts "
      "get exactly their labels." % (
          page.plural(len(part.predictions.ids), part.name + " text"),
          ", not seen in training" if part.name == "test" else "",
          100 * scores["micro_precision"], 100 * scores["micro_recall"],
          100 * scores["subset_accuracy"]))


def _weak_labels_html(part):
  """Names the labels with the lowest F1 and what is wrong with each."""
  support = part.stored["support"]
  order = [i for i in scored.label_order(part) if support[i]]
  title, frequent = "Weakest labels", [i for i in order if support[i] >= 10]
  if len(frequent) >= 3:
    # Scores from a few texts are mostly chance.
    order, title = frequent, "Weakest labels with 10 texts or more"
  if len(order) < 2:
    return ""
  weak = []
  for i in reversed(order[-3:]):
    if part.stored["f1"][i] == 1:
      continue
    weak.append("%s (F1 %s: %d of %s missed, %d wrongly predicted)" % (
        page.isolate(part.predictions.labels[i]),
        page.number(part.stored["f1"][i], 2), part.stored["fn"][i],
        page.plural(support[i], "text"), part.stored["fp"][i]))
  return "<p>%s: %s.</p>" % (title, "; ".join(weak)) if weak else ""


def _card(run, measure, name, meaning):
  """One headline score: value, interval on a scale, its value elsewhere."""
  part = run.main
  value, interval = _value(part, measure, is_half=False)
  scale = '<b style="left:calc(%.2f%% - 1px)"></b>' % (100 * value)
  ranged = ""
  if interval:
    scale = '<i style="left:%.2f%%;width:%.2f%%"></i>' % (
        100 * interval[0], 100 * (interval[1] - interval[0])) + scale
    ranged = "%s to %s" % tuple(page.number(x) for x in interval)
  others = []
  if not run.is_plain and measure != "macro_average_precision":
    others.append("%s at threshold 0.5" % page.number(
        _value(part, measure, is_half=True)[0]))
  for other in run.parts.values():
    if other is not part:
      others.append("%s on %s" % (
          page.number(_value(other, measure, is_half=False)[0]), other.name))
  return (
      '<div class="card"><div class="name">%s on %s</div><div class="value">%s'
      '</div><div class="range">%s</div><div class="scale">%s</div>'
      '<div class="other">%s</div><div class="other">%s</div></div>' % (
          page.escape(name), part.name, page.number(value), ranged,
          "" if np.isnan(value) else scale,
          page.escape(u" \u00b7 ".join(others)),
          page.escape(meaning)))


def _value(part, measure, is_half):
  """Returns (value, (low, high) or None) of a measure."""
  scores = part.half if is_half else part.stored
  intervals = part.half_intervals if is_half else part.stored_intervals
  value = (scores[measure] if measure in scores else part.ranking[measure])
  interval = intervals.get(measure)
  if interval is None or np.isnan(interval[0]):
    return value, None
  return value, interval


def _cautions(run):
  """Notes that readers should know before trusting a score."""
  notes = []
  kind = run.files.settings.get("threshold_kind", "fixed")
  if kind != "fixed":
    notes.append("The thresholds were tuned on dev, so the dev scores at the "
                 "stored thresholds are slightly optimistic.")
  for part in run.parts.values():
    lacking = [run.labels[i] for i in part.ranking["labels_without_positive"]]
    if lacking:
      notes.append(
          "No %s text has the label%s %s: excluded from mAP, counted as F1 0 "
          "in macro-F1." % (part.name, "" if len(lacking) == 1 else "s",
                         _shortened(lacking)))
    unlabelled = part.predictions.num_unlabelled
    if unlabelled:
      notes.append("%s of %s have no true labels and are not counted." % (
          page.plural(unlabelled, "text"), part.name))
  if run.main.name == "dev":
    notes.append(scored.unscored_reason(run.files, "test") +
                 " The model was selected on dev, so a separate test set would "
                 "give a fairer estimate.")
  elif "dev" not in run.parts:
    notes.append(scored.unscored_reason(run.files, "dev"))
  return [page.note(text) for text in notes]


def _shortened(names, most=5):
  more = len(names) - most
  return ", ".join(names[:most]) + (" and %d more" % more if more > 0 else "")


def _score_table(run):
  """All scores, one column per split and threshold."""
  columns = []
  for part in run.parts.values():
    if not run.is_plain:
      columns.append(("%s, %s" % (part.name, run.describe_rule()), part, False))
    columns.append((part.name + ", threshold 0.5", part, not run.is_plain))
  rows = []
  for measure, name in _DECISION_ROWS + _RANKING_ROWS:
    rows.append(page.row(name, [
        _with_interval(*_value(part, measure, is_half))
        for _, part, is_half in columns]))
  for measure, name in _CALIBRATION_ROWS:
    rows.append(page.row(name, [page.number(part.calibration[measure], 4)
                                for _, part, _ in columns]))
  rows.append(page.row("texts", [page.count(len(part.predictions.ids))
                                 for _, part, _ in columns]))
  return page.table([""] + [title for title, _, _ in columns], rows,
                    "wide stick scores")


def _with_interval(value, interval):
  if interval is None:
    return page.number(value)
  return u"%s (%s\u2013%s)" % tuple(
      page.number(x) for x in (value,) + tuple(interval))


def decisions(run):
  """The choice of the threshold, and the calibration."""
  if run.main is None:
    return page.section("cut", "Threshold and calibration",
                        page.paragraph(scored.unscored_reason(
                            run.files, "test")))
  return page.section(
      "cut", "Threshold and calibration",
      '<div class="figures">%s\n%s</div>' % (_threshold_figure(run),
                                             _reliability_figure(run)))


def _threshold_figure(run):
  """Micro precision, recall and F1 against one threshold for all labels."""
  lines, legend = [], []
  for part in run.parts.values():
    curve = analysis.threshold_curve(part.predictions.true,
                                     part.predictions.probabilities)
    drawn = [("f1", "F1 on " + part.name, "c1", "-", 2.2),
             ("precision", "precision on " + part.name, "c2", "--", 1.2),
             ("recall", "recall on " + part.name, "c3", ":", 1.6)]
    if part is not run.main:
      drawn = [("f1", "F1 on " + part.name, "muted", "--", 1.2)]
    for field, name, color, form, width in drawn:
      lines.append(charts.line((curve.thresholds, getattr(curve, field)),
                               color, form, width))
      legend.append((name, color, _CSS_FORMS[form]))
  marks, caption = _draw_cut(run, lines, legend)
  caption += (
      " Further right, the model predicts fewer labels, and more of them are "
      "correct; further left, it finds more of the true labels.")
  return page.figure(
      "Scores against the threshold (micro)",
      charts.draw([charts.panel(lines, marks=marks, x_label="threshold",
                                x_range=(0, 1), y_range=(0, 1.02))],
                  "cut", "Micro precision, recall and F1 at thresholds from 0 "
                  "to 1", height=280), caption, legend)


def _draw_cut(run, lines, legend):
  """Adds the run's threshold to the figure; returns (marks, caption)."""
  marks = [charts.Mark(0.5, "muted", ":")]
  if not run.is_known:
    return marks, "The threshold of this run is not known."
  if run.rule.is_by_text:
    return marks, ("Curves: one threshold for all labels. The run has none: it "
                   "gives each text the labels of the highest expected F1.")
  kind = ("tuned on dev" if run.files.settings.get("threshold_kind") in
          decision_rules.TUNED_THRESHOLDS else "fixed")
  values = np.atleast_1d(np.asarray(run.rule.thresholds, np.float64))
  if not np.ndim(run.rule.thresholds):
    marks.append(charts.Mark(values[0], "c4", "-"))
    legend.append(("chosen cut", "c4", "solid"))
    return marks, "The chosen threshold is %.3g (%s)." % (values[0], kind)
  lines.append(charts.line((values, np.full(len(values), 0.02)), "c4", "o", 5))
  legend.append(("each label's own threshold", "c4", "dot"))
  return marks, (
      "Curves: one threshold for all labels. This run has one threshold per "
      "label (%s), from %.3g to %.3g." % (kind, values.min(), values.max()))


def _reliability_figure(run):
  """Observed frequency against predicted probability, and its histogram."""
  lines = [charts.line(([0, 1], [0, 1]), "muted", "--", 1)]
  steps, legend, captions = [], [("perfect", "muted", "dashed")], []
  for part, color in zip(run.parts.values(), ("c1", "c2")):
    curve = metrics.reliability_curve(
        part.predictions.true, part.predictions.probabilities,
        analysis.NUM_BINS)
    filled = curve["count"] > 0
    lines.append(charts.line((curve["mean_probability"][filled],
                              curve["positive_rate"][filled]), color, "o-"))
    if part is run.main:
      steps.append(charts.Steps(np.linspace(0, 1, analysis.NUM_BINS + 1),
                                curve["count"], color, True))
    legend.append((part.name, color, "solid"))
    captions.append("%s on %s" % (page.number(
        part.calibration["ece_equal_width"], 4), part.name))
  caption = (
      "Where the model says 70%%, about 70%% should be true. Expected "
      "calibration error: %s (%d bins of equal width, all labels together). "
      "Below: number of decisions on %s at each probability." % (
          ", ".join(captions), analysis.NUM_BINS, run.main.name))
  return page.figure(
      "Reliability of the probabilities",
      charts.draw(
          [charts.panel(lines, y_label="fraction that is true", x_range=(0, 1),
                        y_range=(0, 1.02), height=3.2),
           charts.panel(steps=steps, x_label="probability", x_range=(0, 1),
                        y_label="decisions", log_y=True)],
          "reliability", "Fraction of true labels against the probability",
          height=330), caption, legend)
