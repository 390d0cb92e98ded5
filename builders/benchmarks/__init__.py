"""Scripts that reproduce the figures of builders/benchmarks/README.md.

- `gpu.sh` and `gpu`: plans and PyTorch on a GPU.
- `served_precisions`: precisions and runtimes on the CPU, served.
- `core_scaling`: the frame ensemble by number of CPU cores.
- `ranking`: the ranking of Market-1501's evaluation protocol.
"""
