# SPDX-License-Identifier: Apache-2.0
"""Sections of the report on labels: scores, curves, mistakes."""

import numpy as np

from multilabel.reporting import analysis
from multilabel.reporting import charts
from multilabel.reporting import page
from multilabel.reporting import scored


# Labels of a matrix, and pairs named below it.
_MATRIX_LABELS = 25
_PAIRS = 12

# Mistakes of each kind per label, and the size of all of them in bytes.
_MISTAKES = 10
_MISTAKES_SIZE = 1600000
_SHOWN_TEXT = 300

_HEAD = ["label", "F1", "texts", "precision", "recall", "AP", "missed", "false",
         "threshold"]


def labels(run):
  """F1 of each label, sorted, with the counts behind it."""
  part = run.main
  if part is None:
    return page.section("labels", "Labels", page.paragraph(
        scored.unscored_reason(run.files, "test")))
  order = scored.label_order(part)
  top, bottom = scored.top_and_bottom(order)
  other = run.parts.get("dev") if part.name == "test" else None
  head = _HEAD + (["F1 on dev"] if other else [])
  thresholds = run.thresholds()

  def make_table(columns, css="scroll", is_searched=False):
    return page.table(
        head, [_label_row(part, other, thresholds, i, is_searched)
               for i in columns], "wide stick labels", css)

  parts = [page.note(
      "On %s, sorted by F1. AP is the average precision, which needs no "
      "threshold. texts: number of texts with the label; missed: how many of "
      "those the model misses; false: texts that get the label but should "
      "not." % part.name)]
  if not bottom:
    parts.append(make_table(top))
  else:
    parts.append("<h3>The %d best</h3>" % len(top))
    parts.append(make_table(top))
    parts.append("<h3>The %d worst</h3>" % len(bottom))
    parts.append(make_table(bottom))
    parts.append("<h3>All %s</h3>" % page.plural(len(order), "label"))
    parts.append(page.search_box("Find a label", "#all-labels tbody tr"))
    parts.append('<div id="all-labels">%s</div>' %
                 make_table(order, "scroll tall", True))
  return page.section("labels", "Labels", *parts)


def _label_row(part, other, thresholds, i, is_searched):
  """One label: name, F1 as a bar, the other numbers."""
  scores, name = part.stored, part.predictions.labels[i]
  f1 = float(scores["f1"][i])
  is_seen = scores["support"][i] > 0
  # F1 is meaningless for a label that no text has.
  bar = ('<td class="bar"><i style="width:%.1f%%"></i>%s</td>' % (
      70 * f1, page.number(f1)) if is_seen else
         '<td class="bar">\u2013</td>')
  cells = [page.count(scores["support"][i]),
           page.number(scores["precision"][i]),
           page.number(scores["recall"][i] if is_seen else None),
           page.number(part.ranking["average_precision"][i]),
           page.count(scores["fn"][i]), page.count(scores["fp"][i]),
           page.number(thresholds[i])]
  if other:
    cells.append(page.number(other.stored["f1"][i]
                             if other.stored["support"][i] else None))
  return '<tr%s><th scope="row" class="name">%s</th>%s%s</tr>' % (
      ' data-name="%s"' % page.escape(name) if is_searched else "",
      page.isolate(name), bar, "".join("<td>%s</td>" % cell for cell in cells))


def curves(run):
  """Precision-recall curves: all labels together, and each of them."""
  part = run.main
  if part is None:
    return page.section("curves", "Precision and recall", page.paragraph(
        scored.unscored_reason(run.files, "test")))
  top, bottom = scored.top_and_bottom(scored.label_order(part))
  parts = ['<div class="figures">%s\n%s</div>' % (
      _pooled_figure(run), _support_figure(part))]
  for title, columns in (("Each label" if not bottom else
                          "The %d labels with the best F1" % len(top), top),
                         ("The %d with the worst" % len(bottom), bottom)):
    if columns:
      parts.append("<h3>%s</h3>" % title)
      parts.append(_small_curves(part, columns))
  parts.append(page.note(
      "x: recall, y: precision, both from 0 to 1. The dot marks the decisions "
      "of this run (no dot: the label is never predicted); AP is the area "
      "under the curve."))
  return page.section("curves", "Precision and recall", *parts)


