# SPDX-License-Identifier: Apache-2.0
"""From which checkpoint training goes on, and what it says if one is broken."""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import os

from absl import logging

import checkpoint_files
from checkpoint_files import checkpoint_step
import model_dir


def recover(output_dir):
  """Finds the newest good checkpoint, and removes what is beyond it.

  Every tensor is read. Since training is exact, what comes after the
  checkpoint will be made again as it was; so a broken checkpoint costs steps,
  not results. A broken one that did best on dev is made again, too.

  Args:
    output_dir: str, a directory that the caller has locked.

  Returns:
    str, prefix; None if no checkpoint was ever finished.

  Raises:
    ValueError: there are checkpoints, and none to go on from.
  """
  run = model_dir.run_identity(output_dir)
  claimed = _claimed_checkpoints(output_dir, run)
  problems = {}

  def newest_good(below=float("inf")):
    for prefix in reversed(claimed):
      if checkpoint_step(prefix) < below and prefix not in problems:
        problem = checkpoint_files.find_problem(prefix, run, True)
        if problem is None:
          return prefix
        problems[prefix] = problem
    return None

  chosen = newest_good()
  if claimed and chosen is None:
    raise ValueError(
        "output_dir %s has no whole checkpoint to go on from (%s); bring its "
        "files back, or name another --output_dir to begin anew." % (
            output_dir, "; ".join(_describe(problems))))
  best = model_dir.read_best(output_dir) if claimed else None
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
            prefix, problem, model_dir.BEST_CHECKPOINT_FILE))
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
