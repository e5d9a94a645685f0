# SPDX-License-Identifier: Apache-2.0
"""What is measured: works, their sizes, their peers, their true arithmetic.

Needs nothing but Python, since the driver runs in any.
"""

import collections
import math
import random


# Widths and depths; "encoder" is that of the demo.
SHAPES = collections.OrderedDict([
    ("encoder", {"num_hidden_layers": 6, "hidden_size": 384,
                 "num_attention_heads": 12, "intermediate_size": 1536}),
    ("base", {"num_hidden_layers": 12, "hidden_size": 768,
              "num_attention_heads": 12, "intermediate_size": 3072}),
    ("tiny", {"num_hidden_layers": 2, "hidden_size": 128,
              "num_attention_heads": 2, "intermediate_size": 512}),
])

NUM_LABELS = 14
SINGLE_LENGTHS = (8, 24, 128)

# Where a text begins to be cut; 128 is run_classifier.py's default.
SHORT_LENGTH, MIXED_LENGTH, WHOLE_LENGTH = 128, 512, 64

# What a peer is run with: its module, the environment that it needs, and its
# settings, of which some are only for some works.
Peer = collections.namedtuple(
    "Peer", ["name", "module", "environment", "settings", "says"])

PEERS = collections.OrderedDict((peer.name, peer) for peer in (
    Peer("ours", "peer_ours", "ours", {},
         "SessionPredictor; training.train over records, as the script does"),
    Peer("original", "peer_original", "original", {},
         "bert-tensorflow 1.0.4: its tokenizer, features and graph, padded to "
         "max_seq_length; a session loop instead of Estimator, in its favor"),
    Peer("original, tight", "peer_original", "original", {"tight": True},
         "the same with the smallest max_seq_length that truncates nothing"),
    Peer("transformers", "peer_torch", "torch", {"sort": False},
         "as documented: arrival order, padded to the batch's longest, its "
         "default attention (sdpa), its fast tokenizer"),
    Peer("transformers, expert", "peer_torch", "torch", {"sort": True},
         "sorted by length (training: our batches in our order), "
         "inference mode"),
    Peer("transformers, compiled", "peer_torch", "torch",
         {"sort": True, "compile": True},
         "the expert version with torch.compile, dynamic shapes"),
    Peer("onnxruntime", "peer_onnx", "onnx", {"sort": True},
         "fp32, sorted; the graph from its BERT optimizer: fused attention, "
         "skip layer norm, bias and GELU"),
))

# units: what is counted; peers: who takes part, and the share of the work
# that is enough to time a slow one.
Work = collections.namedtuple(
    "Work", ["letter", "title", "kind", "model", "unit", "peers"])

WORKS = collections.OrderedDict((work.letter, work) for work in (
    Work("a", "batch prediction, short texts", "predict", "encoder", "text",
         {"ours": 1.0, "original": 0.125, "original, tight": 0.25,
          "transformers": 1.0, "transformers, expert": 1.0,
          "transformers, compiled": 1.0, "onnxruntime": 1.0}),
    Work("b", "batch prediction, mixed lengths", "predict", "encoder", "text",
         {"ours": 1.0, "original": 0.167, "transformers": 1.0,
          "transformers, expert": 1.0, "transformers, compiled": 1.0,
          "onnxruntime": 1.0}),
    Work("c", "one text at a time", "single", "encoder", "text",
         {"ours": 1.0, "original": 0.2, "transformers, expert": 1.0,
          "transformers, compiled": 1.0, "onnxruntime": 1.0}),
    Work("d", "training steps, short texts, batch 32", "train", "encoder",
         "step",
         {"ours": 1.0, "original": 0.25, "original, tight": 0.5,
          "transformers": 1.0, "transformers, expert": 1.0}),
    Work("e", "training steps, BERT-Base, 120 tokens, batch 8", "train",
         "base", "step",
         {"ours": 1.0, "original": 1.0, "transformers, expert": 1.0}),
    Work("f", "tokenization", "features", "encoder", "text",
         {"ours": 1.0, "original": 0.1, "transformers": 1.0}),
    Work("g", "startup to first prediction, peak memory", "start", "encoder",
         "start",
         {"ours": 1.0, "original": 1.0, "transformers, expert": 1.0,
          "onnxruntime": 1.0}),
    Work("h", "training run, from startup to saved checkpoint", "whole",
         "encoder", "run",
         {"ours": 1.0, "original": 1.0, "transformers": 1.0,
          "transformers, expert": 1.0}),
))

