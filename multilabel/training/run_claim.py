# SPDX-License-Identifier: Apache-2.0
"""A run claims its output directory: locks it and compares it with the
settings."""

import json
import os
import platform
import time

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

import modeling
from multilabel import losses
from multilabel.common import atomic_files
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_files
from multilabel.storage import checkpoint_restore
from multilabel.storage import checkpoint_slim
from multilabel.storage import run_lock
from multilabel.storage import trained_model
from multilabel.training import cluster_members
from multilabel.training import dev_evaluation
from multilabel.training import mirrored
from multilabel.training import run_setup


# Settings that determine a run's weights: a resumed run must have the same.
_RUN_SETTINGS = (
    "train_batch_size", "learning_rate", "head_learning_rate",
    "num_train_epochs", "warmup_proportion", "random_seed",
    "init_bias_from_prior", "use_one_hot_embeddings", "adam_bias_correction",
    "gradient_accumulation_steps", "layer_decay", "freeze_layers", "amp", "xla",
    "init_head", "ema_decay", "multi_sample_dropout", "r_drop", "adversarial",
    "fgm_epsilon")


# Defaults of those that older runs did not have.
_LATER_SETTINGS = ("gradient_accumulation_steps", "layer_decay",
                   "freeze_layers", "amp", "xla", "init_head",
                   "ema_decay", "multi_sample_dropout", "r_drop", "adversarial",
                   "fgm_epsilon")


def run_settings(label_list, parts, settings):
  """What determines the weights of a run, besides the model: dict."""
  values = {name: settings[name] for name in _RUN_SETTINGS}
  # For the record. None: as without the flag.
  num_devices = (
      len(cluster_members.read_environment().replicas)
      if settings.distribution == mirrored.CLUSTER else
      mirrored.count_devices(settings))
  values["num_devices"] = num_devices if num_devices > 1 else None
  values["dropout_bits"] = modeling.DROPOUT_BITS
  values["train_data"] = parts["train"].scan.digest
  values["init_checkpoint"] = os.path.basename(settings.init_checkpoint or "")
  values["init_checkpoint_sha256"] = checkpoint_digest(
      settings.init_checkpoint)
  values["loss_parameters"] = run_setup.loss_parameters(
      parts["train"].scan, label_list, settings)
  values["dev_evaluation"] = None
  if run_setup.evaluates_while_training(settings):
    values["dev_evaluation"] = {
        "dev_data": parts["dev"].scan.digest,
        "eval_steps": settings.eval_steps,
        "metric_for_best": dev_evaluation.METRIC_ALIASES.get(
            settings.metric_for_best, settings.metric_for_best),
        "early_stopping_patience": settings.early_stopping_patience}
  return values


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


def read_directory(settings):
  """The content of output_dir: `trained_model.TrainedModel`, None without a
  run.

  The caller holds the lock.

  Raises:
    ValueError: there is nothing to evaluate or predict with, or the existing
      run must not be resumed.
  """
  output_dir = settings.output_dir
  checkpoint_slim.finish_moves(output_dir)
  trained = (trained_model.read(output_dir)
             if run_lock.is_trained(output_dir) else None)
  if not settings.do_train:
    if trained is None or not checkpoint_choice.has_checkpoint(
        output_dir, trained.identity):
      raise ValueError("output_dir %s has no trained model; train first "
                       "(--do_train)." % output_dir)
    if not settings.allow_older_checkpoint:
      checkpoint_restore.check_sizes(  # before any work
          checkpoint_choice.prediction_checkpoint(
              output_dir, run=trained.identity),
          trained.bert_config, len(trained.labels),
          checkpoint_restore.OWN_FILES)
  elif settings.resume == "never":
    begun = run_lock.begun_files(output_dir)
    if trained is not None or begun:
      raise ValueError(
          "output_dir %s already has a run%s and --resume=never is set; name "
          "another --output_dir." % (
              output_dir, "" if trained is not None else
              " that has just started (%s)" % ", ".join(begun[:3])))
  return trained


def settle(trained, model, label_list, parts, settings, encoder=None):
  """Compares a run with its locked directory, and writes what describes it.

  Args:
    trained: what `read_directory` returned.
    model: `run_setup.Model`.
    label_list: list of str.
    parts: {name: `preparation.DataPart`}.
    settings: `common.settings.Settings`.
    encoder: dict or None, the origin of the encoder, for the record.

  Returns:
    `trained_model.TrainedModel`: the new content of the directory.

  Raises:
    ValueError: the directory is from another run.
  """
  output_dir = settings.output_dir
  compared = {
      "do_lower_case": model.do_lower_case, "pooling": model.pooling,
      "max_seq_length": model.max_seq_length, "loss": model.loss,
      "long_text": model.long_text.form, "stride": model.long_text.stride,
      "window_pooling": model.long_text.pooling}
  run = None
  if settings.do_train:
    run = run_settings(label_list, parts, settings)
    # Refuses invalid parameters before anything is written.
    losses.make_loss(model.loss, **run["loss_parameters"])
  if trained is not None:
    _check_same_run(trained, model, label_list, compared, run, parts, settings)
  run_lock.remove_temporary_files(output_dir)
  if not settings.do_train or (
      trained is not None and settings.resume != "force"):
    return trained
  if trained is not None:
    _forget_other_evaluations(trained, run, output_dir)
  return trained_model.write(
      output_dir, model.bert_config, model.vocab_file, label_list,
      dict(compared, run=run, encoder=encoder, flags=settings.to_dict(),
           data=describe_data(parts, settings.data_dir),
           versions={"python": platform.python_version(),
                     "tensorflow": tf.__version__, "numpy": np.__version__}),
      () if trained is None else checkpoint_choice.earlier_runs(
          output_dir, trained.identity))


