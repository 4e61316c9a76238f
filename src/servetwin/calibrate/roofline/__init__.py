"""Fitting the roofline's coefficients to measured kernels and runs."""
