"""Compare systems on an equal footing: the same data, budget and seeds, and a learning rate chosen with equal effort.

system      what is compared, its config at an experiment's budget, and the arguments of the commands
variants    the systems of a Faster R-CNN: a proposal generator and variants
fold        hold a part of the training images out, for choices
settings    resume a finished run only if everything that it depends on is the same
run         train and evaluate a system, or take up an earlier run; choose its learning rate
summary     read the results of runs; mean and spread over seeds
coco_mini   a small set of photographs from COCO val2017
"""
