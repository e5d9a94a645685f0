# SPDX-License-Identifier: Apache-2.0
"""Losses of several passes over a batch: --r_drop, --adversarial=fgm."""

import tensorflow.compat.v1 as tf


# Turns a seed of dropout masks in [0, 2^31) into another.
_OTHER_MASKS = 1 << 30


def make_tower(build, r_drop=0.0, fgm_epsilon=None):
  """The function that builds the model in training, with several passes.

  R-Drop (Wu et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", eq.
  4), halved, so that the learning rate keeps its meaning; x, z are the logits
  under two dropout masks, p, q their sigmoids, of L labels:

    (loss(x) + loss(z)) / 2 + r_drop / 2 * d(x, z)
    d(x, z) = (KL(p, q) + KL(q, p)) / 2 = mean of (p - q) (x - z) / 2 over L

  FGM (Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised
  Text Classification", eq. 5 and 6): the mean of that and of the loss with the
  word embeddings of each text shifted by fgm_epsilon * g / |g|, where g is the
  gradient of the text's loss with respect to them, under the same dropout
  masks. Unlike in the paper, the word embeddings are not normalized to
  deviation 1 first.

  Args:
    build: function of (features, dropout_seed, change_word_embeddings=) to
      (loss, per-example loss `[batch]`, logits `[batch, L]`); called several
      times with shared variables.
    r_drop: float of at least 0; 0: a single pass.
    fgm_epsilon: float of at least 0; None: no adversarial texts.

  Returns:
    Function of (features, dropout_seed), see `model_graph.make_tower`.
  """
  def tower(features, dropout_seed):
    words = []

    def keep(vectors):
      words.append(vectors)
      return vectors

    _, losses, logits = build(features, dropout_seed,
                              change_word_embeddings=keep)
    first_losses = losses
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
      if r_drop:
        _, again, other = build(features, _other_seed(dropout_seed))
        losses = (losses + again) / 2 + r_drop / 2 * divergence(logits, other)
      if fgm_epsilon is not None:
        move = adversarial_move(first_losses, words[0], fgm_epsilon)
        _, moved, _ = build(features, dropout_seed,
                            change_word_embeddings=lambda x: x + move)
        losses = (losses + moved) / 2
    return tf.reduce_mean(losses), losses, tf.gradients

  return tower


def _other_seed(dropout_seed):
  """The key of different masks for the same step; None: they differ anyway."""
  if dropout_seed is None:
    return None
  seed, step = dropout_seed
  return seed ^ _OTHER_MASKS, step


def divergence(logits, other):
  """Mean over labels of the symmetric divergence of two Bernoullis, `[batch]`.

  (KL(p, q) + KL(q, p)) / 2 = (p - q) (x - z) / 2, p and q the sigmoids of the
  logits x and z `[batch, L]`.
  """
  return 0.5 * tf.reduce_mean(
      (tf.sigmoid(logits) - tf.sigmoid(other)) * (logits - other), axis=-1)


def adversarial_move(losses, words, epsilon):
  """epsilon * g / |g| of each text, a constant.

  Args:
    losses: float `[batch]`, each depending only on its own text.
    words: float `[batch, seq, width]`, the word vectors.
    epsilon: float.

  Returns:
    float `[batch, seq, width]`; 0 for a text whose gradient is 0.
  """
  gradient, = tf.gradients(losses, [words])
  # Scaled by the largest value first: its square may underflow.
  largest = tf.reduce_max(tf.abs(gradient), axis=[1, 2], keepdims=True)
  has_any = tf.logical_and(largest > 0, tf.ones_like(gradient) > 0)
  scaled = gradient / tf.where(largest > 0, largest, tf.ones_like(largest))
  length = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=[1, 2],
                                 keepdims=True))
  length = tf.where(length > 0, length, tf.ones_like(length))
  return tf.stop_gradient(tf.where(has_any, epsilon * scaled / length,
                                   tf.zeros_like(gradient)))
