"""UOPSL: predilection sites learned from OCT, used by fundus alone."""
