# SPDX-License-Identifier: Apache-2.0
"""A run and its directory: which model, which data, whose directory it is.

What `run_multilabel_classifier.py` settles before the first session exists.
Each function takes the flags that it looks at as `flag_values`.
"""

import collections

from absl import logging
import tensorflow.compat.v1 as tf

import modeling
from multilabel import head
from multilabel import losses
from multilabel.features import encoding
from multilabel.storage import checkpoint_choice
from multilabel.storage import checkpoint_restore
from multilabel.storage import run_lock
from multilabel.storage import trained_model
from multilabel.training import mirrored
import processors
from processors import label_checks
import tokenization


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


def choose_model(flag_values):
  """The model that the flags describe, checked: `Model`.

  Evaluation and prediction alone take from the trained directory what no flag
  says.
  """
  trained, output_dir = None, flag_values.output_dir
  if not flag_values.do_train:
    if not run_lock.is_trained(output_dir) or not (
        checkpoint_choice.has_checkpoint(output_dir)):
      raise ValueError("output_dir %s has no trained model; train first "
                       "(--do_train)." % output_dir)
    trained = trained_model.read(output_dir)
    if not flag_values.allow_older_checkpoint:
      checkpoint_choice.prediction_checkpoint(output_dir)  # before any work

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
  long_text = encoding.make_long_text(
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
    trained = trained_model.read(flag_values.output_dir).labels
    try:
      return processors.get_labels(processor, flag_values.data_dir)
    except ValueError:
      # The data to evaluate need not come with a label list of their own.
      return trained
  return processors.get_labels(processor, flag_values.data_dir)


def check_scored(name, scan, data_dir):
  """Raises ValueError if a part has nothing that could be learnt or scored.

  Args:
    name: "train", "dev" or "test".
    scan: `encoding.DataScan`.
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


def choose_decision(flag_values):
  """How probabilities become labels: what flags say, else the directory.

  Returns:
    `decisions.DecisionRule`; with --threshold=tune or
    tune_per_label its thresholds are those of before.
  """
  decision = trained_model.read(flag_values.output_dir).decision
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
  kind = trained_model.read(flag_values.output_dir).settings["threshold_kind"]
  if flag_values["threshold"].present:
    kind = (flag_values.threshold
            if flag_values.threshold in TUNED_THRESHOLDS else "fixed")
  trained_model.update_decision(flag_values.output_dir, kind, decision)


def loss_parameters(scan, label_list, flag_values):
  """What shapes the loss: arguments of `losses.make_loss`."""
  values = {"label_smoothing": flag_values.label_smoothing}
  if flag_values.loss == "weighted":
    values["pos_weight"] = (
        losses.read_pos_weight_file(
            flag_values.pos_weight_file, label_list)
        if flag_values.pos_weight_file else
        losses.pos_weight_from_counts(
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
  settings = trained_model.read(output_dir).settings
  return losses.make_loss(
      loss, **settings.get("run", {}).get("loss_parameters", {}))


def evaluates_while_training(flag_values):
  """Whether dev is evaluated on the way: unless --eval_steps=0.

  A cluster trains without, and the chief evaluates at the end.
  """
  return (flag_values.do_train and flag_values.do_eval and
          flag_values.distribution != mirrored.CLUSTER and
          flag_values.eval_steps != 0)


def check_init_checkpoint(model, num_labels, init_checkpoint):
  """Raises ValueError, before any work, if the checkpoint does not fit."""
  with tf.Graph().as_default():
    head.create_inference_graph(model.bert_config, num_labels,
                                            model.pooling)
    checkpoint_restore.initialize_from_checkpoint(
        tf.trainable_variables(), init_checkpoint,
        not_needed=() if model.pooling == "pooler" else ("bert/pooler/",))
