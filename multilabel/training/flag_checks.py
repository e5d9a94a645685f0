# SPDX-License-Identifier: Apache-2.0
"""Rejects invalid flags before any work is done."""

import re

from multilabel import decisions
from multilabel.training import evaluation
from multilabel.training import mirrored
from multilabel.training import mixed_precision
from multilabel.training import run_setup


def check_distribution_flags(settings):
  """Raises ValueError for flags that cannot be combined."""
  num_devices = settings.num_devices
  if num_devices is not None and settings.distribution != mirrored.MIRRORED:
    raise ValueError("--num_devices needs --distribution=mirrored.")
  if num_devices is not None and num_devices < 1:
    raise ValueError("--num_devices is %d; it must be 1 or more." %
                     num_devices)
  parts, size = (settings.gradient_accumulation_steps,
                 settings.train_batch_size)
  if parts > 1 and settings.distribution == mirrored.CLUSTER:
    raise ValueError(
        "--gradient_accumulation_steps=%d cannot be combined with several "
        "machines; use it or --distribution=cluster, not both." % parts)
  devices = mirrored.count_devices(settings)
  if size % (parts * devices):
    raise ValueError(
        "--train_batch_size is %d, which is not divisible by %d devices%s; use "
        "%s." %
        (size, devices, "" if parts == 1 else
         " times --gradient_accumulation_steps=%d" % parts,
         multiples_near(size, parts * devices)))


def check_accumulation_flags(settings):
  """Raises ValueError for a batch that cannot be divided as requested."""
  parts, size = (settings.gradient_accumulation_steps,
                 settings.train_batch_size)
  if parts < 1:
    raise ValueError("--gradient_accumulation_steps is %d; it must be 1 or "
                     "more." % parts)
  if size % parts:
    raise ValueError(
        "--train_batch_size is %d, which is not divisible by "
        "--gradient_accumulation_steps=%d; use %s examples per update, or "
        "another number of parts." %
        (size, parts, multiples_near(size, parts)))


