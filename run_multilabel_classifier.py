# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes BERT for multi-label text classification, evaluates, predicts.

A text may carry any number of labels. The steps are those of run_classifier.py
of google-research/bert, in its order: check, read examples, write TFRecords,
train, evaluate on dev, predict on test.
"""

from __future__ import absolute_import
from __future__ import division
from __future__ import print_function

import command_line

if __name__ == "__main__":
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import collections
import contextlib
import io
import itertools
import json
import os
import platform
import sys

from absl import flags
from absl import logging
import numpy as np
import tensorflow.compat.v1 as tf

import atomic_files
import input_pipeline
import model_dir
import modeling
import multilabel_metrics
import multilabel_model
import multilabel_thresholds
import optimization
import processors
import tokenization
import training

# The names of the original's run_classifier.py are reachable here.
# pylint: disable=unused-import
from input_pipeline import InputFeatures
from input_pipeline import PaddingInputExample
from input_pipeline import _truncate_seq_pair
from input_pipeline import convert_examples_to_features
from input_pipeline import convert_single_example
from input_pipeline import file_based_convert_examples_to_features
from input_pipeline import file_based_input_fn_builder
from input_pipeline import input_fn_builder
from multilabel_model import create_model
from processors import DataProcessor
from processors import InputExample

FLAGS = flags.FLAGS

EVAL_RESULTS_FILE = "eval_results.txt"
TEST_RESULTS_FILE = "test_results.tsv"
TEST_PREDICTIONS_FILE = "test_predictions.jsonl"

_TPU_FLAGS = ("use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master",
              "num_tpu_cores", "iterations_per_loop")

# Settings that decide a run's weights: a resumed run must have the same.
_RUN_SETTINGS = (
    "train_batch_size", "learning_rate", "head_learning_rate",
    "num_train_epochs", "warmup_proportion", "random_seed",
    "init_bias_from_prior", "use_one_hot_embeddings", "adam_bias_correction")


def define_flags():
  """Defines this program's flags; called where the script starts."""
  with command_line.flag_group("Data"):
    flags.DEFINE_string(
        "data_dir", None, "Directory of the data: train, dev and test files "
        "(and labels.txt, one label a line, where the order matters).")
    flags.DEFINE_string(
        "task_name", None, "Form of the data: %s." % ", ".join(
            sorted(processors.PROCESSORS)))
    flags.DEFINE_string(
        "processor", None, "Your own DataProcessor instead of --task_name: "
        "path/to/file.py:ClassName or package.module:ClassName. Its code is "
        "run.")
    flags.DEFINE_string("text_column", None, "delimited: column of the text.")
    flags.DEFINE_string("text_pair_column", None,
                        "delimited: column of the second text of a pair.")
    flags.DEFINE_string(
        "label_column", None, "delimited: column of the labels; without it, "
        "columns of 0 and 1 are a label each.")
    flags.DEFINE_string("id_column", None, "delimited: column of the id.")
    flags.DEFINE_string("label_separator", ",",
                        "delimited: what stands between labels in a cell.")
    flags.DEFINE_string(
        "delimiter", None, "delimited: one character between cells; default: "
        "a comma in .csv, a tab in .tsv.")
    flags.DEFINE_float(
        "dev_fraction", 0.0, "Share of train (0 to 1) that becomes dev, by a "
        "hash of the id, where there is no dev file.")
    flags.DEFINE_integer("max_train_examples", 0,
                         "Train on the first so many examples; 0: on all.")
  with command_line.flag_group("Model"):
    flags.DEFINE_string("bert_config_file", None,
                        "JSON file of the encoder's architecture.")
    flags.DEFINE_string("vocab_file", None, "WordPiece vocabulary.")
    flags.DEFINE_string(
        "init_checkpoint", None, "Checkpoint to start from, usually a "
        "pre-trained BERT (bert_model.ckpt); none: random weights.")
    flags.DEFINE_bool("do_lower_case", True,
                      "Lower-case the text: True for uncased models.")
    flags.DEFINE_integer(
        "max_seq_length", 128, "Most WordPiece tokens of a text, [CLS] and "
        "[SEP] included; longer ones are cut, and counted.")
    flags.DEFINE_enum(
        "pooling", "pooler", list(multilabel_model.POOLINGS),
        "What stands for a text: BERT's tanh pooler, the first token of the "
        "last layer, or the mean over its tokens.")
    flags.DEFINE_bool("use_one_hot_embeddings", False,
                      "Look words up by a matrix product, not a gather.")
  with command_line.flag_group("Run"):
    flags.DEFINE_string(
        "output_dir", None, "Directory of checkpoints, records and results.")
    flags.DEFINE_bool("do_train", False, "Train.")
    flags.DEFINE_bool("do_eval", False, "Evaluate on the dev set.")
    flags.DEFINE_bool("do_predict", False, "Predict the test set.")
    flags.DEFINE_integer("train_batch_size", 32, "Examples a training step.")
    flags.DEFINE_integer("eval_batch_size", 8, "Examples a batch of dev.")
    flags.DEFINE_integer("predict_batch_size", 8, "Examples a batch of test.")
    flags.DEFINE_float("learning_rate", 5e-5, "Peak learning rate of Adam.")
    flags.DEFINE_float(
        "head_learning_rate", None, "Peak learning rate of the label head "
        "(output_weights, output_bias); default: --learning_rate.")
    flags.DEFINE_bool(
        "init_bias_from_prior", False, "Start output_bias at the log-odds of "
        "each label's frequency in train, not at 0.")
    flags.DEFINE_bool(
        "adam_bias_correction", True, "Correct the bias of Adam's moments, as "
        "PyTorch's AdamW does. False: as google-research/bert, whose first "
        "hundreds of steps are up to six times as long at the same rate.")
    flags.DEFINE_float("num_train_epochs", 3.0, "Passes over train.")
    flags.DEFINE_float("warmup_proportion", 0.1,
                       "Share of the steps (0 to 1) with linear warmup.")
    flags.DEFINE_integer("random_seed", 12345, "Seed of the head's initial "
                         "weights, the order of the examples and dropout.")
    flags.DEFINE_integer("save_checkpoints_steps", 1000,
                         "Steps between checkpoints.")
    flags.DEFINE_integer("keep_checkpoint_max", 5,
                         "Checkpoints to keep; 0 keeps all.")
    flags.DEFINE_integer(
        "log_steps", 10, "Steps between log lines and TensorBoard points.")
    flags.DEFINE_enum(
        "resume", "auto", ["auto", "never", "force"], "A run found in "
        "output_dir: go on if its settings are the same, refuse, or go on "
        "with other training settings.")
  with command_line.flag_group("Of google-research/bert, not supported here"):
    flags.DEFINE_bool("use_tpu", False, "TPUs are not supported.")
    for name in _TPU_FLAGS[1:]:
      flags.DEFINE_string(name, None, "TPUs are not supported.")


