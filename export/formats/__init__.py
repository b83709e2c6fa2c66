"""One network in every form that files are written from: ONNX, TorchScript and programs of torch.export."""
