"""What each pixel of a network's output depends on, read off its ONNX graph; `analyse` is the door.

From the ground up: `reading` parses files strictly; `extent` is interval arithmetic on pixels, `tensor_info` what is
known of a tensor; `windows`, `layout`, `shape_arithmetic` and `operators` know the operations.
"""
