# SPDX-License-Identifier: Apache-2.0
"""Soak test: many training steps, many predictor calls and opens.

  python -m robustness.faults.soak --steps=20000 --calls=100000 --opens=50

Trains a tiny BERT in a process that is sampled from outside each time it logs a
line, then keeps its predictor busy (`robustness.predictor_soak`). The exit
status is 1 if the memory of the second half is more than 3% above that of the
first, if threads or files leak, or if a result changed. The server has
`robustness.http_soak`.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import time

from robustness.faults import tiny_world
from robustness.faults import work_folder


ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

MOST_GROWTH = 0.03
# Fraction of the samples in which a program reaches its size.
WARM_UP = 0.1

# kilobytes of resident memory, threads, open files: int.
Sample = collections.namedtuple("Sample", ["kilobytes", "threads", "files"])


def sample(pid):
  """`Sample` of a process; None if it has ended."""
  try:
    with open("/proc/%d/status" % pid) as lines:
      values = dict(line.split(":", 1) for line in lines)
    return Sample(int(values["VmRSS"].split()[0]), int(values["Threads"]),
                  len(os.listdir("/proc/%d/fd" % pid)))
  except (EnvironmentError, KeyError):
    return None


def watch(command, pattern):
  """Runs a program, and samples it at each line of stderr that matches a
  pattern.

  Args:
    command: list of str.
    pattern: str, regular expression.

  Returns:
    (exit status, list of `Sample`, str): the last is the last line of stderr.
  """
  process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
  samples, line = [], ""
  try:
    for line in map(lambda data: data.decode("utf-8", "replace").strip(),
                    process.stderr):
      if re.search(pattern, line):
        samples.append(sample(process.pid))
  finally:
    process.stderr.close()
    if process.poll() is None and sys.exc_info()[0] is not None:
      process.kill()
    process.wait()
  return process.returncode, [one for one in samples if one is not None], line


def judge(samples, warm_up=WARM_UP):
  """Whether nothing grew, and a summary line.

  Args:
    samples: list of `Sample`, in order.
    warm_up: float, the fraction of them to leave out.

  Returns:
    (bool, str).

  Raises:
    ValueError: there are less than four without them.
  """
  kept = samples[int(len(samples) * warm_up):]
  if len(kept) < 4:
    raise ValueError("%d samples are too few." % len(samples))
  half = len(kept) // 2
  first, second = [sum(one.kilobytes for one in part) / len(part)
                   for part in (kept[:half], kept[half:])]
  growth = second / first - 1
  middle, last = kept[half], kept[-1]
  return (
      growth <= MOST_GROWTH and last.threads <= middle.threads and
      last.files <= middle.files,
      "resident MB %.0f at first, %.0f at last, %.0f at most; second half "
      "%+.2f%%; threads %d to %d, files %d to %d" % (
          kept[0].kilobytes / 1024, last.kilobytes / 1024,
          max(one.kilobytes for one in kept) / 1024, 100 * growth,
          kept[0].threads, last.threads, kept[0].files, last.files))


def soak_training(folder, steps):
  """Trains that many steps in `folder`/out; returns whether nothing grew."""
  world = tiny_world.make(os.path.join(folder, "world"))
  often = max(1, steps // 20)
  started = time.time()
  status, samples, last = watch(
      [sys.executable, os.path.join(ROOT, "run_multilabel_classifier.py")] +
      tiny_world.training_flags(
          world, os.path.join(folder, "out"), learning_rate=1e-4,
          num_train_epochs=steps / float(tiny_world.STEPS_PER_EPOCH),
          eval_steps=often, save_checkpoints_steps=often,
          log_steps=max(1, steps // 200)), r"step \d+/")
  if status:
    print("training: ended with status %d: %s" % (status, last))
    return False
  is_good, line = judge(samples)
  print("training of %d steps in %.0f s: %s" % (
      steps, time.time() - started, line), flush=True)
  return is_good


def main(argv=None):
  parser = argparse.ArgumentParser(
      prog="python -m robustness.faults.soak", description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--steps", type=int, default=20000,
                      help="training steps (default: %(default)s)")
  parser.add_argument("--calls", type=int, default=100000,
                      help="calls of one predictor (default: %(default)s)")
  parser.add_argument("--opens", type=int, default=50,
                      help="number of predictors to open and close (default: "
                           "%(default)s)")
  work_folder.add_flags(parser)
  options = parser.parse_args(argv)
  if options.steps < 200:
    parser.error("--steps is %d; it must be 200 or more." % options.steps)
  try:
    with work_folder.open_folder(options) as folder:
      is_good = soak_training(folder, options.steps)
      if os.path.isdir(os.path.join(folder, "out")):
        is_good = not subprocess.call(
            [sys.executable, "-m", "robustness.predictor_soak", "--model_dir=" +
             os.path.join(folder, "out"), "--calls=%d" % options.calls,
             "--opens=%d" % options.opens], cwd=ROOT) and is_good
  except ValueError as error:
    print("robustness.faults.soak: %s" % error, file=sys.stderr)
    return 2
  return 0 if is_good else 1


if __name__ == "__main__":
  sys.exit(main())
