# SPDX-License-Identifier: Apache-2.0
"""Compares this project with the alternatives, in one run.

  python3 -m benchmarks.run                  all works, within an hour
  python3 -m benchmarks.run --quick          small, for about two minutes
  python3 -m benchmarks.run --only=a,c       some works

The same weights, texts and threads for every peer; a peer whose outputs differ
from ours is not timed. Rounds are interleaved, A B C A B C ..., and what is
results are medians with minimum and maximum, and ratios to ours in the same
round. See benchmarks/README.md. Needs a Python from 3.7 on and nothing else:
each peer gets its own environment in .venvs (or --python_NAME=PATH).
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys

from benchmarks import environments
from benchmarks import measure
from benchmarks import result_text
from benchmarks import work_items
from multilabel.common import atomic_files


ROOT = environments.ROOT


def parse(argv):
  """The flags; `models` says which model stands for another."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--quick", action="store_true",
                      help="few rounds of small workloads; not for publication")
  parser.add_argument("--tiny", action="store_true",
                      help="a tiny model, to try out all parts")
  parser.add_argument("--only", default="",
      help="letters of the workloads, as in a,c")
  parser.add_argument("--peers", default="",
      help="names of the peers, separated by semicolons; default: all except "
           "the compiled one")
  parser.add_argument("--output_dir", default="demo_work/benchmark_results",
                      help="output folder (default: %(default)s)")
  parser.add_argument("--work_dir", default="demo_work/benchmark",
                      help="folder for models and texts (default: %(default)s)")
  parser.add_argument("--encoder_dir", default="demo_work/encoder",
                      help="the demo's encoder; if it is missing, random "
                           "weights of the same shape")
  parser.add_argument("--data_dir", default="demo_work/data",
                      help="the demo's data; if it is missing, random texts")
  parser.add_argument("--pooling", default="pooler",
                      choices=["pooler", "cls", "mean"])
  parser.add_argument("--rounds", type=int, help="timed rounds")
  parser.add_argument("--epochs", type=int, default=1,
      help="epochs of workload h")
  parser.add_argument("--threads", type=int,
      help="threads and cores for each peer (default: all cores)")
  for name in environments.NAMES:
    parser.add_argument("--python_" + name, default="", metavar="PATH",
                        help="Python for %s; none: skip it" % name)
  options = parser.parse_args(argv)
  options.threads = options.threads or os.cpu_count()
  options.sizes = (work_items.TINY if options.tiny else
                   work_items.QUICK if options.quick else work_items.FULL)
  options.models = {}
  if options.tiny:
    options.models = {"encoder": "tiny", "base": "tiny"}
  elif options.quick:
    options.models = {"base": "tiny"}
  return options


def chosen_works(options):
  """list of `work_items.Work`; SystemExit for a letter that is none."""
  letters = [letter for letter in options.only.split(",") if letter]
  for letter in letters:
    if letter not in work_items.WORKS:
      sys.exit("--only: there is no workload %s; choose from %s." % (
          letter, ", ".join(work_items.WORKS)))
  default = [letter for letter in work_items.WORKS
             if letter != "h" or not options.quick]
  return [work_items.WORKS[letter] for letter in letters or default]


def chosen_peers(options):
  """list of `work_items.Peer`, ours first; SystemExit for an unknown name."""
  names = [name.strip() for name in options.peers.split(";") if name.strip()]
  for name in names:
    if name not in work_items.PEERS:
      sys.exit("--peers: there is no peer %r; choose from %s." % (
          name, "; ".join(work_items.PEERS)))
  return [peer for name, peer in work_items.PEERS.items() if name == "ours" or
          (name in names if names else "compile" not in peer.settings)]


def output_of(command):
  """What a command prints, or "" if it cannot be run."""
  try:
    return subprocess.check_output(
        command, cwd=ROOT, stderr=subprocess.DEVNULL).decode("utf-8").strip()
  except (OSError, subprocess.SubprocessError):
    return ""


def cpu_name():
  try:
    with open("/proc/cpuinfo") as lines:
      for line in lines:
        if line.startswith("model name"):
          return line.split(":", 1)[1].strip()
  except OSError:
    pass
  return platform.processor() or platform.machine()


