# SPDX-License-Identifier: Apache-2.0
"""Trains with combinations of some settings, and says which is best.

  python -m experiments.sweep --flagfile=base.txt --output_dir=DIR \\
      --grid learning_rate=1e-4,3e-4 --grid pooling=cls,mean --seeds=3
  python -m experiments.sweep --flagfile=base.txt --output_dir=DIR \\
      --grid learning_rate=1e-5..1e-3:log --grid layer_decay=0.8..1 \\
      --random=9 --halving=3

The flags of run_multilabel_classifier.py, from a file or the command line, are
those of every run; --grid varies one of them, --random draws from it, --halving
continues with the best on dev. Each run is a separate process; a run that fails
does not stop the others. The same command continues where it was stopped, and
does not repeat what has finished. DIR gets results.csv and results.txt: mean
and standard deviation over the seeds, best first, and the command of the best.
With --halving they are of its last round.
"""

import collections
import contextlib
import os
import re
import shlex
import sys

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
from absl import flags
from absl import logging

from experiments import result_table
from experiments import run_queue
from experiments import search
from multilabel.storage import run_lock
from multilabel.training import evaluation
import run_multilabel_classifier


FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags of the sweep, and those of its runs."""
  with command_line.flag_group("Sweep (--output_dir is the sweep's folder)"):
    flags.DEFINE_multi_string(
        "grid", [], "name=value,value,...: a flag to vary; the value `default` "
                    "leaves the flag out. With --random also name=low..high, "
                    "or low..high:log. May be repeated.")
    flags.DEFINE_integer(
        "random", None, "Try N random settings from --grid, not all.")
    flags.DEFINE_integer(
        "halving", None, "Successive halving: train all settings for few "
                         "epochs, keep the best 1/N on dev and train those for "
                         "N times the epochs, and so on up to "
                         "--num_train_epochs.")
    flags.DEFINE_integer(
        "seeds", 1, "Runs per combination, with consecutive seeds from "
                    "--random_seed on.")
    flags.DEFINE_string(
        "metric", "micro_f1", "Metric that sorts the table: a key of "
                              "eval_results.txt (dev), or test_ and a key of "
                              "test_eval_results.txt.")
    flags.DEFINE_integer("jobs", 1, "Parallel runs.")
    flags.DEFINE_bool(
        "keep_checkpoints", True, "Keep the checkpoints and feature files of "
                                  "finished runs; a run needs them to predict.")
  run_multilabel_classifier.define_flags()


def own_output_dir(argv):
  """Returns the --output_dir of the command line; a flag file's is a run's."""
  found = None
  for i, word in enumerate(argv):
    name, equals, value = word.partition("=")
    if name in ("--output_dir", "-output_dir"):
      found = value if equals else "".join(argv[i + 1:i + 2])
  if not found:
    raise ValueError("--output_dir, the folder of the sweep, must be given on "
                     "the command line (a flag file does not count).")
  return found


def full_metric_name(metric):
  """Checks --metric before any run; aliases become the name in the results.

  Args:
    metric: str, a key of eval_results.txt, or test_ and one of the test file.

  Returns:
    str. The name of a label's score is taken as it is: only results have them.

  Raises:
    ValueError: there is no such metric; the message lists those there are.
  """
  part, name, suffix = re.match(
      r"(test_)?(.*?)(_at_0\.5|_low|_high)?$", metric).groups("")
  if "/" in name:
    return metric
  try:
    return part + evaluation.full_metric_name(name) + suffix
  except ValueError as error:
    raise ValueError("--metric=%s: %s" % (metric, error))


def run_variations(base, variations, options, on_outcome):
  """Runs variations of the base flags.

  Args:
    base: `flags.FlagValues`, parsed, with the flags of the run script.
    variations: list of `OrderedDict`, flag name -> text, or None.
    options: object with `output_dir`, `seeds`, `metric`, `jobs` and
      `keep_checkpoints`.
    on_outcome: function of the list of `run_queue.Outcome`s so far, called
      whenever one is added.

  Returns:
    list of all `run_queue.Outcome`s.

  Raises:
    ValueError: before any run, an invalid flag or value; after the first one, a
      metric that does not exist.
  """
  for name in ("seeds", "jobs"):
    if getattr(options, name) < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (
          name, getattr(options, name)))
  output_dir = options.output_dir
  runs = run_queue.plan_runs(base, variations, options.seeds, output_dir)
  if not options.keep_checkpoints:
    logging.info("--keep_checkpoints=false: checkpoints and feature files of "
                 "finished runs are removed")
  outcomes = []
  with run_lock.lock(output_dir), contextlib.closing(run_queue.execute(
      runs, output_dir, options.jobs, options.keep_checkpoints)) as ended:
    for outcome in ended:
      outcomes.append(outcome)
      if outcome.failure is None:
        result_table.check_metric(options.metric, outcome.scores)
      on_outcome(outcomes)
  return outcomes


def report(outcomes, options, num_runs):
  """Writes both tables; returns the lines of the text."""
  rows = result_table.make_rows(outcomes, options.metric)
  failed = result_table.failures(outcomes)
  lines = ["%d of %d runs, sorted by %s (%s is better), mean +- standard "
           "deviation over n seeds" % (
               len(outcomes), num_runs, options.metric,
               "lower" if result_table.is_lower_better(options.metric)
               else "higher"), ""]
  lines += result_table.to_text(rows, options.metric) + [""]
  lines += result_table.origin(outcomes)
  if failed:
    lines += ["", "Failed and not in the table (the same command retries "
                  "them):"] + failed
  if rows:
    best = rows[0].runs[0]
    lines += ["", "The best settings, first seed:", show_command(
        run_queue.command(best, options.output_dir))]
  result_table.write(options.output_dir, rows, lines)
  return lines


def show_command(words):
  """A command that can be pasted into a shell, one flag per line."""
  quoted = [shlex.quote(word) for word in words]
  return " \\\n    ".join([" ".join(quoted[:2])] + quoted[2:])


def prepare(argv, flag_values):
  """Checks the command line, and settles --output_dir, --metric and signals."""
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; flags begin with --." %
                     argv[1])
  flag_values.output_dir = own_output_dir(sys.argv[1:])
  flag_values.metric = full_metric_name(flag_values.metric)
  run_queue.raise_on_signals()


def raise_on_failures(outcomes, output_dir):
  """Raises RuntimeError if a run failed."""
  num_failed = sum(outcome.failure is not None for outcome in outcomes)
  if num_failed:
    raise RuntimeError("%d of %d runs failed; see %s." % (
        num_failed, len(outcomes), os.path.join(output_dir, "results.txt")))


def choose_settings(options):
  """What to try: all of --grid, or --random draws of it."""
  choices = search.parse(options.grid)
  if options.random is None:
    return search.combinations(choices)
  if options.random < 1:
    raise ValueError("--random is %d; it must be 1 or more." % options.random)
  return search.draw(choices, options.random, options.random_seed)


def run_and_report(base, variations):
  """Runs variations; returns their outcomes and the lines of the report."""
  num_runs = len(variations) * base.seeds
  outcomes = run_variations(
      base, variations, base, lambda some: report(some, base, num_runs))
  return outcomes, report(outcomes, base, num_runs)


def run_halving(base, variations):
  """Successive halving; returns the outcomes and the report of the last round.

  Raises:
    ValueError: what does not go with it.
  """
  if base.metric.startswith("test_"):
    raise ValueError("--halving selects on dev and cannot use --metric=%s." %
                     base.metric)
  if any("num_train_epochs" in settings for settings in variations):
    raise ValueError("--halving sets num_train_epochs; remove it from --grid.")
  rounds = search.halving_rounds(len(variations), base.num_train_epochs,
                                 base.halving)
  for number, (size, num_epochs) in enumerate(rounds, 1):
    logging.info("Round %d of %d: %d settings, %.4g epochs", number,
                 len(rounds), size, num_epochs)
    outcomes, lines = run_and_report(base, [
        collections.OrderedDict(settings, num_train_epochs="%.6g" % num_epochs)
        for settings in variations[:size]])
    if number == len(rounds):
      return outcomes, lines
    variations = [
        collections.OrderedDict(
            (name, value) for name, value in row.settings.items()
            if name != "num_train_epochs")
        for row in result_table.make_rows(outcomes, base.metric)]
    if not variations:
      raise_on_failures(outcomes, base.output_dir)


def main(argv):
  variations = choose_settings(FLAGS)
  prepare(argv, FLAGS)
  outcomes, lines = (run_and_report if FLAGS.halving is None else
                     run_halving)(FLAGS, variations)
  print("\n".join(lines))
  raise_on_failures(outcomes, FLAGS.output_dir)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
