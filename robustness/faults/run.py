# SPDX-License-Identifier: Apache-2.0
"""Injects kills, failing calls, full disks and power failures into a small run.

  python -m robustness.faults.run --kills=100 --every_index --power_cuts=50

Each round starts the same commands (training with evaluation and prediction,
then the export) in a fresh folder, injects faults, restarts them until they
finish, and compares every byte of the result with the undisturbed run. The exit
status is 1 if a byte differs, a folder is stuck or a traceback is shown.
"""

import argparse
import random
import sys
import time

from robustness.faults import storm as storm_module
from robustness.faults import work_folder


def main(argv=None):
  parser = argparse.ArgumentParser(
      prog="python -m robustness.faults.run", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=int, default=100,
                      help="number of SIGKILLs (default: %(default)s)")
  parser.add_argument("--power_cuts", type=int, default=0,
                      help="number of power failures (default: %(default)s)")
  parser.add_argument("--every_index", action="store_true",
                      help="make each call that changes a file fail once, in "
                           "every way it can fail")
  parser.add_argument("--faults", type=int, default=0,
                      help="number of random faults of that kind (default: "
                           "%(default)s)")
  parser.add_argument("--full_disks", type=int, default=20,
                      help="number of disks that are full from some call on "
                           "(default: %(default)s)")
  parser.add_argument("--flag", action="append", default=[],
                      metavar="NAME=VALUE",
                      help="flag of the training, such as ema_decay=0.9; may "
                           "be repeated")
  parser.add_argument("--only", metavar="KIND:NUMBER",
                      help="repeat one round, such as kill:12 or power:3")
  work_folder.add_flags(parser)
  options = parser.parse_args(argv)
  try:
    return _run(options)
  except ValueError as error:
    print("robustness.faults.run: %s" % error, file=sys.stderr)
    return 2


def _run(options):
  changes = dict(flag.partition("=")[::2] for flag in options.flag)
  with work_folder.open_folder(options) as work_dir, storm_module.Storm(
      work_dir, options.seed, _say, changes) as storm:
    _say("Undisturbed: training %.1f s of CPU time, %d calls that change "
         "files; export %.1f s, %d calls." % sum(
             [(storm.seconds[command], len(storm.operations[command]))
              for command in (storm_module.TRAIN, storm_module.EXPORT)], ()))
    _weather(storm, options)
    print("\n".join(storm.counts.findings + storm.counts.lines()))
    return 0 if storm.counts.is_clean else 1


def _weather(storm, options):
  """All the rounds that were asked for."""
  if options.only:
    kind, _, number = options.only.partition(":")
    rounds = {"kill": storm.kill_round, "power": storm.power_round}
    if kind not in rounds or not number.isdigit():
      raise ValueError("--only is %s; it must look like kill:12 or power:3." %
                       options.only)
    rounds[kind](int(number))
    return
  counts, number = storm.counts, 0
  progress = _Progress(counts)
  # A round that is not killed in time gives none.
  while counts.kills < options.kills and number < 3 * options.kills:
    storm.kill_round(number)
    number += 1
    progress.show("kills")
  number = 0
  while counts.power_cuts < options.power_cuts and (
      number < 3 * options.power_cuts):
    storm.power_round(number)
    number += 1
    progress.show("power cuts")
  rng = random.Random(options.seed)
  for command in (storm_module.TRAIN, storm_module.EXPORT):
    faults = storm.every_fault(command)
    if not options.every_index:
      faults = rng.sample(faults, min(options.faults // 2, len(faults)))
    for operation, name, action, error in faults:
      storm.fault_round(command, operation, name, action, error)
      progress.show("faults of " + command)
    operations = storm.full_disk_operations(command)
    share = options.full_disks * (1
                                  if command == storm_module.EXPORT else 3) // 4
    for operation in rng.sample(operations, min(share, len(operations))):
      storm.fault_round(command,
                        operation,
                        "ENOSPC",
                        "fail",
                        storm_module.NO_SPACE,
                        lasting=True)
      progress.show("full disks")


class _Progress(object):
  """A line every half minute."""

  def __init__(self, counts):
    self._counts = counts
    self._shown = time.time()

  def show(self, what):
    if time.time() - self._shown > 30:
      self._shown = time.time()
      counts = self._counts
      _say("%s: %d rounds, %d kills, %d power cuts, %d faults, %d findings, "
           "%.0f s" % (what, counts.rounds, counts.kills, counts.power_cuts,
                       sum(counts.faults.values()), len(counts.findings),
                       counts.seconds))


def _say(line):
  print(line, file=sys.stderr)
  sys.stderr.flush()


if __name__ == "__main__":
  sys.exit(main())
