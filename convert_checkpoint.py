# SPDX-License-Identifier: Apache-2.0
"""Turns a Hugging Face BERT directory into a TF1 checkpoint, and back.

  python convert_checkpoint.py --hf_dir=IN --output_dir=OUT

reads `IN/config.json`, `IN/model.safetensors` (or its shards) and
`IN/vocab.txt`, and writes what google-research/bert releases consist of, for
any BERT code to load: `OUT/bert_config.json`, `OUT/bert_model.ckpt.*` and
`OUT/vocab.txt`. Needs neither torch nor transformers, and runs no code from the
input. Models of the types bert, ernie, distilbert and electra are converted;
what is not exactly a BERT is refused.

`bert_config.json` gets one key more than the original's: `gelu_approximate`,
false for Hugging Face's "gelu", which is the exact function with erf; the
original's is the tanh approximation. ERNIE's has `layer_norm_eps`, and that of
an ELECTRA with narrow embeddings `embedding_size`: google-research/bert knows
neither.

Everything is written to a hidden folder inside `OUT` and renamed into place,
`bert_config.json` last: a folder without it is not finished.

  python convert_checkpoint.py --model_dir=DIR --hf_dir=OUT

writes the model that training left in `DIR` for transformers: `config.json`,
`model.safetensors`, `vocab.txt`, `tokenizer_config.json` and a model card,
`README.md`. `AutoModelForSequenceClassification` computes our probabilities for
`--pooling=pooler`. For mean and cls it has no place:
`--hf_form=sentence_transformers` writes a SentenceTransformer whose `encode`
returns the probabilities.
"""

import os

from absl import flags

from multilabel.common import command_line


if __name__ == "__main__":
  command_line.quiet_tensorflow()  # before it is imported

from multilabel.export import hugging_face
from multilabel.storage import hf_conversion
from processors.text_lines import shown


FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags of the script."""
  with command_line.flag_group("Conversion"):
    flags.DEFINE_string(
        "hf_dir", None, "Hugging Face BERT directory: config.json, "
                        "model.safetensors, vocab.txt. With --model_dir: the "
                        "new or empty folder to write to.")
    flags.DEFINE_string(
        "output_dir", None, "Folder for bert_config.json, bert_model.ckpt.* "
                            "and vocab.txt: new, empty, or from an earlier "
                            "conversion.")
    flags.DEFINE_string(
        "model_dir", None, "Trained directory (--output_dir of a run) to "
                           "convert to Hugging Face's format.")
    flags.DEFINE_enum(
        "hf_form", "classification", list(hugging_face.FORMS),
            "With --model_dir: classification is for "
            "AutoModelForSequenceClassification of transformers "
            "(--pooling=pooler), sentence_transformers is for "
            "SentenceTransformer (mean and cls).")


def main(argv):
  """Converts into one direction or the other, and says how to use the result.
  """
  if len(argv) > 1:
    raise ValueError("%s is not a flag; --help lists them." % shown(argv[1]))
  if not FLAGS.hf_dir:
    raise ValueError("--hf_dir is missing.")
  if FLAGS.model_dir and FLAGS.output_dir:
    raise ValueError("--model_dir converts to --hf_dir, --output_dir converts "
                     "from it; give one of the two.")
  if FLAGS.model_dir:
    _export()
  elif FLAGS.output_dir:
    _convert()
  else:
    raise ValueError("--output_dir is missing.")


def _convert():
  """Hugging Face's form to google-research/bert's."""
  result = hf_conversion.convert(FLAGS.hf_dir, FLAGS.output_dir)
  print("Wrote %d tensors with %s parameters%s. Train with --encoder=%s, which "
        "sets\n"
        "  --bert_config_file=%s\n"
        "  --vocab_file=%s\n"
        "  --init_checkpoint=%s\n"
        "  --do_lower_case=%s" % (
            result.num_tensors, "{:,}".format(result.num_parameters),
            "" if result.has_pooler else " and no pooler", FLAGS.output_dir,
            os.path.join(FLAGS.output_dir, hf_conversion.CONFIG_FILE),
            os.path.join(FLAGS.output_dir, hf_conversion.VOCAB_FILE),
            os.path.join(FLAGS.output_dir, hf_conversion.CHECKPOINT),
            str(result.do_lower_case).lower()))


def _export():
  """A trained directory to Hugging Face's form."""
  result = hugging_face.export(FLAGS.model_dir, FLAGS.hf_dir, FLAGS.hf_form)
  print("Wrote %d tensors with %s parameters, from %s, to %s. Its README.md "
        "says how to load it." % (
            result.num_tensors, "{:,}".format(result.num_parameters),
            os.path.basename(result.checkpoint), FLAGS.hf_dir))


if __name__ == "__main__":
  command_line.run(
      main, define_flags,
      "Converts a Hugging Face BERT folder to a TF1 checkpoint that any BERT "
      "code loads, and a trained directory to Hugging Face's format.")
