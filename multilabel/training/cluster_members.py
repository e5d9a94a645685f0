# SPDX-License-Identifier: Apache-2.0
"""Who trains together: TF_CONFIG, what the chief publishes, and waiting.

The chief writes cluster.json into the shared output_dir: what all members must
have in common (flags, code, TensorFlow), and how the run ended. Apart from the
records, it is the only file for communication; the rest goes through the
session.
"""

import collections
import glob
import hashlib
import json
import os
import socket
import time

from absl import logging
import tensorflow.compat.v1 as tf

from multilabel.common import atomic_files
from multilabel.training import mirrored


_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))

CONTROL_FILE = "cluster.json"
RUNNING, FINISHED, FAILED = "running", "finished", "failed"

# Flags that may differ from member to member.
_OWN_FLAGS = ("debug", "max_runtime", "profile", "cluster_timeout")
# The files that --encoder selects are in each member's own cache.
_ENCODER_FLAGS = ("bert_config_file", "vocab_file", "init_checkpoint")


class ClusterError(RuntimeError):
  """A member is missing, or the chief ended the run."""


class Cluster(collections.namedtuple("Cluster", ["members", "job", "task"])):
  """A cluster, and the role of this process.

  `members` is {"chief": [address], "worker": [...], "ps": [...]}, an address
  being "host:port"; `job` one of its keys; `task` the place in its list.
  """

  __slots__ = ()

  @property
  def replicas(self):
    """[(job, task)] of the members that compute gradients, the chief first."""
    return [("chief", 0)] + [
        ("worker", task) for task in range(len(self.members["worker"]))]

  @property
  def replica(self):
    """This process's place in `replicas`."""
    return self.replicas.index((self.job, self.task))

  def describe(self, job, task):
    """A member's name in errors: "worker 1 (host:port)"."""
    name = job if job == "chief" else "%s %d" % (job, task)
    return "%s (%s)" % (name, self.members[job][task])

  def describe_self(self):
    return self.describe(self.job, self.task)


def read_environment():
  """`Cluster` from the variable TF_CONFIG; None without it."""
  text = os.environ.get("TF_CONFIG")
  return read_tf_config(text) if text else None


def choose_distribution(settings):
  """Takes --distribution=cluster from TF_CONFIG, and checks it.

  Args:
    settings: `common.settings.Settings`.

  Returns:
    (`Cluster` or None, settings with the actual distribution).

  Raises:
    ValueError: flags or TF_CONFIG are invalid.
  """
  if not settings.is_given("distribution") and os.environ.get("TF_CONFIG"):
    settings = settings.replace(distribution=mirrored.CLUSTER)
  if settings.distribution != mirrored.CLUSTER:
    return None, settings
  cluster = read_environment()
  if cluster is None:
    raise ValueError("--distribution=cluster needs the environment variable "
                     "TF_CONFIG, which names the members.")
  if not settings.do_train:
    raise ValueError("a cluster (TF_CONFIG) is only for --do_train; evaluate "
                     "and predict on one machine with --distribution=none.")
  if settings.eval_steps:
    raise ValueError("--eval_steps=%d cannot be combined with a cluster, "
                     "because its chief evaluates at the end; leave it out." %
                     settings.eval_steps)
  if settings.profile:
    raise ValueError("--profile cannot be combined with a cluster.")
  if not settings.cluster_timeout > 0:
    raise ValueError("--cluster_timeout is %s; it must be above 0." %
                     settings.cluster_timeout)
  return cluster, settings


def read_tf_config(text):
  """Reads TF_CONFIG.

  Args:
    text: str, JSON {"cluster": {role: ["host:port"]}, "task": {"type": role,
      "index": int}}. Roles: chief (or master, its old name), worker, ps.

  Returns:
    `Cluster`.

  Raises:
    ValueError: it is invalid; the message is one sentence.
  """
  try:
    config = json.loads(text)
  except ValueError as error:
    raise ValueError("TF_CONFIG is not JSON: %s." % error)
  there = config.get("cluster") if isinstance(config, dict) else None
  task = config.get("task") if isinstance(config, dict) else None
  if not isinstance(there, dict) or not isinstance(task, dict):
    raise ValueError('TF_CONFIG must be a JSON object with "cluster" and '
                     '"task".')
  members = {"worker": []}
  for role in sorted(there):
    job = _job(role)
    addresses = there[role]
    if not isinstance(addresses, list) or not all(
        isinstance(address, str) and ":" in address for address in addresses):
      raise ValueError('TF_CONFIG: the addresses of %s must be a list of '
                       '"host:port".' % role)
    if job in members and members[job]:
      raise ValueError("TF_CONFIG has both chief and master, the old name for "
                       "chief; use only one.")
    members[job] = addresses
  if len(members.get("chief", [])) != 1:
    raise ValueError("TF_CONFIG must have exactly one chief, but has %d." %
                     len(members.get("chief", [])))
  if not members.get("ps"):
    raise ValueError("TF_CONFIG has no ps to hold the weights.")
  every = [address for job in sorted(members) for address in members[job]]
  twice = [address for address in every if every.count(address) > 1]
  if twice:
    raise ValueError("TF_CONFIG has the address %s twice." % twice[0])
  job, index = _job(task.get("type")), task.get("index", 0)
  if not isinstance(index, int) or isinstance(index, bool) or not (
      0 <= index < len(members.get(job, []))):
    raise ValueError("TF_CONFIG says this is %s %s, but there are only %d of "
                     "them." % (job, index, len(members.get(job, []))))
  return Cluster(members, job, index)


