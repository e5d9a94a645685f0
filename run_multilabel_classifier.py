# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes BERT for multi-label text classification, evaluates, predicts.

A text may carry any number of labels. The steps are those of run_classifier.py
of google-research/bert, in its order: check, read examples, write TFRecords,
train, evaluate on dev, predict on test.
"""

from multilabel.common import command_line

if __name__ == "__main__":
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
        "data_dir", None, "Directory of the data: train, dev and test files "
        "(and labels.txt, one label per line, where the order matters).")
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
  with command_line.flag_group("Model", flag_values):
    flags.DEFINE_string(
        "encoder", None, "The pre-trained encoder, in the place of the next "
        "four: a release's folder, a Hugging Face folder, a trained directory "
        "of this program, or a model's name on a hub (needs the extra hub).")
    flags.DEFINE_string("bert_config_file", None,
                        "JSON file of the encoder's architecture.")
    flags.DEFINE_string("vocab_file", None, "WordPiece vocabulary.")
    flags.DEFINE_string(
        "init_checkpoint", None, "Checkpoint to start from, usually a "
        "pre-trained BERT (bert_model.ckpt); none: random weights.")
    flags.DEFINE_enum(
        "init_head", None, list(label_head.INIT_HEADS), "Where the label head "
        "starts if --init_checkpoint has one: keep, its rows as they are; new, "
        "afresh; default: each label's row by the names in labels.txt beside "
        "the checkpoint.")
    flags.DEFINE_bool(
        "do_lower_case", True, "Lower-case the text: True for uncased models; "
        "default: as the encoder says, or the letters of its vocabulary.")
    flags.DEFINE_integer(
        "max_seq_length", 128, "Most WordPiece tokens of a text, [CLS] and "
        "[SEP] included; longer ones are cut, and counted.")
    flags.DEFINE_enum(
        "pooling", "pooler", list(head.POOLINGS),
        "What stands for a text: BERT's tanh pooler, the first token of the "
        "last layer, or the mean over its tokens.")
    flags.DEFINE_bool("use_one_hot_embeddings", False,
                      "Look words up by a matrix product, not a gather.")
    flags.DEFINE_enum(
        "long_text", "truncate_head", list(encoding.LONG_TEXT_FORMS),
        "A text longer than --max_seq_length: keep its head, its tail, a "
        "quarter of head and the rest of tail (Sun et al. 2019), or read all "
        "of it in windows. Pairs lose the end of the longer text.")
    flags.DEFINE_integer(
        "stride", None, "windows: tokens from the start of one to the start "
        "of the next; default: half of a window.")
    flags.DEFINE_enum(
        "window_pooling", "max", list(encoding.WINDOW_POOLINGS),
        "windows: a text's logit of a label is the max or the mean of its "
        "windows'.")
  with command_line.flag_group("Run", flag_values):
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
        "distribution", mirrored.NONE,
        [mirrored.NONE, mirrored.MIRRORED, mirrored.CLUSTER],
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
    flags.DEFINE_float(
        "ema_decay", 0.0, "Average the weights over the steps with this decay, "
        "such as 0.99 or 0.999, and evaluate, keep and export the average; 0: "
        "no average.")
    flags.DEFINE_integer(
        "multi_sample_dropout", 1, "Average the loss over so many dropout "
        "masks before the label head (Inoue 2019); costs next to nothing.")
    flags.DEFINE_float(
        "r_drop", 0.0, "Weight of the distance between the answers under two "
        "dropout masks (Wu et al. 2021), such as 1; 0: one pass. A step takes "
        "twice as long.")
    flags.DEFINE_enum(
        "adversarial", "none", ["none", "fgm"], "fgm: learn each text a second "
        "time with word vectors moved against it (Miyato et al. 2017). A step "
        "takes two to three times as long.")
    flags.DEFINE_float("fgm_epsilon", 1.0, "fgm: length of that move, over all "
                       "word vectors of a text together.")
    flags.DEFINE_float("num_train_epochs", 3.0, "Passes over train.")
    flags.DEFINE_float("warmup_proportion", 0.1,
                       "Share of the steps (0 to 1) with linear warmup.")
    flags.DEFINE_integer("random_seed", 12345, "Seed of the head's initial "
                         "weights, the order of the examples and dropout.")
    flags.DEFINE_integer("save_checkpoints_steps", 1000,
                         "Steps between checkpoints.")
    flags.DEFINE_integer(
        "keep_checkpoint_max", 2, "Newest checkpoints to keep while training, "
        "beside the weights of the best on dev. In the end the newest one stays "
        "whole. 0 keeps all.")
    flags.DEFINE_bool(
        "slim", False, "In the end keep the weights to predict with, and no "
        "optimizer state: no run can go on from them.")
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
  with command_line.flag_group("Loss", flag_values):
    flags.DEFINE_enum(
        "loss", "sigmoid", list(losses.LOSSES), "Loss of a label: "
        "sigmoid cross entropy, the same with weighted positives, focal loss "
        "(Lin et al. 2017), asymmetric loss (Ridnik et al. 2021), ZLPR of a "
        "whole text (Su et al. 2022), cross entropy with labels weighted by "
        "their effective number (Cui et al. 2019), distribution-balanced loss "
        "(Wu et al. 2020).")
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
    flags.DEFINE_float("class_balanced_beta", 0.999, "class_balanced: how many "
                       "examples of a label count, 0 (one) to 1 (all).")
    flags.DEFINE_float("distribution_balanced_mu", 0.3, "distribution_balanced:"
                       " share of a text from which a label weighs more.")
    flags.DEFINE_float("distribution_balanced_negative_scale", 5.0,
                       "distribution_balanced: scale of negatives' logits.")
    flags.DEFINE_float("distribution_balanced_kappa", 0.05,
                       "distribution_balanced: prior taken off the logits.")
  with command_line.flag_group("Evaluation and labels", flag_values):
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
        "the one that maximises micro-F1 on dev; tune_macro, macro-F1; "
        "tune_per_label, one per label. "
        "Kept in output_dir; default: what is kept there.")
    flags.DEFINE_enum(
        "calibrate", run_setup.NOT_CALIBRATED,
        [run_setup.NOT_CALIBRATED] + list(calibration.KINDS),
        "Calibrate the probabilities on dev after training: temperature, one "
        "scale of all logits; platt, scale and shift a label. Kept in "
        "output_dir for predictors and exports; default: what is kept there.")
    flags.DEFINE_float("min_precision", None, "tune, tune_per_label: least "
                       "precision on dev (0 to 1).")
    flags.DEFINE_integer("top_k", None, "At most so many labels per text, the "
                         "most probable ones; 0: no limit.")
    flags.DEFINE_bool("always_one_label", False, "Give a text without any "
                      "label its most probable one.")
    flags.DEFINE_bool(
        "shorten_texts", False, "Cut texts in the files of predictions to 200 "
        "characters.")
    flags.DEFINE_string(
        "probabilities", decisions.ALL,
        decisions.HELP + " Only with all there are "
        "test_results.tsv, test_predictions.csv and a report.")
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
  if len(argv) > 1:
    raise ValueError("unexpected argument %s; every flag begins with --." %
                     argv[1])
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
  except (report.ReportUnavailable, ValueError) as error:
    logging.log(logging.WARNING if wanted else logging.INFO,
                "No report.html: %s", error)


if __name__ == "__main__":
  command_line.run(main, define_flags, __doc__)