def check_flags(flag_values):
  """Raises ValueError for flags that cannot work, before any work is done."""
  for name in _TPU_FLAGS:
    if flag_values[name].present and flag_values[name].value is not False:
      raise ValueError("--%s: TPUs are not supported; leave the flag out." %
                       name)
  if not (flag_values.do_train or flag_values.do_eval
          or flag_values.do_predict):
    raise ValueError("at least one of --do_train, --do_eval, --do_predict "
                     "must be given.")
  required = ["data_dir", "output_dir"]
  if flag_values.do_train:
    required += ["bert_config_file", "vocab_file"]
  for name in required:
    if not flag_values[name].value:
      raise ValueError("--%s must be given." % name)
  for name in ("train_batch_size", "eval_batch_size", "predict_batch_size",
               "save_checkpoints_steps", "log_steps"):
    if flag_values[name].value < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (
          name, flag_values[name].value))
  for name in ("keep_checkpoint_max", "max_train_examples"):
    if flag_values[name].value < 0:
      raise ValueError("--%s is %d; it must be 0 or more." % (
          name, flag_values[name].value))
  for name in ("learning_rate", "head_learning_rate", "num_train_epochs"):
    value = flag_values[name].value
    if value is not None and not 0 < value < float("inf"):
      raise ValueError("--%s is %s; it must be above 0." % (name, value))
  if not 0 <= flag_values.warmup_proportion <= 1:
    raise ValueError("--warmup_proportion is %s; it must be from 0 to 1." %
                     flag_values.warmup_proportion)
  if not 0 <= flag_values.random_seed < 2 ** 31:
    raise ValueError("--random_seed is %d; it must be from 0 to 2^31 - 1." %
                     flag_values.random_seed)


