"""Limits of good diagnostics (Vehtari et al., 2017, 2021; Kallioinen et al., 2023)."""

GOOD_RHAT, GOOD_ESS, GOOD_K, GOOD_SENSITIVITY = 1.01, 400, 0.7, 0.05
