# SPDX-License-Identifier: Apache-2.0
"""From which checkpoint training goes on, and what it says if one is broken."""

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
  """Finds the newest good checkpoint, and removes what is beyond it.

  Every tensor is read. Since training is exact, what comes after the
  checkpoint will be made again as it was; so a broken checkpoint costs steps,
  not results. A broken one that did best on dev is made again, too.

  Args:
    output_dir: str, a directory that the caller has locked.
    run: `checkpoint_files.RunIdentity` of the directory; None: it is read.

  Returns:
    str, prefix; None if no checkpoint was ever finished.

  Raises:
    ValueError: there are checkpoints, and none to go on from.
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

  # What has no optimizer state is nothing to go on from, unless the run is
  # over and it is all there is.
  is_finished = len(claimed) == 1 and checkpoint_files.read_run_state(
      claimed[0], True).get(checkpoint_slim.FINISHED_AT) is not None
  chosen = newest_good()
  if claimed and chosen is None:
    raise ValueError(
        "output_dir %s has no whole checkpoint to go on from (%s); bring its "
        "files back, or name another --output_dir to begin anew." % (
            output_dir, "; ".join(_describe(problems))))
  best = read_best(output_dir, run) if claimed else None
  if best is not None and best["step"] <= checkpoint_step(chosen):
    chosen = _before_broken_best(output_dir, best, run, problems, chosen,
                                 newest_good)
  for line in _describe(problems):
    logging.warning("  %s; going back to step %d", line,
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
  """Tells a checkpoint of its evaluation, if a kill came before that."""
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
  """The checkpoint to go on from if that of `best` may be broken."""
  prefix = os.path.join(output_dir, best["checkpoint"])
  if prefix == chosen:  # every tensor of it has just been read
    return chosen
  problem = checkpoint_files.find_problem(prefix, run, True)
  if problem is None:
    return chosen
  problems[prefix] = "the best on dev: " + problem
  chosen = newest_good(best["step"])
  if chosen is None:
    raise ValueError(
        "%s, the best on dev until now, is broken (%s), and there is no "
        "checkpoint before it to make it again from; bring its files back, or "
        "remove %s to choose among the evaluations to come." % (
            prefix, problem, BEST_CHECKPOINT_FILE))
  return chosen


def _describe(problems):
  """A text a problem, the newest checkpoint first."""
  return ["%s is broken: %s" % (os.path.basename(prefix), problems[prefix])
          for prefix in sorted(problems, key=checkpoint_step, reverse=True)]


def _claimed_checkpoints(output_dir, run):
  """The prefixes of all that was finished once, oldest first."""
  found = checkpoint_files.finished_checkpoints(output_dir, run)
  named = _read_state(output_dir, logging.warning)
  if named is not None:
    if named not in found:
      found.append(named)
    if run.fingerprint is None:  # the file alone says what was finished
      found = [prefix for prefix in found
               if checkpoint_step(prefix) <= checkpoint_step(named)]
  return sorted(found, key=checkpoint_step)


def _read_state(output_dir, log=None):
  """What the file `checkpoint` names; None if it is missing or broken."""
  try:
    return checkpoint_files.read_state(output_dir)
  except ValueError:
    if log is not None:
      log("  %s is broken; looking at the checkpoints themselves",
          os.path.join(output_dir, checkpoint_files.STATE_FILE))
    return None


BEST_CHECKPOINT_FILE = "best_checkpoint.json"


def run_identity(model_dir):
  """Which checkpoints belong into a directory: `checkpoint_files.RunIdentity`.

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
  """`RunIdentity.earlier` of a run that goes on with other settings.

  Args:
    output_dir: str.
    run: `checkpoint_files.RunIdentity` of what is there.
  """
  steps = [checkpoint_files.checkpoint_step(prefix) for prefix in
           checkpoint_files.finished_checkpoints(output_dir, run)]
  if not steps:
    return list(run.earlier)
  return list(run.earlier) + [
      {"fingerprint": run.fingerprint, "last_step": max(steps)}]


def has_checkpoint(model_dir, run=None):
  """Whether there is a checkpoint, whole or not."""
  run = run or run_identity(model_dir)
  return bool(checkpoint_files.finished_checkpoints(model_dir, run) or
              os.path.exists(os.path.join(
                  model_dir, checkpoint_files.STATE_FILE)))


