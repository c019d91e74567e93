"""Evaluation of a candidate model, and the gate that decides about its release."""
