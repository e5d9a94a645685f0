# SPDX-License-Identifier: Apache-2.0
"""Writes report.html, one file that shows how good a trained model is.

  python -m multilabel.reporting.report --model_dir=DIR

It uses only the files that a run left in its directory; if some are missing,
the page has a note instead. The page needs no network, and its text is escaped.
Needs matplotlib (the extra "report").
"""

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import os

from absl import flags

from multilabel.common import atomic_files
from multilabel.reporting import charts
from multilabel.reporting import label_sections
from multilabel.reporting import page
from multilabel.reporting import run_files
from multilabel.reporting import run_sections
from multilabel.reporting import score_sections
from multilabel.reporting import scored


# Raised by `write` if matplotlib is missing.
ReportUnavailable = charts.ReportUnavailable

REPORT_FILE = "report.html"


def write(output_dir, command=None):
  """Writes the report of a run into its directory.

  The same files and the same command give the same bytes.

  Args:
    output_dir: str, `--output_dir` of a run.
    command: str or list of str, the command that repeats the run; None:
      composed from the flags in model_settings.json.

  Returns:
    str, the path of report.html.

  Raises:
    ReportUnavailable: matplotlib is missing; says how to install it.
    ValueError: the directory has no files of a run, or a broken one, or a
      report.html that is not ours.
  """
  path = os.path.join(output_dir, REPORT_FILE)
  if os.path.lexists(path) and not page.is_document(path):
    raise ValueError("%s exists and is not a report of a run; move it away." %
                     path)
  charts.require_matplotlib()
  run = scored.ScoredRun(run_files.read(output_dir))
  atomic_files.write_text(path, render(run, command))
  return path


def render(run, command=None):
  """Returns the page of a `scored.ScoredRun` as str; see `write`."""
  name = os.path.basename(os.path.abspath(run.files.path))
  sections = [
      ("summary", "Summary", score_sections.summary(run)),
      ("labels", "Labels", label_sections.labels(run)),
      ("cut", "Threshold and calibration", score_sections.decisions(run)),
      ("curves", "Precision and recall", label_sections.curves(run)),
      ("together", "Labels together", label_sections.together(run)),
      ("mistakes", "Mistakes", label_sections.mistakes(run)),
      ("training", "Training", run_sections.training(run)),
      ("lengths", "Text lengths", run_sections.lengths(run)),
      ("settings", "Settings", run_sections.settings(run, command)),
  ]
  return page.document("Report on %s" % name, run_sections.subtitle(run),
                       sections)


def define_flags():
  flags.DEFINE_string("model_dir", None,
                      "The --output_dir of run_multilabel_classifier.py.")


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; flags begin with --." %
                     argv[1])
  if not flags.FLAGS.model_dir:
    raise ValueError("--model_dir must be given.")
  try:
    print(write(flags.FLAGS.model_dir))
  except ReportUnavailable as error:
    raise ValueError(str(error))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
