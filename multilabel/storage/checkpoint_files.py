# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on disk: which exist, whether they are intact, whose they are.

Beside TensorFlow's `model.ckpt-<step>.index` and `.data-00000-of-00001` is
`model.ckpt-<step>.json`, the checkpoint's identity: its step, the sha256 of the
index (which has a checksum of each tensor), the fingerprint of the run, and the
run's state that is not in variables. It is written after the other two are safe
on disk; a checkpoint without it is incomplete.
"""

import collections
import os
import re
import shutil

import numpy as np
import tensorflow.compat.v1 as tf

from multilabel.common import atomic_files


PREFIX = "model.ckpt"
STATE_FILE = "checkpoint"
INDEX = ".index"
DATA = ".data-00000-of-00001"
IDENTITY = ".json"

# Key of the run's state: the step of the last evaluation in
# best_checkpoint.json.
LAST_EVALUATION = "last_evaluation"

# Partial files of a checkpoint after a kill or on a full disk.
_PARTS = re.compile(
    r"model\.ckpt-(\d+)(\.index|\.data-\d+-of-\d+|\.json)?"
    r"(\.tempstate\d+|\.tmp|_temp(_\w+)?)?$")


class RunIdentity(collections.namedtuple(
    "RunIdentity", ["fingerprint", "earlier"])):
  """Which checkpoints belong to a run.

  `fingerprint` is the digest of everything that determines the run's weights,
  None in a directory from a program without fingerprints. `earlier` is a list
  of {"fingerprint", "last_step"}: the fingerprint before --resume=force changed
  a setting, and the last step that may have been trained with it.
  """

  __slots__ = ()

  def needs_identity(self, step):
    """Whether a checkpoint of that step must have an identity file."""
    return self.fingerprint is not None and not self.owns(None, step)

  def owns(self, fingerprint, step):
    """Whether a checkpoint of that fingerprint and step belongs to the run."""
    return fingerprint == self.fingerprint or any(
        fingerprint == part["fingerprint"] and step <= part["last_step"]
        for part in self.earlier)


UNKNOWN_RUN = RunIdentity(None, ())


def checkpoint_step(checkpoint):
  """The step in a checkpoint's name, `model.ckpt-<step>`; 0 for None."""
  if checkpoint is None:
    return 0
  step = checkpoint.rpartition("-")[2]
  if not step.isdigit():
    raise ValueError("checkpoint %s is not named %s-<step>." % (
        checkpoint, PREFIX))
  return int(step)


def missing_file(prefix):
  """Name of the first missing file of a checkpoint; None: both exist."""
  for suffix in (INDEX, DATA):
    if not os.path.isfile(prefix + suffix):
      return os.path.basename(prefix) + suffix
  return None


def list_checkpoints(model_dir):
  """Returns the prefixes of the existing checkpoints, oldest first."""
  return [prefix for prefix in _with_suffix(model_dir, INDEX)
          if missing_file(prefix) is None]


def _with_suffix(model_dir, suffix):
  """Prefixes for which such a file exists, by step."""
  names = os.listdir(model_dir) if os.path.isdir(model_dir) else []
  matches = [re.match(r"(model\.ckpt-\d+)%s$" % re.escape(suffix), name)
             for name in names]
  return sorted((os.path.join(model_dir, match.group(1))
                 for match in matches if match), key=checkpoint_step)


def finished_checkpoints(model_dir, run):
  """Prefixes of all completed checkpoints, by step, intact or not.

  Args:
    model_dir: str.
    run: `RunIdentity`.
  """
  found = _with_suffix(model_dir, IDENTITY)
  found += [prefix for prefix in list_checkpoints(model_dir)
            if prefix not in found
            and not run.needs_identity(checkpoint_step(prefix))
            and _has_index(prefix)]
  return sorted(found, key=checkpoint_step)


def _has_index(prefix):
  """Whether the index can be read; a kill may have truncated it."""
  try:
    tf.train.load_checkpoint(prefix)
    return True
  except (tf.errors.OpError, ValueError, RuntimeError):
    return False


def read_state(model_dir):
  """The prefix that the file `checkpoint` names; None without the file.

  Raises:
    ValueError: it is broken.
  """
  path = os.path.join(model_dir, STATE_FILE)
  if not os.path.exists(path):
    return None
  with atomic_files.open_regular(path) as reader:
    match = re.search(
        br'^model_checkpoint_path: "(?:[^"\n]*/)?(model\.ckpt-\d+)"\r?$',
        reader.read(1 << 20), re.MULTILINE)
  if not match:
    raise ValueError(
        "%s is broken; remove it to use the newest checkpoint there." % path)
  return os.path.join(model_dir, match.group(1).decode("ascii"))


def write_state(prefix):
  """Writes the file `checkpoint`, as TensorFlow's tools do."""
  folder, name = os.path.split(prefix)
  atomic_files.write_text(
      os.path.join(folder, STATE_FILE),
      'model_checkpoint_path: "%s"\nall_model_checkpoint_paths: "%s"\n' % (
          name, name))


def finish(prefix, fingerprint, run_state):
  """Makes a checkpoint that TensorFlow has written durable and valid.

  Args:
    prefix: str.
    fingerprint: str or None, see `RunIdentity`.
    run_state: dict that JSON can hold, returned by `read_run_state`.
  """
  for suffix in (DATA, INDEX):
    atomic_files.sync_file(prefix + suffix)
  atomic_files.sync_folder(os.path.dirname(os.path.abspath(prefix)))
  write_identity(prefix, fingerprint, run_state)
  write_state(prefix)


