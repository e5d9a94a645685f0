# SPDX-License-Identifier: Apache-2.0
"""Compares the speed of two commits of this project, interleaved.

  python3 -m benchmarks.compare BASE HEAD
  python3 -m benchmarks.compare main work         work: the files as they are

Both are unpacked into a temporary folder, with the `benchmarks` of the present
tree, and run in the same environment; each makes models and texts of its own
with the same seeds. Rounds are interleaved; given is time of HEAD by time of
BASE of the same round, its median with a 95% bootstrap interval. Where outputs
differ by more than 1e-3, there is no comparison. Ends with status 3 if
anything is slower, interval and all, by more than `--allowed`.
"""

import argparse
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile

from benchmarks import environments
from benchmarks import measure
from benchmarks import result_text
from benchmarks import run
from benchmarks import work_items


ROOT = environments.ROOT
SLOWER = 3


def parse(argv):
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("base", help="commit to compare with")
  parser.add_argument("head",
      help="commit to measure, or work for the working tree")
  parser.add_argument("--only", default="a,b,c,d",
                      help="letters of the workloads (default: %(default)s)")
  parser.add_argument("--rounds", type=int, default=11)
  parser.add_argument("--allowed", type=float, default=0.02,
      help="relative slowdown that is not a failure (default: %(default)s)")
  parser.add_argument("--python_ours", default="", metavar="PATH",
                      help="Python for both (default: the benchmark's)")
  parser.add_argument("--output_file", help="JSON file for the results")
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--tiny", action="store_true")
  parser.add_argument("--pooling", default="pooler",
                      choices=["pooler", "cls", "mean"])
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  options = parser.parse_args(argv)
  options.sizes = (work_items.TINY if options.tiny else
                   work_items.QUICK if options.quick else work_items.FULL)
  options.models = {"encoder": "tiny", "base": "tiny"} if options.tiny else {}
  options.epochs, options.peers = 1, ""
  options.encoder_dir = os.path.join(ROOT, "demo_work", "encoder")
  options.data_dir = os.path.join(ROOT, "demo_work", "data")
  return options


def unpack(commit, folder):
  """Puts the files of a commit into a new folder; returns its hash.

  Raises:
    ValueError: git does not know it.
  """
  if commit == "work":
    names = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others",
         "--exclude-standard"], cwd=ROOT).decode("utf-8").split("\0")
    for name in filter(None, names):
      if os.path.isfile(os.path.join(ROOT, name)):
        target = os.path.join(folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(os.path.join(ROOT, name), target)
    return "working tree"
  try:
    found = subprocess.check_output(
        ["git", "rev-parse", "--verify", commit + "^{commit}"], cwd=ROOT,
        stderr=subprocess.DEVNULL).decode("utf-8").strip()
  except subprocess.CalledProcessError:
    raise ValueError("git has no commit %s." % commit)
  archive = subprocess.check_output(
      ["git", "archive", "--format=tar", found], cwd=ROOT)
  with tarfile.open(fileobj=io.BytesIO(archive)) as files:
    files.extractall(folder)
  # The measuring is the same for both, whatever they have of it.
  own = os.path.join(folder, "benchmarks")
  shutil.rmtree(own, ignore_errors=True)
  shutil.copytree(os.path.join(ROOT, "benchmarks"), own,
                  ignore=shutil.ignore_patterns("__pycache__"))
  return found


def median_interval(values, resamples=2000, confidence=0.95):
  """(median, low, high): a bootstrap interval, the same every time."""
  rng = random.Random(1)
  medians = sorted(
      measure.middle([rng.choice(values) for _ in values])
      for _ in range(resamples))
  tail = int(resamples * (1 - confidence) / 2)
  return measure.middle(values), medians[tail], medians[-1 - tail]


def verdict(low, high, allowed):
  if low > 1 + allowed:
    return "slower"
  if high < 1:
    return "faster"
  return "no difference found" if low <= 1 <= high else "within the limit"


def two_peers(roots, work_dirs):
  """Ours twice; the one named "ours" is BASE, which outputs are held to."""
  return [work_items.Peer(name, "peer_ours", "ours",
                          {"root": roots[name], "work_dir": work_dirs[name]},
                          "") for name in ("ours", "head")]


def compare(options, python, folder, results):
  """Measures all; fills `results`, so that an interrupted run has some."""
  roots, work_dirs, made = {}, {}, {}
  works = [work._replace(peers={"ours": 1.0, "head": 1.0})
           for work in run.chosen_works(options)]
  for name, commit in (("ours", options.base), ("head", options.head)):
    roots[name] = os.path.join(folder, name)
    work_dirs[name] = os.path.join(folder, name + "_work")
    os.makedirs(roots[name])
    results["commits"][name] = unpack(commit, roots[name])
    options.work_dir = work_dirs[name]
    measure.say("Creating models and texts for %s ..." % commit)
    made[name] = run.prepare(options, works, python, roots[name])
  bench = measure.Bench({"ours": python}, {}, options.threads, folder,
                        with_limit=False)
  try:
    for item in measure.make_items(works, options.sizes,
                                   made["head"]["lengths"], options):
      measure.say("(%s) %s" % (item.key, item.title))
      found = {}
      try:
        measure.measure(bench, item, two_peers(roots, work_dirs),
                        options.rounds, found)
      finally:
        results["items"][item.key] = dict(found, title=item.title)
  finally:
    bench.close()


def format_comparison(results, allowed):
  """(text, whether anything is slower)."""
  rows, slower = [["", "BASE", "HEAD", "HEAD/BASE", "95%", ""]], False
  for key, item in results["items"].items():
    peers = item.get("peers", {})
    base, head = peers.get("ours", {}), peers.get("head", {})
    row = ["(%s) %s" % (key, item["title"])]
    ratios = result_text.ratios(head, base) if (
        head.get("seconds") and base.get("seconds")) else []
    if not ratios:
      rows.append(row + ["", "", "", "", head.get("why") or base.get(
          "why") or "not measured"])
      continue
    ratio, low, high = median_interval(ratios)
    said = verdict(low, high, allowed)
    slower = slower or said == "slower"
    item["ratio"] = {"median": ratio, "low": low, "high": high}
    rows.append(row + [
        result_text.seconds_text(measure.middle(base["seconds"])),
        result_text.seconds_text(measure.middle(head["seconds"])),
        "%.3f" % ratio, "%.3f-%.3f" % (low, high), said])
  return "\n".join(result_text.align(rows)) + "\n", slower


def main(argv=None):
  options = parse(argv)
  environments.environment.raise_on_sigterm()
  results = {"commits": {}, "items": {}}
  folder = tempfile.mkdtemp(prefix="compare-")
  status = 0
  try:
    pythons, missing = environments.find(dict(
        dict.fromkeys(environments.NAMES, "none"), ours=options.python_ours))
    if "ours" not in pythons:
      measure.say(missing["ours"])
      return 1
    compare(options, pythons["ours"], folder, results)
  except KeyboardInterrupt as stop:
    status = environments.environment.stop_status(stop)
  except ValueError as error:
    measure.say(str(error))
    return 2
  finally:
    shutil.rmtree(folder, ignore_errors=True)
  text, slower = format_comparison(results, options.allowed)
  print("BASE %s, HEAD %s, %s\n%s" % (
      results["commits"].get("ours"), results["commits"].get("head"),
      run.cpu_name(), text))
  if options.output_file:
    with open(options.output_file, "w") as writer:
      json.dump(results, writer, indent=1)
  return status or (SLOWER if slower else 0)


if __name__ == "__main__":
  sys.exit(main())
