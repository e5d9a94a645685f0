# SPDX-License-Identifier: Apache-2.0
"""Which checkpoint training resumes from, and what happens if one is broken."""

import json
import os
import re

from absl import logging

from multilabel.common import atomic_files
from multilabel.storage import checkpoint_files
from multilabel.storage import checkpoint_slim
from multilabel.storage import model_settings
from multilabel.storage import run_lock
from multilabel.storage.checkpoint_files import checkpoint_step


def recover(output_dir, run=None):
  """Finds the newest intact checkpoint, and removes later files.

  Every tensor is read. Since training is reproducible, everything after the
  checkpoint will be recomputed identically; so a broken checkpoint costs steps,
  not results. A broken best checkpoint is recomputed, too.

  Args:
    output_dir: str, a directory locked by the caller.
    run: `checkpoint_files.RunIdentity` of the directory; None: read from the
      directory.

  Returns:
    str, prefix; None if no checkpoint was ever completed.

  Raises:
    ValueError: there are checkpoints, but none to resume from.
  """
  run = run or run_identity(output_dir)
  checkpoint_slim.finish_moves(output_dir)
  claimed = _claimed_checkpoints(output_dir, run)
  problems = {}

  def newest_good(below=float("inf")):
    for prefix in reversed(claimed):
      if checkpoint_step(prefix) < below and prefix not in problems and (
          is_finished or not checkpoint_slim.is_weights_only(prefix)):
        problem = checkpoint_files.find_problem(prefix, run, True)
        if problem is None:
          return prefix
        problems[prefix] = problem
    return None

  # A checkpoint without optimizer state cannot be resumed from, unless the run
  # is finished and has nothing else.
  is_finished = len(claimed) == 1 and checkpoint_files.read_run_state(
      claimed[0], True).get(checkpoint_slim.FINISHED_AT) is not None
  chosen = newest_good()
  if claimed and chosen is None:
    raise ValueError(
        "output_dir %s has no intact checkpoint to resume from (%s); restore "
        "its files, or name another --output_dir to start over." % (
            output_dir, "; ".join(_describe(problems))))
  best = read_best(output_dir, run) if claimed else None
  if best is not None and best["step"] <= checkpoint_step(chosen):
    chosen = _before_broken_best(output_dir, best, run, problems, chosen,
                                 newest_good)
  for line in _describe(problems):
    logging.warning("  %s; falling back to step %d", line,
                    checkpoint_step(chosen))
  checkpoint_files.remove_others(
      output_dir, [prefix for prefix in claimed if prefix not in problems and
                   checkpoint_step(prefix) <= checkpoint_step(chosen)])
  if best is not None:
    _note_evaluation(best, chosen)
  if chosen is not None and _read_state(output_dir) != chosen:
    checkpoint_files.write_state(chosen)
  return chosen


def _note_evaluation(best, chosen):
  """Records the evaluation in a checkpoint, if a kill prevented that."""
  step = checkpoint_step(chosen)
  identity = checkpoint_files.read_identity(chosen)
  if identity is None or step not in [
      values["step"] for values in best["evaluations"]]:
    return
  state = dict(identity["run_state"], **{
      checkpoint_files.LAST_EVALUATION: step})
  if state != identity["run_state"]:
    checkpoint_files.write_identity(chosen, identity["fingerprint"], state)


def _before_broken_best(output_dir, best, run, problems, chosen, newest_good):
  """The checkpoint to resume from if that of `best` may be broken."""
  prefix = os.path.join(output_dir, best["checkpoint"])
  if prefix == chosen:  # all its tensors have just been read
    return chosen
  problem = checkpoint_files.find_problem(prefix, run, True)
  if problem is None:
    return chosen
  problems[prefix] = "the best on dev: " + problem
  chosen = newest_good(best["step"])
  if chosen is None:
    raise ValueError(
        "%s, the best on dev so far, is broken (%s), and there is no earlier "
        "checkpoint to rebuild it from; restore its files, or remove %s to "
        "choose only among future evaluations." % (
            prefix, problem, BEST_CHECKPOINT_FILE))
  return chosen


