# SPDX-License-Identifier: Apache-2.0
"""The parts of a run: model, data, labels, decision rule, loss.

Each function takes `settings`, a `common.settings.Settings`; those that
continue from a trained directory take `trained` as well, the
`trained_model.TrainedModel` that was read from it, or None.
"""

import collections
import os

from absl import logging
import tensorflow.compat.v1 as tf

import modeling
from multilabel import decisions
from multilabel import head
from multilabel import losses
from multilabel.features import encoding
from multilabel.features import vocabulary
from multilabel.storage import checkpoint_restore
from multilabel.storage import encoders
from multilabel.storage import label_head
from multilabel.storage import run_lock
from multilabel.storage import start_check
from multilabel.storage import trained_model
from multilabel.training import mirrored
import processors
import tokenization


# Parameters of a loss, besides its name.
LOSS_FLAGS = {
    "weighted": ("pos_weight_cap", "pos_weight_file"),
    "focal": ("focal_gamma", "focal_alpha"),
    "asymmetric": ("asymmetric_gamma_pos", "asymmetric_gamma_neg",
                   "asymmetric_clip"),
    "class_balanced": ("class_balanced_beta",),
    "distribution_balanced": (
        "distribution_balanced_mu", "distribution_balanced_negative_scale",
        "distribution_balanced_kappa"),
}

NOT_CALIBRATED = "none"

Model = collections.namedtuple(
    "Model", ["bert_config", "vocab_file", "do_lower_case", "max_seq_length",
              "pooling", "long_text", "loss"])


