"""Compatibility with other libraries: flownet2-pytorch, ONNX and Hugging Face."""
