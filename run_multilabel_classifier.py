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
import contextlib
import functools
import itertools
import re
import time

from absl import flags
from absl import logging
import tensorflow.compat.v1 as tf

import best_checkpoint
import checkpoint_recovery
import cluster_members
import cluster_training
import distribution
import evaluation
import gradient_accumulation
import input_pipeline
import layer_rates
import mixed_precision
import model_dir
import modeling
import multilabel_losses
import multilabel_model
import optimization
import processors
from processors import table_reader
import recompute
import run_directory
import training
import written_probabilities

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

_TPU_FLAGS = ("use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master",
              "num_tpu_cores", "iterations_per_loop")


# Steps and examples are counted in 32 bits.
MOST_STEPS = 2 ** 31 - 1


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
        "label_column", None, "delimited: column of the labels, or columns of "
        "0 and 1 with commas between, a label each (a name with a comma in "
        "quotation marks); default: labels or label, else all columns of 0 "
        "and 1.")
    flags.DEFINE_string(
        "ignore_columns", None, "delimited: columns of 0 and 1 that are no "
        "labels, with commas between.")
    flags.DEFINE_string("id_column", None, "delimited: column of the id.")
    flags.DEFINE_string("label_separator", ",",
                        "delimited: what stands between labels in a cell, one "
                        "character or more, \\t and \\n included.")
    flags.DEFINE_string(
        "delimiter", None, "delimited: one character between cells; default: "
        "a comma in .csv, a tab in .tsv.")
    flags.DEFINE_enum("quoting", table_reader.AUTO, list(table_reader.QUOTINGS),
                      table_reader.QUOTING_HELP)
    flags.DEFINE_string("encoding", None, table_reader.ENCODING_HELP)
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
    flags.DEFINE_enum(
        "long_text", "truncate_head", list(input_pipeline.LONG_TEXT_FORMS),
        "A text longer than --max_seq_length: keep its head, its tail, a "
        "quarter of head and the rest of tail (Sun et al. 2019), or read all "
        "of it in windows. Pairs lose the end of the longer text.")
    flags.DEFINE_integer(
        "stride", None, "windows: tokens from the start of one to the start "
        "of the next; default: half of a window.")
    flags.DEFINE_enum(
        "window_pooling", "max", list(input_pipeline.WINDOW_POOLINGS),
        "windows: a text's logit of a label is the max or the mean of its "
        "windows'.")
  with command_line.flag_group("Run"):
    flags.DEFINE_string(
        "output_dir", None, "Directory of checkpoints, records and results.")
    flags.DEFINE_bool("do_train", False, "Train.")
    flags.DEFINE_bool("do_eval", False, "Evaluate on the dev set.")
    flags.DEFINE_bool("do_test", False, "Evaluate on a labelled test set.")
    flags.DEFINE_bool("do_predict", False, "Predict the test set.")
    flags.DEFINE_integer("train_batch_size", 32, "Examples a training step.")
    flags.DEFINE_integer(
        "gradient_accumulation_steps", 1, "Parts that the --train_batch_size "
        "examples of a step are cut into, to hold the activations of one part "
        "at a time; the update is the same.")
    flags.DEFINE_enum(
        "distribution", distribution.NONE,
        [distribution.NONE, distribution.MIRRORED, distribution.CLUSTER],
        "none: one device; mirrored: the GPUs of this machine share each batch "
        "of --train_batch_size, and those of evaluation are dealt out to them; "
        "cluster: machines do, which TF_CONFIG names (and then the default).")
    flags.DEFINE_integer(
        "num_devices", None, "mirrored: how many GPUs; default: all. On a "
        "machine without, parts of the CPU, to try it.")
    flags.DEFINE_float(
        "cluster_timeout", 600.0, "cluster: seconds to wait for a member "
        "before it is named and this one ends.")
    flags.DEFINE_bool(
        "recompute_layers", False, "Build each layer's activations again for "
        "its gradient instead of keeping them: less memory, more time.")
    flags.DEFINE_bool(
        "amp", False, "Products in half precision, float16 on GPUs, bfloat16 "
        "on CPUs that have it; weights stay float32. Results are not the same.")
    flags.DEFINE_bool(
        "xla", False, "Compile the training step with XLA, once a shape of "
        "batch: the first steps take long.")
    flags.DEFINE_integer("eval_batch_size", 8, "Examples a batch of dev.")
    flags.DEFINE_integer("predict_batch_size", 8, "Examples a batch of test.")
    flags.DEFINE_float("learning_rate", 5e-5, "Peak learning rate of Adam.")
    flags.DEFINE_float(
        "head_learning_rate", None, "Peak learning rate of the label head "
        "(output_weights, output_bias); default: --learning_rate.")
    flags.DEFINE_float(
        "layer_decay", 1.0, "Learning rate of a layer by that of the next "
        "higher one, down from the label head (Clark et al. 2020).")
    flags.DEFINE_integer(
        "freeze_layers", None, "Train neither the embeddings nor the first so "
        "many layers: no gradients, no moments; 0: the embeddings alone; "
        "default: all is trained.")
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
    flags.DEFINE_string(
        "profile", None, "Folder for timelines of a few training steps, to be "
        "opened in a browser, and shares by kind of operation.")
    flags.DEFINE_enum(
        "resume", "auto", ["auto", "never", "force"], "A run found in "
        "output_dir: go on if its settings are the same, refuse, or go on "
        "with other training settings.")
    flags.DEFINE_string(
        "max_runtime", None, "Stop after so many seconds, or 30m, 2h, 1d, at "
        "the next step, with a checkpoint and exit status 75: the same command "
        "goes on. Each start makes a step or an evaluation at least.")
    flags.DEFINE_integer(
        "skip_nonfinite", 0, "Steps of the run that may have a loss or a "
        "gradient that is NaN or infinite; they change no weight.")
    flags.DEFINE_bool(
        "allow_older_checkpoint", False, "Without --do_train: where the best, "
        "or newest, checkpoint is broken, take the newest that is whole.")
  with command_line.flag_group("Loss"):
    flags.DEFINE_enum(
        "loss", "sigmoid", list(multilabel_losses.LOSSES), "Loss of a label: "
        "sigmoid cross entropy, the same with weighted positives, focal loss "
        "(Lin et al. 2017), asymmetric loss (Ridnik et al. 2021).")
    flags.DEFINE_float("label_smoothing", 0.0, "Share (0 to 1) of each 0/1 "
                       "label that is moved to one half.")
    flags.DEFINE_float("pos_weight_cap", 10.0, "weighted: most weight of a "
                       "positive, which is negatives / positives in train.")
    flags.DEFINE_string("pos_weight_file", None, "weighted: weights from a "
                        "file, JSON {label: weight} or label<TAB>weight.")
    flags.DEFINE_float("focal_gamma", 2.0, "focal: focusing parameter.")
    flags.DEFINE_float("focal_alpha", None, "focal: weight of positives "
                       "(0 to 1); default: none.")
    flags.DEFINE_float("asymmetric_gamma_pos", 0.0,
                       "asymmetric: focusing of positives.")
    flags.DEFINE_float("asymmetric_gamma_neg", 4.0,
                       "asymmetric: focusing of negatives.")
    flags.DEFINE_float("asymmetric_clip", 0.05, "asymmetric: what is taken "
                       "off the probability of negatives.")
  with command_line.flag_group("Evaluation and labels"):
    flags.DEFINE_integer(
        "eval_steps", None, "Steps between evaluations on dev while training "
        "with --do_eval; default: once an epoch; 0: none.")
    flags.DEFINE_string(
        "metric_for_best", "micro_f1", "Metric on dev, a name as in "
        "eval_results.txt (also map, lrap), that chooses the checkpoint to "
        "predict with; F1 at threshold 0.5.")
    flags.DEFINE_integer(
        "early_stopping_patience", 0, "Stop after so many evaluations that "
        "are not better; 0: never.")
    flags.DEFINE_integer(
        "eval_train_sample", 0, "Also evaluate so many train examples each "
        "time, to see over-fitting.")
    flags.DEFINE_string(
        "threshold", "0.5", "Least probability of a label: a number; tune, "
        "the one that maximises micro-F1 on dev; tune_per_label, one a label. "
        "Kept in output_dir; default: what is kept there.")
    flags.DEFINE_float("min_precision", None, "tune, tune_per_label: least "
                       "precision on dev (0 to 1).")
    flags.DEFINE_integer("top_k", None, "At most so many labels a text, the "
                         "most probable ones; 0: no limit.")
    flags.DEFINE_bool("always_one_label", False, "Give a text without any "
                      "label its most probable one.")
    flags.DEFINE_string(
        "probabilities", written_probabilities.ALL,
        written_probabilities.HELP + " Only with all there is a "
        "test_results.tsv, and a report.")
    flags.DEFINE_bool(
        "report", None, "Write report.html after --do_eval or --do_test; "
        "default: if matplotlib is installed.")
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
  if not (flag_values.do_train or flag_values.do_eval or
          flag_values.do_test or flag_values.do_predict):
    raise ValueError("at least one of --do_train, --do_eval, --do_test, "
                     "--do_predict must be given.")
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
  for name in ("keep_checkpoint_max", "max_train_examples", "eval_steps",
               "early_stopping_patience", "eval_train_sample", "top_k",
               "skip_nonfinite"):
    if (flag_values[name].value or 0) < 0:
      raise ValueError("--%s is %d; it must be 0 or more." % (
          name, flag_values[name].value))
  for name in ("max_train_examples", "num_train_epochs", "train_batch_size",
               "eval_batch_size", "predict_batch_size", "eval_steps",
               "save_checkpoints_steps", "log_steps", "eval_train_sample"):
    if (flag_values[name].value or 0) > MOST_STEPS:
      raise ValueError("--%s is %s; it must be 2^31 - 1 at most." % (
          name, flag_values[name].value))
  gradient_accumulation.check_flags(flag_values)
  distribution.check_flags(flag_values)
  mixed_precision.check_flags(flag_values)
  parse_runtime(flag_values.max_runtime)
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


