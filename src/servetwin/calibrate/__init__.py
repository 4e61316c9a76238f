"""Calibration: comparison of a simulation with measured data, fitting, and the accuracy page."""