def _job(role):
  if role not in ("chief", "master", "worker", "ps"):
    raise ValueError("TF_CONFIG names the role %s; roles are chief (or master),"
                     " worker and ps." % json.dumps(role))
  return "chief" if role == "master" else role


class Wait(object):
  """A wait with a limit, after which it names whom it waited for."""

  def __init__(self, seconds, cluster):
    self._seconds, self._cluster = seconds, cluster
    self.restart()

  def restart(self):
    """The wait was successful."""
    self._start = self._said = time.monotonic()

  def is_half_over(self):
    return time.monotonic() - self._start > self._seconds / 2

  def pause(self, what, longest=0.05):
    """Sleeps a little.

    Args:
      what: str, or function to a str, for the error and the log.
      longest: float, seconds.

    Raises:
      ClusterError: the limit is reached.
    """
    now = time.monotonic()
    if now - self._start > self._seconds:
      raise ClusterError(
          "%s waited %g seconds for %s (--cluster_timeout) and gave up; "
          "restart it, or all members." % (
              self._cluster.describe_self(), self._seconds,
              what() if callable(what) else what))
    if now - self._said > 10:
      self._said = now
      logging.info("Waiting for %s (%d of %g seconds)",
                   what() if callable(what) else what, now - self._start,
                   self._seconds)
    time.sleep(min(longest, 0.002 + (now - self._start) / 10))


def is_listening(address):
  """Whether something accepts connections at "host:port"."""
  host, _, port = address.rpartition(":")
  try:
    socket.create_connection((host.strip("[]"), int(port)), 2).close()
    return True
  except (EnvironmentError, ValueError):
    return False


def wait_for(cluster, job, wait):
  """Returns when every member of a job accepts connections."""
  for task, address in enumerate(cluster.members[job]):
    while not is_listening(address):
      wait.pause(cluster.describe(job, task), 1.0)


def code_sha256(root):
  """One sha256 of the code of a run: str.

  Args:
    root: str, the folder of `modeling.py`; includes its own `.py` files and all
      below `processors/` and `multilabel/`.
  """
  digest = hashlib.sha256()
  paths = glob.glob(os.path.join(root, "*.py"))
  for room in ("processors", "multilabel"):
    paths += glob.glob(os.path.join(root, room, "**", "*.py"), recursive=True)
  for path in sorted(paths):
    name = os.path.relpath(path, root).replace(os.sep, "/").encode("utf-8")
    with open(path, "rb") as reader:
      content = reader.read()
    digest.update(b"%d %s %d " % (len(name), name, len(content)) + content)
  return digest.hexdigest()


def identity(settings):
  """What the members must have in common: dict that JSON can hold."""
  own = _OWN_FLAGS + (_ENCODER_FLAGS if settings.encoder else ())
  flags = {name: value for name, value in settings.to_dict().items()
           if name not in own}
  return {"flags": flags, "code_sha256": code_sha256(_ROOT),
          "tensorflow": tf.__version__}


def check_identity(here, there, cluster):
  """ValueError if this member differs from the chief."""
  if here["code_sha256"] != there["code_sha256"]:
    raise ValueError(
        "%s runs different code from the chief (sha256 %.12s here, %.12s "
        "there); install the same version on every machine." % (
            cluster.describe_self(), here["code_sha256"],
            there["code_sha256"]))
  if here["tensorflow"] != there["tensorflow"]:
    raise ValueError("%s has TensorFlow %s, but the chief has %s; install the "
                     "same version." % (
        cluster.describe_self(), here["tensorflow"], there["tensorflow"]))
  for name in sorted(set(here["flags"]) | set(there["flags"])):
    values = [json.dumps(flags.get(name)) for flags in (here["flags"],
                                                        there["flags"])]
    if values[0] != values[1]:
      raise ValueError("%s has --%s=%s, but the chief has %s; start all "
                       "members with the same flags." % (
                           cluster.describe_self(), name, values[0],
                           values[1]))


def publish(output_dir, members_identity, state, num_steps=None, reason=None):
  """Writes cluster.json; only the chief does."""
  atomic_files.write_sealed(os.path.join(output_dir, CONTROL_FILE), {
      "identity": members_identity, "state": state, "reason": reason,
      "num_steps": num_steps, "written": time.time()})


def read_published(output_dir):
  """The last content written by the chief: dict, or None."""
  path = os.path.join(output_dir, CONTROL_FILE)
  if not os.path.exists(path):
    return None
  return atomic_files.read_sealed(path, True)


def wait_for_chief(cluster, output_dir, seconds):
  """Waits for a running chief that has written what a worker needs.

  Returns:
    dict, see `publish`: `state` is RUNNING, or FINISHED if the chief ended
    before this process started.
  """
  wait = Wait(seconds, cluster)
  while True:
    there = read_published(output_dir)
    if there is not None and is_listening(cluster.members["chief"][0]):
      if there["state"] != FAILED:
        return there
    if there is not None and there["state"] == FINISHED and (
        wait.is_half_over()):
      return there
    wait.pause(cluster.describe("chief", 0) + " to write " + os.path.join(
        output_dir, CONTROL_FILE), 1.0)


def is_over(output_dir):
  """Whether the chief has ended the run; ClusterError if it failed."""
  there = read_published(output_dir)
  if there is None:
    return False
  if there["state"] == FAILED:
    raise ClusterError("the chief ended the run: %s" % there["reason"])
  return there["state"] == FINISHED
