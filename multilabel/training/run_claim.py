# SPDX-License-Identifier: Apache-2.0
"""A run takes its output directory: locked, compared with what is there."""

import contextlib
import json
import os
import platform
import sys

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

from multilabel import losses
from multilabel.common import atomic_files
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.storage import run_lock
from multilabel.storage import trained_model
from multilabel.training import cluster_members
from multilabel.training import dev_evaluation
from multilabel.training import mirrored
from multilabel.training import run_setup


# Settings that decide a run's weights: a resumed run must have the same.
_RUN_SETTINGS = (
    "train_batch_size", "learning_rate", "head_learning_rate",
    "num_train_epochs", "warmup_proportion", "random_seed",
    "init_bias_from_prior", "use_one_hot_embeddings", "adam_bias_correction",
    "gradient_accumulation_steps", "layer_decay", "freeze_layers", "amp", "xla")


# Of these, what a run that is older than the flag had: its default.
_LATER_SETTINGS = ("gradient_accumulation_steps", "layer_decay",
                   "freeze_layers", "amp", "xla")


def run_settings(label_list, parts, flag_values):
  """What decides the weights of a run, beyond the model: dict."""
  settings = {name: flag_values[name].value for name in _RUN_SETTINGS}
  # For the record. None: as where there was no flag.
  num_devices = (
      len(cluster_members.read_environment().replicas)
      if flag_values.distribution == mirrored.CLUSTER else
      mirrored.count_devices(flag_values))
  settings["num_devices"] = num_devices if num_devices > 1 else None
  settings["train_data"] = parts["train"].scan.digest
  settings["init_checkpoint"] = os.path.basename(
      flag_values.init_checkpoint or "")
  settings["init_checkpoint_sha256"] = checkpoint_digest(
      flag_values.init_checkpoint)
  settings["loss_parameters"] = run_setup.loss_parameters(
      parts["train"].scan, label_list, flag_values)
  settings["dev_evaluation"] = None
  if run_setup.evaluates_while_training(flag_values):
    settings["dev_evaluation"] = {
        "dev_data": parts["dev"].scan.digest,
        "eval_steps": flag_values.eval_steps,
        "metric_for_best": dev_evaluation.METRIC_ALIASES.get(
            flag_values.metric_for_best, flag_values.metric_for_best),
        "early_stopping_patience": flag_values.early_stopping_patience}
  return settings


def checkpoint_digest(checkpoint):
  """sha256 of a checkpoint's index, which has a checksum of each tensor."""
  if not checkpoint:
    return None
  if os.path.isdir(checkpoint):
    checkpoint = tf.train.latest_checkpoint(checkpoint) or checkpoint
  for path in (checkpoint + checkpoint_files.INDEX, checkpoint):
    if os.path.isfile(path):
      return atomic_files.file_sha256(path)
  return None


@contextlib.contextmanager
def claim(model, label_list, parts, flag_values):
  """Makes output_dir this run's alone, and writes what describes the model."""
  output_dir = flag_values.output_dir
  compared = {
      "do_lower_case": model.do_lower_case, "pooling": model.pooling,
      "max_seq_length": model.max_seq_length, "loss": model.loss,
      "long_text": model.long_text.form, "stride": model.long_text.stride,
      "window_pooling": model.long_text.pooling}
  run = None
  if flag_values.do_train:
    run = run_settings(label_list, parts, flag_values)
    # Refuses parameters that cannot be, before anything is written.
    losses.make_loss(model.loss, **run["loss_parameters"])
  _check_run(model, label_list, compared, run, flag_values)
  with run_lock.lock(output_dir):
    # Another run may have begun, and ended, in between.
    is_trained = _check_run(model, label_list, compared, run, flag_values)
    run_lock.remove_temporary_files(output_dir)
    if flag_values.do_train and (
        not is_trained or flag_values.resume == "force"):
      if is_trained:
        _forget_other_evaluations(run, output_dir)
      _write_model_dir(model, label_list, compared, run, flag_values)
    yield