def multiples_near(size, parts):
  """Names the multiples of `parts` on both sides of `size`."""
  return " or ".join(str(number * parts) for number in (
      size // parts, size // parts + 1) if number)


def check_layer_flags(settings, num_layers):
  """Raises ValueError for settings that do not fit the number of layers."""
  frozen = settings.freeze_layers
  if frozen is not None and not 0 <= frozen <= num_layers:
    raise ValueError(
        "--freeze_layers is %d; it must be from 0 (only the embeddings) to %d, "
        "the number of layers of this model." % (frozen, num_layers))
  if not 0 < settings.layer_decay <= 1:
    raise ValueError("--layer_decay is %s; it must be above 0 and at most 1." %
                     settings.layer_decay)


def check_regularization_flags(settings):
  """Raises ValueError for invalid flags of regularization."""
  if not 1 <= settings.multi_sample_dropout <= 64:
    raise ValueError("--multi_sample_dropout is %d; it must be from 1 to 64." %
                     settings.multi_sample_dropout)
  for name in ("r_drop", "fgm_epsilon"):
    if not 0 <= settings[name] < float("inf"):
      raise ValueError("--%s is %s; it must be 0 or more." % (
          name, settings[name]))
  if settings.is_given("fgm_epsilon") and settings.adversarial != "fgm":
    raise ValueError("--fgm_epsilon needs --adversarial=fgm.")
  chosen = (["--adversarial=fgm"] if settings.adversarial == "fgm" else []) + (
      ["--r_drop=%s" % settings.r_drop] if settings.r_drop else [])
  if chosen and settings.recompute_layers:
    raise ValueError("%s cannot be combined with --recompute_layers; leave one "
                     "of them out." % chosen[0])


def check_precision_flags(settings):
  """Raises ValueError for flags that the machine or other flags do not
  allow."""
  for name in ("amp", "xla"):
    if settings[name] and settings.distribution != "none":
      raise ValueError("--%s cannot be combined with several devices; use it "
                       "or --distribution=%s, not both." % (
                           name, settings.distribution))
  mixed_precision.choose_precision(settings)
  if not 0 <= settings.ema_decay < 1:
    raise ValueError("--ema_decay is %s; it must be at least 0 and below 1." %
                     settings.ema_decay)
  if settings.ema_decay and settings.distribution != mirrored.NONE:
    raise ValueError(
        "--ema_decay cannot be combined with several devices; use it or "
        "--distribution=%s, not both." % settings.distribution)
  if settings.xla and settings.recompute_layers:
    raise ValueError("--xla cannot be combined with --recompute_layers, since "
                     "it would merge the recomputation; use only one of them.")


TPU_FLAGS = ("use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master",
              "num_tpu_cores", "iterations_per_loop")


# Steps and examples are counted in 32 bits.
MOST_STEPS = 2 ** 31 - 1


def check_flags(settings, needs_data_dir=True):
  """Raises ValueError for invalid flags, before any work is done."""
  for name in TPU_FLAGS:
    if settings.is_given(name) and settings[name] is not False:
      raise ValueError("--%s: TPUs are not supported; leave the flag out." %
                       name)
  if not (settings.do_train or settings.do_eval or
          settings.do_test or settings.do_predict):
    raise ValueError("at least one of --do_train, --do_eval, --do_test, "
                     "--do_predict must be given.")
  required = ["data_dir"] * needs_data_dir + ["output_dir"]
  if settings.do_train and not settings.encoder:
    required += ["bert_config_file", "vocab_file"]
  for name in required:
    if not settings[name]:
      raise ValueError("--%s must be given%s." % (
          name, ", or --encoder" if name == "bert_config_file" else ""))
  for name in ("train_batch_size", "eval_batch_size", "predict_batch_size",
               "save_checkpoints_steps", "log_steps"):
    if settings[name] < 1:
      raise ValueError("--%s is %d; it must be 1 or more." % (
          name, settings[name]))
  for name in ("keep_checkpoint_max", "max_train_examples", "eval_steps",
               "early_stopping_patience", "eval_train_sample", "top_k",
               "skip_nonfinite"):
    if (settings[name] or 0) < 0:
      raise ValueError("--%s is %d; it must be 0 or more." % (
          name, settings[name]))
  for name in ("max_train_examples", "num_train_epochs", "train_batch_size",
               "eval_batch_size", "predict_batch_size", "eval_steps",
               "save_checkpoints_steps", "log_steps", "eval_train_sample"):
    if (settings[name] or 0) > MOST_STEPS:
      raise ValueError("--%s is %s; it must be at most 2^31 - 1." % (
          name, settings[name]))
  check_accumulation_flags(settings)
  check_distribution_flags(settings)
  check_precision_flags(settings)
  check_regularization_flags(settings)
  parse_runtime(settings.max_runtime)
  for name in ("learning_rate", "head_learning_rate", "num_train_epochs"):
    value = settings[name]
    if value is not None and not 0 < value < float("inf"):
      raise ValueError("--%s is %s; it must be above 0." % (name, value))
  if not 0 <= settings.warmup_proportion <= 1:
    raise ValueError("--warmup_proportion is %s; it must be from 0 to 1." %
                     settings.warmup_proportion)
  if not 0 <= settings.random_seed < 2 ** 31:
    raise ValueError("--random_seed is %d; it must be from 0 to 2^31 - 1." %
                     settings.random_seed)


def parse_runtime(text):
  """Seconds of --max_runtime: 90, 90s, 30m, 2h, 1d; None: no limit."""
  if text is None:
    return None
  match = re.match(r"(\d+(?:\.\d+)?)([smhd]?)$", text)
  seconds = match and float(match.group(1)) * {
      "m": 60, "h": 3600, "d": 86400}.get(match.group(2), 1)
  if not seconds:
    raise ValueError("--max_runtime is %s; it must be above 0, in seconds or "
                     "with the unit s, m, h or d." % text)
  return seconds


def check_evaluation_flags(settings):
  """Raises ValueError for invalid flags of evaluation."""
  which = decisions.parse(settings.probabilities)
  if settings.report and which != decisions.ALL:
    raise ValueError("--report needs --probabilities=all.")
  threshold = settings.threshold
  if threshold in decisions.TUNED_THRESHOLDS and not settings.do_eval:
    raise ValueError("--threshold=%s needs --do_eval: thresholds are tuned on "
                     "the dev set." % threshold)
  if settings.min_precision is not None and threshold not in (
      "tune", "tune_per_label"):
    raise ValueError("--min_precision needs --threshold=tune or "
                     "tune_per_label.")
  if threshold not in decisions.TUNED_THRESHOLDS:
    try:
      decisions.parse_threshold(threshold)
    except ValueError:
      raise ValueError("--threshold is %s; it must be a number from 0 to 1, "
                       "or one of %s." % (threshold, ", ".join(
                           decisions.TUNED_THRESHOLDS +
                           (decisions.EXPECTED_F1,))))
  if settings.calibrate != run_setup.NOT_CALIBRATED and not settings.do_eval:
    raise ValueError("--calibrate=%s needs --do_eval: calibration is fitted on "
                     "the dev set." % settings.calibrate)
  for name in ("min_precision", "label_smoothing"):
    value = settings[name]
    if value is not None and not 0 <= value <= 1:
      raise ValueError("--%s is %s; it must be from 0 to 1." % (name, value))
  evaluation.full_metric_name(settings.metric_for_best)
  if not run_setup.evaluates_while_training(settings):
    for name in ("early_stopping_patience", "eval_train_sample"):
      if settings[name]:
        raise ValueError("--%s needs evaluation during training: --do_train, "
                         "--do_eval, and --eval_steps not 0." % name)
  for loss, names in sorted(run_setup.LOSS_FLAGS.items()):
    for name in names:
      if settings.is_given(name) and settings.loss != loss:
        raise ValueError("--%s needs --loss=%s." % (name, loss))
