# SPDX-License-Identifier: Apache-2.0
"""Settings around the program by turns: which of them is worth having.

  python3 -m benchmarks.levers                       all, works a, c, d
  python3 -m benchmarks.levers --levers=onednn,inter1 --only=d

Each lever is this project with other variables of the environment, or other
threads; all take turns with the project as it is. Given is time with the lever
by time without, of the same round, with a 95% bootstrap interval. For training
it is also said whether two processes with the lever end with the same loss to
the last bit, as resuming a run needs, and how far outputs are from those
without it.
"""

import argparse
import os
import sys

from benchmarks import compare
from benchmarks import environments
from benchmarks import measure
from benchmarks import result_text
from benchmarks import run
from benchmarks import work_items

# What glibc's allocator does: large blocks are kept and not given back to the
# system after each run, which then has to clear every page again.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592",
                "MALLOC_TOP_PAD_": "67108864"}

LEVERS = {
    "onednn": {"environment": {"TF_ENABLE_ONEDNN_OPTS": "1"}},
    "no-onednn": {"environment": {"TF_ENABLE_ONEDNN_OPTS": "0"}},
    "keep-memory": {"environment": _KEEP_MEMORY},
    # Any such variable says that the user decides, see command_line.
    "glibc-memory": {"environment": {"MALLOC_PERTURB_": "0"}},
    "bfc": {"environment": {"TF_CPU_ALLOCATOR_USE_BFC": "1"}},
    "both": {"environment": dict(_KEEP_MEMORY, TF_ENABLE_ONEDNN_OPTS="1")},
    "xla": {"environment": {
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"}},
    "inter1": {"inter_op_threads": 1},
    "inter2": {"inter_op_threads": 2},
}


def parse(argv):
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--levers",
                      default="onednn,glibc-memory,keep-memory,bfc,inter1",
                      help="of %s (default: %%(default)s)" % ", ".join(
                          sorted(LEVERS)))
  parser.add_argument("--only", default="a,c,d", help="letters of works")
  parser.add_argument("--rounds", type=int, default=9)
  parser.add_argument("--pooling", default="pooler",
                      choices=["pooler", "cls", "mean"])
  parser.add_argument("--quick", action="store_true")
  parser.add_argument("--tiny", action="store_true")
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument("--python_ours", default="", metavar="PATH")
  parser.add_argument("--work_dir", default="demo_work/benchmark")
  parser.add_argument("--output_dir", default="demo_work/benchmark_results",
                      help="folder of the processes' logs")
  options = parser.parse_args(argv)
  for name in options.levers.split(","):
    if name not in LEVERS:
      sys.exit("--levers: there is no lever %s; they are %s." % (
          name, ", ".join(sorted(LEVERS))))
  options.sizes = (work_items.TINY if options.tiny else
                   work_items.QUICK if options.quick else work_items.FULL)
  options.models = {"encoder": "tiny", "base": "tiny"} if options.tiny else {}
  options.epochs = 1
  options.work_dir = os.path.abspath(options.work_dir)
  options.output_dir = os.path.abspath(options.output_dir)
  for name in ("encoder", "data"):
    setattr(options, name + "_dir",
            os.path.join(environments.ROOT, "demo_work", name))
  return options


def peers_of(levers):
  """Ours, and ours with each lever."""
  return [work_items.Peer("ours", "peer_ours", "ours", {}, "")] + [
      work_items.Peer(name, "peer_ours", "ours", LEVERS[name], "")
      for name in levers]


def is_repeatable(bench, item, peer):
  """Whether two processes end with the same loss after a few steps."""
  losses = []
  for _ in range(2):
    worker = bench.start(peer.name + " again", peer.module, peer.environment,
                         peer.settings)
    try:
      worker.ask(measure.LOAD_SECONDS, do="load", job=dict(
          item.job, count=512, steps=3, checked=1))
      worker.ask(measure.RUN_SECONDS, do="run")
      losses.append(worker.ask(measure.LOAD_SECONDS, do="check")["outputs"])
    finally:
      worker.close()
  return losses[0] == losses[1]


def rows_of(item, found, repeatable):
  """Lines of a table: a lever, its ratio, what it changes."""
  rows = []
  ours = found["peers"]["ours"]
  for name, result in found["peers"].items():
    if name == "ours" or result.get("limit"):
      continue
    ratios = (result_text.ratios(result, ours)
              if result.get("seconds") and ours.get("seconds") else [])
    if not ratios:
      rows.append(["(%s) %s" % (item.key, name), "", "",
                   result.get("why", "not measured"), ""])
      continue
    ratio, low, high = compare.median_interval(ratios)
    said = "outputs differ by %.1e" % result["difference"]
    if name in repeatable:
      said += ", repeatable" if repeatable[name] else ", NOT repeatable"
    rows.append(["(%s) %s" % (item.key, name), "%.3f" % ratio, "%.3f-%.3f" % (
        low, high), compare.verdict(low, high, 0.0), said])
  return rows


def main(argv=None):
  options = parse(argv)
  environments.environment.raise_on_sigterm()
  pythons, missing = environments.find(dict(
      dict.fromkeys(environments.NAMES, "none"), ours=options.python_ours))
  if "ours" not in pythons:
    measure.say(missing["ours"])
    return 1
  os.makedirs(options.output_dir, exist_ok=True)
  peers = peers_of(options.levers.split(","))
  works = [work._replace(peers=dict.fromkeys([peer.name for peer in peers],
                                             1.0))
           for work in run.chosen_works(options)]
  made = run.prepare(options, works, pythons["ours"])
  bench = measure.Bench(pythons, {}, options.threads, options.output_dir,
                        with_limit=False)
  rows, status = [["", "with/without", "95%", "", ""]], 0
  try:
    for item in measure.make_items(works, options.sizes, made["lengths"],
                                   options):
      measure.say("(%s) %s" % (item.key, item.title))
      found, repeatable = {}, {}
      measure.measure(bench, item, peers, options.rounds, found)
      if item.work.kind == "train":
        bench.close()
        repeatable = {peer.name: is_repeatable(bench, item, peer)
                      for peer in peers[1:]}
      rows += rows_of(item, found, repeatable)
  except KeyboardInterrupt as stop:
    status = environments.environment.stop_status(stop)
  finally:
    bench.close()
    print("\n".join(result_text.align(rows)))
  return status


if __name__ == "__main__":
  sys.exit(main())
