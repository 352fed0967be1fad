"""A tuned model as ONNX files, for runtimes that know no torch."""
