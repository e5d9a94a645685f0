# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes BERT for multi-label text classification, evaluates, predicts.

A text may carry any number of labels. The steps are those of run_classifier.py
of google-research/bert, in its order: check, read examples, write TFRecords,
train, evaluate on dev, predict on test.
"""

from multilabel.common import command_line

if __name__ == "__main__":
  command_line.use_onednn_for_batches()
  command_line.quiet_tensorflow()

# pylint: disable=g-import-not-at-top
import functools
import sys

from absl import flags
from absl import logging
import tensorflow.compat.v1 as tf

from multilabel import calibration
from multilabel import decisions
from multilabel import head
from multilabel import losses
from multilabel.common.settings import Settings
from multilabel.features import batch_parts
from multilabel.features import encoding
from multilabel.storage import label_head
from multilabel.training import finetuning
from multilabel.training import flag_checks
from multilabel.training import layer_training
from multilabel.training import loop
from multilabel.training import mirrored
from multilabel.training import mixed_precision
from multilabel.training import model_graph
from multilabel.training import run_setup
from multilabel.training import train_op
from multilabel.training import weight_average
import processors

# The names of the original's run_classifier.py are reachable here.
# pylint: disable=unused-import
from multilabel.features.encoding import InputFeatures
from multilabel.features.encoding import PaddingInputExample
from multilabel.features.encoding import _truncate_seq_pair
from multilabel.features.encoding import convert_examples_to_features
from multilabel.features.encoding import convert_single_example
from multilabel.features.input_pipeline import file_based_input_fn_builder
from multilabel.features.input_pipeline import input_fn_builder
from multilabel.features.record_file import file_based_convert_examples_to_features
from multilabel.head import create_model
from processors import DataProcessor
from processors import InputExample
from processors import table_reader

FLAGS = flags.FLAGS


def define_flags(flag_values=None):
  """Defines this program's flags; called where the script starts.

  Args:
    flag_values: `flags.FlagValues` to define them in; None: the global ones.
  """
  # Shadows the module: what is defined below goes where the caller wants it.
  flags = command_line.FlagsInto(FLAGS if flag_values is None else flag_values)
  with command_line.flag_group("Data", flag_values):
    flags.DEFINE_string(
        "data_dir", None,
        "Folder of the data: train, dev and test files, and labels.txt (one "
        "label per line) if the order of the labels matters.")
    flags.DEFINE_string(
        "task_name", None, "Format of the data: %s." % ", ".join(
            sorted(processors.PROCESSORS)))
    flags.DEFINE_string(
        "processor", None, "Your own DataProcessor instead of --task_name: "
                           "path/to/file.py:ClassName or "
                           "package.module:ClassName. Its code is executed.")
    flags.DEFINE_string("text_column", None, "delimited: column of the text.")
    flags.DEFINE_string("text_pair_column", None,
        "delimited: column of the second text.")
    flags.DEFINE_string(
        "label_column", None,
        "delimited: the column of labels, or several columns of 0 and 1, "
        "separated by commas (quote a name that has a comma); default: labels "
        "or label, otherwise all columns of 0 and 1.")
    flags.DEFINE_string(
        "ignore_columns", None,
        "delimited: columns of 0 and 1 that are not labels, separated by "
        "commas.")
    flags.DEFINE_string("id_column", None, "delimited: column of the id.")
    flags.DEFINE_string(
        "label_separator", ",",
        "delimited: the separator of labels in a cell, one or more characters; "
        "\\t and \\n work.")
    flags.DEFINE_string(
        "delimiter", None,
        "delimited: the character that separates cells; default: a comma in "
        ".csv, a tab in .tsv.")
    flags.DEFINE_enum("quoting", table_reader.AUTO, list(table_reader.QUOTINGS),
                      table_reader.QUOTING_HELP)
    flags.DEFINE_string("encoding", None, table_reader.ENCODING_HELP)
    flags.DEFINE_float(
        "dev_fraction", 0.0,
        "Fraction of train (0 to 1) to use as dev if there is no dev file, "
        "chosen by a hash of the id.")
    flags.DEFINE_integer(
        "max_train_examples", 0,
        "Train on the first N examples; 0: on all.")
  with command_line.flag_group("Model", flag_values):
    flags.DEFINE_string(
        "encoder", None,
        "The pre-trained encoder, instead of the next three flags and "
        "--do_lower_case: a folder from Google or Hugging Face, a trained "
        "directory of this program, or a name on the Hugging Face hub (needs "
        "huggingface_hub).")
    flags.DEFINE_string("bert_config_file", None,
        "JSON file of the architecture.")
    flags.DEFINE_string("vocab_file", None, "WordPiece vocabulary.")
    flags.DEFINE_string(
        "init_checkpoint", None,
        "Checkpoint to start from, usually a pre-trained BERT "
        "(bert_model.ckpt); default: random weights.")
    flags.DEFINE_enum(
        "init_head", None, list(label_head.INIT_HEADS),
        "How to initialize the label head if --init_checkpoint has one. keep: "
        "with its rows in their order; new: with random weights; default: "
        "match rows by the names in labels.txt beside the checkpoint.")
    flags.DEFINE_bool(
        "do_lower_case", True,
        "Lower-case the text (uncased models); default: what the encoder says, "
        "or what the letters of its vocabulary suggest.")
    flags.DEFINE_integer(
        "max_seq_length", 128,
        "Maximum WordPiece tokens per text, including [CLS] and [SEP]. Longer "
        "texts are truncated and counted.")
    flags.DEFINE_enum(
        "pooling", "pooler", list(head.POOLINGS),
        "Vector that represents a text: BERT's tanh pooler, the first token of "
        "the last layer, or the mean over all tokens.")
    flags.DEFINE_bool(
        "use_one_hot_embeddings", False,
        "Look up word embeddings with a matrix product instead of a gather.")
    flags.DEFINE_enum(
        "long_text", "truncate_head", list(encoding.LONG_TEXT_FORMS),
        "What to do with a text longer than --max_seq_length: keep its head, "
        "its tail, a quarter from the head and the rest from the tail (Sun et "
        "al. 2019), or read all of it in windows. In a pair, the end of the "
        "longer text is cut.")
    flags.DEFINE_integer(
        "stride", None,
        "windows: tokens from the start of one window to the start of the "
        "next; default: half a window.")
    flags.DEFINE_enum(
        "window_pooling", "max", list(encoding.WINDOW_POOLINGS),
        "windows: the logit of a label is the max or the mean over the windows "
        "of a text.")
  with command_line.flag_group("Run", flag_values):
    flags.DEFINE_string(
        "output_dir", None, "Folder for checkpoints, features and results.")
    flags.DEFINE_bool("do_train", False, "Train.")
    flags.DEFINE_bool("do_eval", False, "Evaluate on the dev set.")
    flags.DEFINE_bool("do_test", False,
        "Evaluate on the test set, which must have labels.")
    flags.DEFINE_bool("do_predict", False, "Predict labels for the test set.")
    flags.DEFINE_integer(
        "train_batch_size", 32,
        "Examples per training step.")
    flags.DEFINE_integer(
        "gradient_accumulation_steps", 1,
        "Split the --train_batch_size examples of a step into N parts and keep "
        "only one part's activations in memory. The update is the same.")
    flags.DEFINE_enum(
        "distribution", mirrored.NONE, [mirrored.NONE, mirrored.MIRRORED,
        mirrored.CLUSTER],
        "none: one device; mirrored: all GPUs of this machine share each batch "
        "of --train_batch_size; cluster: the machines in TF_CONFIG (the "
        "default if it is set).")
    flags.DEFINE_integer(
        "num_devices", None,
        "mirrored: number of GPUs; default: all. Without GPUs, the CPU is "
        "split into N devices, to try it.")
    flags.DEFINE_float(
        "cluster_timeout", 600.0,
        "cluster: seconds to wait for another member before giving up.")
    flags.DEFINE_bool(
        "recompute_layers", False,
        "Recompute the activations of each layer for the gradient instead of "
        "storing them: less memory, more time.")
    flags.DEFINE_bool(
        "amp", False,
        "Compute matrix products in half precision: float16 on GPUs, bfloat16 "
        "on CPUs that support it. Weights stay float32; results differ "
        "slightly.")
    flags.DEFINE_bool(
        "xla", False,
        "Compile the training step with XLA, once per batch shape. The first "
        "steps are slow.")
    flags.DEFINE_integer(
        "eval_batch_size", 8,
        "Examples per dev batch.")
    flags.DEFINE_integer(
        "predict_batch_size", 8,
        "Examples per test batch.")
    flags.DEFINE_float("learning_rate", 5e-5, "Peak learning rate of Adam.")
    flags.DEFINE_float(
        "head_learning_rate", None, "Peak learning rate of the label head "
        "(output_weights, output_bias); default: --learning_rate.")
    flags.DEFINE_float(
        "layer_decay", 1.0,
        "Learning rate of a layer divided by that of the layer above it (Clark "
        "et al. 2020).")
    flags.DEFINE_integer(
        "freeze_layers", None,
        "Freeze the embeddings and the first N layers; 0: only the embeddings; "
        "default: train everything.")
    flags.DEFINE_bool(
        "init_bias_from_prior", False, "Initialize output_bias to the log-odds "
                                       "of each label in train instead of 0.")
    flags.DEFINE_bool(
        "adam_bias_correction", True,
        "Correct the bias of Adam's moments, as PyTorch's AdamW does. False: "
        "as in google-research/bert, whose first few hundred updates are up to "
        "six times larger at the same learning rate.")
    flags.DEFINE_float(
        "ema_decay", 0.0,
        "Keep a moving average of the weights with this decay, such as 0.99 or "
        "0.999; evaluation, the best checkpoint and exports use it. 0: no "
        "average.")
    flags.DEFINE_integer(
        "multi_sample_dropout", 1,
        "Average the loss over N dropout masks before the label head (Inoue "
        "2019). Costs almost nothing.")
    flags.DEFINE_float(
        "r_drop", 0.0,
        "Weight of the divergence between two dropout passes (Wu et al. 2021), "
        "such as 1; 0: one pass. A step takes twice as long.")
    flags.DEFINE_enum(
        "adversarial", "none", ["none", "fgm"],
        "fgm: train on each text a second time with adversarially perturbed "
        "word embeddings (Miyato et al. 2017). A step takes two to three times "
        "as long.")
    flags.DEFINE_float(
        "fgm_epsilon", 1.0,
        "fgm: norm of the perturbation, over all word embeddings of a text.")
    flags.DEFINE_float(
        "num_train_epochs", 3.0,
        "Passes over the training data.")
    flags.DEFINE_float(
        "warmup_proportion", 0.1,
        "Fraction of the steps (0 to 1) used for linear warmup.")
    flags.DEFINE_integer(
        "random_seed", 12345,
        "Seed of the initial label head, the order of the examples and "
        "dropout.")
    flags.DEFINE_integer("save_checkpoints_steps", 1000,
                         "Steps between checkpoints.")
    flags.DEFINE_integer(
        "keep_checkpoint_max", 2,
        "Number of newest checkpoints to keep during training, in addition to "
        "the weights of the best one on dev. At the end, only the newest stays "
        "complete. 0 keeps all.")
    flags.DEFINE_bool(
        "slim", False,
        "At the end, keep only the weights needed for prediction, without "
        "optimizer state; the run can then not be resumed.")
    flags.DEFINE_integer(
        "log_steps", 10, "Steps between log lines and TensorBoard points.")
    flags.DEFINE_string(
        "profile", None,
        "Folder for timelines of a few training steps (for a browser) and a "
        "table of time per kind of operation.")
    flags.DEFINE_enum(
        "resume", "auto", ["auto", "never", "force"],
        "If output_dir already has a run. auto: resume if the settings are the "
        "same; never: fail; force: resume with other training settings.")
    flags.DEFINE_string(
        "max_runtime", None,
        "Stop after N seconds, or 30m, 2h, 1d, with a checkpoint and exit "
        "status 75; the same command resumes. Each start completes at least "
        "one step or one evaluation.")
    flags.DEFINE_integer(
        "skip_nonfinite", 0,
        "Maximum number of steps with a NaN or infinite loss or gradient to "
        "skip. They change no weights.")
    flags.DEFINE_bool(
        "allow_older_checkpoint", False,
        "Without --do_train: if the best (or newest) checkpoint is broken, use "
        "the newest intact one.")
  with command_line.flag_group("Loss", flag_values):
    flags.DEFINE_enum(
        "loss", "sigmoid", list(losses.LOSSES),
            "Loss: sigmoid cross entropy, the same with weighted positives, "
            "focal loss (Lin et al. 2017), asymmetric loss (Ridnik et al. "
            "2021), ZLPR (Su et al. 2022), class-balanced cross entropy (Cui "
            "et al. 2019), or distribution-balanced loss (Wu et al. 2020).")
    flags.DEFINE_float(
        "label_smoothing", 0.0,
        "Label smoothing (0 to 1): moves each 0/1 label this far towards 0.5.")
    flags.DEFINE_float(
        "pos_weight_cap", 10.0,
        "weighted: cap on the weight of positives, which is negatives / "
        "positives in train.")
    flags.DEFINE_string("pos_weight_file", None,
        "weighted: file of weights, as JSON {label: weight} or lines of "
        "label<TAB>weight.")
    flags.DEFINE_float("focal_gamma", 2.0, "focal: focusing parameter.")
    flags.DEFINE_float("focal_alpha", None, "focal: weight of positives.")
    flags.DEFINE_float("asymmetric_gamma_pos", 0.0,
                       "asymmetric: focusing parameter of positives.")
    flags.DEFINE_float("asymmetric_gamma_neg", 4.0,
                       "asymmetric: focusing parameter of negatives.")
    flags.DEFINE_float(
        "asymmetric_clip", 0.05,
        "asymmetric: subtracted from the probability of negatives.")
    flags.DEFINE_float("class_balanced_beta", 0.999,
        "class_balanced: beta of the effective number of examples, from 0 (all "
        "labels weigh the same) to 1 (inverse frequency).")
    flags.DEFINE_float("distribution_balanced_mu", 0.3,
        "distribution_balanced: mu, the midpoint of the smoothed rebalancing "
        "weights.")
    flags.DEFINE_float("distribution_balanced_negative_scale", 5.0,
                       "distribution_balanced: scale of negatives' logits.")
    flags.DEFINE_float("distribution_balanced_kappa", 0.05,
                       "distribution_balanced: factor of the label prior that "
                       "is subtracted from the logits.")
  with command_line.flag_group("Evaluation and labels", flag_values):
    flags.DEFINE_integer(
        "eval_steps", None,
        "Steps between evaluations on dev during training with --do_eval; "
        "default: once per epoch; 0: none.")
    flags.DEFINE_string(
        "metric_for_best", "micro_f1",
        "Dev metric that selects the best checkpoint: a name from "
        "eval_results.txt, or map, lrap for short.")
    flags.DEFINE_integer(
        "early_stopping_patience", 0,
        "Stop after N evaluations without improvement; 0: never.")
    flags.DEFINE_integer(
        "eval_train_sample", 0,
        "Also evaluate N training examples each time, to detect overfitting.")
    flags.DEFINE_string(
        "threshold", "0.5",
        "Minimum probability of a label: a number; tune: the one that "
        "maximizes micro-F1 on dev; tune_macro: macro-F1; tune_samples: the "
        "mean F1 per text; tune_per_label: one per label. expected_f1: no "
        "threshold, but the labels of the highest expected F1 per text. Stored "
        "in output_dir; default: what is stored there.")
    flags.DEFINE_enum(
        "calibrate", run_setup.NOT_CALIBRATED, [run_setup.NOT_CALIBRATED] +
        list(calibration.KINDS),
        "Calibrate the probabilities on dev after training. temperature: one "
        "scale for all logits; platt: scale and shift per label. Stored in "
        "output_dir; default: what is stored there.")
    flags.DEFINE_float(
        "min_precision", None,
        "tune, tune_per_label: minimum precision on dev (0 to 1).")
    flags.DEFINE_integer(
        "top_k", None,
        "Predict at most the N most probable labels per text; 0: no limit.")
    flags.DEFINE_bool(
        "always_one_label", False,
        "Give a text without any label its most probable one.")
    flags.DEFINE_bool(
        "shorten_texts", False,
        "Truncate texts in the prediction files to 200 characters.")
    flags.DEFINE_string(
        "probabilities", decisions.ALL,
        decisions.HELP + " test_results.tsv, test_predictions.csv and the "
                         "report need all.")
    flags.DEFINE_bool(
        "report", None, "Write report.html after --do_eval or --do_test; "
        "default: if matplotlib is installed.")
  with command_line.flag_group("Of google-research/bert, not supported here",
                               flag_values):
    flags.DEFINE_bool("use_tpu", False, "TPUs are not supported.")
    for name in flag_checks.TPU_FLAGS[1:]:
      flags.DEFINE_string(name, None, "TPUs are not supported.")


def model_fn_builder(bert_config, num_labels, init_checkpoint, learning_rate,
                     num_train_steps, num_warmup_steps, use_tpu,
                     use_one_hot_embeddings,
                     settings=model_graph.DEFAULTS):
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
    settings: `model_graph.GraphSettings`, what the original has not.

  Returns:
    Function of (features, mode, params) to `loop.ModelSpec`.

  Raises:
    ValueError: `use_tpu` is set.
  """
  if use_tpu:
    raise ValueError("TPUs are not supported; use_tpu must be False.")
  num_layers = bert_config.num_hidden_layers
  tower = model_graph.make_tower(bert_config, num_labels,
                                 use_one_hot_embeddings, settings)
  head_rate = settings.head_learning_rate
  step_settings = (
      learning_rate, num_train_steps, num_warmup_steps,
      layer_training.make_scale(num_layers, settings.layer_decay,
                                head_rate / learning_rate if head_rate else 1.0),
      settings.adam_bias_correction, settings.skip_nonfinite)

  def model_fn(features, mode, params):
    """Builds the training tower or the inference tower."""
    if mode != loop.TRAIN:
      return loop.ModelSpec(
          mode, None, None, None, None,
          head.create_inference_graph(
              bert_config, num_labels, settings.pooling,
              use_one_hot_embeddings, with_labels=True,
              loss_fn=settings.loss_fn))
    variables = functools.partial(layer_training.trained_variables, num_layers,
                                  settings.freeze_layers)
    dropout_seed = settings.dropout_seed(features)
    # On several devices each has some rows of the batch; see `mirrored`.
    make_towers = params.get("make_towers")
    if make_towers:
      towers = make_towers(lambda *args: tower(*args)[1:], features,
                           dropout_seed, variables)
      loss = towers.loss
    else:
      loss, _, gradients = tower(features, dropout_seed)
    if init_checkpoint:
      model_graph.initialize(init_checkpoint, settings)
    share = features.get(batch_parts.SHARE)
    loss_scale = mixed_precision.LossScale() if settings.scale_loss else None
    average = weight_average.WeightAverage(
        variables(), settings.ema_decay) if settings.ema_decay else None
    step = (towers.create_train_op(*step_settings) if make_towers else
            train_op.create_train_op(
                loss, *(step_settings + (share,)), variables=variables(),
                gradients=gradients, loss_scale=loss_scale,
                after_update=average and average.update_after))
    accumulate_op = None
    if share is not None:
      loss, accumulate_op = step.loss, step.accumulate_op
    # The loss scale is read before the step, which changes it.
    return loop.ModelSpec(
        mode, loss, step.train_op, step.learning_rate, step.grad_norm, None,
        accumulate_op, loss_scale and loss_scale.read, average)

  return model_fn


