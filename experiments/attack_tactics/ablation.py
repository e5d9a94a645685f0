# SPDX-License-Identifier: Apache-2.0
"""What each part of a recipe does: one factor at a time.

  python -m experiments.attack_tactics.ablation --seeds=3 \\
      --flagfile=examples/attack_tactics/flags.txt --keep_checkpoints=false \\
      --output_dir=experiments_work/attack_tactics/ablation

The recipe is the flag file. Each run differs from it in one flag: pooling,
learning rate, the head's learning rate, the prior bias, the loss, the bias
correction of Adam. The product of all would be 768 settings; these are 14.
Three seeds of the demo's recipe (4,000 texts, 2 epochs) are about two and a
half hours on two cores.

The folder gets what `experiments.sweep` leaves, which does the runs and resumes
where it was stopped. results.txt lists the runs in the order of the factors,
with the difference to the recipe.
"""

import collections

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
from absl import flags

from experiments import result_table
from experiments import run_queue
from experiments import sweep


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

# Columns of the table, on test where it was scored.
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
  """Writes the tables; returns the lines of the text."""
  rows = ordered_rows(outcomes, options.metric, variations)
  lines = to_text(rows) + [""] + result_table.origin(outcomes)
  failed = result_table.failures(outcomes)
  if failed:
    lines += ["", "Failed:"] + failed
  result_table.write(options.output_dir, rows, lines)
  return lines


def main(argv):
  if FLAGS.grid:
    raise ValueError("--grid cannot be used here; use experiments.sweep.")
  sweep.prepare(argv, FLAGS)
  variations = plan(FLAGS)
  outcomes = sweep.run_variations(
      FLAGS, variations, FLAGS,
      lambda outcomes: write_report(outcomes, variations, FLAGS))
  print("\n".join(write_report(outcomes, variations, FLAGS)))
  sweep.raise_on_failures(outcomes, FLAGS.output_dir)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