def _describe(problems):
  """One text per problem, the newest checkpoint first."""
  return ["%s is broken: %s" % (os.path.basename(prefix), problems[prefix])
          for prefix in sorted(problems, key=checkpoint_step, reverse=True)]


def _claimed_checkpoints(output_dir, run):
  """The prefixes of all checkpoints ever completed, oldest first."""
  found = checkpoint_files.finished_checkpoints(output_dir, run)
  named = _read_state(output_dir, logging.warning)
  if named is not None:
    if named not in found:
      found.append(named)
    if run.fingerprint is None:  # only the file says what was completed
      found = [prefix for prefix in found
               if checkpoint_step(prefix) <= checkpoint_step(named)]
  return sorted(found, key=checkpoint_step)


def _read_state(output_dir, log=None):
  """The name in the file `checkpoint`; None if it is missing or broken."""
  try:
    return checkpoint_files.read_state(output_dir)
  except ValueError:
    if log is not None:
      log("  %s is broken; using the checkpoint files themselves",
          os.path.join(output_dir, checkpoint_files.STATE_FILE))
    return None


BEST_CHECKPOINT_FILE = "best_checkpoint.json"


def run_identity(model_dir):
  """Which checkpoints belong in a directory: `checkpoint_files.RunIdentity`.

  Raises:
    ValueError: model_settings.json is broken.
  """
  if not run_lock.is_trained(model_dir):
    return checkpoint_files.UNKNOWN_RUN
  settings = model_settings.read_settings(
      os.path.join(model_dir, run_lock.SETTINGS_FILE))
  return checkpoint_files.RunIdentity(settings["fingerprint"],
                                      settings["earlier_runs"])


def earlier_runs(output_dir, run):
  """`RunIdentity.earlier` of a resumed run with other settings.

  Args:
    output_dir: str.
    run: `checkpoint_files.RunIdentity` of the existing run.
  """
  steps = [checkpoint_files.checkpoint_step(prefix) for prefix in
           checkpoint_files.finished_checkpoints(output_dir, run)]
  if not steps:
    return list(run.earlier)
  return list(run.earlier) + [
      {"fingerprint": run.fingerprint, "last_step": max(steps)}]


def has_checkpoint(model_dir, run=None):
  """Whether there is a checkpoint, intact or not."""
  run = run or run_identity(model_dir)
  return bool(checkpoint_files.finished_checkpoints(model_dir, run) or
              os.path.exists(os.path.join(
                  model_dir, checkpoint_files.STATE_FILE)))


def latest_checkpoint(model_dir, run=None):
  """Returns the prefix of the newest checkpoint, or None if there is none.

  Checks only that its files exist.

  Raises:
    ValueError: the file `checkpoint` cannot be read, or a file of the newest
      checkpoint is missing.
  """
  run = run or run_identity(model_dir)
  finished = checkpoint_files.finished_checkpoints(model_dir, run)
  named = checkpoint_files.read_state(model_dir)
  if named is not None and run.fingerprint is None:
    newest = named
  else:
    # The file may be outdated or damaged; the identities are not.
    newest = max(finished + [named] * (named is not None), default=None,
                 key=checkpoint_files.checkpoint_step)
  if newest is None:
    return None
  missing = checkpoint_files.missing_file(newest)
  if missing:
    raise ValueError(
        "the newest checkpoint of %s is %s, but %s is missing; restore it, "
        "resume training from an older one, or use the newest intact one with "
        "--allow_older_checkpoint." % (
            model_dir, os.path.basename(newest),
            os.path.join(model_dir, missing)))
  return newest