def parse_runtime(text):
  """Seconds of --max_runtime: 90, 90s, 30m, 2h, 1d; None: no limit."""
  if text is None:
    return None
  match = re.match(r"(\d+(?:\.\d+)?)([smhd]?)$", text)
  seconds = match and float(match.group(1)) * {
      "m": 60, "h": 3600, "d": 86400}.get(match.group(2), 1)
  if not seconds:
    raise ValueError("--max_runtime is %s; it must be seconds, or a number "
                     "with s, m, h or d behind it, above 0." % text)
  return seconds


def check_evaluation_flags(flag_values):
  """Raises ValueError for flags of evaluation that cannot work."""
  which = written_probabilities.parse(flag_values.probabilities)
  if flag_values.report and which != written_probabilities.ALL:
    raise ValueError("--report needs --probabilities=all.")
  threshold = flag_values.threshold
  if threshold in run_directory.TUNED_THRESHOLDS:
    if not flag_values.do_eval:
      raise ValueError("--threshold=%s needs --do_eval: thresholds are found "
                       "on the dev set." % threshold)
  elif flag_values.min_precision is not None:
    raise ValueError("--min_precision needs --threshold=tune or "
                     "tune_per_label.")
  else:
    try:
      is_share = 0 <= float(threshold) <= 1
    except ValueError:
      is_share = False
    if not is_share:
      raise ValueError("--threshold is %s; it must be a number from 0 to 1, "
                       "tune or tune_per_label." % threshold)
  for name in ("min_precision", "label_smoothing"):
    value = flag_values[name].value
    if value is not None and not 0 <= value <= 1:
      raise ValueError("--%s is %s; it must be from 0 to 1." % (name, value))
  evaluation.full_metric_name(flag_values.metric_for_best)
  if not run_directory.evaluates_while_training(flag_values):
    for name in ("early_stopping_patience", "eval_train_sample"):
      if flag_values[name].value:
        raise ValueError("--%s needs evaluation while training: --do_train, "
                         "--do_eval, and --eval_steps not 0." % name)
  for loss, names in sorted(run_directory.LOSS_FLAGS.items()):
    for name in names:
      if flag_values[name].present and flag_values.loss != loss:
        raise ValueError("--%s needs --loss=%s." % (name, loss))


