# SPDX-License-Identifier: Apache-2.0
"""Tests of --amp and --xla: what they change, and where they are refused."""

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import tiny_bert

import modeling
from multilabel.common import command_line
from multilabel.storage import checkpoint_choice
from multilabel.training import mixed_precision
from multilabel.training import run_setup
import run_multilabel_classifier


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return tiny_bert.make_data(tmp_path_factory.mktemp("data"), (24, 10, 5))


def call(bert, data, output_dir, **flags):
  return tiny_bert.call(run_multilabel_classifier, tiny_bert.arguments(
      bert, data, output_dir, **dict(dict(
          num_train_epochs=2, learning_rate=1e-3, save_checkpoints_steps=1,
          keep_checkpoint_max=0), **flags)))


def weights_of(folder, step=None):
  return tiny_bert.read_weights(
      checkpoint_choice.latest_checkpoint(str(folder)) if step is None else
      os.path.join(str(folder), "model.ckpt-%d" % step))


@pytest.fixture(scope="module")
def plain(bert, data, tmp_path_factory):
  folder = tmp_path_factory.mktemp("plain") / "o"
  status, _, stderr, _ = call(bert, data, folder)
  assert (status, stderr) == (0, "")
  return weights_of(folder)


def pretend_float16(monkeypatch, scale=None):
  """A machine whose rewriting finds nothing to do, but the scaling is there."""
  monkeypatch.setattr(mixed_precision, "_gpu_capabilities", lambda: [(8, 0)])
  monkeypatch.setattr(mixed_precision, "configure_session",
                      lambda config, precision: config)
  if scale is not None:
    monkeypatch.setattr(mixed_precision.LossScale, "INITIAL", scale)


def check_close(found, expected, most):
  for name in expected:
    np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=most,
                               err_msg=name)


@pytest.mark.parametrize("flags", [
    {}, pytest.param({"gradient_accumulation_steps": 2,
                      "recompute_layers": True}, marks=pytest.mark.newest)])
def test_a_scaled_loss_makes_the_same_weights(bert, data, plain, tmp_path,
                                              monkeypatch, flags):
  if "gradient_accumulation_steps" in flags:  # which has its own dropout masks
    assert call(bert, data, tmp_path / "parts", **flags)[0] == 0
    plain = weights_of(tmp_path / "parts")
  pretend_float16(monkeypatch)
  status, _, stderr, _ = call(bert, data, tmp_path / "o", amp=True, **flags)
  assert (status, stderr) == (0, "")
  weights = weights_of(tmp_path / "o")
  assert weights.pop("loss_scale/value") == 2 ** 15
  assert weights.pop("loss_scale/good_steps") == 6
  assert sorted(weights) == sorted(plain)
  # Powers of 2 leave the bits; parts and layers built again do not.
  check_close(weights, plain, 1e-5)


def test_an_overflow_moves_nothing_and_halves_the_scale(bert, data, tmp_path,
                                                        monkeypatch):
  # Gradients above 2 overflow at first.
  pretend_float16(monkeypatch, 2.0 ** 127)
  make_loss = run_setup.make_loss
  monkeypatch.setattr(
      run_setup, "make_loss", lambda *args: (
          lambda labels, logits: 50 * make_loss(*args)(
              labels=labels, logits=logits)))
  status, _, stderr, log = call(bert, data, tmp_path / "o", amp=True)
  assert (status, stderr) == (0, "")
  scales = [float(weights_of(tmp_path / "o", step)["loss_scale/value"])
            for step in range(1, 7)]
  overflows = [after < before for before, after in zip(
      [2.0 ** 127] + scales, scales)]
  assert overflows[0] and not overflows[-1]
  assert all(after == before / 2 if fell else after == before
             for before, after, fell in zip(
                 [2.0 ** 127] + scales, scales, overflows))
  assert "\n".join(log).count("gradients overflow in float16") == sum(overflows)
  for step, fell in list(enumerate(overflows))[1:]:
    before = weights_of(tmp_path / "o", step)
    after = weights_of(tmp_path / "o", step + 1)
    moved = [name for name in before if (
        name.startswith("bert/") and
        before[name].tobytes() != after[name].tobytes())]
    assert bool(moved) != fell, step


@pytest.mark.newest
def test_many_steps_without_overflow_double_the_scale(bert, data, tmp_path,
                                                      monkeypatch):
  pretend_float16(monkeypatch, 4.0)
  monkeypatch.setattr(mixed_precision.LossScale, "GROWTH_STEPS", 2)
  assert call(bert, data, tmp_path / "o", amp=True)[0] == 0
  found = [(float(weights["loss_scale/value"]),
            int(weights["loss_scale/good_steps"]))
           for weights in (weights_of(tmp_path / "o", step)
                           for step in range(1, 7))]
  assert found == [(4, 1), (8, 0), (8, 1), (16, 0), (16, 1), (32, 0)]


@pytest.mark.newest
def test_the_loss_itself_may_not_be_infinite(bert, data, tmp_path, monkeypatch):
  pretend_float16(monkeypatch)
  status, _, stderr, _ = call(bert, data, tmp_path / "o", amp=True,
                              learning_rate=1e30)
  assert status == 1 and stderr.count("\n") == 1 and "diverged" in stderr


