"""ONNX files read without the onnx package, and what each pixel depends on; `isbi_export.graph.analysis.analyse` is the door.

From the ground up: `protobuf` decodes the wire format, `onnxfile` the model in it; `reach` is interval arithmetic on
pixels, `trace` what a tensor carries along; `windows`, `layout`, `shape_arithmetic` and `operators` know the
operations.
"""