def model_fn_builder(bert_config, num_labels, init_checkpoint, learning_rate,
                     num_train_steps, num_warmup_steps, use_tpu,
                     use_one_hot_embeddings, pooling="pooler",
                     head_learning_rate=None, output_bias=None,
                     random_seed=None, adam_bias_correction=False,
                     loss_fn=tf.nn.sigmoid_cross_entropy_with_logits,
                     skip_nonfinite=False, layer_decay=1.0,
                     freeze_layers=None, recompute_layers=False,
                     scale_loss=False):
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
    loss_fn: see `multilabel_model.create_model`.
    skip_nonfinite: bool, see `optimization.create_train_op`.
    layer_decay: float, see `layer_rates.make_scale`.
    freeze_layers: int or None, see `layer_rates.trained_variables`.
    recompute_layers: bool, see `recompute`; needs `random_seed`.
    scale_loss: bool, see `mixed_precision.LossScale`.

  Returns:
    Function of (features, mode, params) to `training.ModelSpec`.
  """
  num_layers = bert_config.num_hidden_layers
  learning_rate_scale = layer_rates.make_scale(
      num_layers, layer_decay,
      head_learning_rate / learning_rate if head_learning_rate else 1.0)

  def tower(features, dropout_seed):
    """(loss, loss of each row, function of a loss and variables to gradients)
    of a batch in training."""
    recorded_layers = [] if recompute_layers else None
    loss, per_example_loss = create_model(
        bert_config, True, features["input_ids"], features["input_mask"],
        features["segment_ids"], features["label_ids"], num_labels,
        use_one_hot_embeddings, pooling=pooling, dropout_seed=dropout_seed,
        output_bias_initializer=None if output_bias is None else
        tf.constant_initializer(output_bias), loss_fn=loss_fn,
        recorded_layers=recorded_layers)[:2]
    return loss, per_example_loss, (
        functools.partial(recompute.gradients, layers=recorded_layers)
        if recompute_layers else tf.gradients)

  def rows_tower(features, dropout_seed):
    return tower(features, dropout_seed)[1:]

  def model_fn(features, mode, params):
    """Builds the training tower or the inference tower."""
    if mode != training.TRAIN:
      return training.ModelSpec(
          mode, None, None, None, None,
          multilabel_model.create_inference_graph(
              bert_config, num_labels, pooling, use_one_hot_embeddings,
              with_labels=True, loss_fn=loss_fn))
    dropout_seed = None
    if random_seed is not None:
      dropout_seed = (random_seed, features.get(
          gradient_accumulation.DROPOUT_STEP,
          tf.train.get_or_create_global_step()))
    variables = functools.partial(layer_rates.trained_variables, num_layers,
                                  freeze_layers)
    # On several devices each has some rows of the batch; see `distribution`.
    make_towers = params.get("make_towers")
    if make_towers:
      towers = make_towers(rows_tower, features, dropout_seed, variables)
      loss = towers.loss
    else:
      towers = None
      loss, _, gradients = tower(features, dropout_seed)
    if init_checkpoint:
      training.log_checkpoint(
          modeling.initialize_from_checkpoint(
              tf.trainable_variables(), init_checkpoint,
              not_needed=() if pooling == "pooler" else ("bert/pooler/",)),
          init_checkpoint)
    if use_tpu:
      raise ValueError("TPUs are not supported; use_tpu must be False.")
    share = features.get(gradient_accumulation.SHARE)
    loss_scale = mixed_precision.LossScale() if scale_loss else None
    settings = (learning_rate, num_train_steps, num_warmup_steps,
                learning_rate_scale, adam_bias_correction, skip_nonfinite)
    step = (towers.create_train_op(*settings) if towers else
            optimization.create_train_op(
                loss, *(settings + (share,)),
                variables=variables(), gradients=gradients,
                loss_scale=loss_scale))
    accumulate_op = None
    if share is not None:
      loss, accumulate_op = step.loss, step.accumulate_op
    # Read before the step, which changes it.
    return training.ModelSpec(
        mode, loss, step.train_op, step.learning_rate, step.grad_norm, None,
        accumulate_op, loss_scale and loss_scale.read)

  return model_fn


def plan_training(num_records, flag_values):
  """Returns (num_train_steps, num_warmup_steps); ValueError: too many."""
  num_train_steps = max(1, int(
      steps_per_epoch(num_records, flag_values) *
      flag_values.num_train_epochs))
  if num_train_steps > MOST_STEPS:
    raise ValueError(
        "--num_train_epochs is %s, which makes %d steps; there may be 2^31 - 1."
        % (flag_values.num_train_epochs, num_train_steps))
  return (num_train_steps,
          int(num_train_steps * flag_values.warmup_proportion))


def steps_per_epoch(num_records, flag_values):
  """The last step of an epoch may have fewer examples."""
  return -(-num_records // flag_values.train_batch_size)


def make_model_fn(model, num_labels, plan, flag_values, init_checkpoint=None,
                  output_bias=None):
  """`model_fn_builder` of a run that flags describe; see `plan_training`."""
  return model_fn_builder(
      bert_config=model.bert_config,
      num_labels=num_labels,
      init_checkpoint=init_checkpoint,
      learning_rate=flag_values.learning_rate,
      num_train_steps=plan[0],
      num_warmup_steps=plan[1],
      use_tpu=False,
      use_one_hot_embeddings=flag_values.use_one_hot_embeddings,
      pooling=model.pooling,
      head_learning_rate=flag_values.head_learning_rate,
      output_bias=output_bias,
      random_seed=flag_values.random_seed,
      adam_bias_correction=flag_values.adam_bias_correction,
      loss_fn=run_directory.make_loss(model.loss, flag_values.output_dir),
      skip_nonfinite=flag_values.skip_nonfinite > 0,
      layer_decay=flag_values.layer_decay,
      freeze_layers=flag_values.freeze_layers,
      recompute_layers=flag_values.recompute_layers,
      scale_loss=(mixed_precision.choose_precision(flag_values) ==
                  mixed_precision.FLOAT16))


def make_run(model, label_list, parts, records, flag_values):
  """Builds the graph and its session: `training.Run`.

  Without --do_train, and where training is over, it has no training tower.
  """
  train_input_fn, output_bias = None, None
  num_train_steps = num_warmup_steps = 0
  checkpoint = None
  if flag_values.do_train:
    checkpoint = checkpoint_recovery.recover(flag_values.output_dir)
    scan, (record_file, stats) = parts["train"].scan, records["train"]
    num_train_steps, num_warmup_steps = plan_training(
        stats.num_records, flag_values)
    if flag_values.init_bias_from_prior:
      output_bias = multilabel_model.log_odds(
          scan.label_counts, scan.num_examples)
    step = training.checkpoint_step(checkpoint)
    dev = make_dev_evaluation(None, model, label_list, records, flag_values,
                              step)
    is_over = step >= num_train_steps or (dev is not None and dev.is_over)
    log_start(scan, label_list, checkpoint, step, num_train_steps, is_over,
              flag_values)
    # A kill may have come before the last evaluation.
    if not is_over or (dev is not None and dev.is_due(step)):
      train_input_fn = file_based_input_fn_builder(
          record_file, model.max_seq_length, True, False,
          num_labels=len(label_list), seed=flag_values.random_seed,
          num_steps=num_train_steps)
  model_fn = make_model_fn(
      model, len(label_list), (num_train_steps, num_warmup_steps), flag_values,
      None if checkpoint else flag_values.init_checkpoint, output_bias)
  return training.Run(
      model_fn, flag_values.output_dir, train_input_fn,
      flag_values.train_batch_size, flag_values.random_seed,
      flag_values.keep_checkpoint_max,
      flag_values.allow_older_checkpoint and not flag_values.do_train,
      flag_values.gradient_accumulation_steps,
      distribution.count_devices(flag_values),
      mixed_precision.choose_precision(flag_values), flag_values.xla)


def make_member(cluster, model, num_labels, record_file, num_records,
                flag_values):
  """`cluster_training.Member` of chief or worker."""
  plan = plan_training(num_records, flag_values)
  return cluster_training.make_member(
      cluster, make_model_fn(model, num_labels, plan, flag_values),
      record_file, num_labels, plan[0], flag_values)


def lead_cluster(cluster, model, label_list, parts, records, flag_values,
                 is_time_over):
  """The chief's training; its weights start as those of a single process."""
  record_file, stats = records["train"]
  if checkpoint_recovery.recover(flag_values.output_dir) is None:
    with make_run(model, label_list, parts, records, flag_values) as run:
      run.save(0)
  member = make_member(cluster, model, len(label_list), record_file,
                       stats.num_records, flag_values)
  cluster_training.lead(
      member, cluster_members.identity(flag_values), flag_values.output_dir,
      flag_values.keep_checkpoint_max,
      lambda run: train(run, model, label_list, parts, records, flag_values,
                        is_time_over))


