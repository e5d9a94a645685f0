# SPDX-License-Identifier: Apache-2.0
"""A run and its directory: which model, which data, whose directory it is.

What `run_multilabel_classifier.py` settles before the first session exists.
Each function takes the flags that it looks at as `flag_values`.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import collections
import contextlib
import functools
import itertools
import json
import os
import platform
import sys

from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

import atomic_files
import best_checkpoint
import checkpoint_files
import cluster_members
import distribution
import input_pipeline
import model_dir
import modeling
import multilabel_losses
import multilabel_model
import processors
from processors import label_checks
import record_shards
import tokenization

# Settings that decide a run's weights: a resumed run must have the same.
_RUN_SETTINGS = (
    "train_batch_size", "learning_rate", "head_learning_rate",
    "num_train_epochs", "warmup_proportion", "random_seed",
    "init_bias_from_prior", "use_one_hot_embeddings", "adam_bias_correction",
    "gradient_accumulation_steps", "layer_decay", "freeze_layers", "amp", "xla")

# Of these, what a run that is older than the flag had: its default.
_LATER_SETTINGS = ("gradient_accumulation_steps", "layer_decay",
                   "freeze_layers", "amp", "xla")

# What shapes a loss, beside its name.
LOSS_FLAGS = {
    "weighted": ("pos_weight_cap", "pos_weight_file"),
    "focal": ("focal_gamma", "focal_alpha"),
    "asymmetric": ("asymmetric_gamma_pos", "asymmetric_gamma_neg",
                   "asymmetric_clip"),
}

TUNED_THRESHOLDS = ("tune", "tune_per_label")

Model = collections.namedtuple(
    "Model", ["bert_config", "vocab_file", "do_lower_case", "max_seq_length",
              "pooling", "long_text", "loss"])

# One of train, dev, test: a function to its examples, and what a first
# reading of them said.
DataPart = collections.namedtuple("DataPart", ["name", "examples", "scan"])


def choose_model(flag_values):
  """The model that the flags describe, checked: `Model`.

  Evaluation and prediction alone take from the trained directory what no flag
  says.
  """
  trained, output_dir = None, flag_values.output_dir
  if not flag_values.do_train:
    if not model_dir.is_trained(output_dir) or not (
        model_dir.has_checkpoint(output_dir)):
      raise ValueError("output_dir %s has no trained model; train first "
                       "(--do_train)." % output_dir)
    trained = model_dir.read(output_dir)
    if not flag_values.allow_older_checkpoint:
      model_dir.prediction_checkpoint(output_dir)  # before any work

  def choose(name):
    flag = flag_values[name]
    if trained is None or flag.present:
      return flag.value
    return trained.settings.get(name, flag.value)

  if flag_values.bert_config_file:
    bert_config = modeling.BertConfig.from_json_file(
        flag_values.bert_config_file)
  else:
    bert_config = trained.bert_config
  vocab_file = flag_values.vocab_file or trained.vocab_file
  max_seq_length = choose("max_seq_length")
  tokenization.validate_case_matches_checkpoint(
      choose("do_lower_case"), flag_values.init_checkpoint)
  tokenization.validate_vocab(vocab_file, bert_config.vocab_size,
                              flag_values.bert_config_file,
                              warn=logging.warning)
  if max_seq_length > bert_config.max_position_embeddings:
    raise ValueError(
        "--max_seq_length is %d, but the model was made for %d tokens at most "
        "(max_position_embeddings)." % (
            max_seq_length, bert_config.max_position_embeddings))
  if max_seq_length < 3:
    raise ValueError("--max_seq_length is %d; [CLS], a token and [SEP] need 3, "
                     "a pair of texts 4." % max_seq_length)
  if flag_values.stride is not None and choose("long_text") != "windows":
    raise ValueError("--stride needs --long_text=windows.")
  # A directory of another form, which is refused later by name, has 0 there.
  stride = choose("stride") or flag_values.stride
  long_text = input_pipeline.make_long_text(
      choose("long_text"), stride, choose("window_pooling"), max_seq_length)
  return Model(bert_config, vocab_file, choose("do_lower_case"),
               max_seq_length, choose("pooling"), long_text, choose("loss"))


def make_processor(flag_values):
  """The data processor that --task_name or --processor names."""
  return processors.create_processor(*processor_settings(flag_values))


def processor_settings(flag_values):
  """The arguments of `processors.create_processor`."""
  options = {name: flag_values[name].value for name in (
      "text_column", "text_pair_column", "label_column", "ignore_columns",
      "id_column", "label_separator", "delimiter", "quoting", "encoding",
      "dev_fraction")}
  return flag_values.task_name, flag_values.processor, options


def choose_labels(processor, flag_values):
  """All labels in the order of the outputs: list of str."""
  if not flag_values.do_train:
    trained = model_dir.read(flag_values.output_dir).labels
    try:
      return processors.get_labels(processor, flag_values.data_dir)
    except ValueError:
      # The data to evaluate need not come with a label list of their own.
      return trained
  return processors.get_labels(processor, flag_values.data_dir)


def read_parts(processor, label_list, model, flag_values):
  """Reads and checks the examples that the run needs: {name: DataPart}."""
  names = [name for name, is_needed in (
      ("train", flag_values.do_train), ("dev", flag_values.do_eval),
      ("test", flag_values.do_predict or flag_values.do_test)) if is_needed]
  parts = {}
  for name in names:
    is_scored = name != "test" or flag_values.do_test
    examples = functools.partial(
        part_examples, processor, name, flag_values.data_dir,
        flag_values.max_train_examples)
    scan = input_pipeline.scan_examples(
        examples(), label_list, name != "test", name, flag_values.data_dir,
        not is_scored)
    if not scan.num_examples:
      raise ValueError("%s has no %s examples." % (flag_values.data_dir, name))
    if scan.num_pairs and model.max_seq_length < 4:
      raise ValueError("--max_seq_length is %d; a pair of texts needs 4 or "
                       "more." % model.max_seq_length)
    if is_scored:
      check_scored(name, scan, flag_values.data_dir)
    else:
      examples = _predicted_only(examples, scan, label_list)
    parts[name] = DataPart(name, examples, scan)
  return parts


def check_scored(name, scan, data_dir):
  """Raises ValueError if a part has nothing that could be learnt or scored.

  Args:
    name: "train", "dev" or "test".
    scan: `text_features.DataScan`.
    data_dir: str.
  """
  what_else = ("give --do_predict instead of --do_test to predict it"
               if name == "test" else "write the labels into its file")
  if len(scan.unlabelled) == scan.num_examples:
    raise ValueError(
        "the %s set of %s is not labelled, so it cannot be scored: %s." % (
            name, data_dir, what_else))
  if not scan.label_counts.any():
    raise ValueError(
        "none of the %d texts of the %s set of %s has a label, so there is "
        "nothing to %s: %s." % (
            scan.num_examples - len(scan.unlabelled), name, data_dir,
            "learn" if name == "train" else "score", what_else))


def _predicted_only(examples, scan, label_list):
  """Takes labels off that nobody gave: a function to examples.

  Where all texts have none, or all the one that fills the place of labels in
  processors for google-research/bert, nobody labelled the test set.
  """
  counts = dict(zip(label_list, scan.label_counts))
  num_labelled = scan.num_examples - len(scan.unlabelled)
  if counts.get(label_checks.PLACEHOLDER, 0) == scan.label_counts.sum() and (
      scan.label_counts.sum() in (0, num_labelled)):
    return lambda: label_checks.without_labels(examples())
  if scan.num_placeholders:
    known = frozenset(label_list)
    return lambda: label_checks.without_labels(examples(), known)
  return examples


def part_examples(processor, name, data_dir, max_train_examples=0):
  """The examples of "train", "dev" or "test": an iterable."""
  examples = processors.get_examples(processor, name, data_dir)
  if name != "train":
    return examples
  return itertools.islice(examples, max_train_examples or None)


def write_features(parts, label_list, model, output_dir):
  """Writes the record file of each part, or finds it.

  Returns:
    {name: (path, `input_pipeline.FeatureStats`)}.
  """
  tokenizer = tokenization.FullTokenizer(model.vocab_file, model.do_lower_case)
  records = {}
  for name, part in sorted(parts.items()):
    path = record_path(output_dir, name)
    fingerprint = input_pipeline.features_fingerprint(
        part.scan, label_list, model.vocab_file, model.do_lower_case,
        model.max_seq_length, model.long_text)
    shards = record_shards.find_shards(path)
    stats = (record_shards.read_shard_stats(shards, fingerprint) if shards else
             input_pipeline.read_feature_stats(path, fingerprint))
    if shards and os.path.exists(path):
      raise ValueError("%s stands beside its shards %s, ...; remove the one or "
                       "the others." % (path, shards[0]))
    if stats:
      logging.info("Features of %s: found in %s", name, path)
    else:
      stats = input_pipeline.file_based_convert_examples_to_features(
          part.examples(), label_list, model.max_seq_length, tokenizer, path,
          fingerprint, input_pipeline.choose_num_workers(
              part.scan.num_examples), model.long_text)
      logging.info("Features of %s: written to %s", name, path)
    logging.info(
        "  %s texts; %s of them are longer than %d tokens and cut; %s empty",
        "{:,}".format(stats.num_examples), "{:,}".format(stats.num_truncated),
        model.max_seq_length, "{:,}".format(stats.num_empty))
    if model.long_text.form == "windows":
      logging.info("  %s windows of at most %d tokens, one every %d",
                   "{:,}".format(stats.num_records), model.max_seq_length,
                   model.long_text.stride)
    records[name] = (path, stats)
  return records


def record_path(output_dir, name):
  """The record file of train, dev or test."""
  return os.path.join(output_dir, name + ".tf_record")


def choose_decision(flag_values):
  """How probabilities become labels: what flags say, else the directory.

  Returns:
    `multilabel_thresholds.DecisionRule`; with --threshold=tune or
    tune_per_label its thresholds are those of before.
  """
  decision = model_dir.read(flag_values.output_dir).decision
  if flag_values["threshold"].present and (
      flag_values.threshold not in TUNED_THRESHOLDS):
    decision = decision._replace(thresholds=float(flag_values.threshold))
  if flag_values["top_k"].present:
    decision = decision._replace(top_k=flag_values.top_k or None)
  if flag_values["always_one_label"].present:
    decision = decision._replace(
        always_one_label=flag_values.always_one_label)
  return decision


def store_decision(decision, flag_values):
  """Keeps the decision rule in the trained directory, if flags spoke of it."""
  kind = model_dir.read(flag_values.output_dir).settings["threshold_kind"]
  if flag_values["threshold"].present:
    kind = (flag_values.threshold
            if flag_values.threshold in TUNED_THRESHOLDS else "fixed")
  model_dir.update_decision(flag_values.output_dir, kind, decision)


def run_settings(label_list, parts, flag_values):
  """What decides the weights of a run, beyond the model: dict."""
  settings = {name: flag_values[name].value for name in _RUN_SETTINGS}
  # For the record. None: as where there was no flag.
  num_devices = (
      len(cluster_members.read_environment().replicas)
      if flag_values.distribution == distribution.CLUSTER else
      distribution.count_devices(flag_values))
  settings["num_devices"] = num_devices if num_devices > 1 else None
  settings["train_data"] = parts["train"].scan.digest
  settings["init_checkpoint"] = os.path.basename(
      flag_values.init_checkpoint or "")
  settings["init_checkpoint_sha256"] = checkpoint_digest(
      flag_values.init_checkpoint)
  settings["loss_parameters"] = loss_parameters(
      parts["train"].scan, label_list, flag_values)
  settings["dev_evaluation"] = None
  if evaluates_while_training(flag_values):
    settings["dev_evaluation"] = {
        "dev_data": parts["dev"].scan.digest,
        "eval_steps": flag_values.eval_steps,
        "metric_for_best": best_checkpoint.METRIC_ALIASES.get(
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


def loss_parameters(scan, label_list, flag_values):
  """What shapes the loss: arguments of `multilabel_losses.make_loss`."""
  values = {"label_smoothing": flag_values.label_smoothing}
  if flag_values.loss == "weighted":
    values["pos_weight"] = (
        multilabel_losses.read_pos_weight_file(
            flag_values.pos_weight_file, label_list)
        if flag_values.pos_weight_file else
        multilabel_losses.pos_weight_from_counts(
            scan.label_counts, scan.num_examples, flag_values.pos_weight_cap))
  elif flag_values.loss == "focal":
    values.update(gamma=flag_values.focal_gamma,
                  alpha=flag_values.focal_alpha)
  elif flag_values.loss == "asymmetric":
    values.update(gamma_pos=flag_values.asymmetric_gamma_pos,
                  gamma_neg=flag_values.asymmetric_gamma_neg,
                  clip=flag_values.asymmetric_clip)
  return values


def make_loss(loss, output_dir):
  """The loss that the model of a claimed directory is trained with."""
  settings = model_dir.read(output_dir).settings
  return multilabel_losses.make_loss(
      loss, **settings.get("run", {}).get("loss_parameters", {}))


def evaluates_while_training(flag_values):
  """Whether dev is evaluated on the way: unless --eval_steps=0.

  A cluster trains without, and the chief evaluates at the end.
  """
  return (flag_values.do_train and flag_values.do_eval and
          flag_values.distribution != distribution.CLUSTER and
          flag_values.eval_steps != 0)


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
    multilabel_losses.make_loss(model.loss, **run["loss_parameters"])
  _check_run(model, label_list, compared, run, flag_values)
  with model_dir.lock(output_dir):
    # Another run may have begun, and ended, in between.
    is_trained = _check_run(model, label_list, compared, run, flag_values)
    model_dir.remove_temporary_files(output_dir)
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
  if model_dir.is_trained(output_dir):
    _check_same_run(model, label_list, compared, run, flag_values)
    return True
  begun = model_dir.begun_files(output_dir)
  if begun and flag_values.resume == "never" and flag_values.do_train:
    raise ValueError(
        "output_dir %s has a run in it that had just begun (%s) and "
        "--resume=never; name another --output_dir." % (
            output_dir, ", ".join(begun[:3])))
  return False


def _forget_other_evaluations(run, output_dir):
  """Removes best_checkpoint.json if what it compares is no longer measured."""
  there = model_dir.read(output_dir).settings.get("run", {})
  there, here = [settings.get("dev_evaluation") or {}
                 for settings in (there, run)]
  path = os.path.join(output_dir, model_dir.BEST_CHECKPOINT_FILE)
  if os.path.exists(path) and any(
      there.get(key) != here.get(key)
      for key in ("dev_data", "metric_for_best")):
    logging.warning("%s is of other evaluations on dev and is removed", path)
    os.remove(path)


def _write_model_dir(model, label_list, compared, run, flag_values):
  """Writes into output_dir what prediction will need beside a checkpoint."""
  model_dir.write(
      flag_values.output_dir, model.bert_config, model.vocab_file, label_list,
      dict(compared, run=run,
           flags={flag.name: flag.value for flag in
                  flag_values.get_flags_for_module(sys.argv[0])},
           versions={"python": platform.python_version(),
                     "tensorflow": tf.__version__, "numpy": np.__version__}),
      model_dir.earlier_runs(flag_values.output_dir))


def _check_same_run(model, label_list, compared, here, flag_values):
  """Raises ValueError if output_dir holds a run of another kind."""
  output_dir = flag_values.output_dir
  differences = model_dir.differences(
      output_dir, model.bert_config, model.vocab_file, label_list, compared)
  if differences:
    raise ValueError(
        "output_dir %s was trained with another %s (says %s there); name "
        "another --output_dir, or make them the same." % (
            output_dir, "; another ".join(differences),
            model_dir.SETTINGS_FILE))
  if not flag_values.do_train:
    return
  if flag_values.resume == "never":
    raise ValueError("output_dir %s has a run in it and --resume=never; name "
                     "another --output_dir." % output_dir)
  there = dict({name: flag_values[name].default for name in _LATER_SETTINGS},
               **model_dir.read(output_dir).settings.get("run", {}))
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
            output_dir, "; another ".join(changed), model_dir.SETTINGS_FILE,
            "" if there.get("num_train_epochs") == here["num_train_epochs"] else
            " (the learning rate falls to 0 at the end of num_train_epochs: "
            "with another number the steps that were made are those of neither "
            "schedule, so a run from the start in another --output_dir is the "
            "plain way to more epochs)"))


def check_init_checkpoint(model, num_labels, init_checkpoint):
  """Raises ValueError, before any work, if the checkpoint does not fit."""
  with tf.Graph().as_default():
    multilabel_model.create_inference_graph(model.bert_config, num_labels,
                                            model.pooling)
    modeling.initialize_from_checkpoint(
        tf.trainable_variables(), init_checkpoint,
        not_needed=() if model.pooling == "pooler" else ("bert/pooler/",))
