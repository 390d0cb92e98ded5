"""Plans: the one place that knows TensorRT and its versions.

`library` says what an installed TensorRT offers, `plan` builds, `engine` runs,
`passport` records what a plan is, `doctor` says what will not load and why.
"""