def join_cluster(cluster, flag_values):
  """What a worker, or a ps, does: all of it."""
  output_dir, seconds = flag_values.output_dir, flag_values.cluster_timeout
  there = cluster_members.wait_for_chief(cluster, output_dir, seconds)
  cluster_members.check_identity(
      cluster_members.identity(flag_values), there["identity"], cluster)
  if there["state"] == cluster_members.FINISHED:
    logging.info("The run is finished.")
  elif cluster.job == "ps":
    cluster_training.serve(cluster, output_dir, seconds)
  else:
    record_file = run_directory.record_path(output_dir, "train")
    with contextlib.closing(input_pipeline.open_records(record_file)) as rows:
      num_records = len(rows)
    cluster_training.work(make_member(
        cluster, run_directory.choose_model(flag_values),
        len(model_dir.read(output_dir).labels), record_file, num_records,
        flag_values), output_dir)


def make_dev_evaluation(run, model, label_list, records, flag_values,
                        first_step):
  """Evaluation on dev while training: `DevEvaluation`, or None."""
  if not run_directory.evaluates_while_training(flag_values):
    return None
  num_records = records["train"][1].num_records

  def evaluate_part(name, should_stop, most=None):
    path, _ = records[name]
    with contextlib.closing(input_pipeline.open_records(path, most)) as rows:
      return evaluation.run_part(
          run, rows, flag_values.eval_batch_size, len(label_list),
          model.long_text.pooling, should_stop)

  def evaluate_now(should_stop):
    """One evaluation: dev, and the first train examples if they are asked."""
    scores = evaluation.dev_scores(evaluate_part("dev", should_stop),
                                   label_list)
    if flag_values.eval_train_sample:
      sample = evaluation.dev_scores(
          evaluate_part("train", should_stop, flag_values.eval_train_sample),
          label_list, "train_")
      scores.values.update(sample.values)
      scores.summaries.extend(sample.summaries)
    return scores

  return best_checkpoint.DevEvaluation(
      flag_values.output_dir, evaluate_now,
      flag_values.eval_steps or steps_per_epoch(num_records, flag_values),
      plan_training(num_records, flag_values)[0],
      evaluation.full_metric_name(flag_values.metric_for_best),
      flag_values.early_stopping_patience, first_step)


