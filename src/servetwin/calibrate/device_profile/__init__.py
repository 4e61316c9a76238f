"""Measuring one device: what matrix products, attention, copies and launches take on the machine at hand."""

from servetwin.calibrate.device_profile.grid import device_points
from servetwin.calibrate.device_profile.points import OPERATORS, Point, point_work
from servetwin.calibrate.device_profile.runner import profile_device
from servetwin.calibrate.device_profile.table import DeviceProfile, Measurement, read_device_profile

__all__ = [
    "OPERATORS",
    "DeviceProfile",
    "Measurement",
    "Point",
    "device_points",
    "point_work",
    "profile_device",
    "read_device_profile",
]
