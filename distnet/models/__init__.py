"""Trained networks as files: distnet's own, ONNX, safetensors."""
