"""Build: ONNX files and TensorRT plans from weights."""
