# SPDX-License-Identifier: Apache-2.0
"""Turns a Hugging Face BERT directory into a TF1 checkpoint.

  python convert_checkpoint.py --hf_dir=IN --output_dir=OUT

reads `IN/config.json`, `IN/model.safetensors` (or its shards) and
`IN/vocab.txt`, and writes what google-research/bert releases consist of, for
any BERT code to load: `OUT/bert_config.json`, `OUT/bert_model.ckpt.*` and
`OUT/vocab.txt`. Neither torch nor transformers is needed, and nothing of the
input is run. Models of the types bert, ernie, distilbert and electra are
converted; what is not exactly a BERT is refused.

`bert_config.json` gets one key more than the original's: `gelu_approximate`,
false for Hugging Face's "gelu", which is the exact function with erf; the
original's is the tanh approximation. ERNIE's has `layer_norm_eps`, and that of
an ELECTRA with narrow embeddings `embedding_size`: google-research/bert knows
neither.

Everything is written to a hidden folder inside `OUT` and renamed into place,
`bert_config.json` last: a folder without it is not finished.
"""

import os

from absl import flags

import command_line

if __name__ == "__main__":
  command_line.quiet_tensorflow()  # before it is imported

from multilabel.storage import hf_conversion
from safetensors_reader import shown

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags of the script."""
  with command_line.flag_group("Conversion"):
    flags.DEFINE_string(
        "hf_dir", None, "Hugging Face BERT directory: config.json, "
        "model.safetensors, vocab.txt.")
    flags.DEFINE_string(
        "output_dir", None, "Folder for bert_config.json, bert_model.ckpt.* "
        "and vocab.txt: new, empty, or with an earlier conversion.")


def main(argv):
  """Converts `--hf_dir` and says how to use the result."""
  if len(argv) > 1:
    raise ValueError("%s is not a flag; --help lists them." % shown(argv[1]))
  for name in ("hf_dir", "output_dir"):
    if not getattr(FLAGS, name):
      raise ValueError("--%s is missing." % name)
  result = hf_conversion.convert(FLAGS.hf_dir, FLAGS.output_dir)
  print("Wrote %d tensors with %s parameters%s. Train with\n"
        "  --bert_config_file=%s\n  --vocab_file=%s\n  --init_checkpoint=%s\n"
        "  --do_lower_case=%s" % (
            result.num_tensors, "{:,}".format(result.num_parameters),
            "" if result.has_pooler else " and no pooler",
            os.path.join(FLAGS.output_dir, hf_conversion.CONFIG_FILE),
            os.path.join(FLAGS.output_dir, hf_conversion.VOCAB_FILE),
            os.path.join(FLAGS.output_dir, hf_conversion.CHECKPOINT),
            str(result.do_lower_case).lower()))


if __name__ == "__main__":
  command_line.run(
      main, define_flags,
      "Turns a Hugging Face BERT directory into a TF1 checkpoint that any BERT "
      "code loads.")