def read_best(model_dir, run=None):
  """Returns the content of best_checkpoint.json, or None if there is none.

  Returns:
    dict with `checkpoint` (name of a prefix in the directory), `step`,
    `metric`, `value`, `evaluations` (list of dict, one per evaluation on dev).

  Raises:
    ValueError: the file is broken, outdated, or from another run.
  """
  path = os.path.join(model_dir, BEST_CHECKPOINT_FILE)
  if not os.path.exists(path):
    return None
  run = run or run_identity(model_dir)
  # Before the file, which a running training may rewrite meanwhile.
  checkpoint, last_step = checkpoint_files.last_evaluation(model_dir, run)
  way_out = ("restore the original file, or remove it to discard the "
             "evaluations on dev so far")
  try:
    best = atomic_files.read_sealed(path, run.needs_identity(0))
  except ValueError as error:
    raise ValueError("%s; %s." % (str(error).rstrip("."), way_out))
  expected = {"checkpoint": str, "step": int, "metric": str,
              "value": (int, float, type(None)), "evaluations": list}
  for key in sorted(expected):
    if not model_settings.is_of(best.get(key), expected[key]):
      raise ValueError("%s: %s is %s; it is missing or has the wrong type." % (
          path, key, json.dumps(best.get(key))))
  if not re.match(r"model\.ckpt-\d+$", best["checkpoint"]):
    raise ValueError("%s: checkpoint is %s; it must be a name like "
                     "model.ckpt-100." % (path, json.dumps(best["checkpoint"])))
  if not run.owns(best.get("fingerprint"), 0):
    raise ValueError("%s is from another run than %s; %s." % (
        path, run_lock.SETTINGS_FILE, way_out))
  steps = [values["step"] for values in best["evaluations"]]
  if max(steps, default=0) < last_step:
    raise ValueError(
        "%s is an outdated copy: its last evaluation is at step %d, but %s "
        "records one at step %d; %s." % (
            path, max(steps, default=0), os.path.basename(checkpoint),
            last_step, way_out))
  return best


def best_checkpoint(model_dir, run=None):
  """`read_best`; ValueError if its checkpoint is missing."""
  best = read_best(model_dir, run)
  missing = best and checkpoint_files.missing_file(
      os.path.join(model_dir, best["checkpoint"]))
  if missing:
    raise ValueError(
        "%s names the checkpoint %s, but %s is missing; restore it, or remove "
        "%s to use the newest checkpoint." % (
            os.path.join(model_dir, BEST_CHECKPOINT_FILE),
            best["checkpoint"], missing, BEST_CHECKPOINT_FILE))
  return best


def prediction_checkpoint(model_dir, allow_older=False, verify=True, run=None):
  """The prefix to predict with: the best on dev, or the newest, or None.

  Args:
    model_dir: str.
    allow_older: bool, whether the newest intact checkpoint may replace a broken
      one, with a warning.
    verify: bool, whether the checkpoint's identity is checked.
    run: `checkpoint_files.RunIdentity` of the directory; None: read from the
      directory.

  Raises:
    ValueError: the checkpoint is broken, or from another run.
  """
  run = run or run_identity(model_dir)
  try:
    best = best_checkpoint(model_dir, run)
    chosen = (latest_checkpoint(model_dir, run) if best is None else
              os.path.join(model_dir, best["checkpoint"]))
    if chosen is not None and verify:
      check_checkpoint_identity(model_dir, chosen, run)
    if chosen is None or not allow_older:
      return chosen
    problem = checkpoint_files.find_problem(chosen, run, True)
    if problem is None:
      return chosen
  except ValueError as error:
    if not allow_older:
      raise
    problem = str(error)
  return _newest_good_checkpoint(model_dir, problem, run)


def check_checkpoint_identity(model_dir, checkpoint, run=None):
  """Raises ValueError for a checkpoint that was changed or is from another run.

  A checkpoint outside the directory is the caller's responsibility.
  """
  folder, name = os.path.split(checkpoint)
  if os.path.realpath(folder) != os.path.realpath(model_dir) or not re.match(
      r"model\.ckpt-\d+$", name):
    return
  problem = checkpoint_files.find_problem(
      checkpoint, run or run_identity(model_dir))
  if problem:
    raise ValueError(
        "checkpoint %s cannot be trusted: %s; restore its files, or use the "
        "newest intact one with --allow_older_checkpoint." % (
            checkpoint, problem.rstrip(".")))


def _newest_good_checkpoint(model_dir, problem, run):
  """The newest intact checkpoint; a warning names it and `problem`."""
  for prefix in reversed(
      checkpoint_files.finished_checkpoints(model_dir, run)):
    if checkpoint_files.find_problem(prefix, run, True) is None:
      logging.warning("%s Using %s instead.", problem.rstrip(".") + ".",
                      prefix)
      return prefix
  raise ValueError("%s No other checkpoint of %s is intact." % (
      problem.rstrip(".") + ".", model_dir))
