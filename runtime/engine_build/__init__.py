"""TensorRT engines of a bundle: built on the device, proved, kept with a sidecar."""