def log_start(scan, label_list, checkpoint, step, num_train_steps, is_over,
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
                    "s" if len(unseen) > 1 else "",
                    modeling.some_names(unseen, evaluation.MAX_LOGGED_LABELS))
  if checkpoint:
    logging.info("  %s step %d of %d, found in %s",
                 "already finished:" if is_over else "going on from", step,
                 num_train_steps, checkpoint)
  elif not flag_values.init_checkpoint:
    logging.warning("  no --init_checkpoint: training from scratch, from "
                    "random weights")


def train(run, model, label_list, parts, records, flag_values, is_time_over):
  """Trains, with evaluations on dev in between."""
  record_file, stats = records["train"]
  training.train(
      run, plan_training(stats.num_records, flag_values)[0],
      flag_values.save_checkpoints_steps, flag_values.log_steps,
      flag_values.train_batch_size,
      make_dev_evaluation(run, model, label_list, records, flag_values,
                          run.checkpoint_step),
      flag_values.skip_nonfinite, is_time_over,
      lambda step: describe_batch(step, parts["train"], record_file,
                                  flag_values), flag_values.profile)


def describe_batch(step, part, record_file, flag_values, most=10):
  """Names the examples of a step's batch, the first `most` of them."""
  with contextlib.closing(input_pipeline.open_records(record_file)) as records:
    epoch, number = divmod(step, steps_per_epoch(len(records), flag_values))
    rows = input_pipeline.epoch_batches(
        records.lengths, flag_values.train_batch_size, flag_values.random_seed,
        epoch)[number]
    texts = sorted(set(int(text) for text in records.texts[rows]))
  named = texts[:most]
  ids = [str(example.guid) for number, example in enumerate(itertools.islice(
      part.examples(), named[-1] + 1)) if number in named]
  return "a batch of %d example%s (id %s%s)" % (
      len(texts), "" if len(texts) == 1 else "s", ", ".join(ids),
      ", ..." if len(texts) > most else "")


