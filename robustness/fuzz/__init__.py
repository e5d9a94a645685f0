# SPDX-License-Identifier: Apache-2.0
"""Targets for fuzzing; `python -m robustness.fuzz` runs one under atheris."""
