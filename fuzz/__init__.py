# SPDX-License-Identifier: Apache-2.0
"""Inputs that nobody would think of; run as `python -m fuzz.run`."""