def _check_run(model, label_list, compared, run, flag_values):
  """Whether there is a run in output_dir; ValueError if it is of another kind.
  """
  output_dir = flag_values.output_dir
  if run_lock.is_trained(output_dir):
    _check_same_run(model, label_list, compared, run, flag_values)
    return True
  begun = run_lock.begun_files(output_dir)
  if begun and flag_values.resume == "never" and flag_values.do_train:
    raise ValueError(
        "output_dir %s has a run in it that had just begun (%s) and "
        "--resume=never; name another --output_dir." % (
            output_dir, ", ".join(begun[:3])))
  return False


def _forget_other_evaluations(run, output_dir):
  """Removes best_checkpoint.json if what it compares is no longer measured."""
  there = trained_model.read(output_dir).settings.get("run", {})
  there, here = [settings.get("dev_evaluation") or {}
                 for settings in (there, run)]
  path = os.path.join(output_dir, checkpoint_choice.BEST_CHECKPOINT_FILE)
  if os.path.exists(path) and any(
      there.get(key) != here.get(key)
      for key in ("dev_data", "metric_for_best")):
    logging.warning("%s is of other evaluations on dev and is removed", path)
    os.remove(path)


def _write_model_dir(model, label_list, compared, run, flag_values):
  """Writes into output_dir what prediction will need beside a checkpoint."""
  trained_model.write(
      flag_values.output_dir, model.bert_config, model.vocab_file, label_list,
      dict(compared, run=run,
           flags={flag.name: flag.value for flag in
                  flag_values.get_flags_for_module(sys.argv[0])},
           versions={"python": platform.python_version(),
                     "tensorflow": tf.__version__, "numpy": np.__version__}),
      checkpoint_choice.earlier_runs(flag_values.output_dir))


def _check_same_run(model, label_list, compared, here, flag_values):
  """Raises ValueError if output_dir holds a run of another kind."""
  output_dir = flag_values.output_dir
  differences = trained_model.differences(
      output_dir, model.bert_config, model.vocab_file, label_list, compared)
  if differences:
    raise ValueError(
        "output_dir %s was trained with another %s (says %s there); name "
        "another --output_dir, or make them the same." % (
            output_dir, "; another ".join(differences),
            run_lock.SETTINGS_FILE))
  if not flag_values.do_train:
    return
  if flag_values.resume == "never":
    raise ValueError("output_dir %s has a run in it and --resume=never; name "
                     "another --output_dir." % output_dir)
  there = dict({name: flag_values[name].default for name in _LATER_SETTINGS},
               **trained_model.read(output_dir).settings.get("run", {}))
  keys = set(here)
  # What it starts from is the same by its content, where that was kept.
  keys.discard("init_checkpoint" if "init_checkpoint_sha256" in there else
               "init_checkpoint_sha256")
  # Batches and steps are the same on any number of devices.
  keys.discard("num_devices")
  devices = [settings.get("num_devices") or 1 for settings in (there, here)]
  if devices[0] != devices[1]:
    logging.warning("The run began with %d device%s and goes on with %d: from "
                    "here its dropout masks are others.", devices[0],
                    "" if devices[0] == 1 else "s", devices[1])
  changed = ["%s (there %s, here %s)" % (
      key, json.dumps(there.get(key), sort_keys=True),
      json.dumps(here[key], sort_keys=True))
             for key in sorted(keys) if there.get(key) != here[key]]
  if changed and flag_values.resume == "force":
    logging.warning("--resume=force: going on although these changed: %s",
                    "; ".join(changed))
  elif changed:
    raise ValueError(
        "output_dir %s has a run with another %s (says %s there); name another "
        "--output_dir, or go on all the same with --resume=force%s." % (
            output_dir, "; another ".join(changed), run_lock.SETTINGS_FILE,
            "" if there.get("num_train_epochs") == here["num_train_epochs"] else
            " (the learning rate falls to 0 at the end of num_train_epochs: "
            "with another number the steps that were made are those of neither "
            "schedule, so a run from the start in another --output_dir is the "
            "plain way to more epochs)"))
