# SPDX-License-Identifier: Apache-2.0
"""Checkpoints without optimizer state, and what a finished run keeps.

Adam's two moments are two thirds of a checkpoint, and only training uses them.
Without them, a checkpoint predicts as before but cannot be resumed; its
identity records that.

The three files of a checkpoint cannot be replaced atomically. So the new ones
are written to a hidden folder, the identity file last, and moved; after a kill,
the next run moves them.
"""

import os
import shutil

from absl import logging
import tensorflow.compat.v1 as tf

from multilabel.common import atomic_files
from multilabel.common import write_errors
from multilabel.storage import checkpoint_files


# Keys of the run's state: that there is no optimizer state, and the last step
# of a run whose newest checkpoint was not kept.
WEIGHTS_ONLY = "weights_only"
FINISHED_AT = "finished_at"

_WORK_PREFIX = ".slim-"


def is_weight(name):
  """Whether a tensor belongs to the model, not the optimizer."""
  return not name.endswith(("/adam_m", "/adam_v", "/unaveraged")) and (
      not name.startswith("loss_scale/"))


def is_weights_only(prefix):
  """Whether a checkpoint has no optimizer state, by its identity file."""
  try:
    identity = checkpoint_files.read_identity(prefix)
  except ValueError:
    return False
  return bool(identity and identity["run_state"].get(WEIGHTS_ONLY))


def check_finished(checkpoint, trained):
  """Whether a finished run has kept only this checkpoint.

  Args:
    checkpoint: str or None, what training would resume from.
    trained: `trained_model.TrainedModel` of its directory.

  Raises:
    ValueError: the settings of the run changed, so it cannot resume from it.
  """
  if checkpoint is None or not is_weights_only(checkpoint):
    return False
  identity = checkpoint_files.read_identity(checkpoint)
  if identity["fingerprint"] != trained.identity.fingerprint:
    raise ValueError(
        "output_dir %s was finished with --slim and has only weights, so the "
        "run cannot be resumed; start a new one from them: --encoder=%s and "
        "another --output_dir." % (trained.path, trained.path))
  return True


def drop_optimizer(prefix, finished_at=None):
  """Reduces a checkpoint to its weights and its step.

  Args:
    prefix: str, a complete checkpoint with an identity file.
    finished_at: int or None, the last step of its run, if only this checkpoint
      is kept.

  Raises:
    write_errors.StorageError: it cannot be written; the checkpoint is
      unchanged.
  """
  folder, name = os.path.split(prefix)
  identity = checkpoint_files.read_identity(prefix)
  state = dict(identity["run_state"], **{WEIGHTS_ONLY: True})
  if finished_at is not None:
    state[FINISHED_AT] = finished_at
  if state == identity["run_state"]:
    return
  if identity["run_state"].get(WEIGHTS_ONLY):
    checkpoint_files.write_identity(prefix, identity["fingerprint"], state)
    return
  work_dir = os.path.join(folder, _WORK_PREFIX + name)
  shutil.rmtree(work_dir, ignore_errors=True)
  new_prefix = os.path.join(work_dir, name)
  try:
    with write_errors.naming("checkpoint " + new_prefix):
      os.mkdir(work_dir)
      _copy_weights(prefix, new_prefix)
      for suffix in (checkpoint_files.DATA, checkpoint_files.INDEX):
        atomic_files.sync_file(new_prefix + suffix)
      checkpoint_files.write_identity(new_prefix, identity["fingerprint"],
                                      state)
      _move(work_dir)
  except write_errors.StorageError:
    if not os.path.exists(new_prefix + checkpoint_files.IDENTITY):
      shutil.rmtree(work_dir, ignore_errors=True)
    raise


