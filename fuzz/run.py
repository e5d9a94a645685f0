# SPDX-License-Identifier: Apache-2.0
"""Feeds the readers of texts, models, flags and requests with strange input.

  python -m fuzz.run --target=jsonl --seconds=60 --seed=1
  python -m fuzz.run --target=all --seconds=600
  python -m fuzz.run --target=jsonl --replay=fuzz_work/jsonl-1a2b3c

Where atheris is installed (`pip install -e ".[fuzz]"`), what is tried next is
guided by which lines of the code the input before has reached; else good input
is changed at random. A case that ends neither with the right result nor with
one sentence is kept in `--findings`, and the exit status is 1.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import argparse
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
  sys.path.insert(0, ROOT)
# TensorFlow's lines at its start would hide a finding.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# pylint: disable=wrong-import-position
from fuzz import mutation
from fuzz import targets

# Seconds of the processor that no case may take.
SLOW = 20


def try_case(run, data):
  """Runs a target with one case; returns what is wrong, or None."""
  started = time.process_time()
  try:
    run(data)
  except Exception:  # pylint: disable=broad-except
    return traceback.format_exc()
  seconds = time.process_time() - started
  return "%.0f seconds for a case" % seconds if seconds > SLOW else None


def keep(folder, name, data):
  """Writes a case to a file named by its content; returns the path."""
  if not os.path.isdir(folder):
    os.makedirs(folder)
  path = os.path.join(folder, "%s-%s" % (
      name, hashlib.sha256(data).hexdigest()[:12]))
  with open(path, "wb") as writer:
    writer.write(data)
  return path


def run_random(name, seconds, seed, folder):
  """Tries random changes of good input.

  Args:
    name: str, key of `targets.TARGETS`.
    seconds: float.
    seed: int.
    folder: str, where findings are kept.

  Returns:
    (cases, findings): int and list of paths, one for each place of the code.
  """
  target = targets.TARGETS[name]
  mutator = mutation.Mutator(target, seed)
  found, places, cases = [], set(), 0
  end = time.time() + seconds
  while time.time() < end:
    data = mutator.case()
    cases += 1
    wrong = try_case(target.run, data)
    if wrong is not None:
      # The same line of code with other input is the same finding.
      place = [line for line in wrong.splitlines() if "File " in line][-1:]
      if tuple(place) not in places:
        places.add(tuple(place))
        found.append(keep(folder, name, data))
        print("%s\n%s" % (wrong, found[-1]), flush=True)
  return cases, found


def run_guided(name, seconds, seed, folder):
  """`run_random` by atheris, in a process of its own; ends at a finding."""
  before = set(os.listdir(folder)) if os.path.isdir(folder) else set()
  process = subprocess.run(
      [sys.executable, "-m", "fuzz.guided", name, str(int(seconds)), str(seed),
       os.path.abspath(folder)], cwd=ROOT, stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  output = process.stdout.decode("utf-8", "replace")
  units = re.search(r"number_of_executed_units: (\d+)", output)
  after = set(os.listdir(folder)) if os.path.isdir(folder) else set()
  found = sorted(os.path.join(folder, new) for new in after - before)
  if process.returncode:
    print(output[-6000:], flush=True)
    found = found or ["(none was kept; status %d)" % process.returncode]
  return int(units.group(1)) if units else 0, found


def main(argv=None):
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--target", default="all",
                      choices=list(targets.TARGETS) + ["all"])
  parser.add_argument("--seconds", type=float, default=60,
                      help="of each target (default: 60)")
  parser.add_argument("--seed", type=int, default=1, help="default: 1")
  parser.add_argument("--findings", default=os.path.join(ROOT, "fuzz_work"),
                      help="folder of the cases found (default: fuzz_work)")
  parser.add_argument("--random", action="store_true",
                      help="random changes even where atheris is installed")
  parser.add_argument("--replay", help="a file to try once")
  options = parser.parse_args(argv)
  names = list(targets.TARGETS) if options.target == "all" else [options.target]
  if options.replay:
    if len(names) > 1:
      parser.error("--replay needs --target")
    with open(options.replay, "rb") as reader:
      wrong = try_case(targets.TARGETS[names[0]].run, reader.read())
    print(wrong or "nothing is wrong")
    return 1 if wrong else 0
  guided = not options.random and (
      importlib.util.find_spec("atheris") is not None)
  findings = []
  for name in names:
    started = time.time()
    cases, found = (run_guided if guided else run_random)(
        name, options.seconds, options.seed, options.findings)
    findings += found
    print("%-12s %d cases, %d findings in %.0f s (%s)" % (
        name, cases, len(found), time.time() - started,
        "atheris" if guided else "random"), flush=True)
  for path in findings:
    print("found: %s" % path)
  return 1 if findings else 0


if __name__ == "__main__":
  sys.exit(main())