def _pooled_figure(run):
  """The curve of all decisions together, for each split."""
  lines, legend = [], []
  for part, color, form in zip(run.parts.values(), ("c1", "c3"), ("-", "--")):
    points = analysis.pooled_pr_points(part.predictions.true,
                                       part.predictions.probabilities)
    if points is None:
      continue
    lines.append(charts.line(points, color, form, 2))
    legend.append(("%s, average precision %s" % (part.name, page.number(
        part.ranking["micro_average_precision"])), color,
                   "solid" if form == "-" else "dashed"))
  if not lines:
    return page.paragraph("No text has a label, so there is no curve.")
  scores = run.main.stored
  lines.append(charts.line(([scores["micro_recall"]],
                            [scores["micro_precision"]]), "c2", "o", 8))
  legend.append(("the run's decisions on " + run.main.name, "c2", "dot"))
  return page.figure(
      "All labels together",
      charts.draw([charts.panel(lines, x_label="recall", y_label="precision",
                                x_range=(0, 1.01), y_range=(0, 1.02))],
                  "curve", "Precision against recall, all labels together",
                  height=270), "", legend)


def _support_figure(part):
  """Whether the labels with low scores are those with few texts."""
  seen = part.stored["support"] > 0
  points = part.stored["support"][seen], part.stored["f1"][seen]
  return page.figure(
      "F1 against the number of texts",
      charts.draw([charts.panel([charts.line(points, "c1", "o", 6)],
                                x_label="%s texts with the label" % part.name,
                                y_label="F1", y_range=(0, 1.02), log_x=True)],
                  "support", "F1 of each label against its number of texts",
                  height=270),
      "One dot per label. A low dot on the left may lack examples; a low dot "
      "on the right may be a hard label, or one that is annotated "
      "inconsistently.",
      [("label", "c1", "dot")])


def _small_curves(part, columns):
  """A grid of small curves with the labels' names below."""
  found = analysis.label_pr_points(part.predictions.true,
                                   part.predictions.probabilities, columns)
  smalls = []
  for i, points in zip(columns, found):
    if points is None:
      continue
    dot = None
    if part.stored["tp"][i] + part.stored["fp"][i]:
      dot = part.stored["recall"][i], part.stored["precision"][i]
    smalls.append('<figure>%s%s<span class="note">AP %s</span></figure>' % (
        charts.draw_small(
            points, dot,
            "Precision-recall curve with average precision %s" % page.number(
                part.ranking["average_precision"][i])),
        page.isolate(part.predictions.labels[i]),
        page.number(part.ranking["average_precision"][i])))
  return '<div class="smalls">%s</div>' % "\n".join(smalls)


def together(run):
  """Which labels occur together, and which are predicted instead of which."""
  part = run.main
  if part is None:
    return page.section("together", "Labels together", page.paragraph(
        scored.unscored_reason(run.files, "test")))
  support = part.stored["support"]
  columns = _first_columns(support)
  parts = ["<h3>Which labels occur together</h3>",
           page.note(
               "Of the %s texts with the label of the row, the percentage that "
               "also have the label of the column.%s" % (
                   part.name, _selection("most frequent", support)))]
  if len(columns) > 1:
    parts.append(_co_occurrence_table(part, columns))
  else:
    parts.append(page.paragraph("There are fewer than two labels to compare."))
  parts.extend(_confusion(part))
  return page.section("together", "Labels together", *parts)


def _first_columns(counts):
  """Columns with the highest counts above 0, at most `_MATRIX_LABELS`."""
  order = np.argsort(-counts, kind="stable")[:_MATRIX_LABELS]
  return [int(i) for i in order if counts[i]]


