"""TensorRT: engines built on the device they run on, each with a sidecar that says for what."""
