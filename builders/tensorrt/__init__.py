"""Plans: everything that depends on TensorRT and its versions.

- `library`: features of the installed TensorRT.
- `network`: a network definition from a model's wiring (layer helpers in `layers`).
- `plan`: builds a plan from a network definition.
- `monitor`: progress of a running build.
- `inspection`: element types of a plan's layers.
- `engine`: loads and runs a plan; also runs alone on the server.
"""