def _selection(what, counts):
  count = int(np.count_nonzero(counts))
  if count <= _MATRIX_LABELS:
    return ""
  return " Showing the %d %s of %d labels." % (_MATRIX_LABELS, what, count)


def _co_occurrence_table(part, columns):
  counts = analysis.co_occurrence(part.predictions.true, columns)
  names = [part.predictions.labels[i] for i in columns]
  rows = []
  for i, name in enumerate(names):
    cells = []
    for j, other in enumerate(names):
      share = counts[i, j] / counts[i, i]
      if i == j:
        cells.append('<td class="self">%s</td>' % page.count(counts[i, i]))
      else:
        cells.append(_heat_cell(
            "heat", share, _percent(share),
            u"%s + %s: %s" % (name, other, page.plural(counts[i, j], "text"))))
    rows.append((name, cells))
  return _matrix(names, rows) + page.note(
      "Diagonal: number of texts with the label.")


def _percent(share):
  if not share:
    return ""
  return "%.0f" % (100 * share) if share >= 0.005 else "&lt;1"


def _heat_cell(color, share, text, title):
  """A cell whose background is as strong as its fraction, 0 to 1."""
  if not text:
    return '<td class="zero"></td>'
  return '<td style="background:rgba(var(--%s),%.2f)" title="%s">%s</td>' % (
      color, 0.04 + 0.5 * min(1, share), page.escape(title), text)


def _matrix(names, rows):
  """A table with upright column heads; `rows` are (name, cells as HTML)."""
  head = "".join('<th scope="col" title="%s"><span>%s</span></th>' % (
      page.escape(name), page.isolate(name)) for name in names)
  body = "\n".join(
      '<tr><th scope="row" class="name" title="%s">%s</th>%s</tr>' % (
          page.escape(name), page.isolate(name), "".join(cells))
      for name, cells in rows)
  return ('<div class="scroll"><table class="heat stick"><thead><tr><th></th>%s'
          '</tr></thead>\n<tbody>%s</tbody></table></div>' % (head, body))


def _confusion(part):
  """The labels that are wrongly predicted where others are missed."""
  predictions = part.predictions
  wrong = part.stored["fp"] + part.stored["fn"]
  columns = _first_columns(wrong)
  parts = ["<h3>Which labels are predicted instead of others</h3>"]
  if not columns:
    return parts + [page.paragraph("There are no wrong decisions.")]
  counts = analysis.confusion(predictions.true, predictions.decided, columns)
  parts.append(page.note(
      "Number of texts of %s where the model misses the label of the row and "
      "wrongly predicts the label of the column. Last column: no label was "
      "wrongly predicted instead; last row: no label was missed.%s" % (
          part.name, _selection("with the most mistakes", wrong))))
  names = [predictions.labels[i] for i in columns]
  most = max(1, counts[:-1, :-1].max())
  rows = []
  for i, name in enumerate(names + ["nothing missed"]):
    cells = []
    for j, other in enumerate(names + ["nothing false"]):
      is_edge = len(names) in (i, j)
      if i == j:
        cells.append('<td class="self"></td>')
      else:
        cells.append(_heat_cell(
            "warm", 0 if is_edge else counts[i, j] / most,
            page.count(counts[i, j]) if counts[i, j] else "",
            "missed: %s; predicted: %s" % (name, other)))
    rows.append((name, cells))
  parts.append(_matrix(names + ["nothing false"], rows))
  parts.extend(_frequent_pairs(names, counts))
  return parts


