"""Adaptation of a trained model to another data set, and the adapters that come of it."""
