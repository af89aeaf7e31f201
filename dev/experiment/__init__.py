"""Compare systems on an equal footing: the same data, budget and seeds, and a learning rate chosen with equal effort.

system      what is compared, its config at an experiment's budget, and the arguments of the commands
variants    the systems of a Faster R-CNN: a proposal generator and variants
fold        hold a part of the training images out, for choices
run         train and evaluate a system, or take up an earlier run of the same settings; choose its learning rate
plots       figures of several systems as lines
summary     figures of runs; mean and spread over seeds
"""
