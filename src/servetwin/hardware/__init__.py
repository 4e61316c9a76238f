"""Accelerators by their data sheets: the built-in catalogue and a user's own YAML files."""

from servetwin.hardware.base import Device, DeviceLink
from servetwin.hardware.catalogue import device_names, list_devices, load_device
from servetwin.hardware.launch import LAUNCH_CLASSES, LaunchClass, launch_class

__all__ = [
    "LAUNCH_CLASSES",
    "Device",
    "DeviceLink",
    "LaunchClass",
    "device_names",
    "launch_class",
    "list_devices",
    "load_device",
]