def evaluate(run, model, part, record_file, label_list, decision,
             flag_values, is_time_over=None):
  """Evaluates a labelled part and writes its results.

  Returns:
    (`evaluation.Outputs`, `DecisionRule`): on dev the thresholds are found
    here, if they are to be.
  """
  left_out = part.scan.unlabelled
  with contextlib.closing(input_pipeline.open_records(record_file)) as records:
    scored = (input_pipeline.RecordsWithout(records, left_out)
              if len(left_out) else records)
    outputs = evaluation.run_part(run, scored, flag_values.eval_batch_size,
                                  len(label_list), model.long_text.pooling,
                                  is_time_over)
  if part.name == "dev" and (
      flag_values.threshold in run_directory.TUNED_THRESHOLDS):
    decision = evaluation.tune(outputs, decision, flag_values.threshold,
                               label_list, flag_values.min_precision)
  result = evaluation.results(outputs, decision, label_list)
  if len(left_out):
    logging.info("%s of %s texts of %s are not labelled and left out of its "
                 "scores", "{:,}".format(len(left_out)),
                 "{:,}".format(part.scan.num_examples), part.name)
    result["num_texts_left_out"] = len(left_out)
  evaluation.write_results(part.name, result, run.checkpoint_step,
                           flag_values.output_dir)
  return outputs, decision


