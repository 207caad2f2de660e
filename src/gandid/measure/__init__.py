"""Measuring: the worker that fills the panel's arm table, where it runs, and what it will cost."""
