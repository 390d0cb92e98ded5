"""Training: from a labelled data set to a checkpoint that `build` takes.

recipes.py, recipes/*.toml    the published recipes, as data
examples.py leaks.py          data sets -> crops and labels; what both sides share
sampling.py augmentation.py   which rows make a batch; how crops are varied
network.py initial.py         a model's wiring as a torch module; its first weights
losses.py tasks.py scores.py  what is learnt from a batch; how it is measured
optimisation.py               optimisers, learning rates, averages of weights
loop.py run_folder.py         the steps, their state on disk, and resuming
confidence.py report.py       temperature, threshold, and the page of a run
training.py                   all of it, for one recipe
"""
