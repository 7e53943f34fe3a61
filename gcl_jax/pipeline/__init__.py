"""Stages and pieces of training that more than one method runs."""