def predict(run, model, part, record_file, label_list, decision, flag_values,
            is_time_over=None):
  """Predicts the test set and writes the two files of results."""
  examples = iter(part.examples())
  with contextlib.closing(
      input_pipeline.open_records(record_file)) as records, \
      evaluation.PredictionWriter("test", decision, label_list,
                                  flag_values.output_dir, True,
                                  written_probabilities.parse(
                                      flag_values.probabilities)) as writer:
    for window in training.predict(
        run, records, flag_values.predict_batch_size, len(label_list),
        model.long_text.pooling, is_time_over):
      writer.write(examples, window)
  logging.info("***** Predictions on test: %s, %s *****",
               " and ".join(writer.paths), decision.describe())


def time_limit(flag_values):
  """A function that says whether --max_runtime is over; None: no limit."""
  seconds = parse_runtime(flag_values.max_runtime)
  if seconds is None:
    return None
  end = time.monotonic() + seconds
  return lambda: time.monotonic() >= end


def main(argv):
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; every flag begins with --." %
                     argv[1])
  tf.disable_v2_behavior()
  cluster = cluster_members.choose_distribution(FLAGS)
  check_flags(FLAGS)
  check_evaluation_flags(FLAGS)
  if cluster is not None and cluster.job != "chief":
    join_cluster(cluster, FLAGS)
    return
  is_time_over = time_limit(FLAGS)
  model = run_directory.choose_model(FLAGS)
  layer_rates.check_flags(FLAGS, model.bert_config.num_hidden_layers)
  model_dir.check_output_dir(FLAGS.output_dir)
  processor = run_directory.make_processor(FLAGS)
  label_list = run_directory.choose_labels(processor, FLAGS)
  if FLAGS.do_train and FLAGS.init_checkpoint:
    run_directory.check_init_checkpoint(model, len(label_list),
                                        FLAGS.init_checkpoint)
  parts = run_directory.read_parts(processor, label_list, model, FLAGS)
  if FLAGS.do_train:
    plan_training(parts["train"].scan.num_examples, FLAGS)  # or refuse
  with run_directory.claim(model, label_list, parts, FLAGS):
    records = run_directory.write_features(parts, label_list, model,
                                           FLAGS.output_dir)
    if cluster is not None:
      lead_cluster(cluster, model, label_list, parts, records, FLAGS,
                   is_time_over)
    with make_run(model, label_list, parts, records, FLAGS) as run:
      if FLAGS.do_train:
        if run.train_spec is None:
          # Training is over, and what is left has to be done in one go.
          is_time_over = None
        train(run, model, label_list, parts, records, FLAGS, is_time_over)
        run.use_best_checkpoint()
      try:
        write_outputs(run, model, label_list, parts, records, FLAGS,
                      is_time_over)
      except best_checkpoint.EvaluationStopped:
        raise command_line.OutOfTime(
            "--max_runtime is over while evaluating; %s." % (
                "training is done, and the same command does the rest, "
                "however long it takes" if FLAGS.do_train else
                "raise it, since the same command begins anew"))
  if (FLAGS.do_eval or FLAGS.do_test) and (
      FLAGS.probabilities == written_probabilities.ALL):
    evaluation.write_report(FLAGS.output_dir, FLAGS.report)


def write_outputs(run, model, label_list, parts, records, flag_values,
                  is_time_over):
  """Evaluates and predicts what the flags ask for."""
  decision = run_directory.choose_decision(flag_values)
  which = written_probabilities.parse(flag_values.probabilities)
  if flag_values.do_eval:
    outputs, decision = evaluate(
        run, model, parts["dev"], records["dev"][0], label_list, decision,
        flag_values, is_time_over)
    evaluation.write_predictions(
        "dev", parts["dev"].examples(), outputs, decision, label_list,
        flag_values.output_dir, which)
  run_directory.store_decision(decision, flag_values)
  if flag_values.do_test:
    evaluate(run, model, parts["test"], records["test"][0], label_list,
             decision, flag_values, is_time_over)
  if flag_values.do_predict:
    predict(run, model, parts["test"], records["test"][0], label_list,
            decision, flag_values, is_time_over)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
