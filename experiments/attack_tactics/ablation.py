# SPDX-License-Identifier: Apache-2.0
"""What each part of a recipe does: one factor at a time, table and picture.

  python -m experiments.attack_tactics.ablation --seeds=3 \\
      --flagfile=examples/attack_tactics/flags.txt --keep_checkpoints=false \\
      --output_dir=experiments_work/attack_tactics/ablation

The recipe is the flag file. Each run differs from it in one flag: pooling,
learning rate, the head's learning rate, the prior bias, the loss, the bias
correction of Adam. The product of all would be 768 settings; these are 14.
Three seeds of the demo's recipe (4,000 texts, 2 epochs) are about two and a
half hours on two cores.

The folder gets what `experiments.sweep` leaves, which does the runs and goes on
where it was stopped; results.txt is put in the order of the factors, with the
difference to the recipe; and, with matplotlib (extra `report`), ablation.svg
and ablation.png: a dot a seed, a line for the mean.
"""

import collections
import os

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
from absl import flags
from absl import logging

from experiments import result_table
from experiments import run_queue
from experiments import sweep
from multilabel.common import atomic_files


FLAGS = flags.FLAGS

# Factor -> values; the recipe's own value among them is not run twice.
FACTORS = collections.OrderedDict([
    ("pooling", ("mean", "cls", "pooler")),
    ("learning_rate", ("1e-4", "3e-4", "5e-4", "1e-3")),
    ("head_learning_rate", (None, "1e-3", "5e-3", "2e-2")),
    ("init_bias_from_prior", ("true", "false")),
    ("loss", ("sigmoid", "weighted", "focal", "asymmetric")),
    ("adam_bias_correction", ("true", "false")),
])

# Panels of the picture, on test where it was scored.
MEASURES = collections.OrderedDict([
    ("micro_f1", "micro-F1"), ("macro_f1", "macro-F1"),
    ("macro_average_precision", "mAP")])

# Title of the recipe's own row.
_RECIPE = "the recipe"


def define_flags():
  """Defines the flags, which are those of a sweep."""
  sweep.define_flags()


def plan(base):
  """The recipe, and all that differ from it in one factor.

  Args:
    base: `flags.FlagValues`, parsed, with the flags of the run script.

  Returns:
    list of `OrderedDict`, flag name -> text, or None for its default.
  """
  variations = [collections.OrderedDict()]
  for name, values in FACTORS.items():
    for value in values:
      settings = collections.OrderedDict([(name, value)])
      changed = run_queue.with_settings(base, settings)
      if changed[name].value != base[name].value:
        variations.append(settings)
  return variations


def row_title(settings):
  """What a row is about: `pooling=cls`."""
  return run_queue.describe(settings) if settings else _RECIPE


def ordered_rows(outcomes, metric, variations):
  """`result_table.Row`s in the order of the variations that have finished."""
  rows = {tuple(row.settings.items()): row
          for row in result_table.make_rows(outcomes, metric)}
  keys = [tuple(settings.items()) for settings in variations]
  return [rows[key] for key in keys if key in rows]


def prefix_of(rows):
  """Scores on test are shown where they are there, else on dev."""
  return "test_" if all("test_micro_f1" in row.scores for row in rows) else ""


def to_text(rows):
  """The table, with the difference to the recipe: list of lines."""
  if not rows:
    return ["No run has finished."]
  prefix = prefix_of(rows)
  names = [prefix + name for name in MEASURES]
  base = rows[0].scores if not rows[0].settings else None
  table = [["", "n"]]
  for title in MEASURES.values():
    table[0] += [title, "difference"]
  for row in rows:
    cells = [row_title(row.settings), str(len(row.runs))]
    for name in names:
      cells.append(result_table.format_score(row.scores[name]))
      cells.append("" if base is None or row.scores is base else "%+.4f" % (
          row.scores[name][0] - base[name][0]))
    table.append(cells)
  return (["Scores on %s, mean +- standard deviation over n seeds" % (
      "test" if prefix else "dev"), ""] + result_table.align(table))


def write_report(outcomes, variations, options):
  """Writes the tables; returns (rows, lines of the text)."""
  rows = ordered_rows(outcomes, options.metric, variations)
  lines = to_text(rows) + [""] + result_table.origin(outcomes)
  failed = result_table.failures(outcomes)
  if failed:
    lines += ["", "Failed:"] + failed
  result_table.write(options.output_dir, rows, lines)
  return rows, lines


def draw(rows, outcomes, output_dir):
  """Writes ablation.svg and ablation.png.

  Args:
    rows: list of `result_table.Row`, the recipe first.
    outcomes: list of `run_queue.Outcome`, for the single seeds.
    output_dir: str.

  Returns:
    list of the paths; empty, with a warning, without matplotlib.
  """
  try:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
  except ImportError as error:
    logging.warning("no picture: %s; python -m pip install matplotlib, and run "
                    "this again", error)
    return []
  prefix = prefix_of(rows)
  matplotlib.rcParams["svg.hashsalt"] = "ablation"  # the same file each time
  figure, axes = pyplot.subplots(
      1, len(MEASURES), sharey=True, figsize=(10, 1.2 + 0.3 * len(rows)))
  for axis, (name, title) in zip(axes, MEASURES.items()):
    _draw_panel(axis, rows, outcomes, prefix + name)
    axis.set_title(title)
  axes[0].set_yticks(range(len(rows)))
  axes[0].set_yticklabels([row_title(row.settings) for row in rows])
  axes[0].invert_yaxis()
  figure.supxlabel("on %s; a dot a seed, a bar for the mean, dashed: the recipe"
                   % ("test" if prefix else "dev"), fontsize=9)
  figure.tight_layout()
  paths = []
  for suffix in ("svg", "png"):
    path = os.path.join(output_dir, "ablation." + suffix)
    with atomic_files.replacing(path) as writer:
      figure.savefig(writer, format=suffix, dpi=150,
                     metadata={"Date": None} if suffix == "svg" else None)
    paths.append(path)
  pyplot.close(figure)
  return paths


def _draw_panel(axis, rows, outcomes, metric):
  by_name = {outcome.run.name: outcome.scores for outcome in outcomes
             if outcome.failure is None}
  for height, row in enumerate(rows):
    color = "#555555" if not row.settings else "#0b6fa4"
    values = [by_name[run.name][metric] for run in row.runs]
    axis.plot(values, [height] * len(values), "o", color=color, alpha=0.55,
              markersize=5)
    axis.plot([row.scores[metric][0]] * 2, [height - 0.3, height + 0.3],
              color=color, linewidth=2)
  if not rows[0].settings:
    axis.axvline(rows[0].scores[metric][0], color="#555555", linewidth=1,
                 linestyle="--", zorder=0)
  axis.grid(axis="x", color="#dddddd", linewidth=0.6)
  for side in ("top", "right"):
    axis.spines[side].set_visible(False)


def main(argv):
  if FLAGS.grid:
    raise ValueError("--grid means nothing here; experiments.sweep has it.")
  sweep.prepare(argv, FLAGS)
  variations = plan(FLAGS)
  outcomes = sweep.run_variations(
      FLAGS, variations, FLAGS,
      lambda outcomes: write_report(outcomes, variations, FLAGS))
  rows, lines = write_report(outcomes, variations, FLAGS)
  print("\n".join(lines))
  if rows:
    for path in draw(rows, outcomes, FLAGS.output_dir):
      print("Picture: %s" % path)
  sweep.raise_on_failures(outcomes, FLAGS.output_dir)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