def model_fn_builder(bert_config, num_labels, init_checkpoint, learning_rate,
                     num_train_steps, num_warmup_steps, use_tpu,
                     use_one_hot_embeddings, pooling="pooler",
                     head_learning_rate=None, output_bias=None,
                     random_seed=None, adam_bias_correction=False):
  """Makes the function that builds the model's graph.

  Args:
    bert_config: `modeling.BertConfig`.
    num_labels: int.
    init_checkpoint: str, or None for random weights.
    learning_rate: float, peak.
    num_train_steps: int.
    num_warmup_steps: int.
    use_tpu: bool; must be False.
    use_one_hot_embeddings: bool.
    pooling: see `multilabel_model.create_model`.
    head_learning_rate: float, peak of `output_*`; default `learning_rate`.
    output_bias: list of float, initial `output_bias`; default zeros.
    random_seed: int, seed of the dropout masks; None: TensorFlow's own.
    adam_bias_correction: bool, see `optimization.AdamWeightDecayOptimizer`.

  Returns:
    Function of (features, mode, params) to `training.ModelSpec`.
  """
  def learning_rate_scale(variable_name):
    is_head = variable_name in ("output_weights", "output_bias")
    return head_learning_rate / learning_rate if is_head else 1.0

  def model_fn(features, mode, params):  # pylint: disable=unused-argument
    """Builds the training tower or the inference tower."""
    if mode != training.TRAIN:
      return training.ModelSpec(
          mode, None, None, None, None,
          multilabel_model.create_inference_graph(
              bert_config, num_labels, pooling, use_one_hot_embeddings,
              with_labels=True))
    dropout_seed = None
    if random_seed is not None:
      dropout_seed = (random_seed, tf.train.get_or_create_global_step())
    (loss, _, _, _) = create_model(
        bert_config, True, features["input_ids"], features["input_mask"],
        features["segment_ids"], features["label_ids"], num_labels,
        use_one_hot_embeddings, pooling=pooling, dropout_seed=dropout_seed,
        output_bias_initializer=None if output_bias is None else
        tf.constant_initializer(output_bias))
    if init_checkpoint:
      training.log_checkpoint(
          modeling.initialize_from_checkpoint(
              tf.trainable_variables(), init_checkpoint,
              not_needed=() if pooling == "pooler" else ("bert/pooler/",)),
          init_checkpoint)
    if use_tpu:
      raise ValueError("TPUs are not supported; use_tpu must be False.")
    step = optimization.create_train_op(
        loss, learning_rate, num_train_steps, num_warmup_steps,
        learning_rate_scale if head_learning_rate else None,
        adam_bias_correction)
    return training.ModelSpec(mode, loss, step.train_op, step.learning_rate,
                              step.grad_norm, None)

  return model_fn


ModelChoice = collections.namedtuple(
    "ModelChoice", ["bert_config", "vocab_file", "do_lower_case",
                    "max_seq_length", "pooling"])

# One of train, dev, test: a function to its examples, and what a first
# reading of them said.
DataPart = collections.namedtuple("DataPart", ["name", "examples", "scan"])


def choose_model(flag_values):
  """The model that the flags describe, checked.

  Without --do_train, a flag that is not given is what the trained directory
  says. Returns a `ModelChoice`; raises ValueError.
  """
  if flag_values.do_train:
    settings, trained = {}, None
  else:
    if not model_dir.is_trained(flag_values.output_dir) or (
        model_dir.latest_checkpoint(flag_values.output_dir) is None):
      raise ValueError("output_dir %s has no trained model; train first "
                       "(--do_train)." % flag_values.output_dir)
    trained = model_dir.read(flag_values.output_dir)
    settings = trained.settings

  def choose(name):
    flag = flag_values[name]
    return flag.value if flag.present else settings.get(name, flag.value)

  if flag_values.bert_config_file:
    bert_config = modeling.BertConfig.from_json_file(
        flag_values.bert_config_file)
  else:
    bert_config = trained.bert_config
  model = ModelChoice(
      bert_config, flag_values.vocab_file or trained.vocab_file,
      choose("do_lower_case"), choose("max_seq_length"), choose("pooling"))
  tokenization.validate_case_matches_checkpoint(
      model.do_lower_case, flag_values.init_checkpoint)
  tokenization.validate_vocab(model.vocab_file, bert_config.vocab_size,
                              flag_values.bert_config_file)
  if model.max_seq_length > bert_config.max_position_embeddings:
    raise ValueError(
        "--max_seq_length is %d, but the model was made for %d tokens at most "
        "(max_position_embeddings)." % (
            model.max_seq_length, bert_config.max_position_embeddings))
  if model.max_seq_length < 3:
    raise ValueError("--max_seq_length is %d; [CLS], a token and [SEP] need 3, "
                     "a pair of texts 4." % model.max_seq_length)
  return model