def _copy_weights(prefix, new_prefix):
  """Writes the weights of a checkpoint as another one, only with TensorFlow."""
  types = tf.train.load_checkpoint(prefix).get_variable_to_dtype_map()
  names = sorted(filter(is_weight, types))
  slices = [""] * len(names)
  with tf.Graph().as_default(), tf.device("/cpu:0"):
    tensors = tf.raw_ops.RestoreV2(
        prefix=prefix, tensor_names=names, shape_and_slices=slices,
        dtypes=[types[name] for name in names])
    save = tf.raw_ops.SaveV2(prefix=new_prefix, tensor_names=names,
                             shape_and_slices=slices, tensors=tensors)
    with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
      session.run(save)


def _move(work_dir):
  """Replaces the others with the files of a complete work folder."""
  folder, name = os.path.split(work_dir)
  prefix = os.path.join(folder, name[len(_WORK_PREFIX):])
  new_prefix = os.path.join(work_dir, os.path.basename(prefix))
  # The identity goes last: while it is here, there is something left to move.
  for suffix in (checkpoint_files.DATA, checkpoint_files.INDEX,
                 checkpoint_files.IDENTITY):
    if os.path.exists(new_prefix + suffix):
      os.replace(new_prefix + suffix, prefix + suffix)
  atomic_files.sync_folder(folder)
  os.rmdir(work_dir)


def finish_moves(output_dir):
  """Completes interrupted replacements; the caller holds the lock."""
  for name in sorted(os.listdir(output_dir)):
    inner = name[len(_WORK_PREFIX):]
    if not name.startswith(_WORK_PREFIX + checkpoint_files.PREFIX + "-") or (
        not inner.rpartition("-")[2].isdigit()):
      continue
    work_dir = os.path.join(output_dir, name)
    if os.path.exists(os.path.join(
        work_dir, inner + checkpoint_files.IDENTITY)):
      _move(work_dir)
    else:
      shutil.rmtree(work_dir)


def remove_old(prefixes, best_step, keep):
  """Removes all but the newest during training; slims the best.

  Args:
    prefixes: list of str, the existing checkpoints, oldest first.
    best_step: int, or None; that of the best checkpoint on dev.
    keep: int, how many of the newest stay complete; 0: all.
  """
  for prefix in prefixes[:-keep] if keep else ():
    if checkpoint_files.checkpoint_step(prefix) != best_step:
      checkpoint_files.remove(prefix)
    elif os.path.exists(prefix + checkpoint_files.IDENTITY):
      _try_to_slim(prefix)


def _try_to_slim(prefix, finished_at=None):
  """`drop_optimizer`, unless there is no disk space for it."""
  try:
    drop_optimizer(prefix, finished_at)
  except write_errors.StorageError as error:
    logging.warning(
        "The optimizer state of %s could not be removed: %s", prefix,
                    error)


def keep_of_finished(output_dir, best, newest, slim):
  """Removes what is no longer needed after the last step of a run.

  Args:
    output_dir: str, locked.
    best: str or None, prefix of the best checkpoint on dev.
    newest: str, prefix of the last one.
    slim: bool, whether to keep only weights for prediction.
  """
  chosen = best or newest
  last_step = checkpoint_files.checkpoint_step(newest)
  if not os.path.exists(chosen + checkpoint_files.IDENTITY):
    return  # from a program without identities
  if slim:
    drop_optimizer(chosen, last_step)
    checkpoint_files.write_state(chosen)
    kept = {chosen: "the best on dev" if best else "the newest"}
  else:
    kept = {newest: "the newest, complete: the run can be resumed from it"}
    if best and best != newest:
      _try_to_slim(best)
      kept = dict({best: "the best on dev"}, **kept)
  removed = [prefix for prefix in checkpoint_files.list_checkpoints(output_dir)
             if prefix not in kept]
  for prefix in removed:
    checkpoint_files.remove(prefix)
  for prefix, why in kept.items():
    logging.info("Kept %s, %.1f MB: %s%s", os.path.basename(prefix),
                 _size(prefix) / 1e6, why, ", weights only" if
                 is_weights_only(prefix) else "")
  if removed:
    logging.info("Removed %s", ", ".join(map(os.path.basename, removed)))


def _size(prefix):
  return sum(os.path.getsize(prefix + suffix) for suffix in (
      checkpoint_files.DATA, checkpoint_files.INDEX))