def latest_checkpoint(model_dir, run=None):
  """Returns the prefix of the newest checkpoint, or None if there is none.

  Only that its files are there is looked at.

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
    # The file may lag behind, and may be damaged; the identities are not.
    newest = max(finished + [named] * (named is not None), default=None,
                 key=checkpoint_files.checkpoint_step)
  if newest is None:
    return None
  missing = checkpoint_files.missing_file(newest)
  if missing:
    raise ValueError(
        "the newest checkpoint of %s is %s, but %s is missing; bring it back, "
        "train on from an older one, or take the newest whole one with "
        "--allow_older_checkpoint." % (
            model_dir, os.path.basename(newest),
            os.path.join(model_dir, missing)))
  return newest


def read_best(model_dir, run=None):
  """Returns the content of best_checkpoint.json, or None if there is none.

  Returns:
    dict with `checkpoint` (name of a prefix in the directory), `step`,
    `metric`, `value`, `evaluations` (list of dict, one an evaluation on dev).

  Raises:
    ValueError: the file is broken, of another run, or an earlier state of it.
  """
  path = os.path.join(model_dir, BEST_CHECKPOINT_FILE)
  if not os.path.exists(path):
    return None
  run = run or run_identity(model_dir)
  # Before the file, which a run that is at work may write again meanwhile.
  checkpoint, last_step = checkpoint_files.last_evaluation(model_dir, run)
  way_out = ("bring back what was written, or remove it to do without what was "
             "found on dev until now")
  try:
    best = atomic_files.read_sealed(path, run.needs_identity(0))
  except ValueError as error:
    raise ValueError("%s; %s." % (str(error).rstrip("."), way_out))
  expected = {"checkpoint": str, "step": int, "metric": str,
              "value": (int, float, type(None)), "evaluations": list}
  for key in sorted(expected):
    if not model_settings.is_of(best.get(key), expected[key]):
      raise ValueError("%s: %s is %s; it is missing or of the wrong type." % (
          path, key, json.dumps(best.get(key))))
  if not re.match(r"model\.ckpt-\d+$", best["checkpoint"]):
    raise ValueError("%s: checkpoint is %s; it must be a name like "
                     "model.ckpt-100." % (path, json.dumps(best["checkpoint"])))
  if not run.owns(best.get("fingerprint"), 0):
    raise ValueError("%s is of another run than %s; %s." % (
        path, run_lock.SETTINGS_FILE, way_out))
  steps = [values["step"] for values in best["evaluations"]]
  if max(steps, default=0) < last_step:
    raise ValueError(
        "%s is an earlier state of that file: its last evaluation is of step "
        "%d, but %s knows of one of step %d; %s." % (
            path, max(steps, default=0), os.path.basename(checkpoint),
            last_step, way_out))
  return best


def best_checkpoint(model_dir, run=None):
  """`read_best`; ValueError if the checkpoint that it names is not there."""
  best = read_best(model_dir, run)
  missing = best and checkpoint_files.missing_file(
      os.path.join(model_dir, best["checkpoint"]))
  if missing:
    raise ValueError(
        "%s names the checkpoint %s, but %s is missing; bring it back, or "
        "remove %s to use the newest checkpoint." % (
            os.path.join(model_dir, BEST_CHECKPOINT_FILE),
            best["checkpoint"], missing, BEST_CHECKPOINT_FILE))
  return best


def prediction_checkpoint(model_dir, allow_older=False, verify=True, run=None):
  """The prefix to predict with: the best on dev, else the newest, else None.

  Args:
    model_dir: str.
    allow_older: bool, whether the newest whole checkpoint may take the place
      of one that is broken; a warning says so.
    verify: bool, whether the checkpoint's identity is looked at.
    run: `checkpoint_files.RunIdentity` of the directory; None: it is read.

  Raises:
    ValueError: what would be taken is broken, or of another run.
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
  """Raises ValueError for a checkpoint that is changed or of another run.

  One from elsewhere is the caller's to know.
  """
  folder, name = os.path.split(checkpoint)
  if os.path.realpath(folder) != os.path.realpath(model_dir) or not re.match(
      r"model\.ckpt-\d+$", name):
    return
  problem = checkpoint_files.find_problem(
      checkpoint, run or run_identity(model_dir))
  if problem:
    raise ValueError(
        "checkpoint %s cannot be trusted: %s; bring its files back, or take "
        "the newest whole one with --allow_older_checkpoint." % (
            checkpoint, problem.rstrip(".")))


def _newest_good_checkpoint(model_dir, problem, run):
  """The newest checkpoint that is whole; a warning names it and `problem`."""
  for prefix in reversed(
      checkpoint_files.finished_checkpoints(model_dir, run)):
    if checkpoint_files.find_problem(prefix, run, True) is None:
      logging.warning("%s Taking %s instead.", problem.rstrip(".") + ".",
                      prefix)
      return prefix
  raise ValueError("%s No other checkpoint of %s is whole." % (
      problem.rstrip(".") + ".", model_dir))
