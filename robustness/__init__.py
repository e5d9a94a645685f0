# SPDX-License-Identifier: Apache-2.0
"""Robustness tests: kills, corrupt files, fuzzing and long loads."""
