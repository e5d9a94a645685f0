# SPDX-License-Identifier: Apache-2.0
"""The configuration of every session of the project."""

import re

import tensorflow.compat.v1 as tf


def serving_config(device, inter_op_threads, intra_op_threads):
  """`tf.ConfigProto` of the arguments of `InferenceModel`."""
  config = tf.ConfigProto()
  config.gpu_options.allow_growth = True
  if device is not None:
    if not re.match(r"/(device:)?(cpu|gpu):\d+$", device, re.IGNORECASE):
      raise ValueError("device is %s; it must be one like /cpu:0 or /gpu:0." %
                       device)
    # Operations without a kernel for the device run on the CPU.
    config.allow_soft_placement = True
    if "cpu" in device.lower():
      config.device_count["GPU"] = 0
  for name, threads in (("inter_op_threads", inter_op_threads),
                        ("intra_op_threads", intra_op_threads)):
    if threads is not None and threads < 1:
      raise ValueError("%s is %d; it must be 1 or more." % (name, threads))
  if inter_op_threads is not None:
    config.inter_op_parallelism_threads = inter_op_threads
    # The number of shared threads was set by the first session.
    config.use_per_session_threads = True
  if intra_op_threads is not None:
    config.intra_op_parallelism_threads = intra_op_threads
  return config


def check_device(session, device):
  """ValueError if the machine has no such device."""
  if device is None:
    return
  there = [tf.DeviceSpec.from_string(found.name)
           for found in session.list_devices()]
  names = ["/%s:%d" % (found.device_type.lower(), found.device_index)
           for found in there if found.device_type in ("CPU", "GPU")]
  if device.lower().replace("device:", "") not in names:
    raise ValueError("device %s is not on this machine; it has %s." % (
        device, ", ".join(names)))


def session_config():
  """A session takes GPU memory as needed, not all of it."""
  config = tf.ConfigProto()
  config.gpu_options.allow_growth = True
  return config
