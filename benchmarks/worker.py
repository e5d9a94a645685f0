# SPDX-License-Identifier: Apache-2.0
"""A peer's process: takes requests as lines of JSON, answers the same way.

  python -m benchmarks.worker peer_ours '{"setting": 1}'

Requests, by "do": "hello" (answers versions), "load" (a job), "check" (answers
outputs, a list of lists of numbers), "run" (the job once; answers seconds, CPU
seconds and the peak of resident memory), "quit". What fails is answered as
{"error": sentence}, and the process continues.
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback


def peak_megabytes():
  """The most memory that the process, or a child of it, ever held, in MiB."""
  peak = max(resource.getrusage(who).ru_maxrss for who in (
      resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
  return peak / (1024.0 ** 2 if sys.platform == "darwin" else 1024.0)


def cpu_seconds():
  """CPU seconds of the process and of its children that have ended."""
  return sum(os.times()[:4])


def run(job):
  """Runs a job once: dict of its times."""
  cpu, start = cpu_seconds(), time.perf_counter()
  each = job.run()
  seconds = time.perf_counter() - start
  return {"seconds": seconds, "cpu": cpu_seconds() - cpu, "each": each,
          "peak_mb": peak_megabytes()}


def answer(peer, state, request):
  """Does what a request asks: dict."""
  do = request["do"]
  if do == "hello":
    return {"versions": peer.versions()}
  if do == "load":
    if state.get("job") is not None:
      state.pop("job").close()
    state["job"] = peer.load(request["job"])
    return {"says": getattr(state["job"], "says", "")}
  if do == "check":
    return {"outputs": [[float(x) for x in row]
                        for row in state["job"].outputs()]}
  if do == "run":
    return run(state["job"])
  raise ValueError("unknown request %r" % do)


def end_with_driver():
  """Has Linux kill this process when its parent dies, even while stopped."""
  try:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
  except (AttributeError, OSError):
    pass


def main(argv):
  end_with_driver()
  # What libraries print must not be taken for an answer.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  threads = int(os.environ.get("BENCHMARK_THREADS") or os.cpu_count())
  if hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
  state, peer = {}, None
  for line in iter(sys.stdin.readline, ""):
    request = json.loads(line)
    if request["do"] == "quit":
      return
    try:
      if peer is None:
        peer = importlib.import_module("benchmarks." + argv[1]).Peer(
            dict(json.loads(argv[2]), threads=threads))
      reply = answer(peer, state, request)
    except Exception as error:  # pylint: disable=broad-except
      traceback.print_exc()
      reply = {"error": "%s: %s" % (
          type(error).__name__, " ".join(str(error).split())[:300])}
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


if __name__ == "__main__":
  main(sys.argv)
