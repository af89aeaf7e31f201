"""Training and evaluation.

trainer     the one training loop, made of parts
yaml, lazy  two fronts: a config -> these parts
setup       data sets, numbers of classes and the device of a config
launch      the processes of a job
replay      a resumed training draws the same random numbers
divergence  what becomes of a step whose loss is not finite
progress    training on the screen
"""
