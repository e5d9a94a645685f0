# SPDX-License-Identifier: Apache-2.0
"""What a run is made of: model, data, labels, decision rule, loss.

Each function takes `settings`, a `common.settings.Settings`; those that
continue from a trained directory take `trained` as well, the
`trained_model.TrainedModel` that was read from it, or None.
"""

import collections

from absl import logging
import tensorflow.compat.v1 as tf

import modeling
from multilabel import head
from multilabel import losses
from multilabel.features import encoding
from multilabel.storage import checkpoint_restore
from multilabel.training import mirrored
import processors
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


def choose_model(settings, trained=None):
  """The model that the settings describe, checked: `Model`.

  What no setting says is taken from `trained`.

  Raises:
    ValueError: settings and files do not fit each other.
  """
  def choose(name):
    if trained is None or settings.is_given(name):
      return settings[name]
    return trained.settings.get(name, settings[name])

  if settings.bert_config_file:
    bert_config = modeling.BertConfig.from_json_file(settings.bert_config_file)
  else:
    bert_config = trained.bert_config
  vocab_file = settings.vocab_file or trained.vocab_file
  max_seq_length = choose("max_seq_length")
  tokenization.validate_case_matches_checkpoint(
      choose("do_lower_case"), settings.init_checkpoint)
  tokenization.validate_vocab(vocab_file, bert_config.vocab_size,
                              settings.bert_config_file,
                              warn=logging.warning)
  if max_seq_length > bert_config.max_position_embeddings:
    raise ValueError(
        "--max_seq_length is %d, but the model was made for %d tokens at most "
        "(max_position_embeddings)." % (
            max_seq_length, bert_config.max_position_embeddings))
  if max_seq_length < 3:
    raise ValueError("--max_seq_length is %d; [CLS], a token and [SEP] need 3, "
                     "a pair of texts 4." % max_seq_length)
  if settings.stride is not None and choose("long_text") != "windows":
    raise ValueError("--stride needs --long_text=windows.")
  # A directory of another form, which is refused later by name, has 0 there.
  stride = choose("stride") or settings.stride
  long_text = encoding.make_long_text(
      choose("long_text"), stride, choose("window_pooling"), max_seq_length)
  return Model(bert_config, vocab_file, choose("do_lower_case"),
               max_seq_length, choose("pooling"), long_text, choose("loss"))


def make_processor(settings):
  """The data processor that --task_name or --processor names."""
  return processors.create_processor(*processor_settings(settings))


def processor_settings(settings):
  """The arguments of `processors.create_processor`."""
  options = {name: settings[name] for name in (
      "text_column", "text_pair_column", "label_column", "ignore_columns",
      "id_column", "label_separator", "delimiter", "quoting", "encoding",
      "dev_fraction")}
  return settings.task_name, settings.processor, options


def choose_labels(processor, settings, trained=None):
  """All labels in the order of the outputs: list of str."""
  if settings.do_train:
    return processors.get_labels(processor, settings.data_dir)
  if isinstance(processor, processors.FileProcessor):
    processor.trained_labels = trained.labels
  try:
    return processors.get_labels(processor, settings.data_dir)
  except ValueError:
    # The data to evaluate need not come with a label list of their own.
    return trained.labels


def choose_decision(settings, trained):
  """How probabilities become labels: what settings say, else the directory.

  Returns:
    `decisions.DecisionRule`; with --threshold=tune or tune_per_label its
    thresholds are those of before.
  """
  decision = trained.decision
  if settings.is_given("threshold") and (
      settings.threshold not in TUNED_THRESHOLDS):
    decision = decision._replace(thresholds=float(settings.threshold))
  if settings.is_given("top_k"):
    decision = decision._replace(top_k=settings.top_k or None)
  if settings.is_given("always_one_label"):
    decision = decision._replace(always_one_label=settings.always_one_label)
  return decision


def threshold_kind(settings, trained):
  """How the thresholds were found, one of `trained_model.THRESHOLD_KINDS`."""
  if not settings.is_given("threshold"):
    return trained.settings["threshold_kind"]
  return (settings.threshold if settings.threshold in TUNED_THRESHOLDS else
          "fixed")


def loss_parameters(scan, label_list, settings):
  """What shapes the loss: arguments of `losses.make_loss`."""
  values = {"label_smoothing": settings.label_smoothing}
  if settings.loss == "weighted":
    values["pos_weight"] = (
        losses.read_pos_weight_file(settings.pos_weight_file, label_list)
        if settings.pos_weight_file else
        losses.pos_weight_from_counts(
            scan.label_counts, scan.num_examples, settings.pos_weight_cap))
  elif settings.loss == "focal":
    values.update(gamma=settings.focal_gamma, alpha=settings.focal_alpha)
  elif settings.loss == "asymmetric":
    values.update(gamma_pos=settings.asymmetric_gamma_pos,
                  gamma_neg=settings.asymmetric_gamma_neg,
                  clip=settings.asymmetric_clip)
  return values


def make_loss(loss, trained):
  """The loss that the model of a directory is trained with."""
  run = trained.settings.get("run") or {}
  return losses.make_loss(loss, **run.get("loss_parameters", {}))


def evaluates_while_training(settings):
  """Whether dev is evaluated during training: unless --eval_steps=0.

  A cluster trains without, and the chief evaluates at the end.
  """
  return (settings.do_train and settings.do_eval and
          settings.distribution != mirrored.CLUSTER and
          settings.eval_steps != 0)


def check_init_checkpoint(model, num_labels, init_checkpoint):
  """Raises ValueError, before any work, if the checkpoint does not fit."""
  with tf.Graph().as_default():
    head.create_inference_graph(model.bert_config, num_labels, model.pooling)
    checkpoint_restore.initialize_from_checkpoint(
        tf.trainable_variables(), init_checkpoint,
        not_needed=() if model.pooling == "pooler" else ("bert/pooler/",))
