"""ONNX graphs: analysed, written and changed."""
