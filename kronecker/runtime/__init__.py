"""The process and its machine: files, locks, signals, devices, flags."""