def make_processor(flag_values):
  """The data processor that --task_name or --processor names."""
  options = {name: flag_values[name].value for name in (
      "text_column", "text_pair_column", "label_column", "id_column",
      "label_separator", "delimiter", "dev_fraction")}
  task_name = flag_values.task_name
  return processors.create_processor(task_name, flag_values.processor, options)


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
  data_dir = flag_values.data_dir
  most = flag_values.max_train_examples or None
  sources = []
  if flag_values.do_train:
    sources.append(("train", True, lambda: itertools.islice(
        processor.get_train_examples(data_dir), most)))
  if flag_values.do_eval:
    sources.append(("dev", True,
                    lambda: processor.get_dev_examples(data_dir)))
  if flag_values.do_predict:
    sources.append(("test", False,
                    lambda: processor.get_test_examples(data_dir)))
  parts = {}
  for name, labelled, examples in sources:
    scan = input_pipeline.scan_examples(examples(), label_list, labelled)
    if not scan.num_examples:
      raise ValueError("%s has no %s examples." % (data_dir, name))
    if scan.num_pairs and model.max_seq_length < 4:
      raise ValueError("--max_seq_length is %d; a pair of texts needs 4 or "
                       "more." % model.max_seq_length)
    parts[name] = DataPart(name, examples, scan)
  return parts


def run_settings(parts, flag_values):
  """What decides the weights of a run, beyond the model: dict."""
  settings = {name: flag_values[name].value for name in _RUN_SETTINGS}
  settings["train_data"] = parts["train"].scan.digest
  settings["init_checkpoint"] = os.path.basename(
      flag_values.init_checkpoint or "")
  return settings


@contextlib.contextmanager
def claim_output_dir(model, label_list, parts, flag_values):
  """Makes output_dir this run's alone, and writes what describes the model."""
  output_dir = flag_values.output_dir
  compared = {"do_lower_case": model.do_lower_case, "pooling": model.pooling,
              "max_seq_length": model.max_seq_length, "loss": "sigmoid"}
  is_trained = model_dir.is_trained(output_dir)
  if is_trained:
    _check_same_run(model, label_list, compared, parts, flag_values)
  with model_dir.lock(output_dir):
    if flag_values.do_train and (
        not is_trained or flag_values.resume == "force"):
      write_model_dir(model, label_list, compared, parts, flag_values)
    yield


def write_model_dir(model, label_list, compared, parts, flag_values):
  """Writes into output_dir what prediction will need beside a checkpoint."""
  model_dir.write(
      flag_values.output_dir, model.bert_config, model.vocab_file, label_list,
      dict(compared, threshold=0.5, run=run_settings(parts, flag_values),
           flags={flag.name: flag.value for flag in
                  flag_values.get_flags_for_module(sys.argv[0])},
           versions={"python": platform.python_version(),
                     "tensorflow": tf.__version__, "numpy": np.__version__}))


def _check_same_run(model, label_list, compared, parts, flag_values):
  """Raises ValueError if output_dir holds a run of another kind."""
  output_dir = flag_values.output_dir
  differences = model_dir.differences(
      output_dir, model.bert_config, model.vocab_file, label_list, compared)
  if differences:
    raise ValueError(
        "output_dir %s was trained with another %s; name another --output_dir, "
        "or make them the same." % (output_dir, "; another ".join(differences)))
  if not flag_values.do_train:
    return
  if flag_values.resume == "never":
    raise ValueError("output_dir %s has a run in it and --resume=never; name "
                     "another --output_dir." % output_dir)
  there = model_dir.read(output_dir).settings.get("run", {})
  here = run_settings(parts, flag_values)
  changed = ["%s (there %s, here %s)" % (
      key, json.dumps(there.get(key)), json.dumps(here[key]))
             for key in sorted(here) if there.get(key) != here[key]]
  if changed and flag_values.resume == "force":
    logging.warning("--resume=force: going on although these changed: %s",
                    "; ".join(changed))
  elif changed:
    raise ValueError(
        "output_dir %s has a run with another %s; name another --output_dir, "
        "or go on all the same with --resume=force." % (
            output_dir, "; another ".join(changed)))


