# SPDX-License-Identifier: Apache-2.0
"""The demo's data in full, and the ablation of its recipe."""