def write_identity(prefix, fingerprint, run_state):
  """Writes the identity; arguments as for `finish`."""
  atomic_files.write_sealed(prefix + IDENTITY, {
      "step": checkpoint_step(prefix),
      "index_sha256": atomic_files.file_sha256(prefix + INDEX),
      "fingerprint": fingerprint, "run_state": run_state})


def last_evaluation(model_dir, run):
  """(prefix, step) of the last evaluation on dev recorded in a checkpoint.

  Taken from the newest intact identity of the run; (None, 0) if there is none.
  """
  for prefix in reversed(finished_checkpoints(model_dir, run)):
    try:
      identity = read_identity(prefix)
    except (ValueError, EnvironmentError):
      continue  # it is incomplete, or has just been removed
    step = checkpoint_step(prefix)
    if identity and identity["step"] == step and run.owns(
        identity["fingerprint"], step):
      return prefix, identity["run_state"].get(LAST_EVALUATION, 0)
  return None, 0


def read_identity(prefix):
  """The dict that `write_identity` wrote; None if the checkpoint has none.

  Raises:
    ValueError: it is broken.
  """
  if not os.path.exists(prefix + IDENTITY):
    return None
  identity = atomic_files.read_sealed(prefix + IDENTITY, True)
  if not isinstance(identity.get("run_state"), dict) or not (
      {"step", "index_sha256", "fingerprint"} <= set(identity)):
    raise ValueError(
        "%s%s is not a valid checkpoint record" % (prefix, IDENTITY))
  return identity


def read_run_state(prefix, may_be_broken=False):
  """The `run_state` of `finish`; {} if the checkpoint has no identity.

  Raises:
    ValueError: the identity is broken, unless it `may_be_broken`: {} then.
  """
  try:
    identity = read_identity(prefix) if prefix else None
  except ValueError:
    if not may_be_broken:
      raise
    identity = None
  return identity["run_state"] if identity else {}


def find_problem(prefix, run, read_tensors=False):
  """Says what is wrong with a checkpoint.

  Args:
    prefix: str.
    run: `RunIdentity`.
    read_tensors: bool, whether every tensor is read and checked; otherwise only
      the small files.

  Returns:
    str, the end of a sentence, or None: it is intact.
  """
  name, step = os.path.basename(prefix), checkpoint_step(prefix)
  missing = missing_file(prefix)
  if missing:
    return "%s is missing" % missing
  problem = _find_identity_problem(prefix, name, step, run)
  if problem is None and read_tensors:
    problem = _find_tensor_problem(prefix, name)
  return problem


def _find_identity_problem(prefix, name, step, run):
  """`find_problem` of the identity file and the index."""
  if not os.path.isfile(prefix + IDENTITY):
    if run.needs_identity(step):
      return "%s%s is missing, so it is incomplete" % (
          name, IDENTITY)
    return None
  try:
    identity = read_identity(prefix)
    index_sha256 = atomic_files.file_sha256(prefix + INDEX)
  except ValueError as error:
    return str(error)
  except EnvironmentError as error:
    return "%s: %s" % (name, error.strerror)
  if identity["step"] != step:
    return "%s%s belongs to step %s" % (name, IDENTITY, identity["step"])
  if identity["index_sha256"] != index_sha256:
    return ("%s%s is broken or from another checkpoint (its sha256 differs "
            "from the one in %s%s)" % (name, INDEX, name, IDENTITY))
  if not run.owns(identity["fingerprint"], step):
    return "it is from another run than %s" % os.path.join(
        os.path.dirname(prefix), "model_settings.json")
  return None


def _find_tensor_problem(prefix, name):
  """`find_problem` of the data: TensorFlow checks one checksum per tensor."""
  tensor = None
  try:
    reader = tf.train.load_checkpoint(prefix)
    for tensor in sorted(reader.get_variable_to_shape_map()):
      value = reader.get_tensor(tensor)
      if value.dtype.kind == "f" and not np.isfinite(value).all():
        return "%s has NaN or infinite weights, in %s" % (name, tensor)
  except (tf.errors.OpError, ValueError, LookupError, RuntimeError) as error:
    if tensor is None:
      return "%s%s cannot be read" % (name, INDEX)
    reason = str(getattr(error, "message", error)).strip().split("\n")[0]
    return "%s%s is broken at %s (%s)" % (name, DATA, tensor, reason[:200])
  return None


def remove(prefix):
  """Removes a checkpoint; after a kill, the rest does not count as one."""
  for suffix in (IDENTITY, INDEX, DATA):
    if os.path.lexists(prefix + suffix):
      os.remove(prefix + suffix)


def remove_others(model_dir, keep):
  """Removes every file of checkpoints but those of the prefixes in `keep`.

  The remains of a killed save may be as big as a checkpoint.
  """
  kept = frozenset(map(checkpoint_step, keep))
  for name in sorted(os.listdir(model_dir)):
    match = _PARTS.match(name)
    if match is None or not (match.group(2) or match.group(3)):
      continue
    if int(match.group(1)) in kept and not match.group(3):
      continue
    path = os.path.join(model_dir, name)
    if os.path.isdir(path) and not os.path.islink(path):
      shutil.rmtree(path)
    else:
      os.remove(path)
