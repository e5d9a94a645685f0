# SPDX-License-Identifier: Apache-2.0
"""The training graph: settings beyond the original's, and the tower."""

import collections
import functools

from absl import logging
import tensorflow.compat.v1 as tf

from multilabel import head
from multilabel.features import batch_parts
from multilabel.storage import checkpoint_restore
from multilabel.storage import label_head
from multilabel.training import layer_training
from multilabel.training import regularized


class GraphSettings(collections.namedtuple("GraphSettings", [
    "pooling", "head_learning_rate", "output_bias", "random_seed",
    "adam_bias_correction", "loss_fn", "skip_nonfinite", "layer_decay",
    "freeze_layers", "recompute_layers", "scale_loss", "head_plan",
    "ema_decay", "dropout_samples", "r_drop", "fgm_epsilon"], defaults=[
        "pooler", None, None, None, False,
        tf.nn.sigmoid_cross_entropy_with_logits, False, 1.0, None, False,
        False, None, 0.0, 1, 0.0, None])):
  """Settings of a run's graph besides `model_fn_builder`'s eight arguments.

  Fields:
    pooling: str, see `head.create_model`.
    head_learning_rate: float, peak of `output_*`; None: the learning rate.
    output_bias: list of float, initial `output_bias`; None: zeros.
    random_seed: int, seed of the dropout masks; None: TensorFlow's own.
    adam_bias_correction: bool, see `optimization.AdamWeightDecayOptimizer`.
    loss_fn: see `head.create_model`.
    skip_nonfinite: bool, see `train_op.create_train_op`.
    layer_decay: float, see `layer_training.make_scale`.
    freeze_layers: int or None, see `layer_training.trained_variables`.
    recompute_layers: bool, see `layer_training.recomputed_gradients`; needs
      `random_seed`.
    scale_loss: bool, see `mixed_precision.LossScale`.
    head_plan: `label_head.HeadPlan`, how the label head is initialized; None:
      like all variables, by name.
    ema_decay: float, see `weight_average`; 0: no average.
    dropout_samples: int, see `head.create_model`.
    r_drop: float, see `regularized.make_tower`; 0: one pass.
    fgm_epsilon: float, see `regularized.make_tower`; None: no other texts.
  """

  __slots__ = ()

  def dropout_seed(self, features):
    """The key of a batch's dropout masks: (seed, step); None without seed."""
    if self.random_seed is None:
      return None
    return (self.random_seed, features.get(
        batch_parts.DROPOUT_STEP, tf.train.get_or_create_global_step()))


DEFAULTS = GraphSettings()


def make_tower(bert_config, num_labels, use_one_hot_embeddings, settings):
  """The function that builds the model in training, once per device.

  Args:
    bert_config: `modeling.BertConfig`.
    num_labels: int.
    use_one_hot_embeddings: bool.
    settings: `GraphSettings`.

  Returns:
    Function of (features, dropout_seed) to (loss: float scalar tensor,
    per-example loss: float `[batch]`, function of a loss and variables to
    gradients).
  """
  def build(features, dropout_seed, recorded_layers=None,
            change_word_embeddings=None):
    return head.create_model(
        bert_config, True, features["input_ids"], features["input_mask"],
        features["segment_ids"], features["label_ids"], num_labels,
        use_one_hot_embeddings, pooling=settings.pooling,
        dropout_seed=dropout_seed,
        output_bias_initializer=label_head.initializer(
            settings.head_plan, label_head.BIAS,
            tf.zeros_initializer() if settings.output_bias is None else
            tf.constant_initializer(settings.output_bias)),
        loss_fn=settings.loss_fn, recorded_layers=recorded_layers,
        dropout_samples=settings.dropout_samples,
        change_word_embeddings=change_word_embeddings,
        output_weights_initializer=label_head.initializer(
            settings.head_plan, label_head.WEIGHTS,
            tf.truncated_normal_initializer(stddev=head.WEIGHTS_STDDEV)))[:3]

  if settings.r_drop or settings.fgm_epsilon is not None:
    return regularized.make_tower(build, settings.r_drop, settings.fgm_epsilon)

  def tower(features, dropout_seed):
    recorded_layers = [] if settings.recompute_layers else None
    loss, per_example_loss, _ = build(features, dropout_seed, recorded_layers)
    return loss, per_example_loss, (
        functools.partial(layer_training.recomputed_gradients,
                          layers=recorded_layers)
        if settings.recompute_layers else tf.gradients)

  return tower


def initialize(init_checkpoint, settings):
  """Initializes the current graph's variables from a checkpoint; logs it.

  Args:
    init_checkpoint: str, checkpoint prefix.
    settings: `GraphSettings`.

  Raises:
    ValueError: see `checkpoint_restore.initialize_from_checkpoint`.
  """
  plan = settings.head_plan
  report = checkpoint_restore.initialize_from_checkpoint(
      tf.trainable_variables(), init_checkpoint,
      not_needed=() if settings.pooling == "pooler" else ("bert/pooler/",),
      leave_out=label_head.NAMES if plan else ())
  if plan:
    report = label_head.add_to_report(report, plan)
  lines = checkpoint_restore.format_checkpoint_report(
      report, init_checkpoint).split("\n")
  if plan:
    lines.extend(plan.lines)
    if settings.output_bias is not None:
      lines.append("  --init_bias_from_prior: for the %d new labels; the "
                   "others keep the bias that was learnt" %
                   (len(plan.rows) - plan.kept))
  for line in lines:
    logging.info("%s", line)
