# SPDX-License-Identifier: Apache-2.0
"""The machine's limit: only the matrix products of a workload.

The matrix products of the dense layers, of the sizes that the batches of the
work have without any padding, one after another in fp32 into memory that is
there: what no program that multiplies these matrices can be faster than.
"""

import sys

import numpy as np


class Peer(object):
  """See `worker`; settings: "threads", "library" ("torch" or "numpy")."""

  def __init__(self, settings):
    self._library = settings["library"]
    if self._library == "torch":
      import torch
      torch.set_num_threads(settings["threads"])
      torch.set_grad_enabled(False)

  def versions(self):
    return {"python": sys.version.split()[0], "numpy": np.__version__}

  def load(self, job):
    return Products(job, self._library)


class Products(object):
  """Products `[T, K] x [K, N]` for each batch of T tokens and each layer."""

  def __init__(self, job, library):
    if library == "torch":
      import torch
      make, self._multiply = torch.rand, torch.mm
    else:
      rng = np.random.RandomState(0)
      self._multiply = np.dot

      def make(*shape):
        return rng.uniform(size=shape).astype(np.float32)

    width, inner = job["hidden_size"], job["intermediate_size"]
    sizes = []
    for tokens in job["tokens"]:
      for rows, columns, times in ((width, width, 4), (width, inner, 1),
                                   (inner, width, 1)):
        products = [(tokens, rows, columns)]
        if job["training"]:
          products += [(tokens, columns, rows), (rows, tokens, columns)]
        sizes += products * times
    # A few layers: matrices that do not all stay in the cache.
    layers = min(job["num_hidden_layers"], 3)
    self._arrays = []
    for _ in range(layers):
      shared = {}
      for m, k, n in sizes:
        shared.setdefault((m, k), make(m, k))
        shared.setdefault((k, n, "right"), make(k, n))
        shared.setdefault((m, n, "out"), make(m, n))
      self._arrays += [(shared[m, k], shared[k, n, "right"],
                        shared[m, n, "out"]) for m, k, n in sizes]
    self.flops = layers * sum(2 * m * k * n for m, k, n in sizes)
    self._times = max(1, int(job["flops"] // self.flops))
    self.says = "%s, %.1f GFLOP per round" % (
        library, self.flops * self._times / 1e9)

  def outputs(self):
    return []

  def run(self):
    for _ in range(self._times):
      for left, right, out in self._arrays:
        self._multiply(left, right, out=out)
    return [self.flops * self._times]

  def close(self):
    self._arrays = []
