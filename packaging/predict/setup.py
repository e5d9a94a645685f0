# SPDX-License-Identifier: Apache-2.0
"""Builds `bert-multilabel-predict`: the same package, asking for onnxruntime.

The name of the package is that of the full library, so that a program runs
with either; install one of the two.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, ROOT)

# pylint: disable=g-import-not-at-top,wrong-import-position
import build_package  # noqa: E402
from setuptools import setup  # noqa: E402

import bert_multilabel  # noqa: E402

if __name__ == "__main__":
  setup(
      name="bert-multilabel-predict",
      version=bert_multilabel.__version__,
      description="Multi-label BERT: prediction and serving without TensorFlow",
      license="Apache-2.0",
      python_requires=">=3.10",
      packages=["bert_multilabel"],
      package_data={"bert_multilabel": ["py.typed"]},
      package_dir={"bert_multilabel": os.path.relpath(
          os.path.join(ROOT, "bert_multilabel"), HERE)},
      cmdclass={"build_py": build_package.BuildPackage},
      install_requires=["numpy>=1.16,<3", "absl-py>=0.9,<3", "six>=1.12,<2",
                        "onnxruntime>=1.17,<2"],
      extras_require=build_package.extras("serve"),
      entry_points={"console_scripts": [
          "bert-multilabel = bert_multilabel.__main__:main"]})