def _frequent_pairs(names, counts):
  """The most frequent pairs of the matrix, as a table."""
  pairs = counts[:-1, :-1]
  order = np.argsort(-pairs, axis=None, kind="stable")[:_PAIRS]
  rows = []
  for place in order.tolist():
    i, j = divmod(place, len(names))
    if pairs[i, j]:
      rows.append(
          '<tr><th scope="row" class="name">%s</th><td class="name">%s</td>'
          '<td>%s</td></tr>' % (page.isolate(names[i]), page.isolate(names[j]),
                                page.count(pairs[i, j])))
  return [page.table(["missed", "given instead", "texts"], rows,
                     "pairs")] if rows else []


def mistakes(run):
  """The most confident mistakes for each label, with their texts."""
  part = run.main
  if part is None:
    return page.section("mistakes", "Mistakes", page.paragraph(
        scored.unscored_reason(run.files, "test")))
  wrong = part.stored["fp"] + part.stored["fn"]
  columns = [int(i) for i in np.argsort(-wrong, kind="stable") if wrong[i]]
  if not columns:
    return page.section("mistakes", "Mistakes",
                        page.paragraph("There are no wrong decisions."))
  blocks, most = _mistake_blocks(part, columns)
  parts = [page.note(
      "On %s, for each label: up to %s texts that wrongly got it, highest "
      "probability first, and as many that miss it, lowest first. If the model "
      "is confident about a mistake, the mistake is often in the data." % (
          part.name, page.plural(most, "text")))]
  if len(blocks) < len(columns):
    parts.append(page.note("Showing the %d labels with the most mistakes, of "
                           "%d that have any." % (len(blocks), len(columns))))
  if len(blocks) > 12:
    parts.append(page.search_box("Find a label", "#all-mistakes > details"))
  parts.append('<div id="all-mistakes"%s>%s</div>' % (
      ' class="tall"' if len(blocks) > 2 * scored.FIGURE_LABELS else "",
      "\n".join(blocks)))
  return page.section("mistakes", "Most confident mistakes", *parts)


def _mistake_blocks(part, columns):
  """Returns (a block of HTML per label, mistakes of each kind in each).

  As many of each kind as the size allows; with very many labels even one of
  each is too many, and the last labels are left out.
  """
  for most in (_MISTAKES, 7, 5, 4, 3, 2, 1):
    blocks, size = [], 0
    for i in columns:
      blocks.append(_mistake_block(part, i, most))
      size += len(blocks[-1].encode("utf-8"))
      if size > _MISTAKES_SIZE:
        break
    else:
      break
  return blocks, most


def _mistake_block(part, i, most):
  """The mistakes for one label, initially collapsed."""
  predictions, scores = part.predictions, part.stored
  found = analysis.mistakes(predictions.true, predictions.decided,
                            predictions.probabilities, i, most)
  content = []
  for css, title, rows in (("false",
      "Predicted, but not in the data", found.false),
                           ("missed", "In the data, but not predicted",
                            found.missed)):
    if rows:
      content.append('<div class="kind %s">%s</div>' % (css, title))
      content.extend(_mistake(predictions, n, i, css) for n in rows)
  name = predictions.labels[i]
  return page.details(
      '%s <span class="note">%d false, %d missed</span>' % (
          page.isolate(name), scores["fp"][i], scores["fn"][i]),
      "\n".join(content), name)


def _mistake(predictions, n, i, css):
  """One text: probability, text, its labels in the data and from the model."""
  text = predictions.texts[n]
  if len(text) > _SHOWN_TEXT:
    text = text[:_SHOWN_TEXT - 1] + u"\u2026"

  def names(cells):
    chosen = [predictions.labels[j] for j in np.flatnonzero(cells[n])]
    return " ".join(page.isolate(name) for name in chosen) or "none"

  return (
      '<div class="mistake %s"><b>%.3f</b><div><span dir="auto">%s</span>'
      '<span class="note">data: %s &nbsp; model: %s &nbsp; id '
      '<span dir="auto">%s</span></span></div></div>' % (
          css, predictions.probabilities[n, i], page.escape(text) or "(empty)",
          names(predictions.true), names(predictions.decided),
          page.escape(predictions.ids[n])))
