# SPDX-License-Identifier: Apache-2.0
"""Starts a cluster on this machine, for testing.

  python -m scale.launch.local --workers=2 --ps=1 -- --do_train \
      --output_dir=... (the flags of run_multilabel_classifier.py)

Chief, workers and ps are processes on free ports of 127.0.0.1. One that dies,
other than the chief, is restarted; the exit status is the chief's.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time


ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))


def free_ports(number):
  """Ports of 127.0.0.1 that are free at the moment: list of int."""
  sockets = []
  for _ in range(number):
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    sockets.append(one)
  ports = [one.getsockname()[1] for one in sockets]
  for one in sockets:
    one.close()
  return ports


def make_members(num_workers, num_ps):
  """{"chief": [address], "worker": [...], "ps": [...]} on free ports."""
  addresses = ["127.0.0.1:%d" % port
               for port in free_ports(1 + num_workers + num_ps)]
  members = {"chief": addresses[:1], "worker": addresses[1:1 + num_workers],
             "ps": addresses[1 + num_workers:]}
  return {job: found for job, found in members.items() if found}


class LocalCluster(object):
  """The processes of a cluster.

  Attributes:
    processes: {(job, task): `subprocess.Popen`}.
  """

  def __init__(self, members, flags, log_dir=None, restarts=5):
    """Starts them all.

    Args:
      members: what `make_members` returns.
      flags: list of str, the flags of run_multilabel_classifier.py.
      log_dir: str, folder of <job>-<task>.log; None: all to our stderr.
      restarts: int, how often a dead worker or ps is started again.
    """
    self._members, self._flags = members, flags
    self._log_dir, self._restarts = log_dir, restarts
    self.processes = {}
    for job in sorted(members):
      for task in range(len(members[job])):
        self._start(job, task)

  def _start(self, job, task):
    settings = dict(os.environ, TF_CONFIG=json.dumps(
        {"cluster": self._members, "task": {"type": job, "index": task}}))
    log = None
    if self._log_dir is not None:
      if not os.path.isdir(self._log_dir):
        os.makedirs(self._log_dir)
      log = open(os.path.join(self._log_dir, "%s-%d.log" % (job, task)), "ab")
    self.processes[job, task] = subprocess.Popen(
        [sys.executable, os.path.join(ROOT, "run_multilabel_classifier.py")] +
        self._flags, env=settings, stdin=subprocess.DEVNULL, stderr=log)
    if log is not None:
      log.close()

  def watch(self):
    """Restarts dead processes; returns the chief's exit status, or None."""
    status = self.processes["chief", 0].poll()
    if status is not None:
      return status
    for (job, task), process in sorted(self.processes.items()):
      if process.poll() and self._restarts:
        self._restarts -= 1
        print("%s %d ended with status %d and is restarted" % (
            job, task, process.returncode), file=sys.stderr)
        self._start(job, task)
    return None

  def stop(self, seconds=30):
    """Gives the others some seconds to end."""
    end = time.monotonic() + seconds
    for process in self.processes.values():
      while process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
      if process.poll() is None:
        process.kill()
      process.wait()


def main(argv=None):
  parser = argparse.ArgumentParser(
      description=__doc__.split("\n\n")[0], allow_abbrev=False)
  parser.add_argument("--workers", type=int, default=2,
                      help="number of workers besides the chief")
  parser.add_argument("--ps", type=int, default=1)
  parser.add_argument("--restarts", type=int, default=5,
                      help="how often to restart a process that died")
  parser.add_argument("--log_dir", help="folder for the logs, one per process")
  parser.add_argument("flags", nargs="*",
                      help="flags of run_multilabel_classifier.py, after --")
  options = parser.parse_args(argv)
  if options.workers < 0 or options.ps < 1:
    parser.error("--workers must be 0 or more, --ps 1 or more.")
  cluster = LocalCluster(make_members(options.workers, options.ps),
                         options.flags, options.log_dir, options.restarts)
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    while cluster.watch() is None:
      time.sleep(0.2)
  except KeyboardInterrupt:
    for process in cluster.processes.values():
      process.send_signal(signal.SIGTERM)
  finally:
    cluster.stop()
  return cluster.processes["chief", 0].returncode


if __name__ == "__main__":
  sys.exit(main())