# Minimum ratio of peer to ours that is aimed at; "one text" and "start-up" as
# ours by the peer's.
TARGETS = {
    "a": {"original": 9, "transformers": 1.8, "transformers, expert": 1.25,
          "onnxruntime": 1.1, "limit": 0.85},
    "b": {"original": 4, "transformers": 1.8, "transformers, expert": 1.2,
          "onnxruntime": 1.1, "limit": 0.8},
    "c": {"original": 1 / 0.6, "transformers, expert": 1 / 0.6,
          "onnxruntime": 1.0},
    "d": {"original": 6, "transformers": 1.9, "transformers, expert": 1.5,
          "limit": 0.7},
    "e": {"original": 1.5, "transformers, expert": 1.2, "limit": 0.75},
    "f": {"original": 8, "transformers": 1.0},
    "g": {"original": 1.0, "transformers, expert": 1.0, "onnxruntime": 0.5},
    "h": {"original": 6, "transformers": 1.5, "transformers, expert": 1.3},
}

# rounds: of most works, of training runs; the others: units a round.
Sizes = collections.namedtuple("Sizes", [
    "rounds", "whole_rounds", "short", "mixed", "single", "train_steps",
    "base_steps", "features", "whole_texts", "whole_dev", "checked"])
FULL = Sizes(rounds=7, whole_rounds=1, short=768, mixed=160, single=20,
             train_steps=12, base_steps=2, features=24000, whole_texts=4000,
             whole_dev=1593, checked=48)
QUICK = Sizes(rounds=3, whole_rounds=1, short=192, mixed=24, single=5,
              train_steps=3, base_steps=2, features=2000, whole_texts=96,
              whole_dev=32, checked=16)
TINY = Sizes(rounds=2, whole_rounds=1, short=12, mixed=6, single=2,
             train_steps=2, base_steps=1, features=40, whole_texts=64,
             whole_dev=16, checked=6)


def short_lengths(count, rng):
  """Token counts like those of GoEmotions: mean 19, 99th percentile 45."""
  sigma = 0.406
  mu = math.log(19) - sigma ** 2 / 2
  return [min(64, max(4, int(round(rng.lognormvariate(mu, sigma)))))
          for _ in range(count)]


def mixed_lengths(count, rng):
  """Token counts from 8 to 512, log-normal around 64."""
  return [min(512, max(8, int(round(rng.lognormvariate(math.log(64), 0.9)))))
          for _ in range(count)]


def spread(lengths, count):
  """`count` of `lengths` at even distances in their order by size."""
  if count >= len(lengths):
    return sorted(lengths)
  ordered = sorted(lengths)
  step = len(ordered) / count
  return [ordered[int((i + 0.5) * step)] for i in range(count)]


def sorted_batches(lengths, batch_size):
  """Token counts by batch, none of them padding, longest texts first."""
  ordered = sorted(lengths, reverse=True)
  return [ordered[start:start + batch_size]
          for start in range(0, len(ordered), batch_size)]


def flops(lengths, shape, num_labels, pooling, full=True, training=False):
  """Floating-point operations of the products that real tokens need.

  Args:
    lengths: list of int, tokens of each text.
    shape: dict, of `SHAPES`.
    num_labels: int.
    pooling: "pooler", "cls" or "mean".
    full: bool; False leaves out what nobody reads: of the last layer all but
      keys, values and the first token, where that token stands for the text.
    training: bool; True counts the two products of the backward pass as well.

  Returns:
    int.
  """
  layers, width, inner = (shape["num_hidden_layers"], shape["hidden_size"],
                          shape["intermediate_size"])
  total = 0
  for tokens in lengths:
    dense = 2 * (4 * width * width + 2 * width * inner)
    whole_layer = tokens * dense + 4 * tokens * tokens * width
    last_layer = whole_layer
    if not full and pooling != "mean":
      last_layer = (tokens * 4 * width * width + 4 * tokens * width +
                    2 * (2 * width * width + 2 * width * inner))
    total += (layers - 1) * whole_layer + last_layer
    total += 2 * width * num_labels
    total += 2 * width * width if pooling == "pooler" else 0
  return total * 3 if training else total


def lengths_of(name, count, seed):
  """The token counts of a set of texts: a function of its arguments."""
  rng = random.Random("%s %d" % (name, seed))
  return {"short": short_lengths, "mixed": mixed_lengths}[name](count, rng)