def write_features(parts, label_list, model, output_dir):
  """Writes the record file of each part, or finds it: {name: path}."""
  tokenizer = tokenization.FullTokenizer(model.vocab_file, model.do_lower_case)
  paths = {}
  for name, part in sorted(parts.items()):
    path = os.path.join(output_dir, name + ".tf_record")
    fingerprint = input_pipeline.features_fingerprint(
        part.scan, label_list, model.vocab_file, model.do_lower_case,
        model.max_seq_length)
    stats = input_pipeline.read_feature_stats(path, fingerprint)
    if stats:
      logging.info("Features of %s: found in %s", name, path)
    else:
      stats = file_based_convert_examples_to_features(
          part.examples(), label_list, model.max_seq_length, tokenizer, path,
          fingerprint, input_pipeline.choose_num_workers(
              part.scan.num_examples))
      logging.info("Features of %s: written to %s", name, path)
    logging.info(
        "  %s texts; %s of them are longer than %d tokens and cut; %s empty",
        "{:,}".format(stats.num_examples), "{:,}".format(stats.num_truncated),
        model.max_seq_length, "{:,}".format(stats.num_empty))
    paths[name] = path
  return paths


def plan_training(num_examples, flag_values):
  """Returns (num_train_steps, num_warmup_steps)."""
  steps_per_epoch = -(-num_examples // flag_values.train_batch_size)
  num_train_steps = max(1, int(
      steps_per_epoch * flag_values.num_train_epochs))
  return (num_train_steps,
          int(num_train_steps * flag_values.warmup_proportion))


def make_run(model, label_list, parts, records, flag_values):
  """Builds the graph and its session; returns (`training.Run`, steps)."""
  train_input_fn, output_bias = None, None
  num_train_steps = num_warmup_steps = 0
  checkpoint = model_dir.latest_checkpoint(flag_values.output_dir)
  if flag_values.do_train:
    scan = parts["train"].scan
    num_train_steps, num_warmup_steps = plan_training(
        scan.num_examples, flag_values)
    step = training.checkpoint_step(checkpoint)
    log_start(scan, label_list, checkpoint, step, num_train_steps, flag_values)
    if flag_values.init_bias_from_prior:
      output_bias = multilabel_model.log_odds(
          scan.label_counts, scan.num_examples)
    if step < num_train_steps:
      train_input_fn = file_based_input_fn_builder(
          records["train"], model.max_seq_length, True, False,
          num_labels=len(label_list), seed=flag_values.random_seed,
          num_steps=num_train_steps)
  model_fn = model_fn_builder(
      bert_config=model.bert_config,
      num_labels=len(label_list),
      init_checkpoint=None if checkpoint else flag_values.init_checkpoint,
      learning_rate=flag_values.learning_rate,
      num_train_steps=num_train_steps,
      num_warmup_steps=num_warmup_steps,
      use_tpu=False,
      use_one_hot_embeddings=flag_values.use_one_hot_embeddings,
      pooling=model.pooling,
      head_learning_rate=flag_values.head_learning_rate,
      output_bias=output_bias,
      random_seed=flag_values.random_seed,
      adam_bias_correction=flag_values.adam_bias_correction)
  return training.Run(
      model_fn, flag_values.output_dir, train_input_fn,
      flag_values.train_batch_size, flag_values.random_seed,
      flag_values.keep_checkpoint_max), num_train_steps


def log_start(scan, label_list, checkpoint, step, num_train_steps,
              flag_values):
  """Says from what, and on what, training starts."""
  logging.info("***** Training *****")
  logging.info("  %s examples, %d labels, batches of %d, %d steps",
               "{:,}".format(scan.num_examples), len(label_list),
               flag_values.train_batch_size, num_train_steps)
  unseen = [label for label, count in zip(label_list, scan.label_counts)
            if not count]
  if unseen:
    logging.warning("  no train example has the label%s %s",
                    "s" if len(unseen) > 1 else "", ", ".join(unseen))
  if checkpoint:
    logging.info("  %s step %d of %d, found in %s",
                 "going on from" if step < num_train_steps else
                 "already finished:", step, num_train_steps, checkpoint)
  elif not flag_values.init_checkpoint:
    logging.warning("  no --init_checkpoint: training from scratch, from "
                    "random weights")


def evaluate(run, record_file, label_list, flag_values):
  """Evaluates on a record file and writes eval_results.txt."""
  with contextlib.closing(input_pipeline.RecordFile(record_file)) as records:
    loss, labels, probabilities = training.evaluate(
        run, records, flag_values.eval_batch_size, len(label_list))
  threshold = 0.5
  result = dict(multilabel_metrics.evaluate(
      labels, probabilities, threshold, label_list))
  result.update(loss=loss, threshold=threshold, global_step=run.checkpoint_step)
  for measure, names in multilabel_metrics.undefined_labels(
      labels, label_list).items():
    if names and measure != "macro_f1":
      result["left_out_of_" + measure] = ", ".join(names)
  lines = ["%s = %s\n" % (key, result[key]) for key in sorted(result)]
  path = os.path.join(flag_values.output_dir, EVAL_RESULTS_FILE)
  atomic_files.write_text(path, "".join(lines))
  logging.info("***** Evaluation on dev: %s *****", path)
  for line in lines:
    logging.info("  %s", line.rstrip("\n"))


def predict(run, part, record_file, label_list, flag_values):
  """Predicts a record file and writes the two files of results."""
  threshold = 0.5
  output_dir = flag_values.output_dir
  paths = [os.path.join(output_dir, name)
           for name in (TEST_RESULTS_FILE, TEST_PREDICTIONS_FILE)]
  examples = iter(part.examples())
  with contextlib.closing(input_pipeline.RecordFile(record_file)) as records, \
      io.open(paths[0] + ".tmp", "w", encoding="utf-8") as table, \
      io.open(paths[1] + ".tmp", "w", encoding="utf-8") as lines:
    for window in training.predict(
        run, records, flag_values.predict_batch_size, len(label_list)):
      above = multilabel_thresholds.apply_thresholds(window, threshold)
      # The window goes first: it ends the loop before an example is taken.
      for row, chosen, example in zip(window, above, examples):
        table.write(u"\t".join("%.8g" % value for value in row) + u"\n")
        lines.write(prediction_line(example, row, chosen, label_list))
  for path in paths:
    atomic_files.replace_file(path + ".tmp", path)
  logging.info("***** Predictions on test: %s *****", " and ".join(paths))


def prediction_line(example, probabilities, chosen, label_list):
  """One line of test_predictions.jsonl."""
  text = example.text_a
  if getattr(example, "text_b", None) is not None:
    text += " ||| " + example.text_b
  record = collections.OrderedDict([
      ("id", example.guid),
      ("text", text if len(text) <= 200 else text[:199] + u"\u2026"),
      ("labels", [label for label, is_on in zip(label_list, chosen) if is_on]),
      ("probabilities", collections.OrderedDict(
          (label, round(float(value), 6))
          for label, value in zip(label_list, probabilities)))])
  # An id of a program's own examples may be of any type.
  line = json.dumps(record, ensure_ascii=False, default=str)
  # A lone surrogate, which a program's own examples may hold, is no UTF-8.
  return line.encode("utf-8", "replace").decode("utf-8") + u"\n"


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; every flag begins with --." %
                     argv[1])
  tf.disable_v2_behavior()
  check_flags(FLAGS)
  model = choose_model(FLAGS)
  model_dir.check_output_dir(FLAGS.output_dir)
  processor = make_processor(FLAGS)
  label_list = choose_labels(processor, FLAGS)
  if FLAGS.do_train and FLAGS.init_checkpoint:
    check_init_checkpoint(model, len(label_list), FLAGS.init_checkpoint)
  parts = read_parts(processor, label_list, model, FLAGS)
  with claim_output_dir(model, label_list, parts, FLAGS):
    records = write_features(parts, label_list, model, FLAGS.output_dir)
    run, num_train_steps = make_run(model, label_list, parts, records, FLAGS)
    with run:
      if FLAGS.do_train:
        training.train(run, num_train_steps, FLAGS.save_checkpoints_steps,
                       FLAGS.log_steps, FLAGS.train_batch_size)
      if FLAGS.do_eval:
        evaluate(run, records["dev"], label_list, FLAGS)
      if FLAGS.do_predict:
        predict(run, parts["test"], records["test"], label_list, FLAGS)


def check_init_checkpoint(model, num_labels, init_checkpoint):
  """Raises ValueError, before any work, if the checkpoint does not fit."""
  with tf.Graph().as_default():
    multilabel_model.create_inference_graph(model.bert_config, num_labels,
                                            model.pooling)
    modeling.initialize_from_checkpoint(
        tf.trainable_variables(), init_checkpoint,
        not_needed=() if model.pooling == "pooler" else ("bert/pooler/",))


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