def choose_model(settings, trained=None):
  """The model that the settings describe, checked: `Model`.

  Unset settings are taken from `trained`.

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
  tokenization.validate_vocab(vocab_file, bert_config.vocab_size,
                              settings.bert_config_file,
                              warn=logging.warning)
  do_lower_case = (choose_case(settings, vocab_file) if trained is None else
                   choose("do_lower_case"))
  tokenization.validate_case_matches_checkpoint(
      do_lower_case, settings.init_checkpoint)
  if max_seq_length > bert_config.max_position_embeddings:
    raise ValueError(
        "--max_seq_length is %d, but the model takes at most %d tokens "
        "(max_position_embeddings)." % (
            max_seq_length, bert_config.max_position_embeddings))
  if max_seq_length < 3:
    raise ValueError("--max_seq_length is %d; a text needs at least 3 ([CLS], "
                     "a token, [SEP]), a pair at least 4." % max_seq_length)
  if settings.stride is not None and choose("long_text") != "windows":
    raise ValueError("--stride needs --long_text=windows.")
  # A directory with another format, which is rejected later by name, has 0
  # there.
  stride = choose("stride") or settings.stride
  long_text = encoding.make_long_text(
      choose("long_text"), stride, choose("window_pooling"), max_seq_length)
  return Model(bert_config, vocab_file, do_lower_case, max_seq_length,
               choose("pooling"), long_text, choose("loss"))


def as_begun(settings, trained):
  """Settings in which a resumed run keeps its initial lower-casing."""
  if trained is None or not settings.do_train or settings.is_given(
      "do_lower_case"):
    return settings
  return settings.replace(do_lower_case=trained.settings["do_lower_case"])


def choose_case(settings, vocab_file):
  """Whether texts are lower-cased: as given, otherwise from the vocabulary.

  Args:
    settings: `common.settings.Settings`.
    vocab_file: str.

  Returns:
    bool. Warns about a vocabulary that contradicts it.
  """
  by_letters = vocabulary.is_lower_case(tokenization.load_vocab(vocab_file))
  given = settings.do_lower_case
  if by_letters is None or by_letters == given:
    return given
  what = "no capital letters" if by_letters else "capital letters"
  if settings.is_given("do_lower_case"):
    logging.warning(
        "--do_lower_case=%s, but the vocabulary %s has %s: words with capital "
        "letters %s.", str(given).lower(), vocab_file, what,
        "become [UNK]" if by_letters else
        "are tokenized differently from the encoder's training")
    return given
  logging.info("The vocabulary %s has %s: using --do_lower_case=%s.",
               vocab_file, what, str(by_letters).lower())
  return by_letters


def resolve_encoder(settings):
  """Replaces --encoder by the flags that it sets.

  Args:
    settings: `common.settings.Settings` with `do_train`.

  Returns:
    (settings, entry of the encoder for model_settings.json: dict; None without
    --encoder). A resumed run keeps its hub revision.

  Raises:
    ValueError: the encoder is not available, or one of the flags that it sets
      is also given.
    RuntimeError: see `encoders.resolve`.
  """
  place = settings.encoder
  if not place:
    return settings, None
  for name in ("bert_config_file", "vocab_file", "init_checkpoint"):
    if settings[name]:
      raise ValueError(
          "--encoder already sets --%s; use only one of them." % name)
  pinned = _pinned_encoder(settings.output_dir, place)
  encoder = encoders.resolve(pinned or place)
  changes = dict(bert_config_file=encoder.bert_config_file,
                 vocab_file=encoder.vocab_file,
                 init_checkpoint=encoder.init_checkpoint)
  if not settings.is_given("do_lower_case"):
    changes["do_lower_case"] = encoder.do_lower_case
  elif settings.do_lower_case != encoder.do_lower_case:
    logging.warning(
        "--do_lower_case=%s, but the encoder %s was trained on %s texts.",
                    str(settings.do_lower_case).lower(), place,
                    "lower-cased" if encoder.do_lower_case else "cased")
  advised = encoder.advised_pooling
  if advised and not settings.is_given("pooling"):
    changes["pooling"] = advised
    logging.info("Using --pooling=%s, as the encoder recommends.", advised)
  elif advised and settings.pooling != advised:
    logging.info("--pooling=%s, although the encoder recommends %s.",
                 settings.pooling, advised)
  return settings.replace(**changes), {
      "place": place, "form": encoder.form, "revision": encoder.revision}


def _pinned_encoder(output_dir, place):
  """PLACE@REVISION of a resumed run with a hub model, or None."""
  path = os.path.join(output_dir, run_lock.SETTINGS_FILE)
  if not os.path.isfile(path):
    return None
  encoder = trained_model.read(output_dir).settings.get("encoder") or {}
  if encoder.get("place") != place or not encoder.get("revision"):
    return None
  return "%s@%s" % (place.partition("@")[0], encoder["revision"])


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
  """All labels in the order of the outputs: list of str.

  Without training, data with neither a list of labels nor a train file have
  those of `trained`.
  """
  if settings.do_train:
    return processors.get_labels(processor, settings.data_dir)
  if isinstance(processor, processors.FileProcessor):
    processor.trained_labels = trained.labels
  try:
    return processors.get_labels(processor, settings.data_dir)
  except ValueError as error:
    # Errors of user code are reported differently from those of broken files.
    reasons = (error, error.__cause__)
    if not any(isinstance(reason, (processors.MissingFileError,
                                   FileNotFoundError)) for reason in reasons):
      raise
    logging.info("The data have no list of labels: taking that of output_dir.")
    return trained.labels


def choose_decision(settings, trained):
  """How probabilities become labels: from settings, otherwise the directory.

  Returns:
    `decisions.DecisionRule`; with one of `decisions.TUNED_THRESHOLDS` its
    thresholds are those of before.
  """
  decision = trained.decision
  if settings.is_given("threshold") and (
      settings.threshold not in decisions.TUNED_THRESHOLDS):
    decision = decision._replace(
        thresholds=decisions.parse_threshold(settings.threshold))
  if settings.is_given("top_k"):
    decision = decision._replace(top_k=settings.top_k or None)
  if settings.is_given("always_one_label"):
    decision = decision._replace(always_one_label=settings.always_one_label)
  return decision


def evaluation_rule(settings, decision):
  """How evaluations during training turn probabilities into labels.

  Args:
    settings: `common.settings.Settings`.
    decision: `decisions.DecisionRule` of `choose_decision`.

  Returns:
    dict that JSON can hold: `threshold` (of a `DecisionRule`, or one of
    `decisions.TUNED_THRESHOLDS`: found on dev at each evaluation), `top_k`,
    `always_one_label`, `min_precision`.
  """
  is_tuned = settings.threshold in decisions.TUNED_THRESHOLDS
  return {"threshold": settings.threshold if is_tuned else
                       decision.thresholds,
          "top_k": decision.top_k,
          "always_one_label": decision.always_one_label,
          "min_precision": settings.min_precision if is_tuned else None}


def choose_calibration(settings, trained):
  """The initial `calibration.Calibration`, or None.

  With --calibrate, a new one is fitted on dev.

  Raises:
    ValueError: stored thresholds belong to probabilities that will change.
  """
  if not settings.is_given("calibrate"):
    return trained.calibration
  before = trained.settings.get("calibration")
  if (settings.calibrate != NOT_CALIBRATED or before) and (
      not settings.is_given("threshold") and
      trained.settings["threshold_kind"] != "fixed"):
    raise ValueError(
        "--calibrate=%s changes the probabilities for which the thresholds in "
        "output_dir %s were tuned (%s); set --threshold as well." % (
            settings.calibrate, settings.output_dir,
            trained.settings["threshold_kind"]))
  return (None if settings.calibrate == NOT_CALIBRATED else
          trained.calibration)


def threshold_kind(settings, trained):
  """How the thresholds were chosen, one of `model_settings.THRESHOLD_KINDS`."""
  if not settings.is_given("threshold"):
    return trained.settings["threshold_kind"]
  return (settings.threshold
          if settings.threshold in decisions.TUNED_THRESHOLDS else "fixed")


def loss_parameters(scan, label_list, settings):
  """Arguments of `losses.make_loss`."""
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
  if settings.loss in losses.COUNTING:
    values["label_counts"] = [int(count) for count in scan.label_counts]
    values["num_examples"] = scan.num_examples
  if settings.loss == "class_balanced":
    values["beta"] = settings.class_balanced_beta
  elif settings.loss == "distribution_balanced":
    values.update(
        mu=settings.distribution_balanced_mu,
        negative_scale=settings.distribution_balanced_negative_scale,
        kappa=settings.distribution_balanced_kappa)
  return values


def make_loss(loss, trained):
  """The training loss of the model of a directory."""
  run = trained.settings.get("run") or {}
  return losses.make_loss(loss, **run.get("loss_parameters", {}))


def evaluates_while_training(settings):
  """Whether dev is evaluated during training: unless --eval_steps=0.

  A cluster trains without, and the chief evaluates at the end.
  """
  return (settings.do_train and settings.do_eval and
          settings.distribution != mirrored.CLUSTER and
          settings.eval_steps != 0)


def plan_start(model, label_list, settings):
  """Checks, before any work, that --init_checkpoint fits.

  Args:
    model: `Model`.
    label_list: list of str.
    settings: `common.settings.Settings`.

  Returns:
    `label_head.HeadPlan`, or None if the checkpoint has no label head.

  Raises:
    ValueError: the checkpoint cannot be read, or does not fit.
  """
  init_checkpoint = settings.init_checkpoint
  checkpoint_restore.check_layers(init_checkpoint,
                                  model.bert_config.num_hidden_layers)
  plan = label_head.plan(
      init_checkpoint,
      checkpoint_restore.read_checkpoint_shapes(init_checkpoint), label_list,
      settings.init_head)
  checkpoint_restore.match_checkpoint(
      {name: (shape, tf.float32) for name, shape in head.variable_shapes(
          model.bert_config, len(label_list)).items()}, init_checkpoint,
      not_needed=() if model.pooling == "pooler" else ("bert/pooler/",),
      leave_out=label_head.NAMES if plan else ())
  start_check.check_neighbours(init_checkpoint, model.bert_config,
                               model.vocab_file, model.pooling, plan)
  return plan
