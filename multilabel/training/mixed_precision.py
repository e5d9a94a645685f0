# SPDX-License-Identifier: Apache-2.0
"""Half precision and compilation: --amp and --xla.

With --amp, TensorFlow rewrites the session's graphs: matrix products and
operations between them use float16 on GPUs and bfloat16 on CPUs, if the device
supports it. Weights, moments, softmax, sums and the loss stay float32. float16
cannot represent gradients below 6e-8, so there the loss is scaled (Micikevicius
et al. 2017, arXiv:1710.03740, section 3.2); bfloat16 has float32's range and
needs none.
"""

import contextlib
import functools
import os
import re

import tensorflow.compat.v1 as tf

from multilabel.common import command_line


FLOAT16 = "float16"
BFLOAT16 = "bfloat16"

# TensorFlow rewrites only for NVIDIA GPUs with tensor cores.
_LEAST_CAPABILITY = (7, 0)
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")
_CPU_REWRITING = "auto_mixed_precision_onednn_bfloat16"


def choose_precision(settings):
  """The precision of --amp on this machine: `FLOAT16`, `BFLOAT16` or None.

  Raises:
    ValueError: this machine does not support half precision, or other flags do
      not allow it.
  """
  if not settings.amp:
    return None
  capabilities = _gpu_capabilities()
  if capabilities:
    if min(capabilities) < _LEAST_CAPABILITY:
      raise ValueError(
          "--amp needs GPUs with compute capability %d.%d or higher; one here "
          "has %d.%d." % (_LEAST_CAPABILITY + min(capabilities)))
    return FLOAT16
  if not hasattr(tf.ConfigProto().graph_options.rewrite_options,
                 _CPU_REWRITING):
    raise ValueError(
        "--amp found no GPU, and TensorFlow %s has no bfloat16 for CPUs; leave "
        "it out, or use a newer TensorFlow." % tf.__version__)
  if not command_line.cpu_flags().intersection(_CPU_FLAGS):
    raise ValueError("--amp found no GPU, and this CPU has no bfloat16 (%s); "
                     "leave it out." % " or ".join(_CPU_FLAGS))
  if command_line.onednn_setting() is False:
    raise ValueError("--amp on a CPU needs oneDNN, which "
                     "TF_ENABLE_ONEDNN_OPTS=%s disables." %
                     os.environ["TF_ENABLE_ONEDNN_OPTS"])
  return BFLOAT16


@functools.lru_cache(maxsize=None)  # The query opens the GPUs.
def _gpu_capabilities():
  """Compute capability of each GPU that TensorFlow sees: list of (int, int)."""
  if not tf.config.experimental.list_physical_devices("GPU"):
    return []
  # pylint: disable=g-import-not-at-top,g-direct-tensorflow-import
  from tensorflow.python.client import device_lib
  config = tf.ConfigProto()
  config.gpu_options.allow_growth = True
  found = [re.search(r"compute capability: (\d+)\.(\d+)",
                     device.physical_device_desc)
           for device in device_lib.list_local_devices(config)
           if device.device_type == "GPU"]
  return [(int(match.group(1)), int(match.group(2)))
          for match in found if match]


def configure_session(config, precision):
  """Configures a session to rewrite its graphs.

  Args:
    config: `tf.ConfigProto`, which is changed.
    precision: `FLOAT16`, `BFLOAT16`, or None for no change.

  Returns:
    `config`.
  """
  if precision is not None:
    rewriting = ("auto_mixed_precision" if precision == FLOAT16 else
                 _CPU_REWRITING)
    # 1 is RewriterConfig.ON, which has no public name.
    setattr(config.graph_options.rewrite_options, rewriting, 1)
  return config


@contextlib.contextmanager
def compiled(use_xla):
  """Operations built inside are compiled by XLA, if requested."""
  if not use_xla:
    yield
    return
  with tf.xla.experimental.jit_scope():
    yield


class LossScale(object):
  """The loss scale, as large as float16 allows.

  A step with overflowing gradients changes no weights and halves the factor; a
  number of steps without overflow double it. Both numbers are variables in
  checkpoints: a resumed run continues with the same factor.

  Attributes:
    read: float32 scalar tensor, the factor of this step: a power of 2, at least
      1.
  """

  INITIAL = 2.0 ** 15
  GROWTH_STEPS = 2000

  def __init__(self):
    with tf.variable_scope("loss_scale"):
      self._value = tf.get_variable(
          "value", [], tf.float32, tf.constant_initializer(self.INITIAL),
          trainable=False)
      self._good_steps = tf.get_variable(
          "good_steps", [], tf.int32, tf.zeros_initializer(), trainable=False)
    # A reference would show the value after the step.
    self.read = self._value + 0.0

  def gradients(self, loss, variables, gradients=tf.gradients):
    """Gradients of a loss, computed from the scaled loss.

    Args:
      loss: float32 scalar tensor.
      variables: list of variables.
      gradients: function of a loss and a list of variables.

    Returns:
      list, as from `gradients`, of the unscaled loss.
    """
    # Powers of 2, so values without over- or underflow keep their bits.
    unscale = 1.0 / self.read
    return [
        None if grad is None else
        tf.IndexedSlices(grad.values * unscale, grad.indices, grad.dense_shape)
        if isinstance(grad, tf.IndexedSlices) else grad * unscale
        for grad in gradients(loss * self.read, variables)]

  def adjust(self, is_finite):
    """The op that computes the next step's factor.

    Args:
      is_finite: bool scalar tensor, of this step's loss and gradients.
    """
    grows = tf.logical_and(is_finite, tf.greater_equal(
        self._good_steps, self.GROWTH_STEPS - 1))
    value = tf.where_v2(
        is_finite, tf.where_v2(grows, self.read * 2.0, self.read),
        tf.maximum(self.read * 0.5, 1.0))
    good_steps = tf.where_v2(
        tf.logical_and(is_finite, tf.logical_not(grows)),
        self._good_steps + 1, 0)
    with tf.control_dependencies([value, good_steps]):
      return tf.group(
          tf.assign(self._value, tf.where_v2(
              tf.is_finite(value), value, self.read)),
          tf.assign(self._good_steps, good_steps))
