"""What runs on the GPU; the modules of the folder above launch it."""