def facts(options, argv):
  """What a reader needs to know to judge the figures: dict."""
  load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
  return {
      "commit": output_of(["git", "rev-parse", "HEAD"]),
      "changed_files": len(output_of(
          ["git", "status", "--porcelain"]).splitlines()),
      "date": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
      "command": "python3 -m benchmarks.run " + " ".join(
          map(shlex.quote, argv)),
      "cpu": cpu_name(), "cores": os.cpu_count(), "threads": options.threads,
      "system": platform.platform(), "load_before": load,
      "sizes": dict(options.sizes._asdict()), "pooling": options.pooling}


def prepare(options, works, python, root=ROOT):
  """Makes models and texts; returns what `prepare` prints: dict."""
  models = sorted(set(options.models.get(work.model, work.model)
                      for work in works))
  settings = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
  output = subprocess.check_output(
      [python, "-W", "ignore", "-m", "benchmarks.prepare",
       "--work_dir=" + options.work_dir, "--models=" + ",".join(models),
       "--encoder_dir=" + options.encoder_dir,
       "--data_dir=" + options.data_dir, "--pooling=" + options.pooling,
       "--sizes=" + json.dumps(options.sizes._asdict())],
      cwd=root, env=settings)
  return json.loads(output.decode("utf-8").strip().splitlines()[-1])


def save(results, options):
  """Writes results.json and results.txt, atomically."""
  for name, text in (("results.json", json.dumps(results, indent=1) + "\n"),
                     ("results.txt", result_text.format_results(results))):
    atomic_files.write_text(os.path.join(options.output_dir, name), text)


def measure_all(bench, items, peers, options, results):
  """Item after item; the results are on the disk after each."""
  for item in items:
    measure.say("(%s) %s" % (item.key, item.title))
    result = results["items"][item.key] = {
        "title": item.title, "unit": item.work.unit, "kind": item.work.kind,
        "letter": item.work.letter}
    rounds = options.rounds or (
        options.sizes.whole_rounds if item.work.kind == "whole"
        else options.sizes.rounds)
    if item.work.kind in ("whole", "train"):
      # What came before is not needed, and memory may be.
      bench.close()
    taking_part = [peer for peer in peers if peer.name in item.work.peers]
    try:
      measure.measure(bench, item, taking_part, rounds, result)
    finally:
      results["versions"] = bench.versions
      save(results, options)


def main(argv=None):
  argv = sys.argv[1:] if argv is None else argv
  options = parse(argv)
  works, peers = chosen_works(options), chosen_peers(options)
  options.output_dir = os.path.abspath(options.output_dir)
  options.work_dir = os.path.abspath(options.work_dir)
  options.encoder_dir = os.path.abspath(options.encoder_dir)
  options.data_dir = os.path.abspath(options.data_dir)
  os.makedirs(options.output_dir, exist_ok=True)
  environments.environment.raise_on_sigterm()
  bench, results = None, dict(facts(options, argv), items={})
  try:
    pythons, missing = environments.find({
        name: getattr(options, "python_" + name)
        for name in environments.NAMES})
    for name, why in sorted(missing.items()):
      measure.say("Without %s: %s" % (name, why))
    if "ours" not in pythons:
      return 1
    results["missing"] = missing
    measure.say("Creating models and texts in %s ..." % options.work_dir)
    made = prepare(options, works, pythons["ours"])
    results["weights_and_texts"] = made["origins"]
    items = measure.make_items(works, options.sizes, made["lengths"], options)
    bench = measure.Bench(pythons, missing, options.threads,
                          options.output_dir)
    measure_all(bench, items, peers, options, results)
  except KeyboardInterrupt as stop:
    results["interrupted"] = True
    measure.say("Interrupted; the measurements so far are kept.")
    return environments.environment.stop_status(stop)
  except subprocess.CalledProcessError as error:
    measure.say("%s failed with status %d; its output is above." % (
        error.cmd[4], error.returncode))
    return 1
  finally:
    if bench is not None:
      bench.close()
    save(results, options)
    print(result_text.format_results(results))
  return 0


if __name__ == "__main__":
  sys.exit(main())
