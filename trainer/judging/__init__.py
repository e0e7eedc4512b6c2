"""How good a bundle is: heard as the daemon hears, measured, calibrated, and which labels are in doubt."""