def _forget_other_evaluations(trained, run, output_dir):
  """Removes best_checkpoint.json if its metric is no longer computed."""
  there, here = [values.get("dev_evaluation") or {} for values in (
      trained.settings.get("run") or {}, run)]
  path = os.path.join(output_dir, checkpoint_choice.BEST_CHECKPOINT_FILE)
  if os.path.exists(path) and any(
      there.get(key) != here.get(key)
      for key in ("dev_data", "metric_for_best")):
    logging.warning("%s is from other evaluations on dev and is removed", path)
    os.remove(path)


def describe_data(parts, data_dir):
  """Tells the user which data these are; runs are not compared by it.

  Args:
    parts: {name: `preparation.DataPart`}.
    data_dir: str, or None if the examples are in memory.

  Returns:
    {name: {"texts": int, "files": {file name: when it was written, str}}}.
  """
  names = sorted(os.listdir(data_dir)) if os.path.isdir(data_dir or "") else []
  return {part: {
      "texts": int(parts[part].scan.num_examples),
      "files": {name: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(
          os.path.getmtime(os.path.join(data_dir, name))))
                for name in names if name.partition(".")[0] == part}}
          for part in sorted(parts)}


def _data_difference(name, there, here):
  """Describes how a split changed; "" if nothing is known.
  """
  there, here = there.get(name), here.get(name)
  if not there or not here:
    return ""
  files = ["%s was written %s, there %s" % (
      path, written, there["files"].get(path, "not at all"))
           for path, written in sorted(here["files"].items())
           if there["files"].get(path) != written]
  return "there %s texts, here %s%s" % (
      "{:,}".format(there["texts"]), "{:,}".format(here["texts"]),
      "".join("; " + words for words in files))


def _check_same_run(trained, model, label_list, compared, here, parts,
                    settings):
  """Raises ValueError if output_dir holds a run of another kind."""
  output_dir = settings.output_dir
  differences = trained_model.differences(
      trained, model.bert_config, model.vocab_file, label_list, compared)
  if differences:
    raise ValueError(
        "output_dir %s was trained with other settings: %s (according to %s "
        "there); name another --output_dir, or use the same settings." % (
            output_dir, "; ".join(differences), run_lock.SETTINGS_FILE))
  if not settings.do_train:
    return
  there = dict({name: settings.default(name) for name in _LATER_SETTINGS},
               **(trained.settings.get("run") or {}))
  keys = set(here)
  # Initial weights are compared by content, if it was recorded.
  keys.discard("init_checkpoint" if "init_checkpoint_sha256" in there else
               "init_checkpoint_sha256")
  # Batches and steps are the same on any number of devices.
  keys -= {"num_devices", "dropout_bits"}
  devices = [values.get("num_devices") or 1 for values in (there, here)]
  if devices[0] != devices[1]:
    logging.warning("The run started with %d device%s and continues with %d: "
                    "its dropout masks differ from here on.", devices[0],
                    "" if devices[0] == 1 else "s", devices[1])
  if there.get("dropout_bits") != here["dropout_bits"]:
    logging.warning("The run started with another version of this program: "
                    "its dropout masks differ from here on.")
  data = [trained.settings.get("data") or {},
          describe_data(parts, settings.data_dir)]
  words = {"train_data": _data_difference("train", *data)}
  evaluations = [there.get("dev_evaluation"), here["dev_evaluation"]]
  if all(evaluations) and (
      evaluations[0]["dev_data"] != evaluations[1]["dev_data"]):
    words["dev_evaluation"] = _data_difference("dev", *data)
  changed = ["%s (%s)" % (key, words.get(key) or "there %s, here %s" % (
      json.dumps(there.get(key), sort_keys=True),
      json.dumps(here[key], sort_keys=True)))
             for key in sorted(keys) if there.get(key) != here[key]]
  if changed and settings.resume == "force":
    logging.warning("--resume=force: resuming although these changed: %s",
                    "; ".join(changed))
  elif changed:
    raise ValueError(
        "output_dir %s has a run with other settings: %s (according to %s "
        "there); name another --output_dir, or resume anyway with "
        "--resume=force%s." % (
            output_dir, "; ".join(changed), run_lock.SETTINGS_FILE,
            "" if there.get("num_train_epochs") == here["num_train_epochs"] else
            " (the learning rate decays to 0 at the end of num_train_epochs, "
            "so with another number the steps so far fit neither schedule; for "
            "more epochs, start over in another --output_dir)"))
