"""Accelerators by their data sheets: the built-in catalogue and a user's own YAML files."""

from servetwin.hardware.base import Device, DeviceLink
from servetwin.hardware.catalogue import device_names, list_devices, load_device

__all__ = ["Device", "DeviceLink", "device_names", "list_devices", "load_device"]