def has_bfloat16():
  return hasattr(tf.ConfigProto().graph_options.rewrite_options,
                 "auto_mixed_precision_onednn_bfloat16") and bool(
      command_line.cpu_flags() & {"avx512_bf16", "amx_bf16"})


@pytest.mark.skipif(not has_bfloat16(), reason="no bfloat16 here")
def test_bfloat16_learns_nearly_the_same(bert, data, plain, tmp_path):
  status, _, stderr, _ = call(bert, data, tmp_path / "o", amp=True)
  assert (status, stderr) == (0, "")
  weights = weights_of(tmp_path / "o")
  assert sorted(weights) == sorted(plain)
  assert all(value.dtype == plain[name].dtype
             for name, value in weights.items())
  trained = [name for name in plain if name.startswith("bert/encoder/") and
             "adam" not in name]
  # bfloat16 has 8 bits: if nothing differed, nothing was rewritten.
  assert any((weights[name] != plain[name]).any() for name in trained)
  check_close({name: weights[name] for name in trained},
              {name: plain[name] for name in trained}, 0.02)


@pytest.mark.parametrize("parts", [
    1, pytest.param(2, marks=pytest.mark.newest)])
def test_xla_learns_the_same_without_dropout(bert, data, tmp_path, monkeypatch,
                                             parts):
  # Its random numbers are other ones.
  monkeypatch.setattr(modeling, "dropout", lambda tensor, *unused: tensor)
  found = []
  for name, flags in (("plain", {}), ("xla", {
      "xla": True, "gradient_accumulation_steps": parts})):
    status, _, stderr, _ = call(bert, data, tmp_path / name,
                                num_train_epochs=1, **flags)
    assert (status, stderr) == (0, "")
    found.append(weights_of(tmp_path / name))
  trained = [name for name in found[0] if "adam" not in name]
  check_close({name: found[1][name] for name in trained},
              {name: found[0][name] for name in trained}, 1e-4)


def test_xla_marks_what_is_built_inside():
  with tf.Graph().as_default() as graph:
    with mixed_precision.compiled(True):
      inside = tf.ones([2]) + 1
    with mixed_precision.compiled(False):
      outside = tf.ones([2]) + 1
  assert inside.op.get_attr("_XlaCompile") is True
  with pytest.raises(ValueError):
    outside.op.get_attr("_XlaCompile")
  del graph


@pytest.mark.newest
@pytest.mark.parametrize("flags,message", [
    ({"xla": True, "recompute_layers": True},
     "--xla cannot be combined with --recompute_layers, since it would merge "
     "the recomputation; use only one of them."),
    ({"xla": True, "distribution": "mirrored", "num_devices": 2},
     "--xla cannot be combined with several devices; use it or "
     "--distribution=mirrored, not both."),
    ({"amp": True, "distribution": "mirrored", "num_devices": 2},
     "--amp cannot be combined with several devices; use it or "
     "--distribution=mirrored, not both."),
])
def test_what_cannot_be_together_is_refused(bert, data, tmp_path, flags,
                                            message):
  status, _, stderr, _ = call(bert, data, tmp_path / "o", **flags)
  assert (status, stderr.strip()) == (
      2, "run_multilabel_classifier.py: " + message)
  assert not (tmp_path / "o").exists()


@pytest.mark.newest
@pytest.mark.parametrize("capabilities,cpu_flags,onednn,message", [
    ([(8, 0), (6, 1)], set(), None,
     "--amp needs GPUs with compute capability 7.0 or higher; one here has "
     "6.1."),
    ([], {"avx2"}, None,
     "--amp found no GPU, and this CPU has no bfloat16 (avx512_bf16 or "
     "amx_bf16); leave it out."),
    ([], {"amx_bf16"}, "0", "--amp on a CPU needs oneDNN, which "
                            "TF_ENABLE_ONEDNN_OPTS=0 disables."),
])
def test_a_machine_without_is_refused(bert, data, tmp_path, monkeypatch,
                                      capabilities, cpu_flags, onednn, message):
  monkeypatch.setattr(mixed_precision, "_gpu_capabilities",
                      lambda: capabilities)
  monkeypatch.setattr(command_line, "cpu_flags", lambda: cpu_flags)
  if onednn is None:
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
  else:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
  if not capabilities and not hasattr(
      tf.ConfigProto().graph_options.rewrite_options,
      "auto_mixed_precision_onednn_bfloat16"):
    message = ("--amp found no GPU, and TensorFlow %s has no bfloat16 for "
               "CPUs; leave it out, or use a newer TensorFlow." %
               tf.__version__)
  status, _, stderr, _ = call(bert, data, tmp_path / "o", amp=True)
  assert (status, stderr.strip()) == (
      2, "run_multilabel_classifier.py: " + message)


@pytest.mark.newest
def test_a_run_goes_on_with_the_same_setting_alone(bert, data, tmp_path,
                                                   monkeypatch):
  pretend_float16(monkeypatch)
  assert call(bert, data, tmp_path / "o", amp=True)[0] == 0
  status, _, stderr, _ = call(bert, data, tmp_path / "o")
  assert status == 2 and stderr.count("\n") == 1 and "amp" in stderr