def main(argv):
  if argv[1:]:
    raise ValueError("unexpected argument %s; flags begin with --%s." % (
        argv[1], ", and a value follows =, as in --do_train=%s" %
        argv[1].lower() if argv[1].lower() in ("true", "false") else ""))
  tf.disable_v2_behavior()
  run = finetuning.Finetuning(
      Settings.from_flags(FLAGS, command_line.flag_names()), model_fn_builder)
  if run.is_helper:
    run.join_cluster()
    return
  with run.claim():
    run.read_examples()
    run.write_features()
    with run.start():
      if FLAGS.do_train:
        command_line.keep_freed_memory()
        run.train()
      if FLAGS.do_eval:
        run.evaluate("dev")
      run.store_decision()
      if FLAGS.do_test:
        run.evaluate("test")
      if FLAGS.do_predict:
        run.predict()
    run.write_card()
  if (FLAGS.do_eval or FLAGS.do_test) and FLAGS.probabilities == decisions.ALL:
    write_report(FLAGS.output_dir, FLAGS.report)


def write_report(output_dir, wanted=None):
  """Writes report.html from what is in the directory.

  Args:
    output_dir: str.
    wanted: bool; None: if the packages for it are installed.
  """
  if wanted is not None and not wanted:
    return
  from multilabel.reporting import report  # pylint: disable=g-import-not-at-top
  try:
    path = report.write(output_dir, [sys.executable] + sys.argv)
    logging.info("***** Report: %s *****", path)
  except report.ReportUnavailable as error:
    logging.log(logging.WARNING if wanted else logging.INFO,
                "No report.html: %s", error)
  except ValueError as error:
    logging.warning("No report.html: %s", error)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
